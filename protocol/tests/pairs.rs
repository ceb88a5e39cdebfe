//! Workers measure the ways between them, and the coordinator comes to know them.

mod support;

use protocol::worker::{Input, Output, Peer};
use protocol::{
    Bundle, BundleKind, CoordinatorConfig, Hello, Message, Nanos, Orders, PairLink, PlanId, SECOND,
    Worker, WorkerId,
};
use support::{Bench, W0, W1, W2, headers, model, plan, task};
use tiling::{Numerics, Rates, StageGeometry};

const HEAD: Peer = Peer::Coordinator;
const MS: Nanos = 1_000_000;

/// Two workers that are connected, and the time that words between them take.
struct Two {
    workers: [Worker; 2],
    now: Nanos,
    /// One way of a word.
    way_ns: Nanos,
    /// Bytes a millisecond of what a word carries.
    bytes_per_ms: u64,
    /// What the coordinator was told, by whom.
    told: Vec<(usize, PairLink)>,
    /// Echoes that were asked: the padding of each.
    asked: Vec<usize>,
}

impl Two {
    fn new() -> Self {
        let worker =
            |name: &str| Worker::new(Hello::new(name, 1, Rates::uniform(5), 0)).measuring();
        let workers = [worker("a"), worker("b")];
        let (told, asked) = (Vec::new(), Vec::new());
        let mut two = Self { workers, now: 0, way_ns: MS, bytes_per_ms: 10_000, told, asked };
        for (i, id) in [W0, W1].into_iter().enumerate() {
            two.handle(i, Input::Connected);
            two.handle(i, Input::Message(HEAD, Message::Welcome { worker: id, oldest: None }));
        }
        two
    }

    fn meet(&mut self) {
        // The one that answers is there first.
        self.handle(1, Input::PeerUp(W0));
        self.handle(0, Input::PeerUp(W1));
    }

    /// Gives one of them an input, and lets what they say to each other arrive.
    fn handle(&mut self, at: usize, input: Input) {
        self.workers[at].handle(self.now, input);
        while let Some(output) = self.workers[at].poll_output() {
            match output {
                Output::Send(HEAD, Message::PairLink { peer, bytes_per_s, round_trip_ns }) => {
                    self.told.push((at, PairLink { peer, bytes_per_s, round_trip_ns }));
                }
                Output::Send(Peer::Worker(_), message) => {
                    if let (0, Message::Echo { padding, .. }) = (at, &message) {
                        self.asked.push(padding.len());
                    }
                    self.now += self.way_ns + MS * message.padding() / self.bytes_per_ms;
                    let from = Peer::Worker(WorkerId(at as u32));
                    self.handle(1 - at, Input::Message(from, message));
                }
                Output::Disconnect(peer, reason) => panic!("{peer:?}: {reason}"),
                _ => {}
            }
        }
    }

    /// Lets time pass up to then, with the coordinator alive.
    fn wait(&mut self, until: Nanos) {
        while self.now < until {
            let next = (0..2).filter_map(|i| self.workers[i].next_deadline()).min().unwrap();
            self.now = next.clamp(self.now + 1, until);
            (0..2).for_each(|i| self.handle(i, Input::Message(HEAD, Message::Heartbeat)));
        }
    }
}

/// Inputs of a task, or pieces of an exchange.
fn bundle(kind: BundleKind) -> Bundle {
    let model = model();
    let stages = plan(&[0, 0, 0, 0]).stages;
    let stage = StageGeometry::new(&model, Numerics::Exact, 0, &stages[0]).unwrap();
    Bundle {
        kind,
        plan: PlanId(1),
        task: task(0, 0, 0),
        attempt: 1,
        pieces: headers(&model, &stage.tiles[0].inputs),
        forms: Vec::new(),
        orders: Orders::default(),
    }
}

#[test]
fn the_smaller_id_measures_and_tells() {
    let mut two = Two::new();
    two.meet();
    let [(0, pair)] = two.told[..] else { panic!("{:?}", two.told) };
    // Ten thousand bytes a millisecond; the short words carry one.
    assert_eq!((pair.peer, pair.round_trip_ns), (W1, 2 * MS + 200));
    assert!((9_900_000..10_100_000).contains(&pair.bytes_per_s), "{pair:?}");
    assert_eq!(two.asked, [1, 1, 1, 1, 32 << 10, 32 << 10, 32 << 10]);
    // It is measured again now and then, and told where it is another.
    two.wait(50 * SECOND);
    assert_eq!(two.asked.len(), 7);
    two.bytes_per_ms = 1000;
    two.wait(70 * SECOND);
    assert_eq!(two.asked.len(), 14);
    let [_, (0, slower)] = two.told[..] else { panic!("{:?}", two.told) };
    assert!((990_000..1_010_000).contains(&slower.bytes_per_s), "{slower:?}");
    two.wait(140 * SECOND);
    assert_eq!((two.asked.len(), two.told.len()), (21, 2), "nothing new is not told");
}

#[test]
fn a_way_that_stays_as_it_was_is_measured_ever_less_often() {
    let mut two = Two::new();
    two.meet();
    let each = two.asked.len();
    // After 1, 3, 7, 15, 31 and 47 minutes.
    two.wait(3600 * SECOND);
    assert_eq!((two.asked.len(), two.told.len()), (7 * each, 1));
    // One that is another is looked at again soon.
    two.bytes_per_ms = 1000;
    two.wait(65 * 60 * SECOND);
    assert_eq!((two.asked.len(), two.told.len()), (9 * each, 2));
}

#[test]
fn who_has_other_things_to_do_is_measured_later() {
    for busy in [0, 1] {
        let mut two = Two::new();
        two.handle(busy, Input::Bundle(HEAD, bundle(BundleKind::Scatter)));
        two.meet();
        assert!(two.told.is_empty(), "{busy}");
        assert!(two.asked.iter().all(|&padding| padding == 1), "{busy}: {:?}", two.asked);
        // The task is taken away again.
        let forget = Message::Forget { frame: task(0, 0, 0).frame, oldest: None };
        two.handle(busy, Input::Message(HEAD, forget));
        two.wait(two.now + 2 * SECOND);
        assert_eq!(two.told.len(), 1, "{busy}");
    }
}

#[test]
fn who_is_measured_by_one_has_no_time_for_another() {
    let mut worker = Worker::new(Hello::new("c", 1, Rates::uniform(5), 0)).measuring();
    worker.handle(0, Input::Connected);
    worker.handle(0, Input::Message(HEAD, Message::Welcome { worker: W2, oldest: None }));
    let mut answers = |now: Nanos, from: WorkerId| {
        let echo = Message::Echo { sent_ns: now, padding: vec![0] };
        worker.handle(now, Input::Message(Peer::Worker(from), echo.clone()));
        std::iter::from_fn(|| worker.poll_output())
            .any(|o| o == Output::Send(Peer::Worker(from), echo.clone()))
    };
    assert!(answers(MS, W0));
    assert!(!answers(2 * MS, W1));
    assert!(answers(3 * MS, W0));
    assert!(answers(SECOND, W1));
    assert!(!answers(SECOND + MS, W0));
    // While the coordinator measures, it alone is answered.
    let echo = Message::Echo { sent_ns: 7, padding: Vec::new() };
    worker.handle(2 * SECOND, Input::Message(HEAD, echo));
    let mut answered = |now: Nanos| {
        let echo = Message::Echo { sent_ns: now, padding: vec![0] };
        worker.handle(now, Input::Message(Peer::Worker(W1), echo.clone()));
        std::iter::from_fn(|| worker.poll_output())
            .any(|o| o == Output::Send(Peer::Worker(W1), echo.clone()))
    };
    assert!(!answered(2 * SECOND + MS));
    assert!(answered(3 * SECOND));
}

#[test]
fn a_worker_that_was_not_told_to_measure_answers_and_asks_nobody() {
    let mut two = Two::new();
    two.workers = [("a", W0), ("b", W1)].map(|(name, id)| {
        let mut worker = Worker::new(Hello::new(name, 1, Rates::uniform(5), 0));
        worker.handle(0, Input::Connected);
        worker.handle(0, Input::Message(HEAD, Message::Welcome { worker: id, oldest: None }));
        worker
    });
    two.meet();
    assert!(two.told.is_empty() && two.asked.is_empty());
    let echo = Message::Echo { sent_ns: 5, padding: vec![7; 3] };
    let mut outputs = Vec::new();
    two.workers[1].handle(two.now, Input::Message(Peer::Worker(W0), echo.clone()));
    outputs.extend(std::iter::from_fn(|| two.workers[1].poll_output()));
    assert!(outputs.contains(&Output::Send(Peer::Worker(W0), echo)), "{outputs:?}");
}

#[test]
fn no_answer_and_odd_answers_do_no_harm() {
    let hello = Hello::new("a", 1, Rates::uniform(5), 0);
    let mut worker = Worker::new(hello).measuring();
    let mut handle = |now: Nanos, input: Input| {
        worker.handle(now, input);
        let outputs = std::iter::from_fn(|| worker.poll_output()).collect::<Vec<_>>();
        (outputs, worker.next_deadline())
    };
    handle(0, Input::Connected);
    handle(0, Input::Message(HEAD, Message::Welcome { worker: W0, oldest: None }));
    let (outputs, deadline) = handle(MS, Input::PeerUp(W1));
    let echo = Message::Echo { sent_ns: MS, padding: vec![0] };
    assert!(outputs.contains(&Output::Send(Peer::Worker(W1), echo)));
    assert!(deadline.unwrap() <= 2 * SECOND + MS);
    let from = |id, message| Input::Message(Peer::Worker(id), message);
    let echo = |sent_ns, padding| Message::Echo { sent_ns, padding };
    // Not what was asked, and not by whom.
    let odd = [
        from(W1, echo(99, vec![0])),
        from(W2, echo(MS, vec![0])),
        from(W1, Message::Arrived { task: task(9, 9, 9), bytes: u64::MAX }),
    ];
    for input in odd {
        assert_eq!(handle(2 * MS, input).0, []);
    }
    // Nobody waits for ever, and what comes then is too late.
    handle(3 * SECOND, Input::Tick);
    assert_eq!(handle(3 * SECOND, from(W1, echo(MS, vec![0]))).0, []);
    let (outputs, _) = handle(3 * SECOND, from(W1, echo(MS, vec![0; (32 << 10) + 1])));
    assert!(matches!(outputs[..], [Output::Disconnect(Peer::Worker(W1), _)]), "{outputs:?}");
}

#[test]
fn the_coordinator_knows_a_pair_from_both_ends_until_one_begins_anew() {
    let mut bench = Bench::new(&[0, 0], CoordinatorConfig::default());
    bench.join(W0, 1000);
    bench.join(W1, 1000);
    assert!(!bench.machine.all_pairs_measured());
    let pair = |peer, bytes_per_s| Message::PairLink { peer, bytes_per_s, round_trip_ns: 3 * MS };
    let pairs = |bench: &Bench, id| bench.machine.profile(id).unwrap().pairs;
    // Who is not to tell is not heard, nor of whom nobody knows.
    bench.says(W1, pair(W0, 5_000_000));
    bench.says(W0, pair(W2, 5_000_000));
    bench.says(W0, pair(W0, 5_000_000));
    assert_eq!(pairs(&bench, W0), []);
    bench.says(W0, pair(W1, 5_000_000));
    let known = |peer| PairLink { peer, bytes_per_s: 5_000_000, round_trip_ns: 3 * MS };
    assert_eq!((pairs(&bench, W0), pairs(&bench, W1)), (vec![known(W1)], vec![known(W0)]));
    assert!(bench.machine.all_pairs_measured());
    bench.says(W0, Message::PairLink { peer: W1, bytes_per_s: 0, round_trip_ns: u64::MAX });
    let [bounded] = pairs(&bench, W0)[..] else { panic!("{:?}", pairs(&bench, W0)) };
    assert!(bounded.bytes_per_s > 0 && bounded.round_trip_ns <= 60 * SECOND);
    bench.join(W1, 1000);
    assert_eq!((pairs(&bench, W0), pairs(&bench, W1)), (vec![], vec![]));
}
