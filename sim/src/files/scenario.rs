//! What a cluster computes, and what goes wrong.

use super::find::{self, FileError, Kind};
use super::{ClusterFile, nanos};
use crate::scenario::{Fault, FaultKind, Payload, Scenario, Weights};
use model::{Axes, LoadOptions, LoadedModel};
use planner::{Objective, PlanOptions, Strategy};
use protocol::{CoordinatorConfig, SECOND};
use serde::Deserialize;
use tiling::{Handover, Numerics, Wire};

/// A file of `configs/scenarios`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// A path or `zoo:NAME`.
    pub model: String,
    /// Rows and columns of the input, where the model leaves them open.
    pub input_size: Option<(usize, usize)>,
    /// A path or a name.
    pub cluster: String,
    /// How many frames.
    #[serde(default = "one")]
    pub frames: usize,
    /// Time between two submissions.
    #[serde(default)]
    pub frame_interval_ms: f64,
    /// Whether the workers have the model's weights on disk from before.
    #[serde(default = "yes")]
    pub weights_cached: bool,
    /// When the first is submitted.
    #[serde(default = "start_s")]
    pub start_s: f64,
    /// Which plan.
    #[serde(default = "deepthings")]
    pub strategy: Strategy,
    /// Rows and columns of the fused grid.
    pub grid: Option<(usize, usize)>,
    /// Layers in the fused group.
    pub fused_layers: Option<usize>,
    /// What happens to maps between stages: `gather` or `exchange`.
    pub handover: Option<Handover>,
    /// What may become of values between devices: `auto`, `raw`, `lossless` or `f16`.
    #[serde(default)]
    pub wire: Wire,
    /// How the model's weights are kept and sent: `f32` or `f16`.
    #[serde(default)]
    pub weights: WeightsName,
    /// What `auto` chooses the plan for: `latency`, `throughput` or `energy`.
    #[serde(default)]
    pub objective: Objective,
    /// When a frame must have ended, for `energy`.
    pub deadline_s: Option<f64>,
    /// Where all chance comes from.
    #[serde(default = "seed")]
    pub seed: u64,
    /// Whether idle workers steal.
    #[serde(default = "yes")]
    pub stealing: bool,
    /// Frames in flight at once.
    #[serde(default = "frames_in_flight")]
    pub frames_in_flight: usize,
    /// Tasks sent ahead to one worker.
    #[serde(default = "window_tasks")]
    pub window_tasks: usize,
    /// Tasks that two workers compute, in thousandths.
    #[serde(default)]
    pub spot_checks_per_mille: u64,
    /// Virtual time within which every frame must end.
    #[serde(default = "patience_s")]
    pub patience_s: f64,
    /// What goes wrong.
    #[serde(rename = "fault", default)]
    pub faults: Vec<FaultSection>,
    /// So many workers instead of those of the cluster; for sweeps.
    #[serde(skip)]
    pub workers: Option<usize>,
    /// Multiplies the rate of every link; for sweeps.
    #[serde(skip)]
    pub link_scale: Option<f64>,
}

/// How weights are kept and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsName {
    /// As they are in the model.
    #[default]
    F32,
    /// Rounded to half floats.
    F16,
}

fn one() -> usize {
    1
}

fn start_s() -> f64 {
    2.0
}

fn deepthings() -> Strategy {
    Strategy::DeepThings
}

fn seed() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn frames_in_flight() -> usize {
    CoordinatorConfig::default().frames_in_flight_max
}

fn window_tasks() -> usize {
    CoordinatorConfig::default().window_tasks_max
}

fn patience_s() -> f64 {
    3600.0
}

/// Something that goes wrong at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSection {
    at_s: f64,
    kind: FaultName,
    /// Index of the worker, from zero, in the order of the cluster file.
    device: Option<usize>,
    /// The other end of a cut link.
    other: Option<usize>,
    /// How much slower.
    times: Option<u64>,
    /// How long a stall or an isolation lasts.
    for_s: Option<f64>,
    /// When what ended starts again, or what was cut carries again.
    back_after_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FaultName {
    Crash,
    PowerLoss,
    Leave,
    SlowDown,
    Stall,
    Hang,
    Cut,
    Isolate,
    RestartCoordinator,
}

impl FaultSection {
    fn faults(&self, workers: usize) -> Result<Vec<Fault>, FileError> {
        let wrong = |what: &str| FileError::Value(format!("a fault at {} s {what}", self.at_s));
        let index = |given: Option<usize>, key: &str| match given {
            Some(i) if i < workers => Ok(i),
            Some(i) => Err(wrong(&format!("names {key} {i}, and there are {workers} workers"))),
            None => Err(wrong(&format!("lacks `{key}`"))),
        };
        let device = || index(self.device, "device");
        let for_ns = || self.for_s.map(nanos).ok_or_else(|| wrong("lacks `for_s`"));
        let at_ns = nanos(self.at_s);
        let back_ns = self.back_after_s.map(|s| at_ns + nanos(s));
        let again = |kind: FaultKind| back_ns.map(|at_ns| Fault { at_ns, kind });
        let (kind, after) = match self.kind {
            FaultName::Crash => (FaultKind::Crash(device()?), again(FaultKind::Restart(device()?))),
            FaultName::PowerLoss => {
                (FaultKind::PowerLoss(device()?), again(FaultKind::Restart(device()?)))
            }
            FaultName::Leave => (FaultKind::Leave(device()?), again(FaultKind::Restart(device()?))),
            FaultName::SlowDown => {
                let times = self.times.ok_or_else(|| wrong("lacks `times`"))?;
                let kind = FaultKind::SlowDown(device()?, times);
                (kind, again(FaultKind::SlowDown(device()?, 1)))
            }
            FaultName::Stall => (FaultKind::Stall(device()?, for_ns()?), None),
            FaultName::Hang => (FaultKind::Hang(device()?), None),
            FaultName::Cut => {
                let (a, b) = (device()?, index(self.other, "other")?);
                (FaultKind::Cut(a, b), again(FaultKind::Heal(a, b)))
            }
            FaultName::Isolate => (FaultKind::Isolate(device()?, for_ns()?), None),
            FaultName::RestartCoordinator => (FaultKind::RestartCoordinator, None),
        };
        Ok([Some(Fault { at_ns, kind }), after].into_iter().flatten().collect())
    }
}

impl ScenarioFile {
    /// Opens a scenario by name or path.
    ///
    /// *Errors*: no such file, an unknown key.
    pub fn open(reference: &str) -> Result<Self, FileError> {
        find::open(Kind::Scenario, reference)
    }

    /// The cluster.
    ///
    /// *Errors*: no such file, an unknown key.
    pub fn cluster(&self) -> Result<ClusterFile, FileError> {
        let mut cluster = ClusterFile::open(&self.cluster)?;
        cluster.link_scale = self.link_scale;
        Ok(cluster)
    }

    /// Checks all but the model, which takes long to open.
    ///
    /// *Errors*: what [`ScenarioFile::scenario`] would say.
    pub fn check(&self) -> Result<(), FileError> {
        let cluster = self.cluster()?;
        cluster.pairs()?;
        let workers = cluster.workers()?.len();
        self.faults.iter().try_for_each(|fault| fault.faults(workers).map(drop))
    }

    /// The model; its weights are made up, since only their sizes count.
    ///
    /// *Errors*: no such model.
    pub fn open_model(&self) -> Result<LoadedModel, model::ModelError> {
        let input_size = self.input_size.map(|(rows, cols)| Axes { rows, cols });
        let model = model::open(&self.model, &LoadOptions { input_size })?;
        Ok(match self.weights {
            WeightsName::F32 => model,
            WeightsName::F16 => model.with_half_weights(),
        })
    }

    /// The scenario as it is simulated.
    ///
    /// *Errors*: an unknown device, link or cluster, a fault that names a device that is not there.
    pub fn scenario(&self, model: LoadedModel) -> Result<Scenario, FileError> {
        let cluster = self.cluster()?;
        let workers = match self.workers {
            Some(count) => cluster.workers_limited(count)?,
            None => cluster.workers()?,
        };
        let mut faults = Vec::new();
        for fault in &self.faults {
            faults.extend(fault.faults(workers.len())?);
        }
        let mut pairs = cluster.pairs()?;
        pairs.retain(|pair| pair.workers.0.max(pair.workers.1) < workers.len());
        let base = Scenario::sized(model, self.frames, workers);
        Ok(Scenario {
            seed: self.seed,
            payload: Payload::Sizes(self.frames),
            weights: if self.weights_cached { Weights::OnDisk } else { Weights::Nowhere },
            frames_from_ns: nanos(self.start_s),
            frame_interval_ns: nanos(self.frame_interval_ms / 1e3),
            strategy: self.strategy,
            options: PlanOptions {
                grid: self.grid,
                fused_layers: self.fused_layers,
                numerics: Numerics::Fast,
                handover: self.handover,
                objective: self.objective,
                deadline_ns: self.deadline_s.map(nanos),
                wire: self.wire,
            },
            rehearsed: true,
            machine: CoordinatorConfig {
                stealing: self.stealing,
                frames_in_flight_max: self.frames_in_flight.max(1),
                window_tasks_max: self.window_tasks.max(1),
                frames_waiting_max: self.frames.max(1),
                frames_waiting_bytes_max: u64::MAX / 2,
                spot_checks_per_mille: self.spot_checks_per_mille,
                seed: self.seed,
                ..CoordinatorConfig::default()
            },
            head_link: cluster.head_link()?,
            pairs,
            faults,
            patience_ns: nanos(self.patience_s) + SECOND,
            steps_max: u64::MAX,
            ..base
        })
    }
}
