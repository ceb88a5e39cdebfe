//! A worker of the last minor release beside today's: it gets the tasks of plans that it understands,
//! and of no others.

mod support;

use protocol::coordinator::{Input, Output};
use protocol::{
    ActivePlan, CoordinatorConfig, FrameId, LAST_VERSION, Message, PlanId, SECOND, VERSION,
    WorkerId,
};
use std::sync::Arc;
use support::{Bench, MODEL, W0, W1, plan, scattered, yields};
use tiling::{Numerics, Plan, Slot};

/// Today's worker 0 and an old worker 1, and a plan over these slots with some numerics.
fn mixed(placement: &[u32], numerics: Numerics) -> (Bench, Arc<ActivePlan>) {
    let mut bench = Bench::new(&[0], CoordinatorConfig::default());
    bench.join(W0, 1_000_000);
    bench.join_speaking(W1, LAST_VERSION, 1_000_000);
    let body = Plan { numerics, ..plan(placement) };
    let bound = ActivePlan::new(PlanId(9), bench.model.clone(), MODEL, body, vec![W0, W1]);
    bench.plan = Arc::new(bound.unwrap());
    let plan = bench.plan.clone();
    (bench, plan)
}

fn gets_any(outputs: &[Output], worker: WorkerId) -> bool {
    scattered(outputs).iter().any(|&(id, ..)| id == worker)
}

#[test]
fn an_old_worker_gets_what_it_understands() {
    for numerics in [Numerics::Exact, Numerics::Fast01] {
        let (mut bench, plan) = mixed(&[0, 1], numerics);
        assert!(bench.machine.can_run(&plan));
        let outputs = bench.handle(Input::Submit(FrameId(0), plan));
        assert!(gets_any(&outputs, W1));
    }
}

#[test]
fn it_gets_nothing_of_a_newer_plan_by_whatever_way() {
    let (mut bench, plan) = mixed(&[0, 1, 0, 0, 0, 0], Numerics::Fast);
    assert!(!bench.machine.can_run(&plan));
    bench.handle(Input::Submit(FrameId(0), plan));
    // It is idle and asks, and the other one is late: neither stealing nor a second copy brings it there.
    bench.says(W1, Message::Reaches { peers: vec![W0] });
    bench.says(W0, Message::Reaches { peers: vec![W1] });
    for second in 1..8 {
        bench.wait(second * SECOND, &[]);
        bench.says(W1, Message::Hungry);
    }
    assert!(yields(&bench.outputs).is_empty());
    assert!(!gets_any(&bench.outputs, W1));
    bench.finish();
    assert_eq!(bench.machine.in_flight(), 0);
    assert!(gets_any(&bench.outputs, W0) && !gets_any(&bench.outputs, W1));
}

#[test]
fn a_plan_for_anybody_wants_somebody_who_understands_it() {
    let anybody = Slot::ANY.0;
    let (mut bench, plan) = mixed(&[anybody], Numerics::Fast);
    assert!(bench.machine.can_run(&plan));
    bench.handle(Input::Left(W0, "gone".into()));
    assert!(!bench.machine.can_run(&plan));
}

#[test]
fn it_is_not_told_of_a_newer_plan_that_it_had_a_part_in() {
    for (numerics, told) in [(Numerics::Fast01, true), (Numerics::Fast, false)] {
        let (mut bench, next) = mixed(&[0, 1], numerics);
        let outputs = bench.handle(Input::Prepare { next: next.clone(), known: next });
        let is_told =
            |output: &Output| matches!(output, Output::Send(W1, Message::Announce { .. }));
        assert_eq!(outputs.iter().any(is_told), told);
    }
}

#[test]
fn what_all_share_follows_who_is_there() {
    let (mut bench, _) = mixed(&[0, 1], Numerics::Fast01);
    assert_eq!(bench.machine.shared_version(), LAST_VERSION);
    bench.handle(Input::Left(W1, "upgraded".into()));
    assert_eq!(bench.machine.shared_version(), VERSION);
    bench.join(W1, 1_000_000);
    assert_eq!(bench.machine.shared_version(), VERSION);
}
