//! `tilehive devices`.

use super::{SETTLE_TO_TELL, listen, open_locals, spinner};
use crate::cli::{Context, DevicesArguments};
use crate::cluster::Device;
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use protocol::CoordinatorConfig;
use std::time::Duration;
use tiling::OperatorClass;
use tiling::work::Unit;

const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) async fn run(context: &Context, arguments: DevicesArguments) -> Result<(), Failure> {
    let machine = CoordinatorConfig::default();
    let cluster = &arguments.cluster;
    let (devices, opened) = match cluster.workers {
        Some(count) => {
            let threads = cluster.threads.unwrap_or(1);
            let opened = open_locals(context, count.into(), threads, machine).await?;
            (opened.cluster.settle(SETTLE_TO_TELL).await?, Some(opened))
        }
        None => {
            let patience = cluster.join_wait.unwrap_or(PATIENCE);
            let running = listen(context, cluster, machine).await?;
            let spinner = spinner(format!("listening {}", humantime::format_duration(patience)));
            let expect = cluster.expect.unwrap_or(usize::MAX);
            running.wait_for(expect, patience).await?;
            let devices = running.settle(SETTLE_TO_TELL).await?;
            spinner.finish_and_clear();
            running.stop().await;
            (devices, None)
        }
    };
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&devices)?);
    } else if devices.is_empty() {
        eprintln!("no device joined");
        eprintln!("hint: `tilehive token` prints the line to run on each device");
    } else {
        say!("{}\n", table::table(&HEADER, devices.iter().map(row)));
        say!("{}", rates(&devices));
    }
    if let Some(opened) = opened {
        opened.stop().await;
    }
    Ok(())
}

const HEADER: [&str; 8] =
    ["device", "threads", "link", "round trip", "free memory", "heat", "power", "address"];

/// What is not known is a dash.
fn row(device: &Device) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let memory = match (device.memory_bytes, device.free_bytes) {
        (Some(given), Some(free)) => Some(given.min(free)),
        (given, free) => given.or(free),
    };
    let slow = if device.throttled == Some(true) { ", throttled" } else { "" };
    let heat = device.temperature_c.map(|celsius| format!("{celsius:.0} C{slow}"));
    let heat = heat.or((!slow.is_empty()).then(|| "throttled".into()));
    let power = device.battery_percent.map(|percent| match device.on_battery {
        true => format!("battery {percent} %"),
        false => format!("mains, {percent} %"),
    });
    vec![
        device.name.clone(),
        device.threads.to_string(),
        or_dash(device.link_bytes_per_s.map(table::bits)),
        or_dash(device.round_trip_ns.map(|ns| table::time(Duration::from_nanos(ns)))),
        or_dash(memory.map(table::bytes)),
        or_dash(heat),
        or_dash(power),
        device.addresses.first().cloned().unwrap_or_default(),
    ]
}

/// Speeds by operator class, and how many times as fast as measured real tasks were.
fn rates(devices: &[Device]) -> comfy_table::Table {
    let shown = OperatorClass::ALL.into_iter().filter(|class| class.unit() != Unit::Layers);
    let shown: Vec<OperatorClass> = shown.collect();
    let header: Vec<&str> = ["device"].into_iter().chain(shown.iter().map(|c| c.name())).collect();
    let rows = devices.iter().map(|device| {
        let rate = |class: &OperatorClass| {
            let per_s = device.profile.rates.per_s(*class);
            match class.unit() {
                _ if per_s == 0 => "-".into(),
                Unit::Bytes => format!("{}/s", table::bytes(per_s)),
                _ => format!("{}/s", table::amount(per_s)),
            }
        };
        [device.name.clone()].into_iter().chain(shown.iter().map(rate)).collect()
    });
    table::table(&header, rows)
}
