//! What a hostile world does to a coordinator: tasks that kill, workers that never deliver, memory
//! that is not there, answers that are wrong.

mod support;

use model::WeightHash;
use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, CoordinatorConfig, FrameId, Hello, Message, ModelHash, PlanId};
use protocol::{SECOND, VERSION, WorkerId};
use std::sync::Arc;
use support::{Bench, W0, W1, W2, expelled, scattered, task, told, yields};
use tiling::{Grid, Numerics, Plan, Rates, Slot, Stage};

fn config() -> CoordinatorConfig {
    CoordinatorConfig { stealing: false, ..CoordinatorConfig::default() }
}

fn failure(bench: &Bench, frame: u64) -> Option<String> {
    bench.outputs.iter().find_map(|output| match output {
        Output::FrameFailed(id, reason) if *id == FrameId(frame) => Some(reason.clone()),
        _ => None,
    })
}

fn join_with(bench: &mut Bench, id: WorkerId, memory_bytes: u64) -> Vec<Output> {
    let multiply_adds_per_s = 1_000_000;
    let hello = Hello::new(id.to_string(), 1, Rates::uniform(multiply_adds_per_s), memory_bytes);
    bench.handle(Input::Joined(id, VERSION, hello))
}

/// A worker with memory for a tile and the weights of one model, a plan for that, and one for another.
fn two_models() -> (Bench, Arc<ActivePlan>, Arc<ActivePlan>) {
    let mut bench = Bench::new(&[0], config());
    let one = bench.plan.clone();
    let other = ModelHash(WeightHash([8; 32]));
    let other = ActivePlan::new(PlanId(2), one.model.clone(), other, one.plan.clone(), vec![W0]);
    let weights = 2 * (4 * 9 + 1) * 16 * 4;
    let tile = (0..2).map(|stage| one.input_bytes(stage, 0) + one.running_bytes(stage, 0)).max();
    join_with(&mut bench, W0, weights + tile.unwrap());
    (bench, one, Arc::new(other.unwrap()))
}

fn runs(bench: &mut Bench, frame: u64, plan: &Arc<ActivePlan>) {
    bench.plan = plan.clone();
    bench.submit(frame);
    bench.finish();
    assert!(bench.finished(frame), "{:?}", failure(bench, frame));
}

fn retired(bench: &Bench) -> Vec<u64> {
    let retired = |output: &Output| match output {
        Output::Send(_, Message::Retire { plan }) => Some(plan.0),
        _ => None,
    };
    bench.outputs.iter().filter_map(retired).collect()
}

#[test]
fn weights_of_plans_that_nobody_uses_make_room() {
    let (mut bench, one, other) = two_models();
    runs(&mut bench, 0, &one);
    runs(&mut bench, 1, &other);
    runs(&mut bench, 2, &other);
    runs(&mut bench, 3, &one);
    assert_eq!(retired(&bench), [1, 2]);
}

/// The driver thought better of it, and never said so.
#[test]
fn a_plan_that_never_came_makes_room_for_a_later_one() {
    let (mut bench, one, other) = two_models();
    runs(&mut bench, 0, &one);
    let never =
        ActivePlan::new(PlanId(3), one.model.clone(), other.model_hash, one.plan.clone(), vec![W0]);
    let never = Arc::new(never.unwrap());
    bench.handle(Input::Prepare { next: never.clone(), known: one.clone() });
    assert_eq!(retired(&bench), []);
    let later =
        ActivePlan::new(PlanId(4), one.model.clone(), other.model_hash, one.plan.clone(), vec![W0]);
    runs(&mut bench, 1, &Arc::new(later.unwrap()));
    assert_eq!(retired(&bench), [1]);
    // Of the two that are left only the first, which nobody waits for any more, can go.
    runs(&mut bench, 2, &one);
    assert_eq!(retired(&bench), [1, 3, 4]);
}

#[test]
fn a_plan_that_was_told_early_finds_room_when_it_is_used() {
    let (mut bench, one, other) = two_models();
    bench.submit(0);
    bench.handle(Input::Prepare { next: other.clone(), known: one.clone() });
    bench.finish();
    assert_eq!(retired(&bench), []);
    runs(&mut bench, 1, &other);
    assert_eq!(retired(&bench), [1]);
}

/// Worker 0 has four tiles of the first layer, worker 1 the second layer, for which it waits.
#[test]
fn nobody_takes_over_what_its_own_part_leaves_no_room_for() {
    let strips = Stage::cut(0..1, Grid::even(4, 1), vec![Slot(0); 4]);
    let body = Plan::new("test", Numerics::Exact, vec![strips, Stage::whole(1..2, Slot(1))]);
    let weights = (4 * 9 + 1) * 16 * 4;
    for (layers, helps) in [(1, false), (4, true)] {
        let mut bench = Bench::new(&[0], CoordinatorConfig::default());
        let plan = ActivePlan::new(
            PlanId(1),
            bench.model.clone(),
            bench.plan.model_hash,
            body.clone(),
            vec![W0, W1],
        );
        bench.plan = Arc::new(plan.unwrap());
        let tile = bench.plan.input_bytes(1, 0) + bench.plan.running_bytes(1, 0);
        bench.join(W0, 1_000_000);
        join_with(&mut bench, W1, layers * (weights + tile));
        bench.says(W0, Message::Reaches { peers: vec![W1] });
        bench.says(W1, Message::Reaches { peers: vec![W0] });
        bench.submit(0);
        bench.says(W1, Message::Hungry);
        let copied = scattered(&bench.outputs).iter().any(|&(id, ..)| id == W1);
        assert_eq!(copied || !yields(&bench.outputs).is_empty(), helps, "{layers}");
        bench.finish();
        assert!(bench.finished(0));
    }
}

#[test]
fn a_task_that_kills_whoever_runs_it_fails_its_frame_and_no_other() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    let poison = task(0, 0, 0);
    for _ in 0..CoordinatorConfig::default().deaths_max {
        assert_eq!(failure(&bench, 0), None);
        // Worker 1 does the rest of its work, and whoever has the poison dies of it.
        while let Some((id, other, attempt)) = { bench.machine.held().find(|h| h.1 != poison) } {
            bench.returns(id, other, attempt);
        }
        let (id, ..) = bench.machine.held().find(|h| h.1 == poison).expect("it is tried again");
        bench.handle(Input::Left(id, "reset".into()));
        bench.join(id, 1_000_000);
    }
    let reason = failure(&bench, 0).expect("not for ever");
    assert!(reason.contains("frame 0 stage 0 tile 0") && reason.contains("4 workers"), "{reason}");
    bench.submit(1);
    bench.finish();
    assert!(bench.finished(1));
}

#[test]
fn a_worker_that_leaves_on_purpose_blames_no_task() {
    let mut bench = Bench::new(&[0], config());
    bench.join(W0, 1_000_000);
    bench.submit(0);
    for _ in 0..10 {
        bench.says(W0, Message::Goodbye { reason: "stopped".into() });
        bench.join(W0, 1_000_000);
    }
    assert_eq!(failure(&bench, 0), None);
    bench.finish();
    assert!(bench.finished(0));
}

#[test]
fn a_worker_that_beats_and_never_computes_is_worked_around_and_sent_away() {
    let mut bench = Bench::new(&[0, 0, 0, 0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    bench.returns(W1, task(0, 0, 4), 1);
    let lease = config().lease_min_ns;
    let mut outputs = Vec::new();
    // Both say that they live; only worker 1 answers.
    for _ in 0..8 {
        outputs.extend(bench.wait(bench.now + lease, &[]));
        while let Some((id, task, attempt)) = { bench.machine.held().find(|h| h.0 == W1) } {
            outputs.extend(bench.returns(id, task, attempt));
        }
    }
    assert!(bench.finished(0), "{}", bench.machine.describe());
    // What waited in its share went to worker 1 at the first lapse, without waiting for a lease.
    assert!(bench.now <= 9 * lease);
    bench.submit(1);
    let more: Vec<WorkerId> = scattered(&bench.outputs).iter().rev().take(1).map(|s| s.0).collect();
    assert_eq!(more, [W1], "it is not trusted with more than one task");
}

#[test]
fn nothing_is_sent_that_does_not_fit_and_what_fits_nobody_is_refused_by_name() {
    // 4 channels x 12 cols x 4 bytes = 192 bytes a row; weights 2304 bytes a layer, in panels.
    let config = CoordinatorConfig { window_tasks_max: 12, ..config() };
    let mut bench = Bench::new(&[0; 12], config.clone());
    join_with(&mut bench, W0, 10_456);
    bench.submit(0);
    assert_eq!(failure(&bench, 0), None);
    let held = bench.machine.held().count();
    assert!((1..12).contains(&held), "twelve tiles take more than 10456 bytes, {held} are out");
    bench.finish();
    assert!(bench.finished(0));
    let mut bench = Bench::new(&[0, 0, 0], config);
    join_with(&mut bench, W0, 2_000);
    bench.submit(0);
    let reason = failure(&bench, 0).expect("no tile fits");
    assert!(reason.contains("no worker has more than 2 kB"), "{reason}");
}

#[test]
fn a_task_that_a_worker_has_no_memory_for_goes_to_another() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    let outputs = bench.says(W0, Message::Refused { task: task(0, 0, 0), attempt: 1 });
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
    assert_eq!((bench.machine.counters().refused, failure(&bench, 0)), (1, None));
    bench.finish();
    assert!(bench.finished(0));
}

#[test]
fn a_full_cluster_refuses_a_frame_and_says_so() {
    let config = CoordinatorConfig { frames_in_flight_max: 1, frames_waiting_max: 2, ..config() };
    let mut bench = Bench::new(&[0], config);
    bench.join(W0, 1_000_000);
    for frame in 0..4 {
        bench.submit(frame);
    }
    assert!(failure(&bench, 3).is_some_and(|r| r.contains("full") && r.contains("2 frames")));
    bench.finish();
    bench.submit(4);
    bench.finish();
    assert!([0, 1, 2, 4].iter().all(|&frame| bench.finished(frame)));
}

/// One tile is checked; three workers, each with its own answer.
fn checked(answers: [u64; 3]) -> Bench {
    let config = CoordinatorConfig { spot_checks_per_mille: 1000, ..config() };
    let mut bench = Bench::new(&[0], config);
    for id in [W0, W1, W2] {
        bench.join(id, 1_000_000);
    }
    bench.submit(0);
    for _ in 0..20 {
        let Some((id, task, attempt)) = ({ bench.machine.held().next() }) else { break };
        assert!(bench.machine.checks(task));
        let bundle = bench.result(task, attempt);
        bench.handle(Input::Bundle(id, bundle, answers[id.0 as usize]));
    }
    bench
}

#[test]
fn two_equal_answers_settle_a_checked_task() {
    let bench = checked([7, 7, 7]);
    assert!(bench.finished(0));
    assert_eq!((expelled(&bench.outputs), bench.gathered(task(0, 0, 0))), (vec![], 1));
    assert_eq!(bench.machine.counters().spot_checks, 2);
}

#[test]
fn a_worker_that_lies_is_expelled_for_good_and_its_answer_replaced() {
    let mut bench = checked([666, 7, 7]);
    assert!(bench.finished(0), "{}", bench.machine.describe());
    assert_eq!(expelled(&bench.outputs), [W0]);
    assert_eq!(bench.count(|o| *o == Output::Regather(task(0, 0, 0))), 1);
    assert_eq!(expelled(&bench.join(W0, 1_000_000)), [W0], "it does not come back");
}

#[test]
fn three_different_answers_fail_the_frame() {
    let bench = checked([1, 2, 3]);
    let reason = failure(&bench, 0).expect("nobody can decide");
    assert!(reason.contains("different answers") && reason.contains("w1"), "{reason}");
}

#[test]
fn a_checker_that_dies_is_replaced_and_the_last_one_is_believed() {
    let config = CoordinatorConfig { spot_checks_per_mille: 1000, ..config() };
    let mut bench = Bench::new(&[0], config);
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    let bundle = bench.result(task(0, 0, 0), 1);
    let outputs = bench.handle(Input::Bundle(W0, bundle, 7));
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
    bench.handle(Input::Left(W1, "power".into()));
    bench.finish();
    assert!(bench.finished(0), "{}", bench.machine.describe());
}

#[test]
fn an_idle_worker_copies_the_last_task_of_a_slow_one_within_the_cap() {
    let machine = CoordinatorConfig { window_tasks_max: 1, ..CoordinatorConfig::default() };
    for (per_mille, copies) in [(500, 1), (50, 0)] {
        let mut bench = Bench::new(
            &[0, 1],
            CoordinatorConfig { backups_per_mille_max: per_mille, ..machine.clone() },
        );
        bench.join(W0, 1_000_000);
        bench.join(W1, 1_000_000);
        bench.submit(0);
        bench.returns(W1, task(0, 0, 1), 1);
        // Ten times as long as it should take, and far from the end of its lease.
        bench.wait(SECOND, &[]);
        assert_eq!(bench.machine.counters().backups, copies, "{}", bench.machine.describe());
        if copies == 1 {
            let outputs = bench.returns(W1, task(0, 0, 0), 2);
            let cancel = Message::Cancel { task: task(0, 0, 0), attempt: 1 };
            assert_eq!(told(&outputs, &cancel), [W0]);
        }
        bench.finish();
        assert!(bench.finished(0));
    }
}
