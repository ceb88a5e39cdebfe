//! Maps that stay on the workers: who is told to keep, send and take what, and what happens when a
//! holder is lost or out of reach.

mod support;

use model::Model;
use protocol::coordinator::Output;
use protocol::worker::{Input, Output as WorkerOutput, Peer};
use protocol::{
    ActivePlan, Bundle, BundleKind, Carried, CoordinatorConfig, FrameId, Hello, Message, Orders,
    VERSION,
};
use protocol::{PlanId, SECOND, TaskId, Worker, WorkerId};
use std::sync::Arc;
use support::{Bench, MODEL, W0, W1, W2, model, task, weights_of};
use tiling::{Grid, Numerics, Plan, Rates, Shares, Slot, Stage, Wire};

/// Both layers in two strips, on workers 0 and 1; what the first makes stays there.
fn plan() -> Plan {
    let strips =
        |layer: usize| Stage::cut(layer..layer + 1, Grid::even(2, 1), vec![Slot(0), Slot(1)]);
    let stages = vec![strips(0).exchanging(), strips(1)];
    Plan::new("test", Numerics::Exact, stages)
}

fn bound(model: &Arc<Model>) -> Arc<ActivePlan> {
    let slots = vec![W0, W1, W2];
    Arc::new(ActivePlan::new(PlanId(1), model.clone(), MODEL, plan(), slots).unwrap())
}

/// Three workers that reach each other.
fn bench() -> Bench {
    bench_with(0)
}

/// The same with so much memory each; zero for no limit.
fn bench_with(memory_bytes: u64) -> Bench {
    let config = CoordinatorConfig { stealing: false, ..CoordinatorConfig::default() };
    let mut bench = Bench::new(&[0, 1], config);
    bench.plan = bound(&bench.model);
    for id in [W0, W1, W2] {
        let hello = Hello::new(id.to_string(), 1, Rates::uniform(1_000_000), memory_bytes);
        bench.handle(protocol::coordinator::Input::Joined(id, VERSION, hello));
    }
    for id in [W0, W1, W2] {
        let peers = [W0, W1, W2].into_iter().filter(|&other| other != id).collect();
        bench.says(id, Message::Reaches { peers });
    }
    assert!(bench.machine.all_reach_all());
    bench
}

fn scattered(outputs: &[Output]) -> Vec<(WorkerId, &Bundle)> {
    let mut bundles = Vec::new();
    for output in outputs {
        if let Output::SendBundle(to, bundle) = output {
            bundles.push((*to, bundle));
        }
    }
    bundles
}

/// The result of a task whose outputs stay.
fn kept(bench: &Bench, task: TaskId, attempt: u32) -> Bundle {
    let orders = Orders { keep: true, ..Orders::default() };
    Bundle { pieces: Vec::new(), orders, ..bench.result(task, attempt) }
}

fn keeps(bench: &mut Bench, id: WorkerId, task: TaskId) -> Vec<Output> {
    let bundle = kept(bench, task, 1);
    bench.handle(protocol::coordinator::Input::Bundle(id, bundle, 0))
}

/// Answers everything that is out as it was ordered, until nothing is.
fn finish(bench: &mut Bench) {
    while let Some((id, task, attempt)) = { bench.machine.held().next() } {
        let ordered = scattered(&bench.outputs);
        let mut ordered = ordered.iter().map(|(_, bundle)| bundle);
        let order = ordered.find(|b| (b.task, b.attempt) == (task, attempt)).expect("its order");
        let result = match order.orders.keep {
            true => kept(bench, task, attempt),
            false => bench.result(task, attempt),
        };
        bench.handle(protocol::coordinator::Input::Bundle(id, result, 0));
    }
}

/// Two frames at once would each wait for what the other keeps.
#[test]
fn a_frame_begins_when_there_is_memory_for_what_it_leaves() {
    let plan = bound(&model());
    let weights = 2 * (4 * 9 + 1) * 16 * 4;
    let tile = (0..2).map(|stage| plan.input_bytes(stage, 0) + plan.running_bytes(stage, 0)).max();
    // Half a map of 12 x 12 x 4 and a row of the other half.
    let kept = 7 * 12 * 4 * 4;
    for (frames, begun) in [(1, 1), (2, 2), (4, 4)] {
        let mut bench = bench_with(weights + tile.unwrap() + frames * kept);
        (0..4).for_each(|frame| _ = bench.submit(frame));
        assert_eq!(bench.machine.in_flight(), begun, "room for {frames}");
        finish(&mut bench);
        assert!((0..4).all(|frame| bench.finished(frame)));
        assert_eq!(bench.machine.counters().fallbacks, 0);
    }
}

#[test]
fn workers_are_told_what_to_keep_to_send_and_to_take() {
    let mut bench = bench();
    let first = bench.submit(0);
    let first = scattered(&first);
    assert_eq!(first.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [W0, W1]);
    for (to, bundle) in &first {
        // The input travels with the task; the row at the border goes to the neighbour.
        assert_eq!((bundle.pieces.len(), bundle.orders.keep), (1, true));
        let [delivery] = bundle.orders.deliveries.as_slice() else { panic!("{bundle:?}") };
        assert_eq!(delivery.to, if *to == W0 { W1 } else { W0 });
        assert_eq!(delivery.pieces[0].region.rows.len(), 1);
    }
    // The second layer's tile needs both.
    assert!(scattered(&keeps(&mut bench, W0, task(0, 0, 0))).is_empty());
    let second = keeps(&mut bench, W1, task(0, 0, 1));
    let second = scattered(&second);
    assert_eq!(second.len(), 2);
    for (to, bundle) in second {
        assert!(bundle.pieces.is_empty() && !bundle.orders.keep);
        let sources = bundle.orders.sources.iter().map(|s| (s.holder, s.coming));
        let other = if to == W0 { W1 } else { W0 };
        let expected =
            if to == W0 { [(W0, false), (other, true)] } else { [(other, true), (W1, false)] };
        assert_eq!(sources.collect::<Vec<_>>(), expected);
    }
    finish(&mut bench);
    assert!(bench.finished(0));
    assert_eq!(bench.machine.counters().exchanged_bytes, 2 * 12 * 4 * 4);
}

/// What passes from worker to worker is what is expected of it until they say what it came to.
#[test]
fn encoded_pieces_count_as_the_workers_say() {
    let mut bench = bench();
    let shares = Shares::expected(&bench.model, Wire::Lossless, []);
    let slots = vec![W0, W1, W2];
    let plan = ActivePlan::new(PlanId(1), bench.model.clone(), MODEL, plan(), slots).unwrap();
    bench.plan = Arc::new(plan.encoding([W0, W1], shares.clone()));
    bench.submit(0);
    keeps(&mut bench, W0, task(0, 0, 0));
    keeps(&mut bench, W1, task(0, 0, 1));
    let map = bench.model.layers[0].output;
    let row = 12 * 4 * 4;
    let exchanged = |bench: &Bench| bench.machine.counters().exchanged_bytes;
    assert_eq!(exchanged(&bench), 2 * shares.of(map, row));
    for (id, wire_bytes) in [(W0, 100), (W1, 90)] {
        let maps = vec![Carried { map, raw_bytes: row, wire_bytes }];
        bench.says(id, Message::Carried { model: MODEL, wire: Wire::Lossless, maps });
    }
    assert_eq!(exchanged(&bench), 190);
    let reports = bench.machine.reports();
    assert_eq!([W0, W1].map(|id| reports[&id].bytes_out), [100, 90]);
    // Numbers that come over the wire do no harm.
    let maps = vec![Carried { map, raw_bytes: 1, wire_bytes: u64::MAX }; 3];
    bench.says(W1, Message::Carried { model: MODEL, wire: Wire::Lossless, maps });
    finish(&mut bench);
    let counters = bench.machine.counters();
    let gathered = counters.gathered_bytes;
    assert_eq!(counters.moved_bytes(), counters.scattered_bytes + gathered + exchanged(&bench));
    assert!(bench.finished(0) && gathered > 0);
}

#[test]
fn what_a_lost_worker_kept_is_made_again() {
    let mut bench = bench();
    bench.submit(0);
    keeps(&mut bench, W0, task(0, 0, 0));
    keeps(&mut bench, W1, task(0, 0, 1));
    let outputs = bench.handle(protocol::coordinator::Input::Left(W1, "gone".into()));
    // Its strip of the first layer again, on whoever is free; the second layer waits for it.
    let again = scattered(&outputs);
    assert_eq!(again.iter().map(|(_, b)| b.task).collect::<Vec<_>>(), [task(0, 0, 1)]);
    let (to, bundle) = (again[0].0, again[0].1.clone());
    assert_eq!((bundle.attempt, bench.machine.counters().recomputed), (2, 1));
    let result = kept(&bench, task(0, 0, 1), 2);
    let outputs = bench.handle(protocol::coordinator::Input::Bundle(to, result, 0));
    assert_eq!(scattered(&outputs).len(), 2);
    finish(&mut bench);
    assert!(bench.finished(0));
    assert_eq!(bench.machine.counters().fallbacks, 0);
}

#[test]
fn where_pieces_do_not_come_everything_is_gathered() {
    let mut bench = bench();
    bench.submit(0);
    keeps(&mut bench, W0, task(0, 0, 0));
    keeps(&mut bench, W1, task(0, 0, 1));
    let lacking = Message::Lacking { task: task(0, 1, 1), attempt: 1, holder: W0 };
    let outputs = bench.says(W1, lacking);
    let first = scattered(&outputs);
    let told = first.iter().map(|(_, b)| (b.task, b.orders.clone()));
    let expected = [(task(0, 0, 0), Orders::default()), (task(0, 0, 1), Orders::default())];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let released = |o: &Output| matches!(o, Output::Send(_, Message::Release { .. }));
    assert!(outputs.iter().any(released));
    finish(&mut bench);
    assert!(bench.finished(0));
    let counters = bench.machine.counters();
    assert_eq!((counters.fallbacks, counters.recomputed), (1, 0));
}

#[test]
fn only_those_who_reach_the_holders_get_a_task() {
    let mut bench = bench();
    bench.submit(0);
    keeps(&mut bench, W0, task(0, 0, 0));
    bench.says(W0, Message::Reaches { peers: vec![W1] });
    bench.says(W1, Message::Reaches { peers: vec![W0] });
    keeps(&mut bench, W1, task(0, 0, 1));
    bench.handle(protocol::coordinator::Input::Left(W1, "gone".into()));
    // Worker 2 has nothing to do, but nobody could send it the strips.
    finish(&mut bench);
    assert!(bench.finished(0));
    let second = bench.outputs.iter().filter_map(|o| match o {
        Output::SendBundle(to, b) if b.task.stage == 1 => Some((*to, b.orders.sources.len())),
        _ => None,
    });
    assert!(second.clone().all(|(to, sources)| to != W2 || sources == 0), "{second:?}");
}

struct Alone {
    machine: Worker,
    now: u64,
}

impl Alone {
    /// Worker 0, connected to worker 1, with the plan's stages prepared.
    fn new(model: &Arc<Model>) -> Self {
        let hello = Hello::new("w", 1, Rates::uniform(5), 0);
        let mut alone = Self { machine: Worker::new(hello), now: 0 };
        alone.handle(Input::Connected);
        let head = |message| Input::Message(Peer::Coordinator, message);
        alone.handle(head(Message::Welcome { worker: W0, oldest: None }));
        alone.handle(Input::PeerUp(W1));
        let weights = vec![weights_of(0), weights_of(1)];
        let announce = Message::Announce {
            plan: PlanId(1),
            model: MODEL,
            body: plan(),
            weights,
            encodes: false,
        };
        alone.handle(head(announce));
        alone.handle(Input::Opened(MODEL, model.clone()));
        alone.handle(Input::Prepared(PlanId(1), weights_of(0)));
        alone.handle(Input::Prepared(PlanId(1), weights_of(1)));
        alone
    }

    fn handle(&mut self, input: Input) -> Vec<WorkerOutput> {
        self.machine.handle(self.now, input);
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }
}

/// What a coordinator sends worker 0, first stage and second.
fn orders() -> (Arc<Model>, Bundle, Bundle) {
    let mut bench = bench();
    let first = bench.submit(0);
    keeps(&mut bench, W0, task(0, 0, 0));
    let second = keeps(&mut bench, W1, task(0, 0, 1));
    let (first, second) = (scattered(&first)[0].1.clone(), scattered(&second)[0].1.clone());
    (model(), first, second)
}

#[test]
fn a_worker_keeps_sends_on_and_waits_for_what_comes() {
    let (model, first, second) = orders();
    let mut alone = Alone::new(&model);
    let outputs = alone.handle(Input::Bundle(Peer::Coordinator, first.clone()));
    assert!(outputs.iter().any(|o| matches!(o, WorkerOutput::Execute { .. })));
    let outputs = alone.handle(Input::Executed { task: first.task, busy_ns: 7 });
    let sent: Vec<(Peer, usize)> = outputs
        .iter()
        .filter_map(|o| match o {
            WorkerOutput::SendBundle(to, bundle) => Some((*to, bundle.pieces.len())),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [(Peer::Coordinator, 0), (Peer::Worker(W1), 1)]);
    assert!(outputs.contains(&WorkerOutput::Keep(FrameId(0))));
    // Its own strip is here; the neighbour's row is coming.
    let outputs = alone.handle(Input::Bundle(Peer::Coordinator, second.clone()));
    assert!(!outputs.iter().any(|o| matches!(o, WorkerOutput::Execute { .. })));
    let piece = second.orders.sources[1].piece;
    let (kind, orders) = (BundleKind::Exchange, Orders::default());
    let row = Bundle { kind, pieces: vec![piece], orders, ..first };
    let outputs = alone.handle(Input::Bundle(Peer::Worker(W1), row));
    assert!(outputs.iter().any(|o| matches!(o, WorkerOutput::Execute { .. })), "{outputs:?}");
}

#[test]
fn what_does_not_come_is_pulled_and_then_given_up() {
    let (model, first, second) = orders();
    let mut alone = Alone::new(&model);
    alone.handle(Input::Bundle(Peer::Coordinator, first.clone()));
    alone.handle(Input::Executed { task: first.task, busy_ns: 7 });
    alone.handle(Input::Bundle(Peer::Coordinator, second.clone()));
    let mut said = Vec::new();
    for _ in 0..8 {
        alone.now += SECOND;
        let beat = Input::Message(Peer::Coordinator, Message::Heartbeat);
        said.extend(alone.handle(beat));
    }
    let pulls = said.iter().filter(|o| matches!(o, WorkerOutput::Send(_, Message::Pull { .. })));
    assert_eq!(pulls.count(), 1);
    let (task, attempt) = (second.task, second.attempt);
    let given_up = Message::Lacking { task, attempt, holder: W1 };
    assert!(said.contains(&WorkerOutput::Send(Peer::Coordinator, given_up)), "{said:?}");
    assert!(said.contains(&WorkerOutput::Drop(task, attempt)));
}

#[test]
fn a_worker_gives_what_it_keeps_until_the_frame_is_over() {
    let (model, first, _) = orders();
    let mut alone = Alone::new(&model);
    alone.handle(Input::Bundle(Peer::Coordinator, first.clone()));
    alone.handle(Input::Executed { task: first.task, busy_ns: 7 });
    let pieces = alone.machine.kept(FrameId(0)).to_vec();
    let pull = |pieces| {
        Input::Message(
            Peer::Worker(W1),
            Message::Pull { task: task(0, 1, 1), plan: PlanId(1), pieces },
        )
    };
    let given = alone.handle(pull(pieces.clone()));
    assert!(matches!(given.as_slice(), [WorkerOutput::SendBundle(Peer::Worker(W1), _)]));
    let forget = Message::Forget { frame: FrameId(0), oldest: Some(FrameId(1)) };
    let outputs = alone.handle(Input::Message(Peer::Coordinator, forget));
    assert!(outputs.contains(&WorkerOutput::Forget(FrameId(0))));
    assert_eq!(alone.handle(pull(pieces)), []);
    // What is still on its way comes too late.
    let (kind, orders) = (BundleKind::Exchange, Orders::default());
    let late = Bundle { kind, orders, ..first };
    assert_eq!(alone.handle(Input::Bundle(Peer::Worker(W1), late)), []);
}
