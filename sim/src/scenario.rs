//! What is simulated, as a value.

use crate::physics::{DeviceModel, LinkSpec, RoundTrip};
use kernels::Pieces;
use model::LoadedModel;
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Nanos, SECOND};
use tiling::{Plan, Rates, Shares};

/// A worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSpec {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub device: DeviceModel,
    /// How fast it says it is; zeros when it did not measure.
    pub claims: Rates,
    /// Its link.
    pub link: LinkSpec,
    /// When it joins.
    pub joins_ns: Nanos,
}

/// The way between two workers, where their links to the switch do not tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairSpec {
    /// The workers, by their indices into [`Scenario::workers`].
    pub workers: (usize, usize),
    /// What the way carries, each way.
    pub bytes_per_s: u64,
    /// How long a packet is on its way.
    pub round_trip: RoundTrip,
}

impl WorkerSpec {
    /// An honest worker of one speed that is there from the start.
    pub fn new(multiply_adds_per_s: u64) -> Self {
        Self::of(DeviceModel::plain(multiply_adds_per_s), LinkSpec::default())
    }

    /// An honest worker on a device.
    pub fn of(device: DeviceModel, link: LinkSpec) -> Self {
        let (name, claims) = (device.name.clone(), device.measured());
        Self { name, device, claims, link, joins_ns: 0 }
    }
}

/// Something that goes wrong, or right again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at_ns: Nanos,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong. Workers are indices into [`Scenario::workers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The process ends; its connections are reset, so that the others learn of it.
    Crash(usize),
    /// The device goes silent for good: nobody is told.
    PowerLoss(usize),
    /// The worker says goodbye and ends.
    Leave(usize),
    /// A new process with the same identity and nothing else.
    Restart(usize),
    /// Computing takes this many times as long from now on.
    SlowDown(usize, u64),
    /// Nothing moves on the device for a while, then all that piled up is handled (SIGSTOP).
    Stall(usize, Nanos),
    /// It lives and answers, and what it computes never ends, until it is restarted.
    Hang(usize),
    /// What one of two workers sends the other is lost; nobody is told.
    Cut(usize, usize),
    /// The link between two workers carries again.
    Heal(usize, usize),
    /// The network of one device is gone for a while: what was sent waits, as TCP has it.
    Isolate(usize, Nanos),
    /// The coordinator's process ends, and a new one starts that knows nothing; the frames that
    /// had not ended are submitted again.
    RestartCoordinator,
    /// Whoever computes this tile of this frame crashes, and comes back.
    Poison {
        /// Which frame.
        frame: u64,
        /// Which tile of its first stage.
        tile: u32,
    },
}

impl FaultKind {
    /// Whether a process ends by it.
    pub fn is_the_end_of_a_process(&self) -> bool {
        matches!(self, Self::Crash(_) | Self::PowerLoss(_) | Self::Leave(_) | Self::Stall(..))
    }
}

/// Deliberate mistakes of the simulated drivers, each of which an invariant must catch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Honest drivers.
    #[default]
    None,
    /// Each result is stitched in twice.
    GatherTwice,
    /// A victim says that it yielded, and sends nothing.
    LoseHandover,
    /// A victim hands a task over under the number of its own attempt, and keeps it.
    DoubleHandover,
    /// The second bundle that the coordinator scatters never leaves.
    LoseScatter,
    /// Nobody looks at the clock: silence and leases go unnoticed.
    NeverTick,
    /// One bit of one result is wrong.
    FlipBit,
    /// What a worker should let go of stays.
    NeverDrop,
    /// What a worker keeps of a frame stays when the frame is over.
    NeverForget,
    /// What a worker should keep for the next stage is let go of.
    LoseKept,
    /// The workers claim ten times the memory that they have.
    IgnoreMemory,
    /// Tiles take a tenth of their time.
    TooFast,
}

/// What workers have of a model's weights when they start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// Nothing: what they need is sent.
    #[default]
    Nowhere,
    /// All, on disk.
    OnDisk,
    /// All, on disk, and packing takes no time: as if frames by the same plan had gone before.
    Packed,
}

/// What the frames carry.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The inputs of each frame, whole: every tile is really computed.
    Values(Vec<Pieces>),
    /// So many frames of sizes alone.
    Sizes(usize),
}

impl Payload {
    /// Number of frames.
    pub fn frames(&self) -> usize {
        match self {
            Payload::Values(frames) => frames.len(),
            Payload::Sizes(frames) => *frames,
        }
    }
}

/// A cluster, its work and its luck.
#[derive(Clone)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// The model. Without values its weights are not read.
    pub model: LoadedModel,
    /// The frames.
    pub payload: Payload,
    /// Which weights the workers have from before.
    pub weights: Weights,
    /// When the first is submitted.
    pub frames_from_ns: Nanos,
    /// Time between two submissions.
    pub frame_interval_ns: Nanos,
    /// Which plan.
    pub strategy: Strategy,
    /// Settings of the strategy.
    pub options: PlanOptions,
    /// A plan for all workers that was made before; the strategy makes one where there is none.
    pub plan: Option<Plan>,
    /// What part of its bytes each map takes where pieces are encoded; what is expected of the model's
    /// maps where nobody says.
    pub shares: Option<Shares>,
    /// Whether the plans of `auto` are played through first, as the coordinator does.
    pub rehearsed: bool,
    /// How the coordinator is set.
    pub machine: CoordinatorConfig,
    /// The coordinator's link.
    pub head_link: LinkSpec,
    /// The workers; the index is the worker's id.
    pub workers: Vec<WorkerSpec>,
    /// Ways between workers that are not what their links suggest.
    pub pairs: Vec<PairSpec>,
    /// Whether workers measure the ways to each other, as real ones do.
    pub measures_pairs: bool,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Virtual time within which every frame must end.
    pub patience_ns: Nanos,
    /// Steps within which every frame must end.
    pub steps_max: u64,
    /// Whether a frame may fail, because the scenario is made so that it must.
    pub may_fail: bool,
    /// Which mistake the drivers make.
    pub sabotage: Sabotage,
    /// Whether what must hold is looked at after every step, and frames are held to their bounds.
    pub checked: bool,
}

impl Scenario {
    /// One frame over honest workers, nothing goes wrong.
    pub fn new(model: LoadedModel, inputs: Pieces, workers: &[u64]) -> Self {
        let workers = workers.iter().map(|&rate| WorkerSpec::new(rate)).collect();
        Self { payload: Payload::Values(vec![inputs]), ..Self::sized(model, 0, workers) }
    }

    /// So many frames of sizes alone over honest workers.
    pub fn sized(model: LoadedModel, frames: usize, workers: Vec<WorkerSpec>) -> Self {
        Self {
            seed: 1,
            model,
            payload: Payload::Sizes(frames),
            weights: Weights::Nowhere,
            frames_from_ns: 0,
            frame_interval_ns: 1_000_000,
            strategy: Strategy::DeepThings,
            options: PlanOptions::EXACT,
            plan: None,
            shares: None,
            rehearsed: false,
            machine: CoordinatorConfig::default(),
            head_link: LinkSpec::unlimited(),
            workers,
            pairs: Vec::new(),
            measures_pairs: false,
            faults: Vec::new(),
            patience_ns: 300 * SECOND,
            steps_max: 2_000_000,
            may_fail: false,
            sabotage: Sabotage::None,
            checked: true,
        }
    }
}
