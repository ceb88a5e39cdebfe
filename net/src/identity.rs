//! A key on disk: the PeerId of a device survives a restart.

use crate::NetError;
use libp2p::identity::Keypair;
use std::io::Write;
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
        let error = |reason: String| NetError::Identity { path: path.into(), reason };
        match std::fs::read(path) {
            Ok(bytes) => Keypair::from_protobuf_encoding(&bytes)
                .map(Self)
                .map_err(|e| error(format!("not a key: {e}; delete the file to make a new one"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let identity = Self::ephemeral();
                let bytes = identity.0.to_protobuf_encoding().map_err(|e| error(e.to_string()))?;
                write_private(path, &bytes).map_err(|e| error(e.to_string()))?;
                Ok(identity)
            }
            Err(e) => Err(error(e.to_string())),
        }
    }

    /// The public name of this key.
    pub fn peer_id(&self) -> libp2p::PeerId {
        self.0.public().to_peer_id()
    }

    /// The cluster's secret: it follows from the coordinator's key, so there is nothing more to
    /// keep, and a new key is a new cluster.
    pub(crate) fn cluster_secret(&self) -> [u8; 16] {
        let derived = self.0.derive_secret(b"tilehive cluster secret 1").unwrap_or_default();
        let mut secret = [0; 16];
        secret.copy_from_slice(&derived[..16]);
        secret
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}
