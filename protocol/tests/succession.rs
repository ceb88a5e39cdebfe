//! One plan follows another when its weights are packed, or when the known one cannot go on.

mod support;

use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, CoordinatorConfig, Message, PlanId, Succession, VERSION, WorkerId};
use std::sync::Arc;
use support::{Bench, W0, W1, W2};

/// Three workers, of which the known plan uses two and the next one all.
fn changing() -> (Bench, Succession<()>, Arc<ActivePlan>) {
    let mut bench = Bench::new(&[0, 1], CoordinatorConfig::default());
    for id in [W0, W1, W2] {
        bench.join(id, 1_000_000);
    }
    bench.submit(0);
    bench.finish();
    let next = Bench::bind(&bench.model, 2, &[0, 1, 2]);
    let mut plans = Succession::new(bench.plan.clone(), ());
    plans.follow(next.clone(), ());
    assert!(plans.is_changing());
    (bench, plans, next)
}

fn prepare(bench: &mut Bench, next: &Arc<ActivePlan>) -> Vec<WorkerId> {
    let known = bench.plan.clone();
    let outputs = bench.handle(Input::Prepare { next: next.clone(), known });
    let told = |output: &Output| match output {
        Output::Send(to, Message::Announce { plan: PlanId(2), weights, .. }) => {
            assert!(!weights.is_empty());
            Some(*to)
        }
        _ => None,
    };
    outputs.iter().filter_map(told).collect()
}

#[test]
fn frames_get_the_next_plan_when_all_have_packed_its_weights() {
    let (mut bench, mut plans, next) = changing();
    assert_eq!(prepare(&mut bench, &next), [W0, W1, W2]);
    // Nobody is told twice.
    assert_eq!(prepare(&mut bench, &next), []);
    for id in [W0, W1, W2] {
        assert_eq!(plans.advance(&bench.machine), None);
        assert_eq!(plans.known().0.id, PlanId(1));
        // Of a plan that it was not told of nobody can say anything.
        bench.says(id, Message::Prepared { plan: PlanId(9) });
        assert!(!bench.machine.is_prepared(&next));
        bench.says(id, Message::Prepared { plan: PlanId(2) });
    }
    assert_eq!(plans.advance(&bench.machine), Some(PlanId(1)));
    assert_eq!((plans.known().0.id, plans.is_changing()), (PlanId(2), false));
    // Its first frame needs no other word.
    bench.plan = next;
    bench.outputs.clear();
    bench.submit(1);
    assert_eq!(bench.count(|o| matches!(o, Output::Send(_, Message::Announce { .. }))), 0);
    bench.finish();
    assert!(bench.finished(1));
}

#[test]
fn the_next_plan_comes_at_once_where_the_known_one_cannot_run() {
    let mut bench = Bench::new(&[0, 1], CoordinatorConfig::default());
    for id in [W0, W1, W2] {
        bench.join(id, 1_000_000);
    }
    let next = Bench::bind(&bench.model, 2, &[0, 2]);
    let mut plans = Succession::new(bench.plan.clone(), ());
    plans.follow(next.clone(), ());
    prepare(&mut bench, &next);
    assert_eq!(plans.advance(&bench.machine), None);
    bench.handle(Input::Left(W1, "gone".into()));
    assert_eq!(plans.advance(&bench.machine), Some(PlanId(1)));
    assert!(!bench.machine.is_prepared(plans.known().0));
}

#[test]
fn what_cannot_run_does_not_follow() {
    let (mut bench, mut plans, next) = changing();
    prepare(&mut bench, &next);
    bench.handle(Input::Left(W2, "gone".into()));
    assert_eq!(plans.advance(&bench.machine), None);
    assert_eq!((plans.known().0.id, plans.is_changing()), (PlanId(1), false));
    // A worker that comes back has packed nothing.
    let (mut bench, _, next) = changing();
    prepare(&mut bench, &next);
    for id in [W0, W1, W2] {
        bench.says(id, Message::Prepared { plan: PlanId(2) });
    }
    assert!(bench.machine.is_prepared(&next));
    bench.join(W1, 1_000_000);
    assert!(!bench.machine.is_prepared(&next));
}

#[test]
fn weights_of_the_next_plan_leave_room_for_the_tiles_of_the_known_one() {
    use protocol::Hello;
    use tiling::Rates;
    let told = |memory_bytes| {
        let mut bench = Bench::new(&[0, 0], CoordinatorConfig::default());
        let hello = Hello::new("small", 1, Rates::uniform(1_000_000), memory_bytes);
        bench.handle(Input::Joined(W0, VERSION, hello));
        let next = Bench::bind(&bench.model, 2, &[0, 0, 0]);
        let known = bench.plan.clone();
        let outputs = bench.handle(Input::Prepare { next, known });
        let weights = |output: &Output| match output {
            Output::Send(W0, Message::Announce { weights, .. }) => Some(weights.len()),
            _ => None,
        };
        outputs.iter().find_map(weights)
    };
    assert_eq!(told(0), Some(2));
    assert_eq!(told(1_000_000), Some(2));
    // A tile takes a few kilobytes, the weights of a layer 640 bytes.
    assert_eq!(told(2_000), Some(0));
}

#[test]
fn a_plan_is_the_same_for_workers_in_another_order() {
    let bench = Bench::new(&[0, 2], CoordinatorConfig::default());
    let slots = |order: &[WorkerId]| {
        let plan = bench.plan.rebound(order)?;
        Some(plan.stages[0].placement.iter().map(|slot| slot.0).collect::<Vec<_>>())
    };
    assert_eq!(slots(&[W0, W1, W2]), Some(vec![0, 2]));
    assert_eq!(slots(&[W2, W0]), Some(vec![1, 0]));
    assert_eq!(slots(&[W0, W1]), None);
}
