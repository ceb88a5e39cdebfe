//! The worker alone: what it asks for, what it runs, what it hands over, what it lets go of.

mod support;

use model::{LayerId, Model, WeightHash};
use protocol::worker::{Input, Output, Peer};
use protocol::{
    Bundle, BundleKind, FrameId, Health, Hello, Message, Nanos, Orders, PlanId, SECOND, TaskId,
};
use protocol::{WeightSet, Worker, WorkerId};
use std::sync::Arc;
use support::{MODEL, W0, W1, headers, model, plan, task, weights_of};
use tiling::{Algorithm, LayerWeights, Numerics, Rates, StageGeometry};

const HEAD: Peer = Peer::Coordinator;

struct Bench {
    machine: Worker,
    now: Nanos,
    model: Arc<Model>,
}

impl Bench {
    /// A worker that is not connected.
    fn new() -> Self {
        Self::with_memory(0)
    }

    /// The same with so many bytes of memory; zero for no limit.
    fn with_memory(bytes: u64) -> Self {
        let hello = Hello::new("w", 1, Rates::uniform(5), bytes);
        Self { machine: Worker::new(hello), now: 0, model: model() }
    }

    /// A worker that was welcomed as worker 0, and is connected to worker 1.
    fn welcomed() -> Self {
        Self::new().join()
    }

    fn join(self) -> Self {
        let mut bench = self;
        bench.handle(Input::Connected);
        let outputs = bench.told(Message::Welcome { worker: W0, oldest: None });
        assert_eq!(outputs, [Output::Send(HEAD, Message::Hungry)]);
        bench.handle(Input::PeerUp(W1));
        bench
    }

    /// A worker with plan 1 of four strips open and its first stage prepared.
    fn ready() -> Self {
        let mut bench = Self::welcomed();
        bench.told(announce(vec![0]));
        bench.handle(Input::Opened(MODEL, bench.model.clone()));
        bench.handle(Input::Prepared(PlanId(1), weights_of(0)));
        bench
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input);
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    fn told(&mut self, message: Message) -> Vec<Output> {
        self.handle(Input::Message(HEAD, message))
    }

    fn bundle(&self, task: TaskId, kind: BundleKind) -> Bundle {
        let stage =
            StageGeometry::new(&self.model, Numerics::Exact, 0, &plan(&[0, 0, 0, 0]).stages[0])
                .unwrap();
        let pieces = headers(&self.model, &stage.tiles[task.tile as usize % 4].inputs);
        Bundle {
            kind,
            plan: PlanId(1),
            task,
            attempt: 1,
            pieces,
            forms: Vec::new(),
            orders: Orders::default(),
        }
    }

    fn scatter(&mut self, task: TaskId) -> Vec<Output> {
        let bundle = self.bundle(task, BundleKind::Scatter);
        self.handle(Input::Bundle(HEAD, bundle))
    }

    fn yields(&mut self, task: TaskId, thief: WorkerId) -> Vec<Output> {
        self.told(Message::Yield { task, attempt: 1, thief, next_attempt: 2 })
    }
}

fn announce(stages: Vec<u32>) -> Message {
    let weights = stages.into_iter().map(weights_of).collect();
    Message::Announce {
        plan: PlanId(1),
        model: MODEL,
        body: plan(&[0, 0, 0, 0]),
        weights,
        encodes: false,
    }
}

fn executes(task: TaskId) -> Output {
    Output::Execute { task, attempt: 1, plan: PlanId(1) }
}

fn prepared() -> Output {
    Output::Send(HEAD, Message::Prepared { plan: PlanId(1) })
}

fn unpacks(layer: u32) -> Output {
    Output::Unpack { model: MODEL, layer: LayerId(layer), algorithm: Algorithm::Direct }
}

fn hungry() -> Output {
    Output::Send(HEAD, Message::Hungry)
}

fn disconnects(outputs: &[Output]) -> Vec<Peer> {
    let one = |output: &Output| match output {
        Output::Disconnect(peer, _) => Some(*peer),
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

#[test]
fn from_the_announcement_to_the_result() {
    let mut bench = Bench::welcomed();
    let graph = vec![MODEL.0];
    assert_eq!(bench.told(announce(vec![0])), [Output::Open(MODEL)]);
    let wants =
        |hashes: &[WeightHash]| vec![Output::Send(HEAD, Message::Want { hashes: hashes.to_vec() })];
    assert_eq!(bench.handle(Input::Missing(graph.clone())), wants(&graph));
    assert_eq!(bench.scatter(task(0, 0, 3)), []);
    // What is on its way is not asked for again.
    assert_eq!(bench.handle(Input::Missing(graph.clone())), []);
    assert_eq!(bench.handle(Input::Blob(MODEL.0)), [Output::Open(MODEL)]);
    let outputs = bench.handle(Input::Opened(MODEL, bench.model.clone()));
    let prepare = Output::Prepare {
        plan: PlanId(1),
        set: weights_of(0),
        model: MODEL,
        weights: vec![LayerWeights {
            layer: LayerId(0),
            algorithm: Algorithm::Direct,
            ids: bench.model.layers[0].op.weight_ids(),
        }],
    };
    assert_eq!(outputs, std::slice::from_ref(&prepare));
    let weights = vec![bench.model.weights[0].hash];
    assert_eq!(bench.handle(Input::Missing(weights.clone())), wants(&weights));
    assert_eq!(bench.handle(Input::Blob(weights[0])), [prepare]);
    // Its last task starts, so it asks for more.
    let outputs = bench.handle(Input::Prepared(PlanId(1), weights_of(0)));
    assert_eq!(outputs, [prepared(), executes(task(0, 0, 3)), hungry()]);
    bench.now = 30;
    let outputs = bench.handle(Input::Executed { task: task(0, 0, 3), busy_ns: 9 });
    let [Output::SendBundle(Peer::Coordinator, result), Output::Drop(dropped, 1)] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(
        (result.kind, *dropped),
        (BundleKind::Result { busy_ns: 9, waited_ns: 21 }, task(0, 0, 3))
    );
    let rows = result.pieces[0].region.rows;
    assert_eq!((result.pieces.len(), rows.start, rows.end), (1, 9, 12));
}

#[test]
fn a_bundle_that_overtakes_its_announcement_waits_for_it() {
    let mut bench = Bench::welcomed();
    assert_eq!(bench.scatter(task(0, 0, 0)), [hungry()]);
    assert_eq!(bench.told(announce(Vec::new())), [Output::Open(MODEL)]);
    let outputs = bench.handle(Input::Opened(MODEL, bench.model.clone()));
    assert!(
        matches!(
            outputs[..],
            [Output::Prepare { set: WeightSet { stage: 0, .. }, .. }, Output::Send(..)]
        ),
        "{outputs:?}"
    );
    assert_eq!(outputs[1], prepared());
    assert!(
        bench.handle(Input::Prepared(PlanId(1), weights_of(0))).contains(&executes(task(0, 0, 0)))
    );
}

#[test]
fn bundles_of_plans_that_never_come_are_bounded_and_forgotten() {
    let mut bench = Bench::welcomed();
    let mut dropped = 0;
    for frame in 0..20 {
        let outputs = bench.scatter(task(frame, 0, 0));
        dropped += outputs.iter().filter(|o| matches!(o, Output::Drop(..))).count();
    }
    assert_eq!(dropped, 4);
    bench.now = 3 * SECOND;
    bench.told(Message::Heartbeat);
    bench.now = 4 * SECOND;
    let outputs = bench.handle(Input::Tick);
    assert_eq!(outputs.iter().filter(|o| matches!(o, Output::Drop(..))).count(), 16);
}

#[test]
fn a_queued_task_is_handed_over_and_a_running_one_is_kept() {
    let mut bench = Bench::ready();
    bench.scatter(task(0, 0, 0));
    bench.scatter(task(0, 0, 1));
    let kept = |task| [Output::Send(HEAD, Message::Kept { task, attempt: 1 })];
    assert_eq!(bench.yields(task(0, 0, 0), W1), kept(task(0, 0, 0)));
    assert_eq!(bench.yields(task(0, 0, 2), W1), kept(task(0, 0, 2)));
    // A thief that is out of reach gets nothing.
    assert_eq!(bench.yields(task(0, 0, 1), WorkerId(9)), kept(task(0, 0, 1)));
    let queued = bench.bundle(task(0, 0, 1), BundleKind::Handover);
    let handed = Bundle { attempt: 2, ..queued };
    let expected = [
        Output::SendBundle(Peer::Worker(W1), handed),
        Output::Drop(task(0, 0, 1), 1),
        Output::Send(HEAD, Message::Yielded { task: task(0, 0, 1), attempt: 1 }),
        hungry(),
    ];
    assert_eq!(bench.yields(task(0, 0, 1), W1), expected);
    assert_eq!(bench.yields(task(0, 0, 1), W1), kept(task(0, 0, 1)));
}

#[test]
fn a_handed_over_task_is_run_by_the_thief() {
    let mut bench = Bench::ready();
    let bundle = bench.bundle(task(0, 0, 1), BundleKind::Handover);
    let outputs = bench.handle(Input::Bundle(Peer::Worker(W1), bundle));
    assert_eq!(outputs, [executes(task(0, 0, 1)), hungry()]);
}

#[test]
fn a_forgotten_frame_is_dropped_now_and_later() {
    let mut bench = Bench::ready();
    for tile in 0..3 {
        bench.scatter(task(0, 0, tile));
    }
    let outputs = bench.told(Message::Forget { frame: FrameId(0), oldest: None });
    let dropped = [Output::Drop(task(0, 0, 1), 1), Output::Drop(task(0, 0, 2), 1)];
    assert_eq!(outputs[..2], dropped);
    // The running one cannot be stopped; nobody wants its result.
    let outputs = bench.handle(Input::Executed { task: task(0, 0, 0), busy_ns: 9 });
    assert_eq!(outputs, [Output::Drop(task(0, 0, 0), 1)]);
    // A copy that was on its way.
    assert_eq!(bench.scatter(task(0, 0, 3)), [Output::Drop(task(0, 0, 3), 1)]);
    assert!(bench.scatter(task(1, 0, 3)).contains(&executes(task(1, 0, 3))));
}

#[test]
fn a_retired_plan_leaves_nothing_behind() {
    let mut bench = Bench::ready();
    bench.scatter(task(0, 0, 0));
    bench.scatter(task(0, 0, 1));
    let outputs = bench.told(Message::Retire { plan: PlanId(1) });
    assert_eq!(outputs, [Output::Drop(task(0, 0, 1), 1), hungry()]);
    let outputs = bench.handle(Input::Executed { task: task(0, 0, 0), busy_ns: 9 });
    assert_eq!(outputs, [Output::Drop(task(0, 0, 0), 1)]);
    // The driver may have closed the model since: it is asked to open it again.
    assert_eq!(bench.told(announce(vec![0])), [Output::Open(MODEL)]);
}

#[test]
fn an_error_is_told_with_its_attempt() {
    let mut bench = Bench::ready();
    bench.scatter(task(0, 0, 0));
    let outputs = bench.handle(Input::Broke { task: task(0, 0, 0), reason: "no".into() });
    let failed = Message::Failed { task: task(0, 0, 0), attempt: 1, reason: "no".into() };
    assert_eq!(outputs, [Output::Send(HEAD, failed), Output::Drop(task(0, 0, 0), 1)]);
}

#[test]
fn a_lost_coordinator_leaves_nothing_behind() {
    let mut bench = Bench::ready();
    bench.scatter(task(0, 0, 0));
    bench.scatter(task(0, 0, 1));
    let outputs = bench.handle(Input::Disconnected(HEAD));
    assert_eq!(outputs, [Output::Drop(task(0, 0, 1), 1)]);
    assert_eq!((bench.machine.id(), bench.machine.next_deadline()), (None, None));
    // A hand-over that was on its way, and a job from before.
    let bundle = bench.bundle(task(0, 0, 2), BundleKind::Handover);
    let outputs = bench.handle(Input::Bundle(Peer::Worker(W1), bundle));
    assert_eq!(outputs, [Output::Drop(task(0, 0, 2), 1)]);
    let hashes = vec![bench.model.weights[0].hash];
    assert_eq!(bench.handle(Input::Missing(hashes.clone())), []);
    let outputs = bench.handle(Input::Connected);
    assert!(matches!(outputs[..], [Output::Send(HEAD, Message::Hello(_))]), "{outputs:?}");
    let outputs = bench.handle(Input::Executed { task: task(0, 0, 0), busy_ns: 9 });
    assert_eq!(outputs, [Output::Drop(task(0, 0, 0), 1)]);
    bench.told(Message::Welcome { worker: W0, oldest: None });
    bench.told(announce(vec![0]));
    // The same blobs are asked for again: the answer to the last time never came.
    let outputs = bench.handle(Input::Missing(hashes.clone()));
    assert_eq!(outputs, [Output::Send(HEAD, Message::Want { hashes })]);
}

#[test]
fn an_echo_goes_back_as_it_came_and_health_is_told_once_welcome() {
    let mut bench = Bench::new();
    let health = Health { free_bytes: Some(9), ..Health::default() };
    assert_eq!(bench.handle(Input::Health(health.clone())), []);
    let outputs = bench.handle(Input::Connected);
    // What was seen before goes with the greeting.
    let [Output::Send(HEAD, Message::Hello(hello))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(hello.health, health);
    bench.told(Message::Welcome { worker: W0, oldest: None });
    let echo = Message::Echo { sent_ns: 77, padding: vec![1, 2, 3] };
    assert_eq!(bench.told(echo.clone()), [Output::Send(HEAD, echo)]);
    let told = bench.handle(Input::Health(Health::default()));
    assert_eq!(told, [Output::Send(HEAD, Message::Health(Health::default()))]);
}

#[test]
fn both_sides_of_silence() {
    let mut bench = Bench::welcomed();
    for second in 1..4 {
        bench.now = second * SECOND;
        assert_eq!(bench.machine.next_deadline(), Some(bench.now));
        assert_eq!(bench.handle(Input::Tick), [Output::Send(HEAD, Message::Heartbeat)]);
    }
    bench.now = 4 * SECOND;
    assert_eq!(disconnects(&bench.handle(Input::Tick)), [HEAD]);
    assert_eq!(bench.machine.next_deadline(), None);
}

#[test]
fn what_nobody_may_send_ends_the_connection() {
    let hello = Hello::new("w", 1, Rates::uniform(5), 0);
    let forbidden = [
        Message::Hello(hello),
        Message::Hungry,
        Message::Want { hashes: Vec::new() },
        Message::Kept { task: task(0, 0, 0), attempt: 1 },
        Message::Yielded { task: task(0, 0, 0), attempt: 1 },
    ];
    for message in forbidden {
        let mut bench = Bench::ready();
        assert_eq!(disconnects(&bench.told(message)), [HEAD]);
        assert_eq!(bench.machine.id(), None);
    }
    for message in [
        Message::Welcome { worker: W1, oldest: None },
        Message::Forget { frame: FrameId(0), oldest: None },
    ] {
        let mut bench = Bench::ready();
        let outputs = bench.handle(Input::Message(Peer::Worker(W1), message));
        assert_eq!(disconnects(&outputs), [Peer::Worker(W1)]);
        assert_eq!(bench.machine.id(), Some(W0));
    }
}

#[test]
fn bundles_that_nobody_may_send_end_the_connection() {
    let from_worker = Peer::Worker(W1);
    let result = BundleKind::Result { busy_ns: 1, waited_ns: 0 };
    for (from, kind) in [
        (HEAD, BundleKind::Handover),
        (HEAD, result),
        (from_worker, BundleKind::Scatter),
        (from_worker, result),
    ] {
        let mut bench = Bench::ready();
        let bundle = bench.bundle(task(0, 0, 0), kind);
        let outputs = bench.handle(Input::Bundle(from, bundle));
        assert_eq!(disconnects(&outputs), [from]);
        assert!(outputs.contains(&Output::Drop(task(0, 0, 0), 1)));
    }
    for lacking in [task(0, 0, 4), task(0, 2, 0), task(0, u32::MAX, u32::MAX)] {
        let mut bench = Bench::ready();
        let bundle = bench.bundle(lacking, BundleKind::Scatter);
        assert_eq!(disconnects(&bench.handle(Input::Bundle(HEAD, bundle))), [HEAD]);
    }
}

#[test]
fn a_plan_that_does_not_fit_its_model_ends_the_connection() {
    let mut bench = Bench::welcomed();
    let mut body = plan(&[0, 0, 0, 0]);
    body.stages.pop();
    let (plan, weights) = (PlanId(1), vec![weights_of(0)]);
    bench.told(Message::Announce { plan, model: MODEL, body, weights, encodes: false });
    let outputs = bench.handle(Input::Opened(MODEL, bench.model.clone()));
    assert_eq!(disconnects(&outputs), [HEAD]);
}

/// There is memory for the weights of one of the two layers.
#[test]
fn weights_that_no_plan_reads_are_given_up_for_others() {
    let mut bench = Bench::with_memory((4 * 9 + 1) * 16 * 4).join();
    let tell = |bench: &mut Bench, id, stage| {
        let Message::Announce { model, body, encodes, .. } = announce(Vec::new()) else { panic!() };
        let (plan, weights) = (PlanId(id), vec![weights_of(stage)]);
        bench.told(Message::Announce { plan, model, body, weights, encodes });
        bench.handle(Input::Opened(MODEL, bench.model.clone()))
    };
    let prepares = |outputs: &[Output]| {
        let stage = |output: &Output| match output {
            Output::Prepare { set, .. } => Some(set.stage),
            _ => None,
        };
        outputs.iter().filter_map(stage).collect::<Vec<_>>()
    };
    assert_eq!(prepares(&tell(&mut bench, 1, 0)), [0]);
    // Beside the first plan, also while its weights are still being packed, there is no room.
    let outputs = tell(&mut bench, 2, 1);
    assert!(prepares(&outputs).is_empty() && !outputs.contains(&unpacks(0)), "{outputs:?}");
    bench.handle(Input::Prepared(PlanId(1), weights_of(0)));
    bench.told(Message::Retire { plan: PlanId(2) });
    bench.told(Message::Retire { plan: PlanId(1) });
    // What nobody reads stays until its memory is wanted...
    assert!(prepares(&tell(&mut bench, 3, 0)).contains(&0));
    bench.told(Message::Retire { plan: PlanId(3) });
    // ...and goes first.
    let outputs = tell(&mut bench, 4, 1);
    let at = |wanted: &dyn Fn(&Output) -> bool| outputs.iter().position(wanted).expect("both");
    let (unpack, prepare) =
        (at(&|o| *o == unpacks(0)), at(&|o| matches!(o, Output::Prepare { .. })));
    assert!(unpack < prepare);
}

#[test]
fn it_says_once_when_the_weights_of_a_plan_are_packed() {
    let told = |outputs: &[Output]| outputs.iter().filter(|o| **o == prepared()).count();
    let mut bench = Bench::welcomed();
    assert_eq!(told(&bench.told(announce(vec![0, 1]))), 0);
    assert_eq!(told(&bench.handle(Input::Opened(MODEL, bench.model.clone()))), 0);
    assert_eq!(told(&bench.handle(Input::Prepared(PlanId(1), weights_of(0)))), 0);
    assert_eq!(told(&bench.handle(Input::Prepared(PlanId(1), weights_of(1)))), 1);
    assert_eq!(told(&bench.handle(Input::Prepared(PlanId(1), weights_of(1)))), 0);
    // Nothing to prepare early: it could begin as soon as it knows the model.
    let mut bench = Bench::welcomed();
    bench.told(announce(Vec::new()));
    assert_eq!(told(&bench.handle(Input::Opened(MODEL, bench.model.clone()))), 1);
}

#[test]
fn what_other_workers_were_sent_is_told_with_the_next_result() {
    use protocol::{Carried, Form};
    use tiling::{Encoding, Wire};
    let mut bench = Bench::ready();
    let mut packed = bench.bundle(task(0, 0, 1), BundleKind::Exchange);
    let raw_bytes = packed.byte_len().unwrap() as u64;
    packed.forms = vec![Form { encoding: Encoding::Zeros, bytes: raw_bytes / 4 }];
    let map = packed.pieces[0].map;
    let told = |outputs: &[Output]| {
        let one = |output: &Output| match output {
            Output::Send(HEAD, Message::Carried { model: MODEL, wire: Wire::Auto, maps }) => {
                Some(maps.clone())
            }
            _ => None,
        };
        outputs.iter().filter_map(one).collect::<Vec<_>>()
    };
    bench.scatter(task(0, 0, 0));
    assert!(told(&bench.handle(Input::Packed(packed.clone()))).is_empty(), "a task runs");
    assert!(told(&bench.handle(Input::Packed(packed.clone()))).is_empty());
    let carried = |times: u64| {
        let (raw_bytes, wire_bytes) = (times * raw_bytes, times * (raw_bytes / 4));
        vec![vec![Carried { map, raw_bytes, wire_bytes }]]
    };
    let outputs = bench.handle(Input::Executed { task: task(0, 0, 0), busy_ns: 9 });
    assert_eq!(told(&outputs), carried(2));
    // With nothing to do it is told at once.
    assert_eq!(told(&bench.handle(Input::Packed(packed.clone()))), carried(1));
    packed.plan = PlanId(9);
    assert!(bench.handle(Input::Packed(packed)).is_empty(), "nobody knows that plan");
}
