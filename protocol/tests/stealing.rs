//! Stealing: a fast worker (1) takes queued tasks from a slow one (0), and whatever may happen on
//! the way.

mod support;

use protocol::coordinator::{Input, Output};
use protocol::{CoordinatorConfig, Message, SECOND, TaskId, WorkerId};
use support::{Bench, W0, W1, W2, scattered, task, yields};

const SLOW: u64 = 100_000;
const FAST: u64 = 10_000_000;

/// Worker 0 holds tiles 0, 1 and 2; worker 1 is done with tile 3, and tile 2 is to move to it. It
/// was asked for tile 1, too, and kept it.
fn robbed() -> Bench {
    let mut bench = Bench::new(&[0, 0, 0, 1], CoordinatorConfig::default());
    bench.join(W0, SLOW);
    bench.join(W1, FAST);
    bench.submit(0);
    assert_eq!(yields(&bench.outputs), []);
    let outputs = bench.returns(W1, task(0, 0, 3), 1);
    // So fast a thief takes all that does not run.
    assert_eq!(yields(&outputs), [(W0, LAST, 1, W1, 2), (W0, task(0, 0, 1), 1, W1, 2)]);
    assert_eq!(yields(&bench.says(W0, Message::Kept { task: task(0, 0, 1), attempt: 1 })), []);
    bench
}

const LAST: TaskId = TaskId { frame: protocol::FrameId(0), stage: 0, tile: 2 };

fn holders(bench: &Bench, task: TaskId) -> Vec<(WorkerId, u32)> {
    let held = bench.machine.held().filter(|(_, of, _)| *of == task);
    held.map(|(id, _, attempt)| (id, attempt)).collect()
}

fn yielded(bench: &mut Bench) -> Vec<Output> {
    bench.says(W0, Message::Yielded { task: LAST, attempt: 1 })
}

/// All ends well, and everything was gathered once.
fn ends_well(bench: &mut Bench) {
    bench.finish();
    assert!(bench.finished(0), "{:?}", bench.machine);
    for tile in 0..4 {
        assert_eq!(bench.gathered(task(0, 0, tile)), 1, "tile {tile}");
    }
    assert_eq!(bench.gathered(task(0, 1, 0)), 1);
}

#[test]
fn a_thief_takes_the_last_task_of_a_slow_worker() {
    let mut bench = robbed();
    assert_eq!(holders(&bench, LAST), [(W0, 1)]);
    yielded(&mut bench);
    assert_eq!(holders(&bench, LAST), [(W1, 2)]);
    bench.returns(W1, LAST, 2);
    let reports = bench.machine.reports();
    assert_eq!((reports[&W1].tasks, reports[&W1].stolen), (2, 1));
    let bytes = 4 * 12 * 4 * (5 + 4);
    assert!(reports[&W1].bytes_in >= bytes && reports[&W0].bytes_out > 0, "{reports:?}");
    ends_well(&mut bench);
    assert_eq!(bench.machine.reassigned(), 0);
}

#[test]
fn the_plan_is_announced_to_the_thief_before_the_victim_hears_of_it() {
    let mut bench = Bench::new(&[0, 0, 0], CoordinatorConfig::default());
    bench.join(W0, SLOW);
    bench.submit(0);
    let outputs = bench.join(W1, FAST);
    let announced = outputs
        .iter()
        .position(|o| matches!(o, Output::Send(to, Message::Announce { .. }) if *to == W1));
    let asked = outputs.iter().position(|o| matches!(o, Output::Send(_, Message::Yield { .. })));
    assert!(announced.is_some() && announced < asked, "{outputs:?}");
}

#[test]
fn equal_workers_do_not_steal_and_nobody_does_when_told_not_to() {
    for (slow, stealing) in [(FAST, true), (SLOW, false)] {
        let config = CoordinatorConfig { stealing, ..CoordinatorConfig::default() };
        let mut bench = Bench::new(&[0, 0, 1, 1], config);
        bench.join(W0, slow);
        bench.join(W1, FAST);
        bench.submit(0);
        bench.returns(W1, task(0, 0, 2), 1);
        // The other one is only a little behind.
        bench.returns(W0, task(0, 0, 0), 1);
        bench.returns(W1, task(0, 0, 3), 1);
        assert_eq!(yields(&bench.outputs), []);
    }
}

#[test]
fn a_waiting_task_is_stolen_without_asking_anybody() {
    let config = CoordinatorConfig { window_tasks_max: 1, ..CoordinatorConfig::default() };
    let mut bench = Bench::new(&[0, 0, 0, 1], config);
    bench.join(W0, SLOW);
    bench.join(W1, FAST);
    bench.submit(0);
    // Both change their share at once; one is sent, as the window has it.
    let outputs = bench.returns(W1, task(0, 0, 3), 1);
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 1), 1)]);
    let outputs = bench.returns(W1, task(0, 0, 1), 1);
    assert_eq!(scattered(&outputs), [(W1, LAST, 1)]);
    bench.returns(W1, LAST, 1);
    assert_eq!(bench.machine.reports()[&W1].stolen, 2);
    assert_eq!(
        (bench.machine.counters().stolen_tasks, bench.machine.counters().stolen_bytes),
        (2, 0)
    );
    ends_well(&mut bench);
}

#[test]
fn a_victim_that_keeps_its_task_is_asked_for_it_a_few_times_more() {
    let mut bench = robbed();
    let outputs = bench.says(W0, Message::Kept { task: LAST, attempt: 1 });
    assert_eq!(holders(&bench, LAST), [(W0, 1)]);
    assert_eq!(yields(&outputs), []);
    // It ran, or it had not arrived: worth asking again, but not for ever.
    let keep_on = |bench: &mut Bench, until: u64| {
        while bench.now < until {
            bench.wait(bench.now + SECOND / 50, &[]);
            for (_, task, attempt, ..) in yields(&bench.outputs) {
                bench.says(W0, Message::Kept { task, attempt });
            }
        }
        yields(&bench.outputs).len()
    };
    let asked = keep_on(&mut bench, 4 * SECOND);
    assert!((3..=8).contains(&asked), "{asked}");
    assert_eq!(keep_on(&mut bench, 8 * SECOND), asked);
    // The thief's attempts never were.
    assert_eq!(bench.returns(W1, LAST, 2), []);
    ends_well(&mut bench);
    assert_eq!(bench.machine.reports()[&W1].stolen, 0);
}

#[test]
fn a_task_that_was_kept_often_has_not_failed_often() {
    let mut bench = robbed();
    bench.says(W0, Message::Kept { task: LAST, attempt: 1 });
    for (id, attempt) in [(W0, 1), (W1, 3), (W1, 4)] {
        let reason = "no memory".into();
        bench.says(id, Message::Failed { task: LAST, attempt, reason });
    }
    assert_eq!(bench.count(|o| matches!(o, Output::FrameFailed(..))), 0);
    ends_well(&mut bench);
}

#[test]
fn the_victim_dies_after_it_yielded() {
    let mut bench = robbed();
    yielded(&mut bench);
    let outputs = bench.handle(Input::Left(W0, "power".into()));
    // Tiles 0 and 1 are lost, tile 2 is not.
    let again: Vec<TaskId> = scattered(&outputs).iter().map(|s| s.1).collect();
    assert_eq!(again, [task(0, 0, 0), task(0, 0, 1)]);
    assert_eq!(holders(&bench, LAST), [(W1, 2)]);
    ends_well(&mut bench);
}

#[test]
fn the_victim_dies_before_its_word_arrives() {
    let mut bench = robbed();
    bench.handle(Input::Left(W0, "power".into()));
    // Whether the thief has the inputs is not known: a fresh attempt, and the other is stale.
    assert_eq!(holders(&bench, LAST), [(W1, 3)]);
    assert_eq!(bench.returns(W1, LAST, 2), []);
    ends_well(&mut bench);
}

#[test]
fn the_thief_dies_before_the_victim_yields() {
    let mut bench = robbed();
    bench.handle(Input::Left(W1, "power".into()));
    assert_eq!(holders(&bench, LAST), [(W0, 1)]);
    let outputs = yielded(&mut bench);
    // Nobody has it: it goes out again.
    assert_eq!(scattered(&outputs), [(W0, LAST, 3)]);
    assert_eq!(bench.machine.reassigned(), 1);
    ends_well(&mut bench);
}

#[test]
fn the_thief_dies_and_comes_back_before_the_victim_yields() {
    let mut bench = robbed();
    bench.handle(Input::Left(W1, "power".into()));
    bench.join(W1, FAST);
    let outputs = yielded(&mut bench);
    // The process that was handed the task is gone, whatever its name.
    assert!(!holders(&bench, LAST).contains(&(W1, 2)));
    assert_eq!(scattered(&outputs).iter().filter(|s| s.1 == LAST).count(), 1);
    ends_well(&mut bench);
}

#[test]
fn the_thief_dies_and_the_victim_keeps() {
    let mut bench = robbed();
    bench.handle(Input::Left(W1, "power".into()));
    bench.says(W0, Message::Kept { task: LAST, attempt: 1 });
    assert_eq!(holders(&bench, LAST), [(W0, 1)]);
    ends_well(&mut bench);
    assert_eq!(bench.machine.reassigned(), 0);
}

#[test]
fn the_thiefs_result_overtakes_the_victims_word() {
    let mut bench = robbed();
    assert!(bench.returns(W1, LAST, 2).contains(&Output::Gather(LAST)));
    assert_eq!(bench.machine.reports()[&W1].stolen, 1);
    assert_eq!(holders(&bench, LAST), []);
    let before = bench.machine.held().count();
    assert_eq!(scattered(&yielded(&mut bench)), []);
    assert_eq!(bench.machine.held().count(), before);
    ends_well(&mut bench);
}

#[test]
fn the_victims_result_crosses_the_order_to_yield() {
    let mut bench = robbed();
    assert!(bench.returns(W0, LAST, 1).contains(&Output::Gather(LAST)));
    bench.says(W0, Message::Kept { task: LAST, attempt: 1 });
    assert_eq!(bench.returns(W1, LAST, 2), []);
    ends_well(&mut bench);
}

#[test]
fn only_the_promised_thief_may_return_the_task() {
    let mut bench = robbed();
    bench.join(W2, FAST);
    assert!(!bench.returns(W2, LAST, 2).contains(&Output::Gather(LAST)));
    assert!(!bench.returns(W1, LAST, 7).contains(&Output::Gather(LAST)));
    yielded(&mut bench);
    // The victim's own late result of the attempt that ended.
    assert!(!bench.returns(W0, LAST, 1).contains(&Output::Gather(LAST)));
    ends_well(&mut bench);
}

#[test]
fn a_worker_that_yields_unasked_gives_its_task_back() {
    let mut bench = Bench::new(&[0, 1, 1, 1], CoordinatorConfig::default());
    bench.join(W0, FAST);
    bench.join(W1, FAST);
    bench.submit(0);
    bench.says(W0, Message::Yielded { task: task(0, 0, 0), attempt: 1 });
    assert_eq!(holders(&bench, task(0, 0, 0)).len(), 1);
    assert_eq!(bench.machine.reassigned(), 1);
    ends_well(&mut bench);
}

#[test]
fn a_handover_that_is_lost_is_copied_when_it_is_late() {
    let mut bench = robbed();
    yielded(&mut bench);
    bench.returns(W0, task(0, 0, 0), 1);
    bench.returns(W0, task(0, 0, 1), 1);
    let lease = CoordinatorConfig::default().lease_min_ns;
    let outputs = bench.wait(bench.now + lease + SECOND / 100, &[]);
    assert_eq!(scattered(&outputs), [(W0, LAST, 3)]);
    ends_well(&mut bench);
}

/// Two equal workers with a tile each, of which the first is on a link so slow that the weights of a layer
/// take a good part of a second.
fn on_a_slow_link() -> Bench {
    let machine = CoordinatorConfig { backups_per_mille_max: 1000, ..CoordinatorConfig::default() };
    let mut bench = Bench::new(&[0, 1], machine);
    bench.join(W0, FAST);
    bench.join(W1, FAST);
    bench.says(W0, Message::Echo { sent_ns: 0, padding: Vec::new() });
    bench.now = SECOND;
    bench.says(W0, Message::Echo { sent_ns: 0, padding: vec![0; 1 << 10] });
    bench.submit(0);
    bench
}

/// A worker asks for the weights of the first layer.
fn wants(bench: &mut Bench, id: WorkerId) -> Vec<Output> {
    let hashes = vec![bench.model.weights[0].hash];
    bench.says(id, Message::Want { hashes })
}

#[test]
fn who_has_the_weights_copies_a_task_that_waits_for_them() {
    let mut bench = on_a_slow_link();
    wants(&mut bench, W0);
    // The other has computed its tile while the weights of this one are on their way.
    bench.now += SECOND / 500;
    let outputs = bench.returns(W1, task(0, 0, 1), 1);
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
    bench.returns(W1, task(0, 0, 0), 2);
    bench.finish();
    assert!(bench.finished(0), "{:?}", bench.machine);
}
