//! What the coordinator comes to know of a worker: its link, its speed, how it is.

mod support;

use protocol::coordinator::Output;
use protocol::{Battery, CoordinatorConfig, Health, Message, SECOND, WorkerProfile};
use support::{Bench, W0, W1, task};
use tiling::{OperatorClass, Rates};

const MS: u64 = 1_000_000;

fn bench() -> Bench {
    Bench::new(&[0, 0], CoordinatorConfig { stealing: false, ..CoordinatorConfig::default() })
}

fn profile(bench: &Bench) -> WorkerProfile {
    bench.machine.profile(W0).expect("it is there")
}

/// The echoes among some outputs: when each was sent, and how much it carries.
fn echoes(outputs: &[Output]) -> Vec<(u64, usize)> {
    let one = |output: &Output| match output {
        Output::Send(W0, Message::Echo { sent_ns, padding }) => Some((*sent_ns, padding.len())),
        _ => None,
    };
    outputs.iter().filter_map(one).collect()
}

#[test]
fn a_link_is_measured_as_a_worker_joins() {
    let mut bench = bench();
    bench.now = 5 * MS;
    let joined = bench.join(W0, 1_000_000);
    assert_eq!(echoes(&joined), [(5 * MS, 0)]);
    assert_eq!((profile(&bench).link_bytes_per_s, profile(&bench).round_trip_ns), (None, None));
    bench.now += 2 * MS;
    let second = bench.says(W0, Message::Echo { sent_ns: 5 * MS, padding: Vec::new() });
    let [(sent_ns, carried)] = echoes(&second)[..] else { panic!("{second:?}") };
    assert_eq!((sent_ns, profile(&bench).round_trip_ns), (7 * MS, Some(2 * MS)));
    // Ten milliseconds for the load there and back.
    bench.now += 12 * MS;
    let third = bench.says(W0, Message::Echo { sent_ns, padding: vec![0; carried] });
    // Some more: short ones to learn how late they can be, and loads, as something is in the way of one.
    let mut asked = echoes(&third);
    let (mut short, mut loads) = (0, 0);
    while let [(sent_ns, more)] = asked[..] {
        bench.now += match more {
            0 => 2 * MS + short % 2 * MS,
            _ => [12, 30][loads] * MS,
        };
        (short, loads) = if more == 0 { (short + 1, loads) } else { (short, loads + 1) };
        asked = echoes(&bench.says(W0, Message::Echo { sent_ns, padding: vec![0; more] }));
    }
    assert!(asked.is_empty() && (short, loads) == (7, 2), "{short} {loads}");
    let late = profile(&bench).late_round_trip_ns.unwrap();
    assert!(late > 2 * MS + MS / 2 && late < 4 * MS, "{late}");
    let expected = 2 * carried as u64 * 100;
    assert_eq!(profile(&bench).link_bytes_per_s, Some(expected));
    assert_eq!(bench.machine.profile(W1), None);
}

#[test]
fn the_round_trip_is_asked_for_again_now_and_then() {
    let mut bench = bench();
    bench.join(W0, 1_000_000);
    let later = bench.wait(20 * SECOND, &[]);
    let asked = echoes(&later);
    assert!(asked.len() >= 2 && asked.iter().all(|&(_, carried)| carried == 0), "{asked:?}");
    let beats = later.iter().filter(|o| matches!(o, Output::Send(W0, Message::Heartbeat)));
    assert!(beats.count() > asked.len());
}

#[test]
fn tasks_correct_what_a_worker_measured() {
    let mut bench = bench();
    // Each of its tasks takes a millisecond, which is much less than it says.
    bench.join(W0, 1000);
    let before = profile(&bench);
    assert_eq!(
        (before.rates, before.measured, before.speed),
        (Rates::uniform(1000), before.rates, 1.0)
    );
    bench.submit(0);
    bench.returns(W0, task(0, 0, 0), 1);
    let after = profile(&bench);
    assert!(after.speed > 1.0, "{after:?}");
    assert!(after.rates.per_s(OperatorClass::Conv3x3) > 1000, "{after:?}");
    assert_eq!(after.measured, before.measured);
}

#[test]
fn a_worker_that_comes_back_is_taken_at_its_word_again() {
    let mut bench = bench();
    bench.join(W0, 1000);
    bench.submit(0);
    bench.returns(W0, task(0, 0, 0), 1);
    bench.join(W0, 2000);
    assert_eq!(profile(&bench).rates, Rates::uniform(2000));
    assert_eq!(profile(&bench).speed, 1.0);
}

#[test]
fn a_worker_tells_how_it_is() {
    let mut bench = bench();
    bench.join(W0, 1000);
    assert_eq!(profile(&bench).health, Health::default());
    let health = Health {
        free_bytes: Some(7),
        temperature_mc: Some(61_000),
        throttled: Some(0b100),
        battery: Some(Battery { percent: 40, discharging: true }),
        wireless: Some(true),
    };
    assert!(health.is_throttled());
    assert_eq!(bench.says(W0, Message::Health(health.clone())), []);
    assert_eq!(profile(&bench).health, health);
}
