//! Blobs by hash: weights and graphs that a coordinator sent once.
//!
//! On disk a blob is a file named by its hash, written beside its place and renamed, so that a
//! worker that loses power never leaves half of one. It is verified again when it is read: SD cards
//! rot.

use model::WeightHash;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where blobs are kept. Cloning shares it.
#[derive(Clone)]
pub struct BlobCache(Place);

type InMemory = BTreeMap<WeightHash, Arc<Vec<u8>>>;

#[derive(Clone)]
enum Place {
    Disk(Arc<Path>),
    Memory(Arc<Mutex<InMemory>>),
}

impl BlobCache {
    /// A cache that ends with the process.
    pub fn in_memory() -> Self {
        Self(Place::Memory(Arc::default()))
    }

    /// A cache in a folder, made when it is missing.
    ///
    /// *Errors*: the folder cannot be made.
    pub fn on_disk(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self(Place::Disk(folder.into())))
    }

    /// Whether a blob is here, by name alone.
    pub fn contains(&self, hash: WeightHash) -> bool {
        match &self.0 {
            Place::Memory(blobs) => lock(blobs).contains_key(&hash),
            Place::Disk(folder) => file(folder, hash).is_file(),
        }
    }

    /// A blob, verified; none when it is missing or damaged (a damaged file is deleted).
    pub fn read(&self, hash: WeightHash) -> Option<Arc<Vec<u8>>> {
        match &self.0 {
            Place::Memory(blobs) => lock(blobs).get(&hash).cloned(),
            Place::Disk(folder) => {
                let path = file(folder, hash);
                let bytes = std::fs::read(&path).ok()?;
                if WeightHash::of_bytes(&bytes) == hash {
                    return Some(Arc::new(bytes));
                }
                tracing::warn!("{} is damaged; fetching it again", path.display());
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a blob.
    ///
    /// *Errors*: the disk is full or cannot be written.
    pub fn write(&self, hash: WeightHash, bytes: Vec<u8>) -> std::io::Result<()> {
        match &self.0 {
            Place::Memory(blobs) => {
                lock(blobs).insert(hash, Arc::new(bytes));
                Ok(())
            }
            Place::Disk(folder) => {
                // Several workers of one device may share the folder.
                let part = folder.join(format!("{hash}.{}.part", std::process::id()));
                let written = std::fs::File::create(&part)
                    .and_then(|mut out| out.write_all(&bytes))
                    .and_then(|()| std::fs::rename(&part, file(folder, hash)));
                if written.is_err() {
                    let _ = std::fs::remove_file(&part);
                }
                written
            }
        }
    }
}

fn file(folder: &Path, hash: WeightHash) -> PathBuf {
    folder.join(hash.to_string())
}

fn lock(blobs: &Mutex<InMemory>) -> MutexGuard<'_, InMemory> {
    blobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BlobCache::on_disk(folder.path().into()).unwrap();
        let bytes = vec![7u8; 1000];
        let hash = WeightHash::of_bytes(&bytes);
        cache.write(hash, bytes.clone()).unwrap();
        assert_eq!(cache.read(hash).as_deref(), Some(&bytes));
        std::fs::write(file(folder.path(), hash), b"rot").unwrap();
        assert_eq!(cache.read(hash), None);
        assert!(!cache.contains(hash));
    }
}
