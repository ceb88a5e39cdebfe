//! What happens and what travels.

use crate::fnv::Fnv;
use kernels::Pieces;
use model::WeightHash;
use protocol::{Bundle, Message, Nanos, TaskId};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum End {
    Head,
    Device(usize),
}

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    Message(Box<Message>),
    Bundle(Box<Bundle>, Pieces),
    Blob(WeightHash, u64),
}

/// What happens. A `life` counts the processes of a device, a `session` its connections to the
/// coordinator: what belongs to an earlier one is lost.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Submit(usize),
    Fault(usize),
    ToHead {
        from: usize,
        session: u32,
        parcel: Parcel,
    },
    ToDevice {
        to: usize,
        from: Sender,
        parcel: Parcel,
    },
    Computed {
        device: usize,
        life: u32,
        job: u32,
    },
    /// So many bytes of results are off a device.
    Sent {
        device: usize,
        life: u32,
        bytes: u64,
    },
    Warm {
        device: usize,
        life: u32,
    },
    Load {
        device: usize,
        on: bool,
    },
    Connect {
        device: usize,
        life: u32,
    },
    HeadLost {
        device: usize,
        session: u32,
    },
    DeviceLost {
        device: usize,
        session: u32,
    },
    PeerUp {
        device: usize,
        life: u32,
        peer: usize,
        peer_life: u32,
    },
    PeerLost {
        device: usize,
        peer: usize,
        peer_life: u32,
    },
    Unblock {
        device: usize,
        at_ns: Nanos,
    },
    Resubmit,
    Roster,
}

/// Who sent something to a device, and which of the device's lives or sessions it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Head { session: u32 },
    Peer { peer: usize, life: u32 },
}

impl Parcel {
    /// Bytes on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Parcel::Message(message) => match &**message {
                Message::Announce { body, .. } => 64 + 32 * body.stages.len() as u64,
                _ => 64,
            },
            Parcel::Bundle(bundle, _) => 64 + bundle.wire_len().unwrap_or(0) as u64,
            Parcel::Blob(_, bytes) => 64 + bytes,
        }
    }

    fn digest(&self, hash: &mut Fnv) {
        let task = |t: &TaskId| [t.frame.0, u64::from(t.stage) << 32 | u64::from(t.tile)];
        match self {
            Parcel::Message(message) => {
                let words = match &**message {
                    Message::Yielded { task: t, .. } => task(t),
                    Message::Kept { task: t, .. } => task(t),
                    Message::Yield { task: t, .. } => task(t),
                    Message::Failed { task: t, .. } => task(t),
                    _ => [self.bytes(), 0],
                };
                hash.words(&words);
            }
            Parcel::Bundle(bundle, _) => {
                hash.words(&task(&bundle.task));
                hash.word(u64::from(bundle.attempt));
            }
            Parcel::Blob(_, bytes) => hash.word(*bytes),
        }
    }
}

impl Event {
    /// The device on which it happens.
    pub(crate) fn device(&self) -> Option<usize> {
        match self {
            Event::ToDevice { to: device, .. }
            | Event::Computed { device, .. }
            | Event::Sent { device, .. }
            | Event::Connect { device, .. }
            | Event::DeviceLost { device, .. }
            | Event::PeerUp { device, .. }
            | Event::PeerLost { device, .. } => Some(*device),
            Event::Submit(_) | Event::Fault(_) | Event::Resubmit | Event::Roster => None,
            Event::Unblock { .. } => None,
            Event::ToHead { .. } | Event::HeadLost { .. } => None,
            Event::Warm { .. } | Event::Load { .. } => None,
        }
    }

    /// Folds what tells this event from others into a hash.
    pub(crate) fn digest(&self, now: Nanos, hash: &mut Fnv) {
        let (kind, a, b) = match self {
            Event::Submit(frame) => (1, *frame, 0),
            Event::Fault(fault) => (2, *fault, 0),
            Event::ToHead { from, session, .. } => (3, *from, *session),
            Event::ToDevice { to, .. } => (4, *to, 0),
            Event::Computed { device, job, .. } => (5, *device, *job),
            Event::Warm { device, .. } => (6, *device, 0),
            Event::Load { device, on } => (7, *device, u32::from(*on)),
            Event::Connect { device, life } => (8, *device, *life),
            Event::HeadLost { device, session } => (9, *device, *session),
            Event::DeviceLost { device, session } => (10, *device, *session),
            Event::PeerUp { device, peer, .. } => (11, *device, *peer as u32),
            Event::PeerLost { device, peer, .. } => (12, *device, *peer as u32),
            Event::Unblock { device, .. } => (13, *device, 0),
            Event::Resubmit => (14, 0, 0),
            Event::Roster => (17, 0, 0),
            Event::Sent { device, bytes, .. } => (18, *device, *bytes as u32),
        };
        hash.words(&[now, kind, a as u64, u64::from(b)]);
        if let Event::ToHead { parcel, .. } | Event::ToDevice { parcel, .. } = self {
            parcel.digest(hash);
        }
    }
}
