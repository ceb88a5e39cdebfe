//! The cache on disk: bounded, the blob unused for longest goes first.
//!
//! A blob is a file named by its hash, written beside its place and renamed, so that a worker that
//! loses power never leaves half of one. It is verified again when it is read: SD cards rot. Several
//! workers of one device may share the folder, so the files are the only list of what is there; one
//! that another worker deleted is a blob that is missing.
//!
//! A blob that came is wanted for something, and may not go before that is done with it: else a
//! cache smaller than a model would be filled and emptied for ever. So the limit may be passed for as
//! long as a stage's weights are being packed.

use super::{Usage, lock};
use model::WeightHash;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// What a cache takes where nobody says, at most.
const LIMIT_BYTES: u64 = 2_000_000_000;

/// Of what the disk has to give, this part.
const PART_OF_DISK: u64 = 10;

/// When room is made it is made for more than one blob: to this many thousandths of the limit.
const KEPT_PER_MILLE: u64 = 900;

/// A blob that came is kept so long for whoever wanted it.
const WANTED_FOR: Duration = Duration::from_secs(600);

/// Blobs that cannot be written are held in memory, in all not more than this and the newest.
const ASIDE_BYTES_MAX: usize = 256 << 20;

/// A file's date is its last use. It is written this seldom, since each write wears an SD card.
const DATE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// A file half written that is older was left by a worker that is gone.
const PART_MAX: Duration = Duration::from_secs(3600);

/// The log hears of a disk that takes nothing this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    usage: Usage,
    /// Blobs that came and are not released, with their times of arrival.
    wanted: BTreeMap<WeightHash, Instant>,
    /// Last uses by this process, which may be later than the files' dates.
    used: BTreeMap<WeightHash, SystemTime>,
    /// Blobs that the disk did not take, oldest first.
    aside: VecDeque<(WeightHash, Arc<Vec<u8>>)>,
    told: Option<Instant>,
}

struct Entry {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Disk {
    pub(super) fn open(folder: PathBuf, limit_bytes: Option<u64>) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let state = Mutex::new(State::default());
        let mut disk = Self { folder, limit_bytes: u64::MAX, state };
        let bytes = disk.entries().iter().map(|entry| entry.bytes).sum();
        disk.limit_bytes = limit_bytes.unwrap_or_else(|| default_limit(&disk.folder, bytes));
        lock(&disk.state).usage.bytes = bytes;
        disk.make_room(0);
        Ok(disk)
    }

    fn file(&self, hash: WeightHash) -> PathBuf {
        self.folder.join(hash.to_string())
    }

    pub(super) fn usage(&self) -> Usage {
        lock(&self.state).usage
    }

    pub(super) fn contains(&self, hash: WeightHash) -> bool {
        lock(&self.state).aside.iter().any(|(held, _)| *held == hash) || self.file(hash).is_file()
    }

    pub(super) fn read(&self, hash: WeightHash) -> Option<Arc<Vec<u8>>> {
        let aside = |state: &State| {
            state.aside.iter().find(|(held, _)| *held == hash).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = aside(&lock(&self.state)) {
            return Some(bytes);
        }
        let path = self.file(hash);
        // Whoever deletes the file now takes its name away, not what is being read.
        let bytes = fs::read(&path).ok()?;
        if WeightHash::of_bytes(&bytes) != hash {
            tracing::warn!("{} is damaged; fetching it again", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        self.note_use(hash, &path);
        Some(Arc::new(bytes))
    }

    fn note_use(&self, hash: WeightHash, path: &Path) {
        let now = SystemTime::now();
        lock(&self.state).used.insert(hash, now);
        let date = path.metadata().and_then(|about| about.modified());
        let old = |date: SystemTime| now.duration_since(date).is_ok_and(|age| age > DATE_EVERY);
        if date.is_ok_and(old) {
            // A folder that cannot be written can be read all the same.
            let _ = File::options().append(true).open(path).and_then(|f| f.set_modified(now));
        }
    }

    pub(super) fn write(&self, hash: WeightHash, bytes: Vec<u8>) {
        let len = bytes.len() as u64;
        lock(&self.state).wanted.insert(hash, Instant::now());
        self.make_room(len);
        let written = match self.try_write(hash, &bytes) {
            // Another program may have filled the disk: what is ours there makes room.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.make_room(self.limit_bytes);
                self.try_write(hash, &bytes)
            }
            written => written,
        };
        let mut state = lock(&self.state);
        match written {
            Ok(()) => state.usage.bytes += len,
            Err(error) => self.set_aside(&mut state, hash, bytes, &error),
        }
    }

    fn try_write(&self, hash: WeightHash, bytes: &[u8]) -> io::Result<()> {
        if self.limit_bytes == 0 {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let part = self.folder.join(format!("{hash}.{}.part", std::process::id()));
        let written = File::create(&part)
            .and_then(|mut out| out.write_all(bytes))
            .and_then(|()| fs::rename(&part, self.file(hash)));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Goes on without the disk: the blob stays in memory until it is released or newer ones push
    /// it out.
    fn set_aside(&self, state: &mut State, hash: WeightHash, bytes: Vec<u8>, error: &io::Error) {
        state.usage.unwritten += 1;
        let told = state.told.is_some_and(|told| told.elapsed() < TELL_EVERY);
        if !told && self.limit_bytes > 0 {
            state.told = Some(Instant::now());
            tracing::error!(
                "cannot keep weights in {}: {error}; free some disk space there, give less with \
                 --cache-mb, or another folder with --state; going on without the cache",
                self.folder.display()
            );
        }
        state.aside.retain(|(held, _)| *held != hash);
        state.aside.push_back((hash, Arc::new(bytes)));
        let mut total: usize = state.aside.iter().map(|(_, bytes)| bytes.len()).sum();
        while total > ASIDE_BYTES_MAX && state.aside.len() > 1 {
            total -= state.aside.pop_front().map_or(0, |(_, bytes)| bytes.len());
        }
    }

    pub(super) fn release(&self, hash: WeightHash) {
        let mut state = lock(&self.state);
        state.wanted.remove(&hash);
        state.aside.retain(|(held, _)| *held != hash);
    }

    /// Deletes blobs until `coming` more bytes fit, those unused for longest first.
    fn make_room(&self, coming: u64) {
        let mut state = lock(&self.state);
        if state.usage.bytes.saturating_add(coming) <= self.limit_bytes {
            return;
        }
        state.wanted.retain(|_, since| since.elapsed() < WANTED_FOR);
        let wanted: HashSet<OsString> =
            state.wanted.keys().map(|hash| hash.to_string().into()).collect();
        let mut entries = self.entries();
        let names = entries.iter().filter_map(|e| e.path.file_name().map(OsString::from));
        let present: HashSet<OsString> = names.collect();
        state.used.retain(|hash, _| present.contains(&OsString::from(hash.to_string())));
        let used: BTreeMap<PathBuf, SystemTime> =
            state.used.iter().map(|(hash, used)| (self.file(*hash), *used)).collect();
        for entry in &mut entries {
            entry.used = entry.used.max(used.get(&entry.path).copied().unwrap_or(entry.used));
        }
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let kept = (self.limit_bytes / 1000 * KEPT_PER_MILLE).saturating_sub(coming);
        for entry in entries {
            if bytes <= kept {
                break;
            }
            let name = entry.path.file_name().map(OsString::from);
            if name.is_some_and(|name| !wanted.contains(&name))
                && fs::remove_file(&entry.path).is_ok()
            {
                bytes -= entry.bytes;
                state.usage.evicted += 1;
            }
        }
        state.usage.bytes = bytes;
    }

    /// The blobs that are there. What a worker that is gone left half written is cleared away.
    fn entries(&self) -> Vec<Entry> {
        let now = SystemTime::now();
        let listed = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entries = listed.filter_map(|entry| {
            let (path, about) = (entry.path(), entry.metadata().ok()?);
            let used = about.modified().unwrap_or(now);
            if path.extension().is_some_and(|ending| ending == "part") {
                if now.duration_since(used).is_ok_and(|age| age > PART_MAX) {
                    let _ = fs::remove_file(&path);
                }
                return None;
            }
            // What somebody else put here is neither counted nor deleted.
            let is_blob = is_hash(path.file_name()?);
            (is_blob && about.is_file()).then_some(Entry { used, bytes: about.len(), path })
        });
        entries.collect()
    }
}

/// Whether a file's name is that of a blob.
fn is_hash(name: &OsStr) -> bool {
    let digits = name.as_encoded_bytes();
    digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit)
}

/// What a cache may take of a disk; what it has of it already counts as free.
fn default_limit(folder: &Path, bytes: u64) -> u64 {
    match free_bytes(folder) {
        Some(free) => LIMIT_BYTES.min(free.saturating_add(bytes) / PART_OF_DISK),
        None => LIMIT_BYTES,
    }
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(seed: u8) -> (WeightHash, Vec<u8>) {
        let bytes = vec![seed; 1000];
        (WeightHash::of_bytes(&bytes), bytes)
    }

    /// Blobs that were written and released, unused since so many days, the first for longest.
    fn filled(disk: &Disk, seeds: std::ops::Range<u8>) -> Vec<WeightHash> {
        let count = u64::from(seeds.end);
        let write = |seed: u8| {
            let (hash, bytes) = blob(seed);
            disk.write(hash, bytes);
            disk.release(hash);
            let days = Duration::from_secs(24 * 3600 * 2) * (count - u64::from(seed)) as u32;
            let file = File::options().append(true).open(disk.file(hash)).unwrap();
            file.set_modified(SystemTime::now() - days).unwrap();
            hash
        };
        seeds.map(write).collect()
    }

    #[test]
    fn a_damaged_file_is_not_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().into(), None).unwrap();
        let (hash, bytes) = blob(7);
        disk.write(hash, bytes.clone());
        assert_eq!(disk.read(hash).as_deref(), Some(&bytes));
        fs::write(disk.file(hash), b"rot").unwrap();
        assert_eq!(disk.read(hash), None);
        assert!(!disk.contains(hash));
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().into(), Some(10_000)).unwrap();
        let hashes = filled(&disk, 0..10);
        assert_eq!(disk.usage(), Usage { bytes: 10_000, ..Usage::default() });
        // The oldest is read, by which it is the newest.
        assert!(disk.read(hashes[0]).is_some());
        let (hash, bytes) = blob(10);
        disk.write(hash, bytes);
        assert_eq!(disk.usage(), Usage { bytes: 9000, evicted: 2, unwritten: 0 });
        let here = |hash: &WeightHash| disk.contains(*hash);
        assert!(here(&hash) && here(&hashes[0]) && !here(&hashes[1]) && !here(&hashes[2]));
        assert!(hashes[3..].iter().all(here));
    }

    #[test]
    fn a_use_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().into(), Some(10_000)).unwrap();
        let hashes = filled(&disk, 0..10);
        assert!(disk.read(hashes[0]).is_some());
        let later = Disk::open(folder.path().into(), Some(5_000)).unwrap();
        assert_eq!(later.usage().bytes, 4000, "cut to its limit when it is opened");
        assert!(later.contains(hashes[0]) && !later.contains(hashes[1]));
    }

    #[test]
    fn what_is_wanted_stays_although_it_is_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().into(), Some(3000)).unwrap();
        let blobs: Vec<_> = (0..8).map(blob).collect();
        blobs.iter().for_each(|(hash, bytes)| disk.write(*hash, bytes.clone()));
        assert!(blobs.iter().all(|(hash, _)| disk.read(*hash).is_some()), "none is packed yet");
        blobs.iter().for_each(|(hash, _)| disk.release(*hash));
        let (hash, bytes) = blob(8);
        disk.write(hash, bytes);
        assert!(disk.usage().bytes <= 3000 && disk.contains(hash), "{:?}", disk.usage());
    }

    #[test]
    fn where_nothing_can_be_written_blobs_wait_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().join("blobs"), Some(1 << 20)).unwrap();
        // A file in the place of the folder refuses root as well.
        fs::remove_dir(&disk.folder).unwrap();
        fs::write(&disk.folder, b"").unwrap();
        let (hash, bytes) = blob(1);
        disk.write(hash, bytes.clone());
        assert_eq!(disk.read(hash).as_deref(), Some(&bytes));
        assert!(disk.contains(hash));
        assert_eq!(disk.usage(), Usage { unwritten: 1, ..Usage::default() });
        disk.release(hash);
        assert_eq!(disk.read(hash), None);
    }

    #[test]
    fn a_limit_of_nothing_is_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path().into(), Some(0)).unwrap();
        let (hash, bytes) = blob(1);
        disk.write(hash, bytes);
        assert!(disk.read(hash).is_some());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_of_others_are_neither_counted_nor_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let foreign = folder.path().join("photographs");
        fs::write(&foreign, vec![0; 5000]).unwrap();
        let disk = Disk::open(folder.path().into(), Some(3000)).unwrap();
        filled(&disk, 0..4);
        assert_eq!(disk.usage().bytes, 2000);
        assert!(foreign.exists());
    }

    #[test]
    fn what_a_worker_that_is_gone_left_half_written_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("a.1.part"), folder.path().join("b.2.part"));
        fs::write(&old, b"half").unwrap();
        fs::write(&new, b"half").unwrap();
        let long_ago = SystemTime::now() - PART_MAX * 2;
        File::options().append(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        Disk::open(folder.path().into(), None).unwrap();
        assert!(!old.exists() && new.exists());
    }
}
