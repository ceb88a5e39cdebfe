//! Deliberately broken variants that the suites must reject. A canary that lives is a suite that
//! sleeps.

use kernels::Engine;
use model::builder::Builder;
use model::{Activation, Op, Shape, Window};
use planner::{PlanOptions, Strategy};
use protocol::SECOND;
use sim::{Cluster, Fault, FaultKind, Payload, Random, Sabotage, Scenario, Violation};
use tests::{Built, Maps, difference, runners};
use tiling::{Rates, Region, Span, StageGeometry};

const GRID: PlanOptions =
    PlanOptions { grid: Some((3, 3)), fused_layers: Some(3), ..PlanOptions::EXACT };

/// A chain of three 3x3 convolutions over 12 x 12: every inner tile border has a halo.
fn built(frames: usize) -> Built {
    let mut random = Random::new(5);
    let mut build = Builder::new("chain", "chain");
    let mut at = build.input("x", Shape::Spatial { channels: 4, rows: 12, cols: 12 }).unwrap();
    for name in ["a", "b", "c"] {
        let values: Vec<f32> = (0..4 * 4 * 9).map(|_| random.value()).collect();
        let weights = build.weight(values, &[4, 4, 3, 3]).unwrap();
        let window = Window::square(3, 1, 1);
        let activation = Activation::None;
        let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
        at = build.layer(name, op, &[at]).unwrap();
    }
    build.output(at);
    Built::new(build.finish().unwrap(), frames, random)
}

fn bent(built: &Built, bend: impl Fn(&mut StageGeometry)) -> Result<Maps, String> {
    let plan = runners::plan(built, Strategy::DeepThings, GRID, 2).expect("the grid fits");
    let engine = Engine::new(1).expect("one thread");
    runners::tiled(built, &engine, 0, &plan, bend).map_err(|error| error.to_string())
}

fn short_by_one(region: Region) -> Region {
    let rows = region.rows;
    let rows = if rows.start > 0 { Span::new(rows.start + 1, rows.end) } else { rows };
    Region::new(rows, region.cols)
}

#[test]
fn the_unbent_geometry_passes() {
    let built = built(1);
    let got = bent(&built, |_| {}).expect("sound geometry");
    assert_eq!(difference(&runners::naive(&built, 0), &got), None);
}

#[test]
fn a_halo_short_by_one_at_the_input_is_rejected() {
    let built = built(1);
    let got = bent(&built, |stage| {
        for tile in &mut stage.tiles {
            tile.inputs.iter_mut().for_each(|(_, region)| *region = short_by_one(*region));
        }
    });
    let expected = runners::naive(&built, 0);
    assert!(got.map_or(true, |got| difference(&expected, &got).is_some()));
}

#[test]
fn a_halo_short_by_one_inside_the_group_is_rejected() {
    let built = built(1);
    let got = bent(&built, |stage| {
        for tile in &mut stage.tiles {
            let inner = tile.layers.len() - 1;
            tile.layers[..inner].iter_mut().for_each(|region| *region = short_by_one(*region));
        }
    });
    let expected = runners::naive(&built, 0);
    assert!(got.map_or(true, |got| difference(&expected, &got).is_some()));
}

#[test]
fn an_output_short_by_one_is_rejected() {
    let built = built(1);
    let got = bent(&built, |stage| {
        for tile in &mut stage.tiles {
            tile.outputs.iter_mut().for_each(|(_, region)| *region = short_by_one(*region));
        }
    });
    let expected = runners::naive(&built, 0);
    assert!(got.map_or(true, |got| difference(&expected, &got).is_some()));
}

/// Two frames on a slow worker and a fast one that is thought as slow: when it is done with its
/// share, it takes over what the slow one has queued.
fn stealing(sabotage: Sabotage) -> Scenario {
    let built = built(2);
    let base = Scenario::new(built.model.clone(), Vec::new(), &[100_000, 50_000_000]);
    let mut scenario =
        Scenario { payload: Payload::Values(built.frames), sabotage, options: GRID, ..base };
    scenario.workers[1].claims = Rates::uniform(100_000);
    scenario
}

#[test]
fn the_honest_drivers_pass_and_steal() {
    let outcome = Cluster::new(stealing(Sabotage::None)).run().expect("all promises kept");
    assert!(outcome.stolen() > 0, "{outcome:?}");
    let built = built(2);
    for (frame, got) in outcome.outputs.iter().enumerate() {
        assert_eq!(difference(&runners::naive(&built, frame), got), None);
    }
}

#[test]
fn a_double_gather_is_caught() {
    let ended = Cluster::new(stealing(Sabotage::GatherTwice)).run();
    assert!(matches!(ended, Err(Violation::GatheredTwice { .. })), "{ended:?}");
}

#[test]
fn a_lost_handover_is_caught() {
    let ended = Cluster::new(stealing(Sabotage::LoseHandover)).run();
    assert!(matches!(ended, Err(Violation::Phantom { .. })), "{ended:?}");
}

#[test]
fn a_lost_scatter_is_caught() {
    let ended = Cluster::new(stealing(Sabotage::LoseScatter)).run();
    assert!(matches!(ended, Err(Violation::Phantom { .. })), "{ended:?}");
}

#[test]
fn silence_that_nobody_notices_is_caught() {
    let mut scenario = stealing(Sabotage::NeverTick);
    let kind = FaultKind::PowerLoss(0);
    scenario.faults.push(Fault { at_ns: 5_000_000, kind });
    let honest = Scenario { sabotage: Sabotage::None, ..scenario.clone() };
    let ended = Cluster::new(scenario).run();
    assert!(matches!(ended, Err(Violation::NeverEnded { .. })), "{ended:?}");
    let outcome = Cluster::new(honest).run().expect("the silent worker is expelled");
    assert!(outcome.makespan_ns > 4 * SECOND && outcome.reassigned > 0);
}

#[test]
fn a_handover_that_its_victim_keeps_is_caught() {
    let ended = Cluster::new(stealing(Sabotage::DoubleHandover)).run();
    assert!(
        matches!(ended, Err(Violation::Doubled { .. } | Violation::Phantom { .. })),
        "{ended:?}"
    );
}

#[test]
fn an_ignored_memory_cap_is_caught() {
    let mut scenario = stealing(Sabotage::IgnoreMemory);
    // The weights are 6912 bytes, packed; each tile takes some 2 KB more.
    scenario.workers.iter_mut().for_each(|w| w.device.memory_bytes = 11_184);
    let honest = Scenario { sabotage: Sabotage::None, ..scenario.clone() };
    let ended = Cluster::new(scenario).run();
    assert!(matches!(ended, Err(Violation::Memory { .. })), "{ended:?}");
    Cluster::new(honest).run().expect("it fits, one tile after another");
}

#[test]
fn a_lease_that_never_ends_is_caught() {
    let mut scenario = stealing(Sabotage::None);
    scenario.faults.push(Fault { at_ns: 5_000_000, kind: FaultKind::Hang(0) });
    let mut endless = scenario.clone();
    endless.machine.lease_min_ns = u64::MAX / 4;
    endless.machine.backups_per_mille_max = 0;
    let ended = Cluster::new(endless).run();
    assert!(matches!(ended, Err(Violation::NeverEnded { .. })), "{ended:?}");
    let outcome = Cluster::new(scenario).run().expect("what hangs is computed by the other");
    assert!(outcome.reassigned > 0);
}

#[test]
fn time_that_is_too_short_is_caught() {
    let mut scenario = stealing(Sabotage::TooFast);
    // So slow that the network does not count.
    for worker in &mut scenario.workers {
        worker.device = sim::DeviceModel::plain(20_000);
    }
    let ended = Cluster::new(scenario).run();
    assert!(matches!(ended, Err(Violation::BeatsBound { .. })), "{ended:?}");
}

#[test]
fn a_poisonous_tile_fails_its_frame_alone() {
    let mut scenario = stealing(Sabotage::None);
    let kind = FaultKind::Poison { frame: 0, tile: 4 };
    scenario.faults.push(Fault { at_ns: 0, kind });
    scenario.may_fail = true;
    let outcome = Cluster::new(scenario).run().expect("no promise is broken");
    let [(frame, reason)] = outcome.failures.as_slice() else { panic!("{:?}", outcome.failures) };
    assert_eq!(frame.number(), 0);
    assert!(reason.contains("stage 0 tile 4"), "{reason}");
    assert_eq!(outcome.outputs.len(), 1);
    assert_eq!(difference(&runners::naive(&built(2), 1), &outcome.outputs[0]), None);
}

#[test]
fn a_coordinator_that_restarts_finds_its_workers_again() {
    let mut scenario = stealing(Sabotage::None);
    scenario.faults.push(Fault { at_ns: 40_000_000, kind: FaultKind::RestartCoordinator });
    let outcome = Cluster::new(scenario).run().expect("the frames are computed anew");
    let built = built(2);
    for (frame, got) in outcome.outputs.iter().enumerate() {
        assert_eq!(difference(&runners::naive(&built, frame), got), None);
    }
    assert!(outcome.makespan_ns > 40_000_000, "it was still at work");
}

#[test]
fn a_lying_worker_is_outvoted() {
    let mut scenario = stealing(Sabotage::FlipBit);
    scenario.workers.push(scenario.workers[1].clone());
    scenario.machine.spot_checks_per_mille = 1000;
    // With all three there from the first tile on.
    scenario.frames_from_ns = SECOND;
    let outcome = Cluster::new(scenario).run().expect("no promise is broken");
    let built = built(2);
    for (frame, got) in outcome.outputs.iter().enumerate() {
        assert_eq!(difference(&runners::naive(&built, frame), got), None, "frame {frame}");
    }
    assert_eq!(outcome.reports.values().filter(|r| !r.alive).count(), 1);
}

#[test]
fn memory_that_nobody_frees_is_caught() {
    let ended = Cluster::new(stealing(Sabotage::NeverDrop)).run();
    assert!(matches!(ended, Err(Violation::Leak { .. })), "{ended:?}");
}

#[test]
fn a_flipped_bit_is_caught() {
    let outcome = Cluster::new(stealing(Sabotage::FlipBit)).run().expect("no promise is broken");
    let built = built(2);
    let wrong = outcome.outputs.iter().enumerate();
    let wrong = wrong.filter(|(i, got)| difference(&runners::naive(&built, *i), got).is_some());
    assert_eq!(wrong.count(), 1);
}

/// Two layers whose maps stay on the workers, by an honest driver or one that is not.
fn exchanging(sabotage: Sabotage) -> Scenario {
    let handover = Some(tiling::Handover::Exchange);
    let options = PlanOptions { handover, ..PlanOptions::EXACT };
    let scenario = stealing(sabotage);
    Scenario { strategy: Strategy::Modnn, options, frames_from_ns: SECOND, ..scenario }
}

#[test]
fn the_honest_drivers_exchange() {
    let outcome = Cluster::new(exchanging(Sabotage::None)).run().expect("all promises kept");
    assert!(outcome.counters.exchanged_bytes > 0, "{:?}", outcome.counters);
    let built = built(2);
    for (frame, got) in outcome.outputs.iter().enumerate() {
        assert_eq!(difference(&runners::naive(&built, frame), got), None);
    }
}

#[test]
fn pieces_that_are_not_kept_are_caught() {
    let payload = Payload::Sizes(2);
    let ended = Cluster::new(Scenario { payload, ..exchanging(Sabotage::LoseKept) }).run();
    assert!(matches!(ended, Err(Violation::NotKept { .. })), "{ended:?}");
}

#[test]
fn pieces_that_are_never_let_go_of_are_caught() {
    let ended = Cluster::new(exchanging(Sabotage::NeverForget)).run();
    assert!(matches!(ended, Err(Violation::Leak { .. })), "{ended:?}");
}
