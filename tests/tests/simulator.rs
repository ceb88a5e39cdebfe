//! The simulator itself: determinism, and single faults whose effect is known.

use model::builder::Builder;
use model::{Activation, Axes, LayerId, Op, Pads, Shape, Window};
use planner::{PlanOptions, Strategy};
use protocol::SECOND;
use sim::{Cluster, Fault, FaultKind, Outcome, Payload, Scenario, WorkerSpec};
use tests::problem::Tail;
use tests::{Built, GraphProblem, assert_equal, runners, simulated};
use tiling::{Handover, Rates};

fn built(frames: usize) -> Built {
    let tail = Tail::Classifier;
    let drawn = |seed| {
        GraphProblem { seed, layers: 6, channels: 4, rows: 14, cols: 14, tail }.build(frames)
    };
    // Whatever the drawing makes of a seed, the layers that are fused must be some work: faults in
    // mid-frame want a frame that takes a while.
    let is_work = |built: &Built| {
        let graph = &built.model.graph;
        let work = |i: u32| {
            let shape = graph.shape(graph.layers[i as usize].output);
            graph.multiply_adds_per_position(LayerId(i)) * (shape.rows() * shape.cols()) as u64
        };
        (0..2).map(work).sum::<u64>() > 20_000
    };
    (12..100).map(drawn).find(is_work).expect("one of many drawings is some work")
}

/// Frames over a grid of 3 x 3 on workers of these speeds.
fn scenario(frames: usize, workers: &[u64], faults: Vec<Fault>) -> Scenario {
    let built = built(frames);
    let options = PlanOptions { grid: Some((3, 3)), fused_layers: Some(2), ..PlanOptions::EXACT };
    let base = Scenario::new(built.model.clone(), Vec::new(), workers);
    Scenario { payload: Payload::Values(built.frames), options, faults, ..base }
}

fn at(at_ns: u64, kind: FaultKind) -> Fault {
    Fault { at_ns, kind }
}

fn run(scenario: Scenario) -> Outcome {
    let built = built(scenario.payload.frames());
    let outcome = Cluster::new(scenario).run().unwrap_or_else(|violation| panic!("{violation}"));
    for (frame, got) in outcome.outputs.iter().enumerate() {
        assert_equal(&runners::naive(&built, frame), got, "simulated");
    }
    outcome
}

#[test]
fn the_same_seed_gives_the_same_event_hash() {
    let built = built(2);
    for seed in 0..10 {
        let scenario = || {
            let options =
                PlanOptions { grid: Some((2, 2)), fused_layers: Some(2), ..PlanOptions::EXACT };
            simulated::scenario(seed, &built, Strategy::DeepThings, options)
        };
        let (a, b) = (run(scenario()), run(scenario()));
        assert_eq!((a.event_hash, a.steps), (b.event_hash, b.steps), "seed {seed}");
    }
    let hash = |seed| {
        let scenario = scenario(1, &[1_000_000; 2], Vec::new());
        run(Scenario { seed, ..scenario }).event_hash
    };
    assert_ne!(hash(1), hash(2));
}

#[test]
fn two_workers_beat_one() {
    // Compute must dominate whatever the drawing makes: four equal tiles of nothing but one wide
    // convolution, on devices so slow that the wire does not count.
    let scenario = |workers: &[u64]| {
        let mut random = sim::Random::new(1);
        let mut build = Builder::new("wide", "wide");
        let shape = Shape::Spatial { channels: 4, rows: 16, cols: 16 };
        let input = build.input("x", shape).unwrap();
        let values: Vec<f32> = (0..16 * 4).map(|_| random.value()).collect();
        let weights = build.weight(values, &[16, 4, 1, 1]).unwrap();
        let one = Axes::new(1, 1);
        let window = Window { kernel: one, stride: one, dilation: one, pads: Pads::default() };
        let (bias, activation) = (None, Activation::None);
        let op = Op::Conv { window, groups: 1, weights, bias, activation };
        let output = build.layer("conv", op, &[input]).unwrap();
        build.output(output);
        let built = Built::new(build.finish().unwrap(), 2, random);
        let options =
            PlanOptions { grid: Some((2, 2)), fused_layers: Some(1), ..PlanOptions::EXACT };
        let base = Scenario::new(built.model.clone(), Vec::new(), workers);
        Scenario { payload: Payload::Values(built.frames), options, ..base }
    };
    let run = |workers: &[u64]| Cluster::new(scenario(workers)).run().expect("nothing goes wrong");
    let (one, two) = (run(&[20_000]), run(&[20_000; 2]));
    assert!(two.makespan_ns * 10 < one.makespan_ns * 6, "{} {}", two.makespan_ns, one.makespan_ns);
    assert_eq!(two.reassigned, 0);
}

#[test]
fn a_crashed_worker_costs_its_tiles() {
    // At one of these moments at least it is at work.
    let reassigned = [10, 20, 30, 40, 60, 80].map(|ms| {
        let crash = vec![at(ms * 1_000_000, FaultKind::Crash(1))];
        let outcome = run(scenario(3, &[100_000; 3], crash));
        assert!(outcome.makespan_ns < 60 * SECOND);
        outcome.reassigned
    });
    assert!(reassigned.into_iter().any(|tasks| tasks > 0), "{reassigned:?}");
}

#[test]
fn a_restart_before_anybody_noticed_loses_nothing() {
    let faults =
        vec![at(30_000_000, FaultKind::PowerLoss(1)), at(30_000_001, FaultKind::Restart(1))];
    let outcome = run(scenario(3, &[100_000; 2], faults));
    assert!(outcome.reassigned > 0 && outcome.reports[&protocol::WorkerId(1)].alive);
}

#[test]
fn all_crash_and_one_comes_back() {
    let faults = vec![
        at(30_000_000, FaultKind::Crash(0)),
        at(31_000_000, FaultKind::Crash(1)),
        at(9 * SECOND, FaultKind::Restart(1)),
    ];
    let outcome = run(scenario(3, &[100_000; 2], faults));
    assert!(outcome.makespan_ns > 8 * SECOND);
}

#[test]
fn nobody_is_there_until_somebody_joins() {
    let mut scenario = scenario(2, &[1_000_000], Vec::new());
    scenario.workers[0].joins_ns = 5 * SECOND;
    run(scenario);
}

#[test]
fn a_stalled_worker_is_expelled_and_welcome_again() {
    let stall = vec![at(30_000_000, FaultKind::Stall(0, 10 * SECOND))];
    let outcome = run(scenario(3, &[100_000; 2], stall));
    assert!(outcome.reassigned > 0);
}

#[test]
fn a_handover_lost_on_a_cut_link_is_copied_when_it_is_late() {
    let mut scenario = scenario(3, &[20_000, 50_000_000], vec![at(0, FaultKind::Cut(0, 1))]);
    scenario.workers[1].claims = Rates::uniform(20_000);
    let outcome = run(scenario);
    assert!(outcome.reassigned > 0, "the steals were lost");
}

#[test]
fn a_handover_lost_with_its_victim_is_copied_to_the_only_worker_left() {
    // The victim is gone for good after its hand-overs were lost: only the thief, which is taken
    // to hold them, is there.
    for crash_ns in (20..200).step_by(10).map(|ms| ms * 1_000_000) {
        let faults = vec![at(0, FaultKind::Cut(0, 1)), at(crash_ns, FaultKind::Crash(0))];
        let mut scenario = scenario(3, &[20_000, 50_000_000], faults);
        scenario.workers[1].claims = Rates::uniform(20_000);
        run(scenario);
    }
}

#[test]
fn a_throttled_worker_is_relieved_by_a_thief() {
    let slow = vec![at(10_000_000, FaultKind::SlowDown(0, 50))];
    let outcome = run(scenario(4, &[1_000_000; 2], slow));
    assert!(outcome.stolen() > 0);
}

#[test]
fn the_fire_is_real() {
    let built = built(2);
    let (mut stolen, mut reassigned) = (0, 0);
    for seed in 0..100 {
        let options =
            PlanOptions { grid: Some((3, 3)), fused_layers: Some(2), ..PlanOptions::EXACT };
        let outcome = run(simulated::scenario(seed, &built, Strategy::DeepThings, options));
        stolen += outcome.stolen();
        reassigned += outcome.reassigned;
    }
    // A suite whose faults never strike would pass too.
    assert!(stolen > 50 && reassigned > 50, "{stolen} stolen, {reassigned} reassigned");
}

/// Tasks move while maps stay on the workers: nobody waits for a piece that is sent to somebody else.
#[test]
fn what_is_said_to_come_comes() {
    let options = PlanOptions { handover: Some(Handover::Exchange), ..PlanOptions::EXACT };
    let (mut stolen, mut exchanged) = (0, 0);
    for seed in 0..20 {
        for strategy in [Strategy::Modnn, Strategy::CoEdge] {
            // The plan takes them for equals, which they are not.
            let mut scenario = scenario(4, &[3_000_000, 500_000, 1_000_000], Vec::new());
            scenario.workers.iter_mut().for_each(|w| w.claims = Rates::uniform(1_000_000));
            let frames_from_ns = SECOND;
            let outcome = run(Scenario { seed, strategy, options, frames_from_ns, ..scenario });
            assert!(outcome.makespan_ns < SECOND, "seed {seed}: {} ns", outcome.makespan_ns);
            stolen += outcome.stolen();
            exchanged += outcome.counters.exchanged_bytes;
        }
    }
    assert!(stolen > 20 && exchanged > 100_000, "{stolen} {exchanged}");
}

/// A device joins that lacks the weights: eight seconds pass until it has them, and no frame waits. Then
/// frames are faster.
#[test]
fn no_frame_waits_for_the_weights_of_the_next_plan() {
    let model = model::open("zoo:resnet50@64x64", &model::LoadOptions::default()).unwrap();
    let joins_ns = 20 * SECOND;
    let worker = |joins_ns| WorkerSpec { joins_ns, ..WorkerSpec::new(1_000_000_000) };
    let workers = vec![worker(0), worker(joins_ns)];
    let scenario = Scenario {
        strategy: Strategy::Auto,
        frame_interval_ns: SECOND,
        ..Scenario::sized(model, 60, workers)
    };
    let outcome = Cluster::new(scenario).run().unwrap_or_else(|violation| panic!("{violation}"));
    // The first frame of all waits for weights, since there is no other plan.
    let steady = |f: &&sim::FrameOutcome| f.submitted_ns > joins_ns / 2;
    let times: Vec<u64> = outcome.frames.iter().filter(steady).map(|f| f.latency_ns()).collect();
    let (before, after) = (times[0], times[times.len() - 1]);
    assert!(after * 5 < before * 4, "{times:?}");
    // Weights on their way take some of the coordinator's link.
    assert!(times.iter().all(|&ns| ns < before + before / 10), "{times:?}");
    assert!(times.iter().filter(|&&ns| ns > after + after / 10).count() > 12, "{times:?}");
}
