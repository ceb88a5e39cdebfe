//! What the simulator and the scheduler reach, as JSON: see `scripts/bench-sim`.
//!
//! Everything but the wall times follows from the seeds.

use model::builder::Builder;
use model::{Activation, LoadedModel, Op, Shape, Window};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Nanos, SECOND};
use serde_json::{Value, json};
use sim::files::{DeviceFile, LinkFile};
use sim::{Cluster, Fault, FaultKind, Outcome, Payload, Random, Scenario, Weights, WorkerSpec};
use std::time::Instant;
use tiling::Numerics;

/// Six 3x3 convolutions of 64 channels over 160 x 160: some 0.2 s on a Pi 4.
fn network() -> LoadedModel {
    let mut random = Random::new(1);
    let mut build = Builder::new("chain", "chain");
    let shape = Shape::Spatial { channels: 64, rows: 160, cols: 160 };
    let mut at = build.input("x", shape).expect("a small input");
    for i in 0..6 {
        let values: Vec<f32> = (0..64 * 64 * 9).map(|_| random.value()).collect();
        let weights = build.weight(values, &[64, 64, 3, 3]).expect("few weights");
        let window = Window::square(3, 1, 1);
        let activation = Activation::Relu;
        let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
        at = build.layer(&format!("conv{i}"), op, &[at]).expect("it fits");
    }
    build.output(at);
    build.finish().expect("a sound graph")
}

fn workers(devices: &[&str], link: &str) -> Vec<WorkerSpec> {
    let link = LinkFile::open(link).expect("it comes with the program").spec(0, 1.0);
    let worker = |name: &&str| {
        let mut device = DeviceFile::open(name).expect("it comes with the program").model();
        (device.load, device.thermal) = (None, None);
        WorkerSpec::of(device, link)
    };
    devices.iter().map(worker).collect()
}

fn scenario(model: &LoadedModel, workers: Vec<WorkerSpec>, seed: u64, grid: usize) -> Scenario {
    let head_link = LinkFile::open("ethernet-1g").expect("it comes with the program").spec(9, 1.0);
    Scenario {
        seed,
        payload: Payload::Sizes(1),
        frames_from_ns: SECOND,
        weights: Weights::OnDisk,
        strategy: Strategy::DeepThings,
        options: PlanOptions {
            grid: Some((grid, grid)),
            fused_layers: Some(6),
            numerics: Numerics::Fast,
            ..PlanOptions::EXACT
        },
        machine: CoordinatorConfig { frames_waiting_max: 1 << 20, ..Default::default() },
        head_link,
        steps_max: u64::MAX,
        patience_ns: 36_000 * SECOND,
        ..Scenario::sized(model.clone(), 1, workers)
    }
}

fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    Cluster::new(scenario).run().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"))
}

fn spread(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize];
    json!({ "median": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0), "n": values.len() })
}

const WIRED: [&str; 6] =
    ["pi-4b-fan", "pi-5", "jetson-nano", "pi-3b-plus", "mini-n100", "pi-4b-fan"];

/// Makespan / lower bound of random clusters of 3 to 8 devices.
fn against_bound(model: &LoadedModel, link: &str, seeds: u64, grid: usize) -> (Value, u64, u64) {
    let (mut ratios, mut backups, mut tasks) = (Vec::new(), 0, 0);
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let names: Vec<&str> = (0..3 + random.below(6)).map(|_| random.pick(&WIRED)).collect();
        let outcome = run(scenario(model, workers(&names, link), seed, grid));
        ratios.push(outcome.makespan_ns as f64 / outcome.bound.frame_ns as f64);
        backups += outcome.counters.backups;
        tasks += outcome.counters.tasks;
    }
    (spread(ratios), backups, tasks)
}

/// Four Pi 4, of which one changes in mid-frame; `left` is the part of its speed that it keeps.
fn disturbed(
    model: &LoadedModel,
    kind: impl Fn(usize) -> FaultKind,
    (left, tiles, detection_ns): (f64, f64, Nanos),
    seeds: u64,
) -> (Value, u64, u64) {
    let four = || workers(&["pi-4b-fan"; 4], "ethernet-1g");
    let calm = run(scenario(model, four(), 0, 8));
    let (mut ratios, mut backups, mut tasks) = (Vec::new(), 0, 0);
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        let from = calm.ended_ns - calm.makespan_ns;
        let at_ns = from + calm.makespan_ns / 5 + random.below(calm.makespan_ns / 2);
        let mut scenario = scenario(model, four(), seed, 8);
        scenario.faults = vec![Fault { at_ns, kind: kind(random.below(4) as usize) }];
        let outcome = run(scenario);
        // What a schedule that knew would need: the work that is left, on what is left.
        let bound = outcome.bound.frame_ns as f64;
        let passed = (at_ns - from) as f64;
        let clairvoyant = (bound - 0.25 * (1.0 - left) * passed) / (0.75 + 0.25 * left);
        let tile_ns = 4.0 * bound / 64.0;
        let allowed = clairvoyant + detection_ns as f64 + tiles * tile_ns;
        ratios.push(outcome.makespan_ns as f64 / allowed);
        backups += outcome.counters.backups;
        tasks += outcome.counters.tasks;
    }
    (spread(ratios), backups, tasks)
}

/// Makespan with stealing / without, where the plan is perfect.
fn stealing_cost(model: &LoadedModel, seeds: u64) -> Value {
    let mut ratios = Vec::new();
    for seed in 0..seeds {
        let time = |stealing: bool| {
            let four = workers(&["pi-4b-fan"; 4], "ethernet-1g");
            let mut scenario = scenario(model, four, seed, 8);
            scenario.machine.stealing = stealing;
            run(scenario).makespan_ns as f64
        };
        ratios.push(time(true) / time(false));
    }
    spread(ratios)
}

fn speed(model: &LoadedModel, devices: usize, frames: usize, grid: usize) -> Value {
    let names = vec!["pi-4b-fan"; devices];
    let mut scenario = scenario(model, workers(&names, "ethernet-1g"), 1, grid);
    scenario.payload = Payload::Sizes(frames);
    scenario.machine.frames_waiting_bytes_max = u64::MAX / 2;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let outcome = run(scenario);
    let seconds = began.elapsed().as_secs_f64();
    // Of one core, whatever else the machine does meanwhile.
    let cpu = cpu_seconds().zip(cpu).map_or(seconds, |(after, before)| after - before);
    json!({
        "devices": devices, "frames": frames, "tasks": outcome.counters.tasks,
        "steps": outcome.steps, "wall_seconds": seconds, "cpu_seconds": cpu,
        "steps_per_cpu_second": outcome.steps as f64 / cpu,
        "peak_rss_mb": peak_rss_mb(),
    })
}

fn rate(run: &Value) -> f64 {
    run["steps_per_cpu_second"].as_f64().unwrap_or(0.0)
}

/// Time that this thread has run, as Linux counts it.
fn cpu_seconds() -> Option<f64> {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    Some(schedstat.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

fn peak_rss_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
}

fn main() {
    let seeds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000);
    let model = network();
    // The machine is shared: the median of five.
    let mut fast: Vec<Value> = (0..5).map(|_| speed(&model, 32, 400, 12)).collect();
    fast.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    let fast = fast.swap_remove(2);
    let large_250 = speed(&model, 250, 100, 16);
    let large_500 = speed(&model, 500, 100, 23);
    let large = speed(&model, 1000, 100, 32);
    let (wired, b1, t1) = against_bound(&model, "ethernet-1g", seeds, 10);
    let (wifi, b2, t2) = against_bound(&model, "wifi-ac-near", seeds, 10);
    let slow = |i| FaultKind::SlowDown(i, 4);
    let (slowed, b3, t3) = disturbed(&model, slow, (0.25, 0.0, 0), seeds);
    let (killed, b4, t4) = disturbed(&model, FaultKind::Crash, (0.0, 1.5, 1_000_000), seeds);
    let silence = 4 * SECOND;
    let (silent, b5, t5) = disturbed(&model, FaultKind::PowerLoss, (0.0, 1.5, silence), seeds);
    let (backups, tasks) = (b1 + b2 + b3 + b4 + b5, t1 + t2 + t3 + t4 + t5);
    let result = json!({
        "speed": { "32 devices": fast, "250": large_250, "500": large_500, "1000": large },
        "makespan / bound, wired": wired,
        "makespan / bound, Wi-Fi": wifi,
        "one of four 4x slower: makespan / clairvoyant": slowed,
        "one of four killed: makespan / (bound of the rest + detection + 1.5 tiles)": killed,
        "one of four silent: makespan / (bound of the rest + 4 s + 1.5 tiles)": silent,
        "perfect plan: makespan with stealing / without": stealing_cost(&model, seeds),
        "backup copies / tasks": backups as f64 / tasks as f64,
    });
    println!("{}", serde_json::to_string_pretty(&result).expect("numbers are JSON"));
}
