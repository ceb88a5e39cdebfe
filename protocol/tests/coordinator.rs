//! The coordinator alone: placement, liveness, leases, and what it takes from workers.

mod support;

use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, BundleKind, CoordinatorConfig, FrameId, Hello, Message};
use protocol::{PlanId, SECOND, WorkerId};
use std::sync::Arc;
use support::{
    Bench, MODEL, W0, W1, W2, expelled, model, scattered, task, told, weights_of, yields,
};
use tiling::{Numerics, Plan, Rates};

fn config() -> CoordinatorConfig {
    CoordinatorConfig { stealing: false, ..CoordinatorConfig::default() }
}

/// What is said when the only frame so far is over.
const FORGET_0: Message = Message::Forget { frame: FrameId(0), oldest: Some(FrameId(1)) };

#[test]
fn nobody_is_there_until_somebody_joins() {
    let mut bench = Bench::new(&[0, 1, 0, 1], config());
    assert_eq!(bench.submit(0), []);
    assert_eq!(bench.machine.next_deadline(), None);
    let joined = bench.join(W1, 1_000_000);
    let oldest = Some(FrameId(0));
    assert_eq!(joined[0], Output::Send(W1, Message::Welcome { worker: W1, oldest }));
    // Its own share and that of the one who is not there.
    assert_eq!(scattered(&joined).len(), 3);
    bench.finish();
    assert!(bench.finished(0));
    assert_eq!(bench.machine.unfinished(), 0);
}

#[test]
fn the_announcement_comes_before_the_first_task() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1);
    let outputs = bench.submit(0);
    let Output::Send(W0, Message::Announce { plan, model, weights, .. }) = &outputs[0] else {
        panic!("{outputs:?}")
    };
    assert_eq!((*plan, *model), (PlanId(1), MODEL));
    assert_eq!(*weights, [weights_of(0), weights_of(1)]);
    assert!(matches!(outputs[1], Output::SendBundle(W0, _)));
    // Once is enough.
    assert_eq!(bench.count(|o| matches!(o, Output::Send(_, Message::Announce { .. }))), 1);
}

#[test]
fn the_window_and_the_frames_in_flight_are_bounded() {
    let config = CoordinatorConfig { window_tasks_max: 2, frames_in_flight_max: 2, ..config() };
    let mut bench = Bench::new(&[0, 0, 1, 1], config);
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    for frame in 0..5 {
        bench.submit(frame);
    }
    let mut frames_seen = 0;
    while let Some((id, task, attempt)) = { bench.machine.held().next() } {
        let held: Vec<_> = bench.machine.held().collect();
        for worker in [W0, W1] {
            assert!(held.iter().filter(|(id, ..)| *id == worker).count() <= 2);
        }
        let frames: std::collections::BTreeSet<_> = held.iter().map(|h| h.1.frame).collect();
        assert!(frames.len() <= 2, "{frames:?}");
        frames_seen = frames_seen.max(frames.len());
        bench.returns(id, task, attempt);
    }
    assert_eq!((frames_seen, bench.machine.unfinished()), (2, 0));
    assert!((0..5).all(|frame| bench.finished(frame)));
}

#[test]
fn all_start_before_anybody_gets_a_second_task() {
    let mut bench = Bench::new(&[0, 0, 1, 1], config());
    bench.join(W0, 1);
    bench.join(W1, 1);
    let order: Vec<WorkerId> = scattered(&bench.submit(0)).iter().map(|s| s.0).collect();
    assert_eq!(order, [W0, W1, W0, W1]);
}

#[test]
fn a_silent_worker_is_expelled_after_four_seconds() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    let outputs = bench.wait(4 * SECOND - 1, &[W0]);
    assert_eq!(expelled(&outputs), []);
    assert!(!told(&outputs, &Message::Heartbeat).is_empty());
    bench.now = 4 * SECOND;
    let outputs = bench.handle(Input::Tick);
    assert_eq!(expelled(&outputs), [W0]);
    assert!(outputs.contains(&Output::MembershipChanged));
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
    assert_eq!(bench.machine.reassigned(), 1);
    // What it says after that counts for nothing, until it joins again.
    assert_eq!(bench.returns(W0, task(0, 0, 0), 1), []);
    bench.finish();
    assert!(bench.finished(0));
    assert_eq!(bench.gathered(task(0, 0, 0)), 1);
}

#[test]
fn a_worker_that_leaves_or_comes_back_loses_what_it_held() {
    for comes_back in [false, true] {
        let mut bench = Bench::new(&[0, 1], config());
        bench.join(W0, 1_000_000);
        bench.join(W1, 1_000_000);
        bench.submit(0);
        let outputs = match comes_back {
            true => bench.join(W0, 1_000_000),
            false => bench.handle(Input::Left(W0, "cable".into())),
        };
        assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
        bench.finish();
        assert!(bench.finished(0));
    }
}

#[test]
fn a_late_task_gets_a_second_copy_and_the_first_result_wins() {
    let mut bench = Bench::new(&[0, 1, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    bench.returns(W1, task(0, 0, 1), 1);
    let lease = CoordinatorConfig::default().lease_min_ns;
    assert_eq!(scattered(&bench.wait(lease - 1, &[])), []);
    let copies = [(W0, task(0, 0, 2), 2), (W1, task(0, 0, 0), 2)];
    // Weights were to be packed, too, which takes a moment.
    assert_eq!(scattered(&bench.wait(lease + SECOND / 100, &[])), copies);
    assert!(bench.returns(W1, task(0, 0, 0), 2).contains(&Output::Gather(task(0, 0, 0))));
    assert_eq!(bench.returns(W0, task(0, 0, 0), 1), []);
    bench.finish();
    assert!(bench.finished(0));
    let gathered = (0..3).map(|tile| bench.gathered(task(0, 0, tile)));
    assert_eq!(gathered.collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(bench.machine.reassigned(), 2);
}

#[test]
fn a_late_task_of_the_only_worker_is_sent_to_it_again() {
    let mut bench = Bench::new(&[0], config());
    bench.join(W0, 1_000_000);
    bench.submit(0);
    let lease = CoordinatorConfig::default().lease_min_ns;
    assert_eq!(scattered(&bench.wait(3 * lease, &[])), [(W0, task(0, 0, 0), 2)]);
    bench.returns(W0, task(0, 0, 0), 2);
    bench.returns(W0, task(0, 0, 0), 1);
    bench.finish();
    assert!(bench.finished(0));
}

#[test]
fn a_late_task_that_another_copy_ended_gives_its_place_back() {
    let config = CoordinatorConfig { window_tasks_max: 1, ..config() };
    let mut bench = Bench::new(&[0, 1], config);
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    bench.returns(W1, task(0, 0, 1), 1);
    let lease = CoordinatorConfig::default().lease_min_ns;
    bench.wait(lease + SECOND / 100, &[]);
    let outputs = bench.returns(W1, task(0, 0, 0), 2);
    let attempt = 1;
    assert_eq!(told(&outputs, &Message::Cancel { task: task(0, 0, 0), attempt }), [W0]);
    // The next stage is worker 0's, which is late and gets nothing while the other can work.
    assert_eq!(bench.machine.held().collect::<Vec<_>>(), [(W1, task(0, 1, 0), 1)]);
    // A result shows that it works, and the next frame finds it again.
    bench.returns(W1, task(0, 1, 0), 1);
    assert!(bench.finished(0));
    let outputs = bench.submit(1);
    assert_eq!(scattered(&outputs).len(), 1, "{outputs:?}");
}

#[test]
fn a_result_with_other_pieces_expels_the_worker() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    let mut bundle = bench.result(task(0, 0, 0), 1);
    bundle.pieces[0].channels += 1;
    let outputs = bench.handle(Input::Bundle(W0, bundle, 0));
    assert_eq!(expelled(&outputs), [W0]);
    assert_eq!(scattered(&outputs), [(W1, task(0, 0, 0), 2)]);
    let mut bundle = bench.result(task(0, 0, 1), 1);
    bundle.pieces.clear();
    assert_eq!(expelled(&bench.handle(Input::Bundle(W1, bundle, 0))), [W1]);
    assert_eq!(bench.count(|o| matches!(o, Output::Gather(_))), 0);
}

#[test]
fn what_a_worker_may_not_send_expels_it() {
    let forbidden = [
        Message::Hello(Hello::new("again", 1, Rates::uniform(1), 0)),
        Message::Welcome { worker: W0, oldest: None },
        Message::Roster(Vec::new()),
        Message::Retire { plan: PlanId(1) },
        Message::Yield { task: task(0, 0, 0), attempt: 1, thief: W1, next_attempt: 2 },
        FORGET_0,
    ];
    for message in forbidden {
        let mut bench = Bench::new(&[0], config());
        bench.join(W0, 1);
        assert_eq!(expelled(&bench.says(W0, message.clone())), [W0], "{message:?}");
    }
    for kind in [BundleKind::Scatter, BundleKind::Handover] {
        let mut bench = Bench::new(&[0], config());
        bench.join(W0, 1);
        bench.submit(0);
        let bundle = protocol::Bundle { kind, ..bench.result(task(0, 0, 0), 1) };
        assert_eq!(expelled(&bench.handle(Input::Bundle(W0, bundle, 0))), [W0]);
    }
}

#[test]
fn words_about_tasks_that_nobody_has_change_nothing() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    for id in [W0, W2] {
        for other in [task(0, 0, 1), task(0, 1, 0), task(9, 0, 0), task(0, 7, 7)] {
            let attempt = 3;
            bench.says(id, Message::Kept { task: other, attempt });
            bench.says(id, Message::Yielded { task: other, attempt });
            bench.says(id, Message::Failed { task: other, attempt, reason: "no".into() });
        }
        assert_eq!(bench.returns(id, task(0, 0, 1), 1), []);
    }
    bench.finish();
    assert!(bench.finished(0));
    assert_eq!(bench.machine.reassigned(), 0);
}

#[test]
fn a_task_that_fails_everywhere_fails_its_frame() {
    let mut bench = Bench::new(&[0], config());
    bench.join(W0, 1_000_000);
    bench.submit(0);
    for attempt in 1..=5 {
        assert_eq!(bench.count(|o| matches!(o, Output::FrameFailed(..))), 0);
        let reason = "out of memory".into();
        bench.says(W0, Message::Failed { task: task(0, 0, 0), attempt, reason });
    }
    let failed = bench.outputs.iter().find_map(|o| match o {
        Output::FrameFailed(FrameId(0), reason) => Some(reason.clone()),
        _ => None,
    });
    let failed = failed.expect("the frame failed");
    assert!(failed.contains("failed 5 times, last on w0: out of memory"), "{failed}");
    assert_eq!(told(&bench.outputs, &FORGET_0), [W0]);
    assert_eq!((bench.machine.unfinished(), bench.machine.held().count()), (0, 0));
}

#[test]
fn an_ended_frame_is_forgotten_by_all_who_know_its_plan() {
    let mut bench = Bench::new(&[0, 1], config());
    for id in [W0, W1, W2] {
        bench.join(id, 1_000_000);
    }
    bench.submit(0);
    bench.finish();
    assert_eq!(told(&bench.outputs, &FORGET_0), [W0, W1]);
}

#[test]
fn the_oldest_plan_that_no_frame_uses_is_retired() {
    let mut bench = Bench::new(&[0], config());
    bench.join(W0, 1_000_000);
    let model = bench.model.clone();
    for id in 1..=12 {
        bench.plan = Bench::bind(&model, id, &[0]);
        bench.submit(id);
        bench.finish();
    }
    let retired = |id| told(&bench.outputs, &Message::Retire { plan: PlanId(id) }).len();
    assert_eq!((1..=12).map(retired).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn numbers_from_the_wire_do_not_overflow() {
    let mut bench = Bench::new(&[0, 1], CoordinatorConfig::default());
    bench.join(W0, 1);
    bench.join(W1, u64::MAX);
    for frame in 0..3 {
        bench.submit(frame);
        while let Some((id, task, attempt)) = { bench.machine.held().next() } {
            let kind = BundleKind::Result { busy_ns: u64::MAX, waited_ns: u64::MAX };
            let bundle = protocol::Bundle { kind, ..bench.result(task, attempt) };
            bench.handle(Input::Bundle(id, bundle, 0));
        }
        assert!(bench.finished(frame));
    }
    assert_eq!(yields(&bench.outputs).len(), 0);
}

#[test]
fn weights_that_travel_prolong_the_lease() {
    let mut bench = Bench::new(&[0, 1], config());
    bench.join(W0, 1_000_000);
    bench.join(W1, 1_000_000);
    bench.submit(0);
    bench.returns(W1, task(0, 0, 1), 1);
    let hashes: Vec<_> = bench.model.weights.iter().map(|w| w.hash).collect();
    let outputs = bench.says(W0, Message::Want { hashes: hashes.clone() });
    assert_eq!(outputs, [Output::SendBlobs(W0, hashes)]);
    assert_eq!(bench.machine.reports()[&W0].weight_bytes, 2 * 4 * 4 * 9 * 4);
    // 1152 bytes over a link of 500 000 bytes a second; in panels of 16 outputs four times as many,
    // packed at 20 MB/s.
    let lease = CoordinatorConfig::default().lease_min_ns + 2_304_000 + 4 * 57_600;
    assert_eq!(scattered(&bench.wait(lease - 1, &[])), []);
    assert_eq!(scattered(&bench.wait(lease, &[])).len(), 1);
}

#[test]
fn a_model_without_layers_gives_back_its_inputs() {
    let mut bench = Bench::new(&[0], config());
    let empty = model::Model { layers: Vec::new(), ..model::Model::clone(&model()) };
    let plan = Plan::new("none", Numerics::Exact, Vec::new());
    let plan = ActivePlan::new(PlanId(1), Arc::new(empty), MODEL, plan, vec![W0]).unwrap();
    bench.plan = Arc::new(plan);
    assert_eq!(bench.submit(0), [Output::Finished(FrameId(0))]);
}
