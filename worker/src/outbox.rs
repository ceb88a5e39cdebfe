//! Pieces on their way out. Those that are to be encoded are, one bundle after another, on a thread of
//! their own: the loop that drives a state machine goes on, and so does the network. The others leave
//! from where they lie.

use kernels::Piece;
use kernels::wire::encode;
use net::{Command, Owner, Payload, PeerId};
use protocol::{Bundle, Form};
use std::any::Any;
use std::sync::{Arc, mpsc};
use tiling::Encoding;
use tokio::sync::mpsc::UnboundedSender;

/// A piece that a bundle names, or one that contains it.
pub struct Held {
    /// Where its values are.
    pub piece: Arc<Piece>,
    /// What keeps them there until they are sent as they are, and may want to know when they are.
    pub owner: Owner,
    /// What of that is to live on when they were encoded.
    pub until_sent: Option<Arc<dyn Any + Send + Sync>>,
}

/// A bundle that was encoded, with the forms of its pieces, and to whom it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// To whom.
    pub to: PeerId,
    /// The bundle.
    pub bundle: Bundle,
}

enum Job {
    Encode(PeerId, Box<Bundle>, Vec<Held>),
    Shutdown,
}

/// The way to the network for bundles.
#[derive(Clone)]
pub struct Outbox {
    commands: UnboundedSender<Command>,
    jobs: mpsc::Sender<Job>,
}

impl Outbox {
    /// Starts the thread; it ends when the last sender is dropped. `packed` hears of every bundle that
    /// was encoded.
    ///
    /// *Errors*: the system refuses the thread.
    pub fn start(
        commands: UnboundedSender<Command>,
        packed: impl Fn(Packed) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let out = commands.clone();
        std::thread::Builder::new().name("encode".into()).spawn(move || {
            for job in queue {
                let command = match job {
                    Job::Encode(to, bundle, pieces) => {
                        let (bundle, payload) = encoded(*bundle, pieces);
                        packed(Packed { to, bundle: bundle.clone() });
                        Command::SendBundle(to, bundle, payload)
                    }
                    Job::Shutdown => Command::Shutdown,
                };
                if out.send(command).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { commands, jobs })
    }

    /// Sends a bundle; `pieces` are what it names, in its order.
    pub fn send(&self, to: PeerId, bundle: Bundle, pieces: Vec<Held>, encode: bool) {
        let bundle = Bundle { forms: Vec::new(), ..bundle };
        if encode && !bundle.pieces.is_empty() {
            let _ = self.jobs.send(Job::Encode(to, Box::new(bundle), pieces));
            return;
        }
        let mut payload = Payload::new();
        for (header, held) in bundle.pieces.iter().zip(&pieces) {
            let runs = held.piece.runs(header.region);
            runs.for_each(|run| payload.push(held.owner.clone(), run));
        }
        let _ = self.commands.send(Command::SendBundle(to, bundle, payload));
    }

    /// Ends the network when what was given before is out.
    pub fn shut_down(&self) {
        let _ = self.jobs.send(Job::Shutdown);
    }
}

/// Encoded values, and what hears when they are sent.
struct Values {
    bytes: Vec<u8>,
    _until_sent: Option<Arc<dyn Any + Send + Sync>>,
}

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn encoded(mut bundle: Bundle, pieces: Vec<Held>) -> (Bundle, Payload) {
    let mut payload = Payload::new();
    let mut forms = Vec::with_capacity(pieces.len());
    for (header, held) in bundle.pieces.iter().zip(pieces) {
        let before = payload.len();
        let encoding = match encode(&held.piece, header.region) {
            Some(encoded) => {
                let _until_sent = held.until_sent;
                let values: Owner = Arc::new(Values { bytes: encoded.bytes, _until_sent });
                let len = values.as_ref().as_ref().len();
                payload.push(values, 0..len);
                encoded.encoding
            }
            None => {
                let runs = held.piece.runs(header.region);
                runs.for_each(|run| payload.push(held.owner.clone(), run));
                Encoding::Raw
            }
        };
        forms.push(Form { encoding, bytes: (payload.len() - before) as u64 });
    }
    bundle.forms = forms;
    (bundle, payload)
}
