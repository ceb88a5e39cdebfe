//! libp2p for Tilehive: identity, discovery, admission, streams.
//!
//! This crate knows messages, not meanings. A [`Net`] is a pair of queues: commands in, events
//! out. Between two admitted peers there is one connection with two streams, opened once:
//!
//! | stream | carries |
//! |---|---|
//! | control | the handshake, then [`protocol::Message`]s |
//! | bulk | bundles and blobs, in chunks of 64 KiB with credit, bundles before blobs |
//!
//! | file | idea |
//! |---|---|
//! | `identity.rs`, `token.rs` | who we are; the line that lets a worker join |
//! | `admission/`, `register.rs` | who may join: the rule; invitations and members in a file |
//! | `handshake.rs`, `ask.rs` | version and membership, before any protocol message, or alone |
//! | `door.rs` | how many strangers at once, and what the log hears of them |
//! | `counted.rs` | how many bytes pass |
//! | `private.rs` | files for one user's eyes |
//! | `frame.rs`, `payload.rs` | bytes on the streams; tensors without copies |
//! | `session.rs` | the four tasks of one connection |
//! | `swarm.rs` | behaviours, bound addresses |
//! | `transport.rs` | TCP, Noise, Yamux; who does not answer is given up |
//! | `hub.rs`, `hub/dialling.rs` | accepting, who is up; dialling |
//! | `outside.rs` | what others say, read from bytes alone |
//! | `timer.rs` | waiting for what a state machine wants to be told |
//! | `loopback.rs` | the same queues inside one process, for the embedded worker |
//! | `wire_form.rs` | a test that another form of what travels is another version |

mod admission;
mod ask;
mod counted;
mod door;
mod frame;
mod handshake;
mod hub;
mod identity;
mod loopback;
pub mod outside;
mod payload;
mod private;
mod register;
mod session;
mod swarm;
mod timer;
mod token;
mod transport;
#[cfg(test)]
mod wire_form;

pub use admission::{
    Admission, Claimant, Invitation, InvitationId, Membership, Refusal, Removal, Removed, Standing,
    Terms,
};
pub use ask::{Answer, ask};
pub use door::Counters;
pub use handshake::{HANDSHAKE_TIMEOUT, Intent};
pub use hub::{NetConfig, Role, start};
pub use identity::Identity;
pub use libp2p::{Multiaddr, PeerId};
pub use loopback::loopback;
pub use payload::{Owner, Payload};
pub use private::write_private;
pub use register::{Register, now_unix_s};
pub use timer::after;
pub use token::Token;

use model::WeightHash;
use protocol::{Bundle, Message};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The port that workers and coordinators use unless told otherwise.
pub const DEFAULT_PORT: u16 = 47_470;

/// What a driver wants of the network. Commands never block: what they queue is bounded by the
/// protocol's windows, and they hold references, not copies.
#[derive(Debug)]
pub enum Command {
    /// Send a control message.
    Send(PeerId, Message),
    /// Send a bundle and its values.
    SendBundle(PeerId, Bundle, Payload),
    /// Send a blob.
    SendBlob(PeerId, WeightHash, Payload),
    /// End a session.
    Disconnect(PeerId, String),
    /// The workers that may connect to this one, with their addresses; replaces the last list.
    Members(Vec<(PeerId, Vec<Multiaddr>)>),
    /// End all sessions and stop.
    Shutdown,
}

/// What the network tells a driver.
#[derive(Debug)]
pub enum Event {
    /// An admitted peer is connected, and speaks this version of the protocol with us. Its addresses are
    /// where others may reach it.
    Up(PeerId, u32, Vec<Multiaddr>),
    /// A session ended.
    Down(PeerId, String),
    /// A control message.
    Message(PeerId, Message, Permit),
    /// A bundle with the values of its pieces, in their order.
    Bundle(PeerId, Bundle, Vec<Vec<u8>>, Permit),
    /// A blob whose hash is right.
    Blob(PeerId, WeightHash, Vec<u8>),
    /// The coordinator turned us away for good: another try would end the same.
    Refused(Refused),
    /// The coordinator could not be reached; the network goes on trying.
    Unreachable(String),
}

/// Whether an address is on this machine.
pub fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        libp2p::multiaddr::Protocol::Ip4(ip) => ip.is_loopback(),
        libp2p::multiaddr::Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

/// The TCP socket that an address names; none where it names something else.
pub fn socket_address(address: &Multiaddr) -> Option<std::net::SocketAddr> {
    use libp2p::multiaddr::Protocol;
    let mut parts = address.iter();
    let ip: std::net::IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some((ip, port).into()),
        _ => None,
    }
}

/// Room in a session's bounded queue, given back when dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

/// Blobs that a driver asked for; any other is a breach of the protocol.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<Mutex<BTreeSet<WeightHash>>>);

impl Wanted {
    /// Expects blobs.
    pub fn expect(&self, hashes: impl IntoIterator<Item = WeightHash>) {
        self.lock().extend(hashes);
    }

    /// Whether a blob is expected, and no longer after this.
    fn take(&self, hash: WeightHash) -> bool {
        self.lock().remove(&hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<WeightHash>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A running network: commands in, events out.
#[derive(Debug)]
pub struct Net {
    /// Our own identity.
    pub local: PeerId,
    /// Where we listen.
    pub listening: Vec<Multiaddr>,
    /// Commands.
    pub commands: mpsc::UnboundedSender<Command>,
    /// Events.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// The blobs that may come.
    pub wanted: Wanted,
    /// What happened at the door, and how much went through it.
    pub counters: Counters,
}

/// What a peer says that turns us away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {cure}")]
pub struct Refused {
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub cure: String,
}

/// Why the network did not start, or a session did not.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The transport could not be set up.
    #[error("cannot set up the transport: {0}")]
    Transport(String),
    /// A token that cannot be read.
    #[error("the token cannot be read: {0}")]
    Token(&'static str),
    /// The key file cannot be used.
    #[error("cannot use the identity in {path}: {reason}")]
    Identity {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// The file of invitations and members cannot be used.
    #[error("cannot use the members in {path}: {reason}")]
    Register {
        /// The file.
        path: std::path::PathBuf,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The other side sent something no honest peer sends.
    #[error("breach of protocol: {0}")]
    Breach(String),
    /// The other side turned us away.
    #[error("{0}")]
    Refused(Refused),
}
