//! Random hostile clusters: a seed is a cluster, its work and its luck.
//!
//! Faults first, then heal: whatever strikes in the first [`FAULTS_END_NS`], afterwards every link
//! carries, every device is back, and every frame must end with the right bits. Every second seed
//! computes its tiles; the others carry sizes alone and are larger.

use crate::cluster::Cluster;
use crate::invariants::Violation;
use crate::outcome::Outcome;
use crate::physics::{BackgroundLoad, DeviceModel, LinkSpec, Medium, RoundTrip, Thermal};
use crate::random::Random;
use crate::scenario::{Fault, FaultKind, PairSpec, Payload, Scenario, WorkerSpec};
use kernels::{Engine, PackedModel, Piece, Pieces};
use model::builder::Builder;
use model::{Activation, LoadedModel, Op, PoolKind, Shape, Window};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Nanos, SECOND};
use std::sync::Arc;
use tiling::{Handover, Numerics, OperatorClass, Rates, Region, StageGeometry};

/// When the last fault is over.
pub const FAULTS_END_NS: Nanos = 20 * SECOND;

/// Why a seed is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A promise was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// An answer is not that of one device.
    #[error("frame {frame}: map {map}, value {index} differs from the answer of one device")]
    WrongBits {
        /// Which frame.
        frame: usize,
        /// Which of its maps.
        map: usize,
        /// Which value.
        index: usize,
    },
    /// Two runs of the seed are not the same.
    #[error("two runs of this seed differ: {0:016x} and {1:016x}")]
    NotDeterministic(u64, u64),
}

fn conv(channels: usize, outputs: usize, side: usize, stride: usize) -> (Window, [usize; 4]) {
    (Window::square(side, stride, side / 2), [outputs, channels, side, side])
}

/// A chain of convolutions with a pool and a sum, of the size that is asked for.
fn network(random: &mut Random, side: usize) -> LoadedModel {
    let mut build = Builder::new("soak", "soak");
    let shape = Shape::Spatial { channels: 3, rows: side, cols: side };
    let mut at = build.input("x", shape).expect("a small input");
    let mut before = None;
    for i in 0..2 + random.below(4) {
        let channels = build.shape(at).channels();
        let outputs = if before.is_some() { channels } else { 4 + 4 * random.below(2) as usize };
        let kernel = random.pick(&[1, 3, 3]);
        let (window, dims) = conv(channels, outputs, kernel, 1);
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| random.value() / 4.0).collect();
        let weights = build.weight(values, &dims).expect("few weights");
        let activation = random.pick(&[Activation::Relu, Activation::None]);
        let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
        let made = build.layer(&format!("conv{i}"), op, &[at]).expect("it fits");
        at = match before.filter(|&other| build.shape(other) == build.shape(made)) {
            Some(other) if random.below(2) == 0 => {
                let kind = model::CombineKind::Add;
                let op = Op::Combine { kind, activation: Activation::None };
                build.layer(&format!("sum{i}"), op, &[other, made]).expect("two alike")
            }
            _ => made,
        };
        before = Some(at);
        if random.below(4) == 0 && build.shape(at).rows() >= 8 {
            let (window, _) = conv(1, 1, 3, 2);
            let op = Op::Pool { window, kind: PoolKind::Max };
            at = build.layer(&format!("pool{i}"), op, &[at]).expect("it fits");
            before = None;
        }
    }
    build.output(at);
    build.finish().expect("a drawn graph is sound")
}

fn link(random: &mut Random) -> LinkSpec {
    let latency_ns = random.pick(&[0, 200_000, 5_000_000]);
    let rate = random.pick(&[200_000, 2_000_000, 12_500_000, 100_000_000]);
    let wire = LinkSpec::wire(latency_ns, rate, random.pick(&[0, 300_000, 20_000_000]));
    let tails = RoundTrip {
        min_ns: 2_000_000,
        p50_ns: 60_000_000,
        p90_ns: 400_000_000,
        p99_ns: 1_200_000_000,
        max_ns: 2_800_000_000,
    };
    match random.below(5) {
        0 => LinkSpec { medium: Medium::HalfDuplexWire, ..wire },
        1 => LinkSpec { medium: Medium::Air(0), message_ns: 200_000, ..wire },
        2 => LinkSpec { medium: Medium::Air(random.below(2) as u32), airtime_fair: true, ..wire },
        3 if random.below(3) == 0 => LinkSpec { medium: Medium::Air(0), round_trip: tails, ..wire },
        _ => wire,
    }
}

fn worker(random: &mut Random) -> WorkerSpec {
    let rate = random.pick(&[50_000u64, 500_000, 5_000_000, 100_000_000]);
    let mut device = DeviceModel::plain(rate);
    let slower = random.pick(&[1.0, 3.0]);
    let by_class = |class| if class == OperatorClass::Conv1x1 { 1.0 / slower } else { 1.0 };
    device.rates = device.rates.scaled(by_class);
    if random.below(4) == 0 {
        device.thermal = Some(Thermal {
            ambient_c: 25.0,
            die_c_per_w: 10.0,
            die_s: 0.5,
            board_c_per_w: 10.0,
            board_s: 2.0,
            throttle_c: 60.0,
            throttle_full_c: 80.0,
            floor_share: 0.3,
        });
        device.power.active_w = 4.0;
    }
    if random.below(4) == 0 {
        let (on_ns, off_ns) = (random.pick(&[10_000_000, SECOND]), SECOND);
        device.load = Some(BackgroundLoad { share: 0.6, on_ns, off_ns });
    }
    let mut spec = WorkerSpec::of(device, link(random));
    // Some lie about their speed, some never measured it.
    spec.claims = Rates::uniform(random.pick(&[rate, rate, 1_000_000, 0]));
    spec.joins_ns = random.pick(&[0, 0, 0, 30_000_000, 3 * SECOND]);
    spec
}

fn faults(random: &mut Random, workers: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |at_ns, kind| faults.push(Fault { at_ns, kind });
    for _ in 0..random.below(9) {
        // Early ones strike while tasks are out, late ones an idle or struggling cluster.
        let horizon = random.pick(&[10_000_000, 300_000_000, SECOND, FAULTS_END_NS / 2]);
        let at_ns = random.below(horizon);
        let (a, b) = (random.below(workers as u64) as usize, random.below(workers as u64) as usize);
        let back_ns = at_ns + random.pick(&[1_000_000, SECOND, 8 * SECOND]);
        match random.below(10) {
            0 | 1 => {
                add(at_ns, FaultKind::Crash(a));
                add(back_ns, FaultKind::Restart(a));
            }
            2 => {
                add(at_ns, FaultKind::PowerLoss(a));
                add(back_ns, FaultKind::Restart(a));
            }
            3 => {
                add(at_ns, FaultKind::Leave(a));
                add(back_ns, FaultKind::Restart(a));
            }
            4 => add(at_ns, FaultKind::Stall(a, random.pick(&[100_000_000, SECOND, 6 * SECOND]))),
            5 => {
                add(at_ns, FaultKind::SlowDown(a, random.pick(&[3, 20])));
                add(FAULTS_END_NS, FaultKind::SlowDown(a, 1));
            }
            6 => {
                add(at_ns, FaultKind::Cut(a, b));
                add(FAULTS_END_NS, FaultKind::Heal(a, b));
            }
            7 => add(
                at_ns,
                FaultKind::Isolate(a, random.pick(&[SECOND / 2, 3 * SECOND, 9 * SECOND])),
            ),
            8 => {
                add(at_ns, FaultKind::Hang(a));
                // Somebody pulls the plug.
                add(FAULTS_END_NS, FaultKind::PowerLoss(a));
                add(FAULTS_END_NS + SECOND, FaultKind::Restart(a));
            }
            _ if random.below(3) == 0 => add(at_ns, FaultKind::RestartCoordinator),
            _ => {}
        }
    }
    faults
}

/// The scenario of a seed.
pub fn scenario(seed: u64) -> Scenario {
    let mut random = Random::new(seed ^ 0x0005_0a4b_ad5e_ed00);
    let values = random.below(2) == 0;
    let side = if values { 8 + random.below(8) as usize } else { 16 + random.below(33) as usize };
    let model = network(&mut random, side);
    let count = 1 + random.below(if values { 4 } else { 9 }) as usize;
    let workers: Vec<WorkerSpec> = (0..count).map(|_| worker(&mut random)).collect();
    let faults = faults(&mut random, count);
    let frames = 1 + random.below(if values { 3 } else { 7 }) as usize;
    let grid = (1 + random.below(4) as usize, 1 + random.below(4) as usize);
    let strategy = random.pick(&[Strategy::DeepThings, Strategy::DeepThings, Strategy::Modnn]);
    let others = [strategy, strategy, Strategy::CoEdge, Strategy::Pico, Strategy::Replicate];
    let strategy = Random::new(seed ^ 0x0057_4a7e).pick(&others);
    // From a generator of its own, so that the rest of a seed is what it was.
    let exchange = Random::new(seed ^ 0x00ec_4a26).below(2) == 0;
    let options = PlanOptions {
        grid: Some(grid),
        fused_layers: Some(1 + random.below(2) as usize),
        numerics: Numerics::Exact,
        handover: exchange.then_some(Handover::Exchange),
        ..PlanOptions::EXACT
    };
    let ends = faults.iter().filter(|f| f.kind.is_the_end_of_a_process());
    let machine = CoordinatorConfig {
        window_tasks_max: 1 + random.below(4) as usize,
        frames_in_flight_max: 1 + random.below(3) as usize,
        stealing: random.below(5) > 0,
        spot_checks_per_mille: random.pick(&[0, 0, 100, 1000]),
        // Stalls and isolations end in silence, too, and no task is to blame for any of it.
        deaths_max: 4 + 2 * ends.count() as u32 + 12,
        seed,
        ..CoordinatorConfig::default()
    };
    let payload = if values {
        Payload::Values((0..frames).map(|_| input(&model, &mut random)).collect())
    } else {
        Payload::Sizes(frames)
    };
    let base = Scenario::sized(model, frames, workers);
    let frame_interval_ns = random.pick(&[0, 1_000_000, SECOND]);
    let head_link = random.pick(&[LinkSpec::unlimited(), LinkSpec::wire(100_000, 12_500_000, 0)]);
    let patience_ns = 4 * 3600 * SECOND;
    // As above: workers that measure the ways to each other, one of which may be another than their links
    // suggest.
    let mut others = Random::new(seed ^ 0x0070_a125);
    let measures_pairs = others.below(2) == 0;
    let odd = (others.below(count as u64) as usize, others.below(count as u64) as usize);
    let pair = PairSpec {
        workers: odd,
        bytes_per_s: others.pick(&[50_000, 1_000_000, 500_000_000]),
        round_trip: RoundTrip::even(0, others.pick(&[100_000, 30_000_000])),
    };
    let has_pair = measures_pairs && odd.0 != odd.1;
    let mut scenario = Scenario {
        seed,
        payload,
        pairs: has_pair.then_some(pair).into_iter().collect(),
        measures_pairs,
        frame_interval_ns,
        // Workers exchange pieces as soon as all have found each other.
        frames_from_ns: if exchange { 2 * SECOND } else { 0 },
        strategy,
        options,
        machine,
        head_link,
        faults,
        patience_ns,
        ..base
    };
    if random.below(3) == 0 {
        budget(&mut scenario, &mut random);
    }
    scenario
}

fn input(model: &LoadedModel, random: &mut Random) -> Pieces {
    let graph = &model.graph;
    let map = graph.inputs[0];
    let shape = graph.shape(map);
    let values = (0..shape.elements()).map(|_| random.value()).collect();
    let piece = Piece::from_values(Region::whole(shape), shape.channels(), values);
    vec![(map, Arc::new(piece.expect("as many values as elements")))]
}

/// Gives the workers just enough memory for the whole model, and some of them less than that.
fn budget(scenario: &mut Scenario, random: &mut Random) {
    let graph = &scenario.model.graph;
    let maps: u64 = graph.maps.iter().map(|m| 4 * m.shape.elements() as u64).sum();
    let packed = StageGeometry::whole(graph, Numerics::Exact).tile_weights(graph, 0);
    let weights: u64 = packed.iter().flat_map(|layer| layer.packed(graph)).map(|(_, b)| b).sum();
    let whole = 2 * maps + weights + 4096;
    for (i, worker) in scenario.workers.iter_mut().enumerate() {
        let part = if i == 0 { 100 } else { random.pick(&[25, 50, 100, 200]) };
        worker.device.memory_bytes = whole * part / 100;
        // Faults must not leave only those that are too small.
        if part < 100 {
            worker.device.memory_bytes = worker.device.memory_bytes.max(weights + 1024);
        }
    }
    let small = scenario.workers.iter().any(|w| w.device.memory_bytes < whole);
    scenario.may_fail = small;
}

/// Runs a seed.
///
/// *Errors*: a broken promise, wrong bits, or two runs that differ.
pub fn run(seed: u64, twice: bool, traced: bool) -> Result<Outcome, Failure> {
    let scenario = scenario(seed);
    let again = twice.then(|| scenario.clone());
    let expected = expected(&scenario);
    let cluster = Cluster::new(scenario);
    let cluster = if traced { cluster.traced() } else { cluster };
    let outcome = cluster.run()?;
    let failed: Vec<u64> = outcome.failures.iter().map(|(frame, _)| frame.number()).collect();
    let answered = (0..expected.len()).filter(|frame| !failed.contains(&(*frame as u64)));
    for (got, frame) in outcome.outputs.iter().zip(answered) {
        for (map, ((_, a), (_, b))) in expected[frame].iter().zip(got).enumerate() {
            let pairs = a.values().iter().zip(b.values());
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(index) = pairs.map(differs).position(|wrong| wrong) {
                return Err(Failure::WrongBits { frame, map, index });
            }
        }
    }
    if let Some(scenario) = again {
        let second = Cluster::new(scenario).run()?;
        if second.event_hash != outcome.event_hash {
            return Err(Failure::NotDeterministic(outcome.event_hash, second.event_hash));
        }
    }
    Ok(outcome)
}

/// The answers of one device.
fn expected(scenario: &Scenario) -> Vec<Pieces> {
    let Payload::Values(frames) = &scenario.payload else { return Vec::new() };
    let packed = PackedModel::new(scenario.model.graph.clone());
    packed.pack_all(&scenario.model, Numerics::Exact).expect("the weights are all there");
    let engine = Engine::new(1).expect("an engine of one thread starts no thread");
    let whole = |inputs: &Pieces| {
        let maps = engine.run_whole(&packed, Numerics::Exact, inputs).expect("a sound model");
        maps.into_iter().map(|(map, piece)| (map, Arc::new(piece))).collect()
    };
    frames.iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_seeds_keep_every_promise_and_run_twice_alike() {
        let (mut stolen, mut reassigned, mut exchanged, mut lost) = (0, 0, 0, 0);
        for seed in 0..100 {
            let outcome = run(seed, true, false).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            stolen += outcome.stolen();
            reassigned += outcome.reassigned;
            exchanged += outcome.counters.exchanged_bytes;
            lost += outcome.counters.recomputed + outcome.counters.fallbacks;
        }
        // A soak whose faults never strike would pass too.
        assert!(stolen > 30 && reassigned > 30, "{stolen} {reassigned}");
        assert!(exchanged > 100_000 && lost > 3, "{exchanged} {lost}");
    }
}
