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
    give_to_owner(&file, folder(path))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// What root writes into a service's folder, as `sudo tilehive-worker join` does, is the service's: it
/// could not read it otherwise.
#[cfg(unix)]
fn give_to_owner(file: &tempfile::NamedTempFile, folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let (own, owner) = (file.as_file().metadata()?, folder.metadata()?);
    if own.uid() == 0 && owner.uid() != 0 {
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn give_to_owner(_: &tempfile::NamedTempFile, _: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The new name is on the disk when its folder is.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(folder(path))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
