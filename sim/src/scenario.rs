//! What is simulated, as a value.

use kernels::Pieces;
use model::LoadedModel;
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Nanos, SECOND};

/// A link of one device to the others, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// Time on the way.
    pub latency_ns: Nanos,
    /// What it carries.
    pub bytes_per_s: u64,
    /// The most that chance adds to the time on the way; the order on one stream stays.
    pub jitter_ns: Nanos,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self { latency_ns: 200_000, bytes_per_s: 12_500_000, jitter_ns: 300_000 }
    }
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    /// What it really computes in a second.
    pub multiply_adds_per_s: u64,
    /// What it says it computes in a second; zero when it did not measure.
    pub claims_per_s: u64,
    /// Time that a task takes on top of its multiply-adds.
    pub overhead_ns: Nanos,
    /// Its link.
    pub link: LinkSpec,
    /// When it joins.
    pub joins_ns: Nanos,
}

impl WorkerSpec {
    /// An honest worker that is there from the start.
    pub fn new(multiply_adds_per_s: u64) -> Self {
        Self {
            multiply_adds_per_s,
            claims_per_s: multiply_adds_per_s,
            overhead_ns: 50_000,
            link: LinkSpec::default(),
            joins_ns: 0,
        }
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
    /// A new process with the same identity and nothing else.
    Restart(usize),
    /// Computing takes this many times as long from now on.
    SlowDown(usize, u64),
    /// Nothing moves on the device for a while, then all that piled up is handled (SIGSTOP).
    Stall(usize, Nanos),
    /// What one of two workers sends the other is lost; nobody is told.
    Cut(usize, usize),
    /// The link between two workers carries again.
    Heal(usize, usize),
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
    /// The second bundle that the coordinator scatters never leaves.
    LoseScatter,
    /// Nobody looks at the clock: silence goes unnoticed.
    NeverTick,
    /// One bit of one result is wrong.
    FlipBit,
    /// What a worker should let go of stays.
    NeverDrop,
}

/// A cluster, its work and its luck.
#[derive(Clone)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// The model.
    pub model: LoadedModel,
    /// The inputs of each frame, whole.
    pub frames: Vec<Pieces>,
    /// Time between two submissions.
    pub frame_interval_ns: Nanos,
    /// Which plan.
    pub strategy: Strategy,
    /// Settings of the strategy.
    pub options: PlanOptions,
    /// How the coordinator is set.
    pub machine: CoordinatorConfig,
    /// The workers; the index is the worker's id.
    pub workers: Vec<WorkerSpec>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Virtual time within which every frame must end.
    pub patience_ns: Nanos,
    /// Which mistake the drivers make.
    pub sabotage: Sabotage,
}

impl Scenario {
    /// One frame over honest workers, nothing goes wrong.
    pub fn new(model: LoadedModel, inputs: Pieces, workers: &[u64]) -> Self {
        Self {
            seed: 1,
            model,
            frames: vec![inputs],
            frame_interval_ns: 1_000_000,
            strategy: Strategy::DeepThings,
            options: PlanOptions::EXACT,
            machine: CoordinatorConfig::default(),
            workers: workers.iter().map(|&rate| WorkerSpec::new(rate)).collect(),
            faults: Vec::new(),
            patience_ns: 300 * SECOND,
            sabotage: Sabotage::None,
        }
    }
}
