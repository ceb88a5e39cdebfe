//! Runner 4: tiled in the simulated cluster, with faults drawn from a seed.
//!
//! Faults first, then heal: whatever strikes in the first [`FAULTS_END_NS`], afterwards every link
//! carries, every crashed worker is back, and every frame must complete.

use crate::{Built, Maps};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Nanos, SECOND};
use sim::{Cluster, DeviceModel, Fault, FaultKind, LinkSpec, Outcome, Payload, Random, Scenario};
use sim::{Violation, WorkerSpec};
use tiling::Rates;

/// When the last fault is over.
pub const FAULTS_END_NS: Nanos = 20 * SECOND;

/// A scenario in which everything may happen, drawn from a seed.
pub fn scenario(seed: u64, built: &Built, strategy: Strategy, options: PlanOptions) -> Scenario {
    let mut random = Random::new(seed ^ 0x5eed);
    let workers = 1 + random.below(4) as usize;
    let rates = [20_000u64, 100_000, 1_000_000, 50_000_000];
    let spec = |random: &mut Random| {
        let multiply_adds_per_s = random.pick(&rates);
        // Some lie about their speed, some never measured it.
        let claims = Rates::uniform(random.pick(&[multiply_adds_per_s, 1_000_000, 0]));
        let latency_ns = random.pick(&[0, 200_000, 5_000_000]);
        let bytes_per_s = random.pick(&[50_000, 1_000_000, 100_000_000]);
        let jitter_ns = random.pick(&[0, 300_000, 20_000_000]);
        let link = LinkSpec::wire(latency_ns, bytes_per_s, jitter_ns);
        let joins_ns = random.pick(&[0, 0, 0, 30_000_000, 3 * SECOND]);
        let device = DeviceModel::plain(multiply_adds_per_s);
        WorkerSpec { claims, joins_ns, ..WorkerSpec::of(device, link) }
    };
    let workers: Vec<WorkerSpec> = (0..workers).map(|_| spec(&mut random)).collect();
    let faults = faults(&mut random, workers.len());
    let ends = faults.iter().filter(|f| f.kind.is_the_end_of_a_process());
    let machine = CoordinatorConfig {
        // However many end while they run a task, it is not to blame.
        deaths_max: 4 + ends.count() as u32,
        window_tasks_max: 1 + random.below(4) as usize,
        frames_in_flight_max: 1 + random.below(3) as usize,
        stealing: random.below(5) > 0,
        ..CoordinatorConfig::default()
    };
    let patience_ns = 3600 * SECOND;
    let payload = Payload::Values(built.frames.clone());
    let frame_interval_ns = random.pick(&[0, 1_000_000, SECOND]);
    let base = Scenario::new(built.model.clone(), Vec::new(), &[]);
    // Workers exchange pieces as soon as all have found each other.
    let exchange = options.handover == Some(tiling::Handover::Exchange);
    Scenario {
        seed,
        frames_from_ns: if exchange { SECOND / 100 } else { 0 },
        payload,
        frame_interval_ns,
        strategy,
        options,
        machine,
        workers,
        faults,
        patience_ns,
        ..base
    }
}

fn faults(random: &mut Random, workers: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for _ in 0..random.below(7) {
        // Early ones strike while tasks are out, late ones an idle or struggling cluster.
        let horizon = random.pick(&[10_000_000, 300_000_000, SECOND, FAULTS_END_NS / 2]);
        let at_ns = random.below(horizon);
        let a = random.below(workers as u64) as usize;
        let b = random.below(workers as u64) as usize;
        let kind = match random.below(6) {
            0 | 1 => FaultKind::Crash(a),
            2 => FaultKind::PowerLoss(a),
            3 => FaultKind::Stall(a, random.pick(&[100_000_000, SECOND, 6 * SECOND])),
            4 => FaultKind::SlowDown(a, random.pick(&[3, 20])),
            _ => FaultKind::Cut(a, b),
        };
        match kind {
            FaultKind::Crash(_) | FaultKind::PowerLoss(_) => {
                // Some come back before anybody noticed, all are back in the end.
                let back_ns = at_ns + random.pick(&[1_000_000, SECOND, 8 * SECOND]);
                faults.push(Fault { at_ns: back_ns, kind: FaultKind::Restart(a) });
            }
            FaultKind::Cut(..) => {
                faults.push(Fault { at_ns: FAULTS_END_NS, kind: FaultKind::Heal(a, b) });
            }
            _ => {}
        }
        faults.push(Fault { at_ns, kind });
    }
    faults
}

/// Runs a scenario; a broken promise names the seed that replays it.
///
/// *Errors*: the first broken promise, with its replay.
pub fn run(scenario: Scenario) -> Result<Outcome, (Violation, String)> {
    let Scenario { seed, strategy, .. } = scenario;
    let traced = std::env::var_os("SIM_TRACE").is_some();
    let cluster = Cluster::new(scenario);
    let cluster = if traced { cluster.traced() } else { cluster };
    cluster.run().map_err(|v| (v, format!("replay: seed {seed} strategy {}", strategy.name())))
}

/// The answers of all frames.
pub fn answers(outcome: &Outcome) -> &[Maps] {
    &outcome.outputs
}
