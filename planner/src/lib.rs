//! From a model, a cluster and a strategy to a plan with its predicted cost.
//!
//! Pure functions: the same arguments give the same plan. One file for each strategy.

mod advice;
mod aofl;
mod auto;
mod coedge;
mod cost;
mod deepthings;
mod energy;
mod exact;
mod explain;
mod local;
mod memory;
mod modnn;
mod offload;
mod packing;
mod pairs;
mod pico;
mod profile;
mod refine;
mod replicate;
mod rows;
mod search;
mod split;
mod stream;

pub use advice::{TurnedDown, devices_used};
pub use cost::{Bound, Cost, DeviceCost, StageCost};
pub use explain::{RunnerUp, RunnerUpCost, Turning, runner_ups, turning};
pub use pairs::Pair;
pub use profile::{DeviceProfile, Power, alone_ns, drifted, layers_ns, model_work};
pub use refine::{Verdict, refine};
pub use stream::{StreamGrid, StreamLimits, band, stream_grid};

use model::{LayerId, Model};
use serde::{Deserialize, Serialize};
use tiling::{Grid, Handover, Locality, Numerics, Plan, PlanError, Wire, locality};

/// Which plan a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Whatever is predicted to be fastest, one device included.
    Auto,
    /// One whole stage on one device.
    Local,
    /// One fused grid over the early layers, gather, the rest whole (Zhao et al., 2018).
    DeepThings,
    /// One stage a layer, strips proportional to speed, gather after each (Mao et al., 2017).
    Modnn,
    /// One whole stage on the best other device.
    Offload,
    /// Two whole stages: here up to a layer, there from it on (Kang et al., 2017).
    Split,
    /// Each frame whole, on whichever device is free first.
    Replicate,
    /// Fused groups in equal strips over as many devices as pay (Zhou et al., 2019).
    Aofl,
    /// Rows for each device through all layers, halo from neighbours (Zeng et al., 2021).
    CoEdge,
    /// A pipeline of stages over groups of devices (Yang et al., 2023).
    Pico,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 10] = [
        Strategy::Auto,
        Strategy::Local,
        Strategy::DeepThings,
        Strategy::Modnn,
        Strategy::Offload,
        Strategy::Split,
        Strategy::Replicate,
        Strategy::Aofl,
        Strategy::CoEdge,
        Strategy::Pico,
    ];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Auto => "auto",
            Strategy::Local => "local",
            Strategy::DeepThings => "deepthings",
            Strategy::Modnn => "modnn",
            Strategy::Offload => "offload",
            Strategy::Split => "split",
            Strategy::Replicate => "replicate",
            Strategy::Aofl => "aofl",
            Strategy::CoEdge => "coedge",
            Strategy::Pico => "pico",
        }
    }
}

/// What a plan is chosen for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// One frame ends as soon as can be.
    #[default]
    Latency,
    /// A stream of frames ends as soon as can be.
    Throughput,
    /// The least energy beyond what idle devices draw, within the deadline.
    Energy,
}

/// What a person may set for a strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Rows x cols of the fused grid; chosen when not given.
    pub grid: Option<(usize, usize)>,
    /// Layers in the fused group; chosen when not given.
    pub fused_layers: Option<usize>,
    /// Which answers the plan may give.
    pub numerics: Numerics,
    /// What happens between stages; chosen when not given.
    pub handover: Option<Handover>,
    /// What `auto` chooses by.
    pub objective: Objective,
    /// When a frame must have ended, for [`Objective::Energy`].
    pub deadline_ns: Option<u64>,
    /// What may become of values between devices.
    pub wire: Wire,
}

impl PlanOptions {
    /// Everything chosen, and the bits of one device.
    pub const EXACT: Self = Self {
        grid: None,
        fused_layers: None,
        numerics: Numerics::Exact,
        handover: None,
        objective: Objective::Latency,
        deadline_ns: None,
        wire: Wire::Auto,
    };
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlannerError {
    /// No device to plan for.
    #[error("there is no device to plan for")]
    NoDevice,
    /// A strategy for another device, and there is none.
    #[error("`{strategy}` wants a second device, and there is one; start a worker on another")]
    NoOtherDevice {
        /// The strategy.
        strategy: &'static str,
    },
    /// The grid does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The fused group is longer than what can be cut.
    #[error(
        "only the first {possible} layers can be fused into tiles ({asked} asked): `{layer}` needs its whole input"
    )]
    TooManyFused {
        /// Layers asked for.
        asked: usize,
        /// Layers that can be cut.
        possible: usize,
        /// The layer that stops it.
        layer: String,
    },
    /// Not even the smallest tiles fit the memory.
    #[error("the smallest tiles take {} MB, {} MB are left for them", .needed.div_ceil(1_000_000), .given / 1_000_000)]
    TooLittleMemory {
        /// Bytes that they take.
        needed: u64,
        /// Bytes there are.
        given: u64,
    },
    /// A layer fits on no device, however it is cut.
    #[error(
        "`{layer}` takes {} with its weights, however it is cut, and the most that a device has for \
         it are the {} of {device}: {} are missing", megabytes(*.needed), megabytes(*.given),
        megabytes(.needed - .given)
    )]
    NoRoom {
        /// The layer that lacks most.
        layer: String,
        /// The device with most memory.
        device: String,
        /// Bytes that the layer takes.
        needed: u64,
        /// Bytes that the device has.
        given: u64,
    },
    /// Each layer fits somewhere, and no plan was found in which all do.
    #[error(
        "no plan was found that fits: the weights take {}, all devices together have {}, and \
         `{layer}` alone takes {}", megabytes(*.weights), megabytes(*.given), megabytes(*.largest)
    )]
    NoRoomForAll {
        /// Bytes of the model's weights.
        weights: u64,
        /// Bytes of all devices together.
        given: u64,
        /// The layer that takes most.
        layer: String,
        /// Bytes that it takes.
        largest: u64,
    },
    /// A tile of a strategy's plan fits on no device.
    #[error(
        "`{strategy}` fits nowhere: a tile of the layers `{first}` to `{last}` takes {} with its weights, \
         and the most that a device has are the {} of {device}: {} are missing", megabytes(*.needed), megabytes(*.given),
        megabytes(.needed - .given)
    )]
    DoesNotFit {
        /// The strategy.
        strategy: String,
        /// The device with most memory.
        device: String,
        /// First layer of the tile that takes most.
        first: String,
        /// Its last layer.
        last: String,
        /// Bytes that are held at a time.
        needed: u64,
        /// Bytes that there are.
        given: u64,
    },
    /// Energy is asked for, and it is not known what a device draws.
    #[error("the energy of a plan is not known: nobody says how many watts `{device}` draws")]
    NoPower {
        /// The first such device.
        device: String,
    },
    /// No plan was found that ends in time.
    #[error(
        "no plan was found that ends within {:.1} ms: the fastest takes {:.1} ms",
        *.deadline_ns as f64 / 1e6, *.fastest_ns as f64 / 1e6
    )]
    Deadline {
        /// What was asked for.
        deadline_ns: u64,
        /// What the fastest plan takes.
        fastest_ns: u64,
    },
    /// No layer can be cut.
    #[error(
        "no layer of the model can be cut into tiles: the first one, `{layer}`, needs its whole input"
    )]
    NothingToCut {
        /// The first layer.
        layer: String,
    },
}

/// Bytes in words; small amounts are not rounded to nothing.
fn megabytes(bytes: u64) -> String {
    match bytes {
        ..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Makes the plan of a strategy, and says what it should cost.
///
/// *Errors*: a grid or depth that does not fit the model, no device, too little memory, a deadline that
/// is too near.
pub fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    strategy: Strategy,
    options: PlanOptions,
) -> Result<(Plan, Cost), PlannerError> {
    if devices.is_empty() {
        return Err(PlannerError::NoDevice);
    }
    let mut plan = match strategy {
        Strategy::Auto => auto::plan(model, devices, options)?,
        Strategy::Local => local::plan(model, devices, options.numerics),
        Strategy::DeepThings => deepthings::plan(model, devices, options)?,
        Strategy::Modnn => modnn::plan(model, devices, options)?,
        Strategy::Offload => offload::plan(model, devices, options)?,
        Strategy::Split => split::plan(model, devices, options)?,
        Strategy::Replicate => replicate::plan(model, options),
        Strategy::Aofl => aofl::plan(model, devices, options),
        Strategy::CoEdge => coedge::plan(model, devices, options),
        Strategy::Pico => pico::plan(model, devices, options),
    };
    plan.wire = options.wire;
    if let Some(handover) = options.handover {
        plan.stages.iter_mut().for_each(|stage| stage.handover = handover);
    }
    let cost = cost_of(model, devices, strategy, options, &plan)?;
    Ok((plan, cost))
}

/// What a plan that a strategy made should cost, with the advice that is due.
///
/// *Errors*: the plan does not fit the model.
pub fn cost_of(
    model: &Model,
    devices: &[DeviceProfile],
    strategy: Strategy,
    options: PlanOptions,
    plan: &Plan,
) -> Result<Cost, PlannerError> {
    let mut cost = Cost::of(model, devices, plan)?;
    // One device computes as was asked for, also where scarce memory made this plan an exact one.
    let alone = alone_ns(model, devices, options.numerics);
    cost.one_device_ns = alone.into_iter().min().unwrap_or(cost.one_device_ns);
    // The thriftiest plan needs no word on why it is not the fastest.
    let thrifty = options.objective == Objective::Energy;
    if !thrifty && advice::is_due(strategy, devices.len(), plan) {
        cost.turned_down = advice::turned_down(model, devices, options);
    }
    Ok(cost)
}

/// The plans for one frame that `auto` thinks best, best first, for a caller who judges by more than the
/// cost model; none where only [`plan`] finds one, or none fits.
pub fn finalists(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Vec<Plan> {
    match model.layers.is_empty() || devices.is_empty() {
        true => Vec::new(),
        false => auto::finalists(model, devices, options),
    }
}

/// What becomes of a plan when its devices are not as they were.
#[derive(Debug)]
pub enum Again {
    /// It stays, and should cost that now.
    Stays(Cost),
    /// Another one is well worth the weights that have to travel for it.
    Changes(Plan, Cost),
}

/// Of what it would cost from now on, a plan must save so much to be worth a change, in thousandths.
const GAIN_MIN_PER_MILLE: u64 = 100;

/// Whether a new plan is taken up, now that something has changed, or the known one stays. Both costs are
/// those of the devices as they are now.
pub fn again(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    (known, now): (&Plan, Cost),
    (plan, cost): (Plan, Cost),
) -> Again {
    let sum = |cost: &Cost| match options.objective {
        Objective::Latency => cost.predicted_ns() as f64,
        Objective::Throughput => cost.period_ns as f64,
        Objective::Energy => cost.energy_j.unwrap_or(f64::INFINITY),
    };
    let worth = sum(&cost) < sum(&now) * (1000 - GAIN_MIN_PER_MILLE) as f64 / 1000.0;
    let late = options.deadline_ns.is_some_and(|deadline| now.makespan_ns > deadline);
    match worth || late || check_memory(model, devices, known).is_err() {
        true => Again::Changes(plan, cost),
        false => Again::Stays(now),
    }
}

/// Refuses a plan with a tile that no device holds. `auto` makes none; other strategies say what they
/// would do, and a coordinator refuses it before it starts.
///
/// *Errors*: the largest such tile, and what is missing.
pub fn check_memory(
    model: &Model,
    devices: &[DeviceProfile],
    plan: &Plan,
) -> Result<(), PlannerError> {
    if devices.iter().all(|device| device.memory_bytes.is_none()) {
        return Ok(());
    }
    let mut exact = exact::Exact::new(model, devices, plan.numerics);
    let Some(misfit) = exact.fits_nobody(&plan.stages) else { return Ok(()) };
    let stage = &plan.stages[misfit.stage];
    let name = |layer: u32| model.layers[layer as usize].name.clone();
    Err(PlannerError::DoesNotFit {
        strategy: plan.strategy.clone(),
        device: devices[misfit.device].name.clone(),
        first: name(stage.first_layer),
        last: name(stage.end_layer - 1),
        needed: misfit.needed,
        given: misfit.given,
    })
}

/// How many of the first layers can be cut into tiles.
pub(crate) fn local_prefix(model: &Model) -> usize {
    let layers = 0..model.layers.len();
    layers.take_while(|&i| locality(model, LayerId(i as u32)) == Locality::Local).count()
}

/// How many of some tiles each device gets: each goes to the one that would end it first.
pub(crate) fn deal(speeds: &[u64], tiles: usize) -> Vec<usize> {
    let mut counts = vec![0; speeds.len()];
    for _ in 0..tiles {
        let end = |&i: &usize| (counts[i] as u128 + 1) * 1_000_000_000_000 / speeds[i] as u128;
        if let Some(first) = (0..speeds.len()).min_by_key(end) {
            counts[first] += 1;
        }
    }
    counts
}

/// The smallest nearly square grid with at least `tiles` tiles, wider than high at a tie.
pub(crate) fn square_grid(tiles: usize) -> Grid {
    let rows = (1..=tiles).rev().find(|r| r * r <= tiles).unwrap_or(1);
    Grid::even(rows, tiles.div_ceil(rows))
}
