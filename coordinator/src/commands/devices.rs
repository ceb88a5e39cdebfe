//! `tilehive devices`: who is there, who is away, and who has to go.

use super::{SETTLE_TO_TELL, listen, open_locals, register, spinner};
use crate::cli::{Context, DevicesArguments, DevicesCommand};
use crate::cluster::{Device, PairReport};
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use crate::watch;
use crate::watts::Watts;
use anyhow::anyhow;
use net::{Admission, Membership, PeerId};
use protocol::CoordinatorConfig;
use std::time::Duration;
use tiling::OperatorClass;
use tiling::work::Unit;

const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) async fn run(context: &Context, arguments: DevicesArguments) -> Result<(), Failure> {
    if let Some(DevicesCommand::Remove { device, json }) = &arguments.command {
        return remove(context, device, *json);
    }
    if arguments.watch {
        return watch(context, &arguments).await;
    }
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
    // Workers of this machine alone are of no cluster; the members of one are no part of that list.
    let away = match opened {
        Some(_) => Vec::new(),
        None => away(&register(context).read().map_err(Failure::bad_input)?, &devices),
    };
    if arguments.json {
        let away: Vec<_> = away.iter().map(as_json).collect();
        let report = serde_json::json!({ "devices": devices, "away": away });
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        if devices.is_empty() {
            eprintln!("no device joined");
            match away.is_empty() {
                true => eprintln!(
                    "hint: `tilehive cluster token` prints the line to run on each device"
                ),
                false => eprintln!(
                    "hint: run `tilehive-worker` on them, or `tilehive-worker doctor` to hear what is wrong"
                ),
            }
        } else {
            say!("{}\n", table::table(&HEADER, devices.iter().map(row)));
            say!("{}", rates(&devices));
            let notes = odd_pairs(&devices).chain(watts(&devices)).chain(older(&devices));
            notes.for_each(|line| say!("{line}"));
        }
        if !away.is_empty() {
            let now = net::now_unix_s();
            let rows = away.iter().map(|member| {
                let seen = format!("{} ago", table::span(now.saturating_sub(member.seen_unix_s)));
                vec![member.name.clone(), seen, member.peer.to_string()]
            });
            say!("{}", table::words(&["away", "last seen", "peer"], rows));
        }
    }
    if let Some(opened) = opened {
        opened.stop().await;
    }
    Ok(())
}

/// `tilehive devices --watch`.
async fn watch(context: &Context, arguments: &DevicesArguments) -> Result<(), Failure> {
    watch::needs_terminal("without --watch the list is printed once")?;
    let (cluster, machine) = (&arguments.cluster, CoordinatorConfig::default());
    let never = std::future::pending();
    match cluster.workers {
        Some(count) => {
            let threads = cluster.threads.unwrap_or(1);
            let opened = open_locals(context, count.into(), threads, machine).await?;
            let watched = watch::watch(&opened.cluster, "this machine", None, never).await;
            opened.stop().await;
            Ok(watched?)
        }
        None => {
            let running = listen(context, cluster, machine).await?;
            let register = register(context);
            let watched = watch::watch(&running, "cluster", Some(&register), never).await;
            running.stop().await;
            Ok(watched?)
        }
    }
}

/// Members that are not among the devices.
fn away(known: &Admission, devices: &[Device]) -> Vec<Membership> {
    let here = |member: &Membership| devices.iter().any(|d| d.peer == member.peer.to_string());
    known.present().filter(|member| !here(member)).cloned().collect()
}

fn as_json(member: &Membership) -> serde_json::Value {
    serde_json::json!({
        "name": member.name,
        "peer": member.peer.to_string(),
        "since_unix_s": member.since_unix_s,
        "last_seen_unix_s": member.seen_unix_s,
        "invitation": member.invitation,
    })
}

/// `tilehive devices remove`.
fn remove(context: &Context, device: &str, json: bool) -> Result<(), Failure> {
    let now = net::now_unix_s();
    let removed = register(context).change(|known| match named(known, device) {
        Ok(peer) => (true, Ok(known.remove(&peer, now))),
        Err(failure) => (false, Err(failure)),
    });
    let removed = removed.map_err(Failure::bad_input)??;
    let Some(removed) = removed else { return Err(unknown(device)) };
    let (member, ended) = (&removed.member, removed.ended);
    if json {
        let report = serde_json::json!({
            "name": member.name,
            "peer": member.peer.to_string(),
            "revoked": ended,
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    say!("{} ({}) is removed: it joins no run from now on", member.name, member.peer);
    if let Some(id) = ended {
        eprintln!("the invitation {id}, which it came with, is revoked: others need a new one");
    }
    eprintln!("to let it come back: `tilehive cluster token`, and `tilehive-worker join` there");
    Ok(())
}

/// The one present member that a person means.
fn named(known: &Admission, device: &str) -> Result<PeerId, Failure> {
    let is_meant = |member: &&Membership| {
        let peer = member.peer.to_string();
        member.name == device || peer == device || (device.len() >= 6 && peer.ends_with(device))
    };
    let meant: Vec<&Membership> = known.present().filter(is_meant).collect();
    match meant[..] {
        [] => Err(unknown(device)),
        [member] => Ok(member.peer),
        _ => {
            let peers = meant.iter().map(|m| m.peer.to_string()).collect::<Vec<_>>();
            let error = anyhow!("{} devices are called `{device}`", meant.len());
            let hint = format!("name it by its peer: {}", peers.join(" or "));
            Err(Failure::bad_input(error).hint(hint))
        }
    }
}

fn unknown(device: &str) -> Failure {
    Failure::bad_input(anyhow!("no member is called `{device}`"))
        .hint("`tilehive devices` lists the members, those that are away included")
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

/// The ways between workers that are not what the links of the two to the coordinator suggest.
fn odd_pairs(devices: &[Device]) -> impl Iterator<Item = String> {
    let of = |device: &Device| {
        let odd = device.pairs.iter().filter(|pair| pair.unusual && device.id < pair.id);
        let line = |pair: &PairReport| {
            let (rate, trip) =
                (table::bits(pair.bytes_per_s), Duration::from_nanos(pair.round_trip_ns));
            format!(
                "{} and {}: {rate} between them, a round trip takes {}",
                device.name,
                pair.with,
                table::time(trip)
            )
        };
        odd.map(line).collect::<Vec<_>>()
    };
    devices.iter().map(of).collect::<Vec<_>>().into_iter().flatten()
}

/// Which devices are to be upgraded.
fn older(devices: &[Device]) -> impl Iterator<Item = String> {
    let older = devices.iter().filter(|device| device.protocol < protocol::VERSION);
    older.map(|device| crate::drive::older(&device.name))
}

/// What devices draw, where that is known.
fn watts(devices: &[Device]) -> impl Iterator<Item = String> {
    devices.iter().filter_map(|device| {
        let Watts { idle_w, active_w, source } = device.watts.as_ref()?;
        Some(format!("{}: {idle_w} W idle, {active_w} W at work, {source}", device.name))
    })
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
