//! What playing plans through takes, and what it saves: `scripts/bench-planner` puts it beside what planning
//! alone takes.
//!
//! Prints JSON, one entry for each model, number of devices and link: seconds to plan without and with
//! rehearsals, and the simulated time of a frame by the plan that came of each.

use model::{LoadOptions, open};
use planner::{DeviceProfile, PlanOptions, Strategy};
use serde_json::{Value, json};
use sim::rehearsal::Wish;
use std::time::Instant;
use tiling::Rates;

const MODELS: [&str; 4] = [
    "zoo:vgg16@224x224",
    "zoo:resnet50@224x224",
    "zoo:unet@256x256",
    // The most layers of the zoo.
    "zoo:densenet121@224x224",
];

const DEVICES: [usize; 4] = [2, 4, 8, 16];

/// Bytes a second, and the time of a message there and back.
const LINKS: [(&str, u64, u64); 2] =
    [("100 Mbit/s", 11_800_000, 400_000), ("1 Gbit/s", 117_000_000, 250_000)];

type Failed = Box<dyn std::error::Error>;

fn row(name: &str, count: usize, link: (&str, u64, u64)) -> Result<Value, Failed> {
    let model = open(name, &LoadOptions::default())?;
    let device = |i: usize| DeviceProfile {
        link_bytes_per_s: link.1,
        round_trip_ns: link.2,
        late_round_trip_ns: link.2,
        ..DeviceProfile::wired(format!("d{i}"), Rates::typical(6_000_000_000))
    };
    let devices: Vec<DeviceProfile> = (0..count).map(device).collect();
    let wish = |rehearsed| Wish {
        graph: &model.graph,
        devices: &devices,
        strategy: Strategy::Auto,
        options: PlanOptions::default(),
        rehearsed,
    };
    let made = |rehearsed| -> Result<(f64, u64), Failed> {
        let began = Instant::now();
        let (plan, _) = wish(rehearsed).plan()?;
        let took_s = began.elapsed().as_secs_f64();
        let ns = wish(rehearsed).rehearse(&plan).ok_or("the simulated frame does not end")?;
        Ok((took_s, ns))
    };
    let ((alone_s, alone_ns), (rehearsed_s, rehearsed_ns)) = (made(false)?, made(true)?);
    Ok(json!({
        "model": name, "layers": model.graph.layers.len(), "devices": count, "link": link.0,
        "alone_s": alone_s, "rehearsed_s": rehearsed_s,
        "alone_ns": alone_ns, "rehearsed_ns": rehearsed_ns,
    }))
}

fn main() -> Result<(), Failed> {
    let mut rows = Vec::new();
    for name in MODELS {
        for count in DEVICES {
            for link in LINKS {
                rows.push(row(name, count, link)?);
            }
        }
    }
    println!("{:#}", json!(rows));
    Ok(())
}
