//! How long planning takes, and how good the plans are: `scripts/bench-planner` makes pages of it.
//!
//! Prints JSON: planning time against devices and layers, `auto` beside every other strategy on a
//! fixed matrix of models, clusters and links, and how far plans are from the lower bound, with what
//! is left of that where links cost nothing.

use model::{LoadOptions, LoadedModel, open};
use planner::{Cost, DeviceProfile, PlanOptions, Strategy, plan};
use serde_json::{Value, json};
use std::time::Instant;
use tiling::{Plan, Rates};

/// From small to large.
const TIMED: [&str; 7] = [
    "zoo:tiny-yolov2@416x416",
    "zoo:vgg16@224x224",
    "zoo:yolov2@416x416",
    "zoo:resnet50@224x224",
    "zoo:mobilenetv2@224x224",
    "zoo:efficientnet-b0@224x224",
    "zoo:densenet121@224x224",
];

const DEVICES: [usize; 9] = [1, 2, 4, 8, 16, 32, 50, 75, 100];

const MODELS: [&str; 6] = [
    "zoo:vgg16@224x224",
    "zoo:yolov2@416x416",
    "zoo:resnet50@224x224",
    "zoo:mobilenetv2@224x224",
    "zoo:unet@256x256",
    "zoo:efficientnet-b0@224x224",
];

/// Speeds of the devices of a cluster, in thousands of millions of multiply-adds a second.
const CLUSTERS: [(&str, &[u64]); 5] = [
    ("two alike", &[6, 6]),
    ("four alike", &[6, 6, 6, 6]),
    ("eight alike", &[6, 6, 6, 6, 6, 6, 6, 6]),
    ("a laptop and three boards", &[20, 6, 6, 5]),
    ("what lies around", &[12, 6, 6, 3, 8, 10]),
];

/// Bytes a second, and the time of a message there and back.
const LINKS: [(&str, u64, u64); 4] = [
    ("Wi-Fi, 20 Mbit/s", 2_500_000, 4_000_000),
    ("Wi-Fi, 200 Mbit/s", 25_000_000, 2_500_000),
    ("100 Mbit/s", 11_800_000, 400_000),
    ("1 Gbit/s", 117_000_000, 250_000),
];

/// The fastest of so many, since something else may run beside it.
const ROUNDS: usize = 3;

fn devices(speeds: &[u64], link: (u64, u64)) -> Vec<DeviceProfile> {
    let on_air = link.1 > 1_000_000;
    let device = |(i, &speed): (usize, &u64)| DeviceProfile {
        link_bytes_per_s: link.0,
        round_trip_ns: link.1,
        // Only radios are so slow: one in ten words takes twice as long there, and all share the air.
        late_round_trip_ns: if on_air { 2 * link.1 } else { link.1 },
        air: on_air.then_some(0),
        ..DeviceProfile::wired(format!("d{i}"), Rates::typical(speed * 1_000_000_000))
    };
    speeds.iter().enumerate().map(device).collect()
}

fn many(count: usize) -> Vec<u64> {
    [6, 4, 10, 6, 3, 8].into_iter().cycle().take(count).collect()
}

fn load(name: &str) -> Result<LoadedModel, String> {
    open(name, &LoadOptions::default()).map_err(|error| format!("{name}: {error}"))
}

fn made(
    model: &LoadedModel,
    devices: &[DeviceProfile],
    strategy: Strategy,
) -> Result<(Plan, Cost), String> {
    plan(&model.graph, devices, strategy, PlanOptions::default()).map_err(|e| e.to_string())
}

fn times() -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    for name in TIMED {
        let model = load(name)?;
        for count in DEVICES {
            for (link, bytes_per_s, round_trip_ns) in [LINKS[2], LINKS[3]] {
                let devices = devices(&many(count), (bytes_per_s, round_trip_ns));
                let mut least = f64::INFINITY;
                for _ in 0..ROUNDS {
                    let began = Instant::now();
                    made(&model, &devices, Strategy::Auto)?;
                    least = least.min(began.elapsed().as_secs_f64());
                }
                let layers = model.graph.layers.len();
                rows.push(json!({
                    "model": name, "layers": layers, "devices": count, "link": link, "s": least,
                }));
            }
        }
    }
    Ok(rows)
}

fn matrix() -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    for name in MODELS {
        let model = load(name)?;
        for (cluster, speeds) in CLUSTERS {
            for (link, bytes_per_s, round_trip_ns) in LINKS {
                let devices = devices(speeds, (bytes_per_s, round_trip_ns));
                let mut others = serde_json::Map::new();
                for strategy in Strategy::ALL {
                    let (_, cost) = made(&model, &devices, strategy)?;
                    others.insert(strategy.name().into(), json!(cost.makespan_ns));
                }
                let (plan, cost) = made(&model, &devices, Strategy::Auto)?;
                rows.push(json!({
                    "model": name, "cluster": cluster, "link": link, "makespan_ns": others,
                    "bound_ns": cost.bound_ns, "one_device_ns": cost.one_device_ns,
                    "devices": planner::devices_used(&plan), "stages": plan.stages.len(),
                }));
            }
        }
    }
    Ok(rows)
}

fn gaps() -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    for name in &MODELS[..6] {
        if !["vgg16", "yolov2", "resnet50", "unet"].iter().any(|known| name.contains(known)) {
            continue;
        }
        let model = load(name)?;
        for count in [4, 8] {
            for (link, bytes_per_s, round_trip_ns) in [LINKS[2], LINKS[3]] {
                let speeds = vec![6; count];
                let (plan, cost) =
                    made(&model, &devices(&speeds, (bytes_per_s, round_trip_ns)), Strategy::Auto)?;
                // The same devices with links that cost nothing.
                let (_, free) = made(&model, &devices(&speeds, (1 << 50, 0)), Strategy::Auto)?;
                rows.push(json!({
                    "model": name, "devices": count, "link": link,
                    "makespan_ns": cost.makespan_ns, "bound_ns": cost.bound_ns,
                    "bound": cost.bound, "free_links_ns": free.makespan_ns,
                    "free_links_bound_ns": free.bound_ns, "free_redundancy": free.redundancy(),
                    "redundancy": cost.redundancy(), "moved_bytes": cost.moved_bytes(),
                    "used": planner::devices_used(&plan),
                    "one_device_ns": cost.one_device_ns,
                }));
            }
        }
    }
    Ok(rows)
}

fn main() -> Result<(), String> {
    let (times, matrix, gaps) = (times()?, matrix()?, gaps()?);
    println!("{:#}", json!({ "times": times, "matrix": matrix, "gaps": gaps }));
    Ok(())
}
