//! One problem, five runners: naive reference, whole, tiled in process, tiled in the simulated
//! cluster with steals and crashes, tiled over real loopback libp2p. All bit-equal.

use coordinator::HostedModel;
use kernels::Engine;
use planner::{PlanOptions, Strategy as Scheme};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use protocol::CoordinatorConfig;
use sim::Random;
use std::sync::{Arc, LazyLock};
use tests::loopback::Loopback;
use tests::problem::Tail;
use tests::{Built, GraphProblem, assert_equal, runners, simulated};
use tiling::{Handover, Numerics, OperatorClass, Wire};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(1).expect("one thread"));

/// Failures are pinned by name, below, and not in a file beside the source.
fn config(cases: u32) -> Config {
    let soak = std::env::var("SOAK_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { failure_persistence: None, ..Config::with_cases(soak.unwrap_or(cases)) }
}

/// Maps stay on the workers between all stages.
const EXCHANGING: PlanOptions =
    PlanOptions { handover: Some(Handover::Exchange), ..PlanOptions::EXACT };

/// Strategies with the settings that cut most.
fn strategies() -> Vec<(Scheme, PlanOptions)> {
    let grid = |rows, cols| PlanOptions {
        grid: Some((rows, cols)),
        fused_layers: None,
        ..PlanOptions::EXACT
    };
    vec![
        (Scheme::Local, PlanOptions::EXACT),
        (Scheme::Modnn, PlanOptions::EXACT),
        (Scheme::Modnn, EXCHANGING),
        (Scheme::Split, PlanOptions::EXACT),
        (Scheme::Replicate, PlanOptions::EXACT),
        (Scheme::CoEdge, PlanOptions::EXACT),
        (Scheme::Pico, PlanOptions::EXACT),
        (Scheme::DeepThings, PlanOptions { grid: Some((2, 2)), ..EXCHANGING }),
        (Scheme::DeepThings, PlanOptions::EXACT),
        (Scheme::DeepThings, grid(2, 2)),
        (Scheme::DeepThings, grid(3, 1)),
        (
            Scheme::DeepThings,
            PlanOptions { grid: Some((1, 3)), fused_layers: Some(2), ..PlanOptions::EXACT },
        ),
    ]
}

/// Runners 1 to 3; returns how many plans fitted.
fn in_process(problem: &GraphProblem) -> usize {
    let built = problem.build(1);
    let expected = runners::naive(&built, 0);
    assert_equal(&expected, &runners::whole(&built, &ENGINE, Numerics::Exact, 0), "whole");
    let mut fitted = 0;
    for (strategy, options) in strategies() {
        for devices in 1..4 {
            let Ok(plan) = runners::plan(&built, strategy, options, devices) else { continue };
            let got = runners::tiled(&built, &ENGINE, 0, &plan, |_| {});
            let who = format!("{} on {devices} devices, {options:?}", strategy.name());
            assert_equal(&expected, &got.expect("a tile has what it needs"), &who);
            fitted += 1;
        }
    }
    fitted
}

/// Runners 1 and 4: two frames of a random plan in a random cluster with random faults.
fn in_simulation(problem: &GraphProblem) {
    let built = problem.build(2);
    let strategies = strategies();
    let first = problem.seed as usize % strategies.len();
    // Grids that do not fit are skipped; a small model may leave none but the whole.
    for (strategy, options) in strategies.into_iter().cycle().skip(first).take(2) {
        let scenario = simulated::scenario(problem.seed, &built, strategy, options);
        match simulated::run(scenario) {
            Ok(outcome) => {
                for (frame, got) in simulated::answers(&outcome).iter().enumerate() {
                    let who = format!("simulated, frame {frame}");
                    assert_equal(&runners::naive(&built, frame), got, &who);
                }
            }
            Err((sim::Violation::Plan(_), _)) => {}
            Err((violation, replay)) => panic!("{violation}; {replay} of {problem:?}"),
        }
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn tiled_in_process_is_the_reference(problem in GraphProblem::any()) {
        in_process(&problem);
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn simulated_under_fire_is_the_reference(problem in GraphProblem::any()) {
        in_simulation(&problem);
    }
}

/// With Winograd the bits depend on the plan, and on nothing that happens while it runs.
#[test]
fn fast_answers_depend_on_the_plan_alone() {
    let model = model::zoo::open("zoo:unet@32x32", &model::LoadOptions::default()).unwrap();
    let built = Built::new(model, 1, Random::new(7));
    let options = PlanOptions {
        grid: Some((2, 2)),
        fused_layers: Some(5),
        numerics: Numerics::Fast,
        ..PlanOptions::EXACT
    };
    let plan = runners::plan(&built, Scheme::DeepThings, options, 2).unwrap();
    let expected = runners::tiled(&built, &ENGINE, 0, &plan, |_| {}).unwrap();
    assert_ne!(expected[0].1.values(), runners::naive(&built, 0)[0].1.values());
    for seed in 0..3 {
        let mut scenario = simulated::scenario(seed, &built, Scheme::DeepThings, options);
        for worker in &mut scenario.workers {
            // The weights are megabytes: slower ones would run out of the scenario's patience.
            let rate = worker.device.rates.per_s(OperatorClass::Conv).max(1 << 28);
            worker.device = sim::DeviceModel::plain(rate);
            let rate = worker.link.send_bytes_per_s.max(20_000_000);
            (worker.link.send_bytes_per_s, worker.link.receive_bytes_per_s) = (rate, rate);
        }
        let outcome =
            simulated::run(scenario).unwrap_or_else(|(v, replay)| panic!("{v}; {replay}"));
        assert_equal(&expected, &simulated::answers(&outcome)[0], &format!("seed {seed}"));
    }
}

/// Half floats on the wire change the answer by the plan alone: not by who computes what, and over
/// real sockets as in the simulation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_floats_depend_on_the_plan_alone() {
    let grid = PlanOptions { grid: Some((2, 2)), fused_layers: Some(2), ..PlanOptions::EXACT };
    let halves = |handover| PlanOptions { wire: Wire::F16, handover, ..grid };
    let loopback = Loopback::start(3, CoordinatorConfig::default()).await.expect("a cluster");
    for seed in 0..6 {
        // A classifier's probabilities would round the difference away.
        let tail = Tail::None;
        let problem = GraphProblem { seed, layers: 6, channels: 4, rows: 14, cols: 14, tail };
        let built = problem.build(2);
        let hosted = HostedModel::new(built.model.clone()).expect("an encodable model");
        for options in [halves(None), halves(Some(Handover::Exchange))] {
            let plan = runners::plan(&built, Scheme::DeepThings, options, 2).unwrap();
            let expected = runners::tiled(&built, &ENGINE, 0, &plan, |_| {}).unwrap();
            assert_ne!(expected[0].1.values(), runners::naive(&built, 0)[0].1.values());
            let scenario = simulated::scenario(seed, &built, Scheme::DeepThings, options);
            let outcome =
                simulated::run(scenario).unwrap_or_else(|(v, replay)| panic!("{v}; {replay}"));
            let who = format!("seed {seed}, {options:?}");
            assert_equal(&expected, &simulated::answers(&outcome)[0], &who);
            let run = loopback.run(&hosted, &built.frames[0], Scheme::DeepThings, options);
            assert_equal(&expected, &run.await.expect("an answer"), &who);
        }
        if seed == 3 {
            loopback.stop_worker(1);
        }
    }
    loopback.stop().await.expect("an orderly end");
}

/// Every piece that has a shorter form travels in it, with the bits of one device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encoded_pieces_are_the_reference() {
    let loopback = Loopback::start(2, CoordinatorConfig::default()).await.expect("a cluster");
    let model = model::zoo::open("zoo:unet@32x32", &model::LoadOptions::default()).unwrap();
    let mut built = Built::new(model, 1, Random::new(5));
    // Few different values, as a picture has.
    for (_, piece) in &mut built.frames[0] {
        let piece = Arc::get_mut(piece).expect("nobody else has it");
        piece.values_mut().iter_mut().for_each(|v| *v = (*v * 8.0).round() / 8.0);
    }
    let hosted = HostedModel::new(built.model.clone()).expect("an encodable model");
    let mut bytes = Vec::new();
    let grid = PlanOptions { grid: Some((2, 2)), fused_layers: Some(5), ..PlanOptions::EXACT };
    for (scheme, options) in [(Scheme::Modnn, EXCHANGING), (Scheme::DeepThings, grid)] {
        for wire in [Wire::Raw, Wire::Lossless] {
            let options = PlanOptions { wire, ..options };
            let before = moved(&loopback).await;
            let got = loopback.run(&hosted, &built.frames[0], scheme, options).await;
            assert_equal(&runners::naive(&built, 0), &got.expect("an answer"), "encoded");
            bytes.push(moved(&loopback).await - before);
        }
    }
    assert!(bytes[1] < bytes[0] && bytes[3] * 10 < bytes[2] * 9, "{bytes:?}");
    loopback.stop().await.expect("an orderly end");
}

/// Bytes to and from all workers so far.
async fn moved(loopback: &Loopback) -> u64 {
    let (reports, _) = loopback.cluster.reports().await.expect("a live cluster");
    reports.values().map(|report| report.bytes_in + report.bytes_out).sum()
}

// Failures that were found and shrunk, and what they were.

#[test]
fn pinned_a_handover_reaches_a_worker_that_lost_its_coordinator() {
    let (seed, tail) = (8808825209682172054, Tail::Classifier);
    in_simulation(&GraphProblem { seed, layers: 3, channels: 1, rows: 6, cols: 5, tail });
}

#[test]
fn pinned_a_task_outlives_its_frame_on_a_slow_worker() {
    let (seed, tail) = (8969110098289839294, Tail::Classifier);
    in_simulation(&GraphProblem { seed, layers: 2, channels: 3, rows: 6, cols: 13, tail });
    let seed = 4614270365510671214;
    in_simulation(&GraphProblem { seed, layers: 6, channels: 4, rows: 5, cols: 4, tail });
}

#[test]
fn pinned_a_lost_handover_takes_a_place_in_the_window() {
    let (seed, tail) = (10895347379783408590, Tail::Classifier);
    in_simulation(&GraphProblem { seed, layers: 1, channels: 1, rows: 4, cols: 8, tail });
}

#[test]
fn most_plans_fit_so_that_the_suites_test_something() {
    let mut runner = TestRunner::deterministic();
    let problems = (0..30).map(|_| GraphProblem::any().new_tree(&mut runner).unwrap().current());
    let fitted: usize = problems.map(|p| in_process(&p)).sum();
    // Three device counts, six plans: local, modnn and the chosen grid always fit spatial maps.
    assert!(fitted > 30 * 3 * 3, "{fitted} plans fitted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_loopback_is_the_reference() {
    let loopback = Loopback::start(3, CoordinatorConfig::default()).await.expect("a cluster");
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    );
    let mut answered = 0;
    for _ in 0..12 {
        let problem = GraphProblem::any().new_tree(&mut runner).unwrap().current();
        let built = problem.build(2);
        let hosted = HostedModel::new(built.model.clone()).expect("an encodable model");
        for (strategy, options) in strategies() {
            // Both frames at once, so that the second overtakes what it can.
            let (a, b) = tokio::join!(
                loopback.run(&hosted, &built.frames[0], strategy, options),
                loopback.run(&hosted, &built.frames[1], strategy, options),
            );
            for (frame, answer) in [a, b].into_iter().enumerate() {
                match answer {
                    Ok(got) => {
                        let who = format!("{} over loopback, {problem:?}", strategy.name());
                        assert_equal(&runners::naive(&built, frame), &got, &who);
                        answered += 1;
                    }
                    Err(error) => {
                        let fits = runners::plan(&built, strategy, options, 3).is_ok();
                        assert!(!fits, "{problem:?} with {}: {error:#}", strategy.name());
                    }
                }
            }
        }
    }
    assert!(answered > 60, "{answered} frames were answered");
    loopback.stop().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_loopback_a_worker_leaves_and_another_joins() {
    let loopback = Loopback::start(2, CoordinatorConfig::default()).await.expect("a cluster");
    let tail = Tail::Classifier;
    let problem = GraphProblem { seed: 11, layers: 6, channels: 4, rows: 14, cols: 14, tail };
    let built = problem.build(6);
    let hosted = HostedModel::new(built.model.clone()).expect("an encodable model");
    let grid = PlanOptions { grid: Some((2, 2)), fused_layers: Some(2), ..PlanOptions::EXACT };
    for frame in 0..6 {
        // Whatever the moment: frames in flight are finished by those who are left.
        match frame {
            2 => loopback.stop_worker(0),
            4 => loopback.join(3_000_000_000).await.expect("a socket"),
            _ => {}
        }
        let got = loopback.run(&hosted, &built.frames[frame], Scheme::DeepThings, grid).await;
        let got = got.unwrap_or_else(|error| panic!("frame {frame}: {error:#}"));
        assert_equal(&runners::naive(&built, frame), &got, "over loopback");
    }
    loopback.stop().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_models_in_turn() {
    let loopback = Loopback::start(2, CoordinatorConfig::default()).await.expect("a cluster");
    let mut all = Vec::new();
    for seed in 0..12u64 {
        let problem =
            GraphProblem { seed, layers: 4, channels: 4, rows: 14, cols: 14, tail: Tail::None };
        let built = problem.build(1);
        all.push((HostedModel::new(built.model.clone()).unwrap(), built));
    }
    for round in 0..3 {
        for (i, (hosted, built)) in all.iter().enumerate() {
            let got = loopback
                .run(hosted, &built.frames[0], Scheme::DeepThings, PlanOptions::EXACT)
                .await;
            let got = got.unwrap_or_else(|e| panic!("round {round} model {i}: {e:#}"));
            assert_equal(&runners::naive(built, 0), &got, "turn");
        }
    }
    loopback.stop().await.unwrap();
}

/// Real workers send each other the halo, and one of them leaves with what it kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_loopback_maps_stay_on_the_workers() {
    let loopback = Loopback::start(3, CoordinatorConfig::default()).await.expect("a cluster");
    let tail = Tail::Classifier;
    let problem = GraphProblem { seed: 11, layers: 8, channels: 4, rows: 14, cols: 14, tail };
    let built = problem.build(40);
    let hosted = HostedModel::new(built.model.clone()).expect("an encodable model");
    let mut exchanged = 0;
    for frame in 0..40 {
        if frame == 20 {
            loopback.stop_worker(1);
        }
        let run = loopback.run(&hosted, &built.frames[frame], Scheme::Modnn, EXCHANGING);
        let got = run.await.unwrap_or_else(|e| panic!("frame {frame}: {e:#}"));
        assert_equal(&runners::naive(&built, frame), &got, &format!("frame {frame}"));
        exchanged = loopback.cluster.counters().await.expect("a live cluster").exchanged_bytes;
    }
    // The workers find each other within the first frames.
    assert!(exchanged > 0, "the workers never sent each other anything");
    loopback.stop().await.expect("an orderly end");
}
