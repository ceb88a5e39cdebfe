//! The register: a coordinator's invitations and members, kept in a file or in memory.
//!
//! Several processes of one user share the file. Who changes it holds a lock beside it, reads it
//! anew, and replaces it in one step; who reads it needs no lock. It is read at each handshake, so
//! that a member removed by one process is refused by the others from the next time on that it
//! connects.

use crate::admission::{Admission, Claimant, Invitation, InvitationId, Refusal, Secret, Standing};
use crate::private::write_private;
use crate::{NetError, Terms};
use libp2p::PeerId;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file larger than this is not one of ours: 1024 members and 256 invitations take half a megabyte.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where invitations and members are kept. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Register(Arc<Place>);

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Memory(Mutex<Admission>),
}

/// Seconds since 1970 by this machine's clock.
pub fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Register {
    /// One that ends with this process.
    pub fn in_memory() -> Self {
        Self(Arc::new(Place::Memory(Mutex::default())))
    }

    /// One in a file, which is made with the first invitation.
    pub fn in_file(path: PathBuf) -> Self {
        Self(Arc::new(Place::File(path)))
    }

    /// What it says now.
    ///
    /// *Errors*: a file that cannot be read or understood.
    pub fn read(&self) -> Result<Admission, NetError> {
        match &*self.0 {
            Place::File(path) => read_file(path),
            Place::Memory(admission) => Ok(lock(admission).clone()),
        }
    }

    /// Changes it; `change` tells whether there is anything to write, and what to give back.
    ///
    /// *Errors*: a file that cannot be locked, read, understood or written.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Admission) -> (bool, T),
    ) -> Result<T, NetError> {
        let path = match &*self.0 {
            Place::File(path) => path,
            Place::Memory(admission) => return Ok(change(&mut lock(admission)).1),
        };
        // Held until the end: the file itself is replaced, so it cannot carry the lock.
        let _lock = lock_beside(path).map_err(|e| failed(path, &e))?;
        let mut admission = read_file(path)?;
        let (changed, result) = change(&mut admission);
        if changed {
            let mut bytes = serde_json::to_vec_pretty(&admission)
                .map_err(|e| failed(path, &std::io::Error::other(e)))?;
            bytes.push(b'\n');
            write_private(path, &bytes).map_err(|e| failed(path, &e))?;
        }
        Ok(result)
    }

    /// Makes an invitation.
    ///
    /// *Errors*: as [`Register::change`], or the system has no randomness.
    pub fn invite(&self, terms: &Terms) -> Result<Invitation, NetError> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        let mut candidates = [0; 32];
        getrandom::fill(&mut candidates).map_err(std::io::Error::other)?;
        let now = now_unix_s();
        self.change(|admission| {
            let taken = |id: &InvitationId| admission.invitations.iter().any(|i| i.id == *id);
            let ids =
                candidates.as_chunks::<4>().0.iter().map(|b| InvitationId(u32::from_le_bytes(*b)));
            // Of eight numbers out of four thousand million one is free, as sure as anything is.
            let id = ids.into_iter().find(|id| !taken(id)).unwrap_or(InvitationId(0));
            (true, admission.invite((id, Secret(secret)), terms, now))
        })
    }

    /// Judges a device at the door and, where it came to stay, writes down that it is here.
    pub(crate) fn judge(
        &self,
        claimant: &Claimant<'_>,
        name: &str,
        stays: bool,
    ) -> Result<Result<Standing, Refusal>, NetError> {
        let now = now_unix_s();
        // Without the lock first: a crowd of strangers keeps nobody from the file.
        let mut admission = self.read()?;
        let standing = match admission.judge(claimant, now) {
            Ok(standing) => standing,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !stays || !admission.admit(claimant.peer, name, standing, now) {
            return Ok(Ok(standing));
        }
        self.change(|admission| match admission.judge(claimant, now) {
            Ok(standing) => (admission.admit(claimant.peer, name, standing, now), Ok(standing)),
            Err(refusal) => (false, Err(refusal)),
        })
    }

    /// Notes that members were here until now.
    pub(crate) fn see(&self, peers: &[PeerId]) {
        let now = now_unix_s();
        let news = self.read().is_ok_and(|mut admission| admission.see(peers, now));
        if news && let Err(error) = self.change(|admission| (admission.see(peers, now), ())) {
            tracing::warn!("cannot note who was here: {error}");
        }
    }
}

fn lock(admission: &Mutex<Admission>) -> std::sync::MutexGuard<'_, Admission> {
    admission.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn failed(path: &Path, error: &std::io::Error) -> NetError {
    let reason = match error.kind() {
        ErrorKind::PermissionDenied => {
            format!("{error}; run as the user who owns it, or give another folder with --state")
        }
        _ => error.to_string(),
    };
    NetError::Register { path: path.into(), reason }
}

fn read_file(path: &Path) -> Result<Admission, NetError> {
    let damaged = |what: &dyn std::fmt::Display| NetError::Register {
        path: path.into(),
        reason: format!(
            "{what}; put back a copy of it, or move it away, and then invite every device again"
        ),
    };
    let bytes = match path.metadata() {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(damaged(&format_args!("it has {} bytes", metadata.len())));
        }
        Ok(_) => std::fs::read(path).map_err(|e| failed(path, &e))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Admission::default()),
        Err(error) => return Err(failed(path, &error)),
    };
    crate::outside::register(&bytes).map_err(|what| damaged(&format_args!("it is damaged: {what}")))
}

fn lock_beside(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path.with_extension("lock"))?;
    match file.lock() {
        // A file system without locks: the file is replaced in one step all the same.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(file),
        locked => locked.map(|()| file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn in_folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/cluster.json");
        (folder, path)
    }

    #[test]
    fn what_one_process_writes_another_reads() {
        let (_folder, path) = in_folder();
        let (ours, theirs) = (Register::in_file(path.clone()), Register::in_file(path.clone()));
        assert!(theirs.read().unwrap().invitations.is_empty(), "nothing is made by reading");
        assert!(!path.exists());
        let invitation =
            ours.invite(&Terms { label: "attic".into(), lifetime_s: Some(60) }).unwrap();
        let read = theirs.read().unwrap();
        assert_eq!(read.invitations[0].id, invitation.id);
        assert_eq!(read.invitations[0].secret, invitation.secret);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let (_folder, path) = in_folder();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let register = Register::in_file(path.clone());
                    (0..8).for_each(|_| drop(register.invite(&Terms::default()).unwrap()));
                });
            }
        });
        assert_eq!(Register::in_file(path).read().unwrap().invitations.len(), 32);
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let (_folder, path) = in_folder();
        let register = Register::in_file(path.clone());
        register.invite(&Terms::default()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let other_form =
            String::from_utf8(whole.clone()).unwrap().replace("\"version\": 1", "\"version\": 2");
        for wrong in
            [&whole[..whole.len() / 2], b"", b"[]", b"{\"colour\": 1}", other_form.as_bytes()]
        {
            std::fs::write(&path, wrong).unwrap();
            let error = register.invite(&Terms::default()).unwrap_err().to_string();
            assert!(error.contains("cluster.json") && error.contains("put back a copy"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), wrong, "never emptied");
        }
    }

    #[test]
    fn whoever_only_asks_is_not_written_down() {
        let register = Register::in_memory();
        let invitation = register.invite(&Terms::default()).unwrap();
        let proves = |secret: &[u8; 16]| *secret == invitation.secret.0;
        let peer = Identity::ephemeral().peer_id();
        let claimant = Claimant { peer, invitation: Some(invitation.id), proves: &proves };
        let invited = Ok(Standing::Invited(invitation.id));
        assert_eq!(register.judge(&claimant, "pi", false).unwrap(), invited);
        assert!(register.read().unwrap().members.is_empty());
        assert_eq!(register.judge(&claimant, "pi", true).unwrap(), invited);
        assert_eq!(register.judge(&claimant, "pi", true).unwrap(), Ok(Standing::Member));
    }
}
