//! What happens to a worker, and what it wants done.

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, Health, Member, Message};
use crate::survey::WeightSet;
use model::{LayerId, MapId, Model, WeightHash};
use std::sync::Arc;
use tiling::{Algorithm, LayerWeights};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// The coordinator.
    Coordinator,
    /// Another worker.
    Worker(WorkerId),
}

/// What happens to a worker.
#[derive(Clone, Debug)]
pub enum Input {
    /// The connection to the coordinator is up.
    Connected,
    /// A connection is down.
    Disconnected(Peer),
    /// A connection to another worker is up.
    PeerUp(WorkerId),
    /// A control message.
    Message(Peer, Message),
    /// A bundle with all its values. Those of a task the driver holds under its task and attempt,
    /// those of an exchange until the outputs of this call are drained: `Keep` keeps them.
    Bundle(Peer, Bundle),
    /// A bundle was encoded, with the forms that its pieces were given, and goes to a worker.
    Packed(Bundle),
    /// So many bytes of results are off this device, or lost with their connection.
    Sent(u64),
    /// The driver opened a model's graph; it is valid.
    Opened(ModelHash, Arc<Model>),
    /// The driver lacks blobs for an `Open` or a `Prepare`.
    Missing(Vec<WeightHash>),
    /// A blob arrived and its hash is right.
    Blob(WeightHash),
    /// The driver prepared weights of a stage.
    Prepared(PlanId, WeightSet),
    /// A task ended well; the driver holds its outputs until the outputs of this call are drained.
    Executed {
        /// The task.
        task: TaskId,
        /// How long it took.
        busy_ns: u64,
    },
    /// A task ended in an error.
    Broke {
        /// The task.
        task: TaskId,
        /// The chain of causes.
        reason: String,
    },
    /// The driver looked how the device is.
    Health(Health),
    /// Time passed.
    Tick,
}

/// What a worker wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a control message.
    Send(Peer, Message),
    /// Send a bundle. The values of a `Result` are the outputs of its task, those of a `Handover` its
    /// inputs and what is kept of its frame, those of an `Exchange` parts of what is kept.
    SendBundle(Peer, Bundle),
    /// Keep the pieces that came with the input just given, as pieces of a frame.
    Keep(FrameId),
    /// Let go of what is kept of these maps of a frame.
    Release(FrameId, Vec<MapId>),
    /// Let go of everything that is kept of a frame.
    Forget(FrameId),
    /// Open a model's graph from the blob cache: answer `Opened` or `Missing`.
    Open(ModelHash),
    /// Let go of a model and its packed weights: no plan computes it, and their memory is needed.
    Close(ModelHash),
    /// Let go of what a layer has packed for an algorithm, after everything that was to be prepared
    /// before: no plan reads it, and its memory is needed.
    Unpack {
        /// The model.
        model: ModelHash,
        /// The layer.
        layer: LayerId,
        /// The way that it is computed.
        algorithm: Algorithm,
    },
    /// Get weights of a stage ready: answer `Prepared` or `Missing`.
    Prepare {
        /// The plan.
        plan: PlanId,
        /// The stage, and which of its tiles' weights.
        set: WeightSet,
        /// The model.
        model: ModelHash,
        /// What to pack.
        weights: Vec<LayerWeights>,
    },
    /// Run a task on the inputs held for it: answer `Executed` or `Broke`.
    Execute {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// Its plan.
        plan: PlanId,
    },
    /// Let go of everything held for a task.
    Drop(TaskId, u32),
    /// The workers that may connect to this one, and their addresses.
    Members(Vec<Member>),
    /// End the connection: the other side broke the protocol or fell silent.
    Disconnect(Peer, String),
}
