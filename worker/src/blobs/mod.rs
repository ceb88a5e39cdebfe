//! Blobs by hash: weights and graphs that a coordinator sent once.

mod disk;

use disk::Disk;
use model::WeightHash;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// Where blobs are kept. Cloning shares it.
#[derive(Clone, Debug)]
pub struct BlobCache(Place);

type InMemory = BTreeMap<WeightHash, Arc<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Place {
    Disk(Arc<Disk>),
    Memory(Arc<Mutex<InMemory>>),
}

/// What a cache takes and what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blobs, as far as this process knows.
    pub bytes: u64,
    /// Blobs that made room for others.
    pub evicted: u64,
    /// Blobs that could not be written.
    pub unwritten: u64,
}

impl BlobCache {
    /// A cache that ends with the process.
    pub fn in_memory() -> Self {
        Self(Place::Memory(Arc::default()))
    }

    /// A cache in a folder, made when it is missing. It takes at most `limit_bytes`, or without a
    /// limit 2 GB and a tenth of what the disk has to give, whichever is less.
    ///
    /// *Errors*: the folder cannot be made.
    pub fn on_disk(folder: PathBuf, limit_bytes: Option<u64>) -> std::io::Result<Self> {
        Ok(Self(Place::Disk(Arc::new(Disk::open(folder, limit_bytes)?))))
    }

    /// Whether a blob is here, by name alone.
    pub fn contains(&self, hash: WeightHash) -> bool {
        match &self.0 {
            Place::Memory(blobs) => lock(blobs).contains_key(&hash),
            Place::Disk(disk) => disk.contains(hash),
        }
    }

    /// A blob, verified; none when it is missing or damaged (a damaged file is deleted).
    pub fn read(&self, hash: WeightHash) -> Option<Arc<Vec<u8>>> {
        match &self.0 {
            Place::Memory(blobs) => lock(blobs).get(&hash).cloned(),
            Place::Disk(disk) => disk.read(hash),
        }
    }

    /// Keeps a blob: at least until [`BlobCache::release`], and as long as there is room.
    pub fn write(&self, hash: WeightHash, bytes: Vec<u8>) {
        match &self.0 {
            Place::Memory(blobs) => {
                lock(blobs).insert(hash, Arc::new(bytes));
            }
            Place::Disk(disk) => disk.write(hash, bytes),
        }
    }

    /// What was made of a blob is held elsewhere: from now on it may go when others need the room.
    pub fn release(&self, hash: WeightHash) {
        if let Place::Disk(disk) = &self.0 {
            disk.release(hash);
        }
    }

    /// What it takes and what it did.
    pub fn usage(&self) -> Usage {
        match &self.0 {
            Place::Memory(blobs) => {
                let bytes = lock(blobs).values().map(|bytes| bytes.len() as u64).sum();
                Usage { bytes, ..Usage::default() }
            }
            Place::Disk(disk) => disk.usage(),
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
