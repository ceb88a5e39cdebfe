//! What a hostile world does to a coordinator: tasks that kill, workers that never deliver, memory
//! that is not there, answers that are wrong.

mod support;

use protocol::coordinator::{Input, Output};
use protocol::{CoordinatorConfig, FrameId, Hello, Message, SECOND, VERSION, WorkerId};
use support::{Bench, W0, W1, W2, expelled, scattered, task, told};
use tiling::Rates;

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
