//! A key on disk: the PeerId of a device survives a restart.

use crate::NetError;
use crate::private::create_private;
use libp2p::identity::Keypair;
use std::io::ErrorKind;
use std::path::Path;

/// An ed25519 key.
#[derive(Clone)]
pub struct Identity(pub(crate) Keypair);

impl Identity {
    /// A fresh key that is kept nowhere.
    pub fn ephemeral() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The key of a file, made on first use with mode 0600.
    ///
    /// *Errors*: a file that cannot be read, written or understood.
    pub fn load_or_create(path: &Path) -> Result<Self, NetError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let error = |reason: String| NetError::Identity { path: path.into(), reason };
        let identity = Self::ephemeral();
        let bytes = identity.0.to_protobuf_encoding().map_err(|e| error(e.to_string()))?;
        match create_private(path, &bytes) {
            Ok(()) => Ok(identity),
            // Another process made one at the same moment: both use that.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Self::load(path)?.ok_or_else(|| error(e.to_string()))
            }
            Err(e) => Err(error(e.to_string())),
        }
    }

    /// The key of a file; none when there is no file.
    ///
    /// *Errors*: a file that cannot be read or understood.
    pub fn load(path: &Path) -> Result<Option<Self>, NetError> {
        let error = |reason: String| NetError::Identity { path: path.into(), reason };
        match std::fs::read(path) {
            Ok(bytes) => Keypair::from_protobuf_encoding(&bytes)
                .map(|key| Some(Self(key)))
                .map_err(|e| error(format!("not a key: {e}; delete the file to make a new one"))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(error(e.to_string())),
        }
    }

    /// The public name of this key.
    pub fn peer_id(&self) -> libp2p::PeerId {
        self.0.public().to_peer_id()
    }
}
