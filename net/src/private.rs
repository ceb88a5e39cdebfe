//! Files for one user's eyes: keys, tokens, members.

use std::io::Write;
use std::path::Path;

/// Writes a file with mode 0600 in one step: whoever reads it, after a power cut too, sees all of
/// the old content or all of the new.
///
/// *Errors*: the folder cannot be made, or the file not written.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = written_beside(path, bytes)?;
    file.persist(path)?;
    sync_folder(path)
}

/// As [`write_private`], for a file that must not be there yet.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = written_beside(path, bytes)?;
    file.persist_noclobber(path)?;
    sync_folder(path)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file has mode 0600 from its first moment.
fn written_beside(path: &Path, bytes: &[u8]) -> std::io::Result<tempfile::NamedTempFile> {
    std::fs::create_dir_all(folder(path))?;
    let mut file = tempfile::NamedTempFile::new_in(folder(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// The new name is on the disk when its folder is.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(folder(path))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
