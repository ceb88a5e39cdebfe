//! What is shown: rates and loads follow from two looks at the cluster, one after the other.

use crate::cluster::{Cluster, Device};
use crate::table;
use anyhow::Result;
use net::Admission;
use protocol::{WorkerId, WorkerReport};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The cluster at one moment.
pub(super) struct Look {
    pub at: Instant,
    devices: Vec<Device>,
    reports: BTreeMap<WorkerId, WorkerReport>,
    reassigned: u64,
    tiles: (u64, u64),
    /// Bytes of weights that went out, and that were asked for.
    weights: Option<(u64, u64)>,
    /// Frames that wait for their plan.
    planned_for: u64,
}

impl Look {
    pub(super) async fn at(cluster: &Cluster) -> Result<Self> {
        let devices = cluster.devices().await?;
        let (reports, reassigned) = cluster.reports().await?;
        let progress = cluster.progress();
        let (tiles, weights) = (progress.tiles(), progress.weights());
        let planned_for = progress.planned_for();
        Ok(Self { at: Instant::now(), devices, reports, reassigned, tiles, weights, planned_for })
    }
}

/// One device, as words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub name: String,
    pub link: String,
    pub round_trip: String,
    /// Of one, the part of the time that it computed lately.
    pub load: f64,
    pub heat: String,
    /// It is hot or slowed down.
    pub alarm: bool,
    pub memory: String,
    pub tiles: String,
    pub doing: String,
}

/// All that is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub title: String,
    pub summary: String,
    /// Of one, the part of the tiles that are gathered; none while nothing was asked for.
    pub progress: Option<f64>,
    pub rows: Vec<Row>,
    /// Members that are not here, and when they were seen.
    pub away: Vec<(String, String)>,
}

impl View {
    pub(super) fn new(
        title: &str,
        look: &Look,
        last: Option<&Look>,
        members: Option<&Admission>,
        now_unix_s: u64,
    ) -> Self {
        let (gathered, expected) = look.tiles;
        let tiles = match expected {
            0 => "nothing is computed".into(),
            _ => format!("{gathered} of {expected} tiles"),
        };
        let lost = look.reports.values().filter(|r| !r.alive).count();
        let mut summary = format!("{} devices, {tiles}", look.devices.len());
        if let Some((sent, all)) = look.weights {
            let (sent, all) = (table::bytes(sent), table::bytes(all));
            summary += &format!(", {sent} of {all} of weights sent");
        }
        if look.planned_for > 0 {
            summary += ", planning";
        }
        if lost > 0 || look.reassigned > 0 {
            summary += &format!(", {lost} lost, {} tasks reassigned", look.reassigned);
        }
        let here = |peer: &str| look.devices.iter().any(|d| d.peer == peer);
        let away = members.into_iter().flat_map(Admission::present).filter_map(|member| {
            let seen = table::span(now_unix_s.saturating_sub(member.seen_unix_s));
            (!here(&member.peer.to_string())).then(|| (member.name.clone(), format!("{seen} ago")))
        });
        Self {
            title: title.into(),
            summary,
            progress: (expected > 0).then(|| gathered as f64 / expected as f64),
            rows: look.devices.iter().map(|device| row(device, look, last)).collect(),
            away: away.collect(),
        }
    }
}

fn row(device: &Device, look: &Look, last: Option<&Look>) -> Row {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let id = WorkerId(device.id);
    let report = look.reports.get(&id);
    let before = last.and_then(|last| Some((last.at, last.reports.get(&id)?)));
    let (mut load, mut tiles_per_s) = (0.0, 0.0);
    if let (Some(report), Some((at, before))) = (report, before) {
        let seconds = (look.at - at).as_secs_f64().max(1e-3);
        let busy_s = report.busy_ns.saturating_sub(before.busy_ns) as f64 / 1e9;
        // What a long task took is told when it ends, and then all at once.
        load = (busy_s / seconds).min(1.0);
        tiles_per_s = report.tasks.saturating_sub(before.tasks) as f64 / seconds;
    }
    let throttled = device.throttled == Some(true);
    let heat = device.temperature_c.map(|c| format!("{c:.0} C"));
    Row {
        name: device.name.clone(),
        link: or_dash(device.link_bytes_per_s.map(table::bits)),
        round_trip: or_dash(device.round_trip_ns.map(|ns| table::time(Duration::from_nanos(ns)))),
        load,
        heat: match (heat, throttled) {
            (heat, false) => or_dash(heat),
            (Some(heat), true) => format!("{heat}, slowed"),
            (None, true) => "slowed".into(),
        },
        alarm: throttled || device.temperature_c.is_some_and(|c| c >= 80.0),
        memory: or_dash(device.free_bytes.map(table::bytes)),
        tiles: report.map_or("-".into(), |r| match r.stolen {
            0 => r.tasks.to_string(),
            stolen => format!("{} ({stolen} stolen)", r.tasks),
        }),
        doing: match tiles_per_s {
            0.0 if load == 0.0 => "idle".into(),
            _ => format!("{tiles_per_s:.1} tiles/s"),
        },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use planner::DeviceProfile;
    use tiling::Rates;

    fn look(at: Instant, tasks: u64, busy_ms: u64) -> Look {
        let profile = DeviceProfile::same_machine("attic-pi", Rates::default());
        let device = Device {
            link_bytes_per_s: Some(12_500_000),
            round_trip_ns: Some(400_000),
            temperature_c: Some(81.0),
            throttled: Some(true),
            ..Device::of(profile)
        };
        let report = WorkerReport {
            name: "attic-pi".into(),
            threads: 4,
            tasks,
            stolen: 2,
            multiply_adds: 0,
            bytes_in: 0,
            bytes_out: 0,
            weight_bytes: 0,
            busy_ns: busy_ms * 1_000_000,
            alive: true,
        };
        let reports = [(WorkerId(0), report)].into();
        let (reassigned, tiles) = (0, (tasks, 40));
        Look {
            at,
            devices: vec![device],
            reports,
            reassigned,
            tiles,
            weights: None,
            planned_for: 0,
        }
    }

    /// One device in the middle of a run, half busy, hot.
    pub(in super::super) fn example() -> View {
        let start = Instant::now();
        let (before, now) = (look(start, 10, 100), look(start + Duration::from_secs(2), 20, 1100));
        View::new("vgg16", &now, Some(&before), None, 0)
    }

    #[test]
    fn rates_follow_from_two_looks() {
        let view = example();
        let row = &view.rows[0];
        assert_eq!((row.load, row.doing.as_str()), (0.5, "5.0 tiles/s"));
        assert_eq!((row.link.as_str(), row.heat.as_str()), ("100 Mbit/s", "81 C, slowed"));
        assert!(row.alarm && row.tiles == "20 (2 stolen)");
        assert_eq!(
            (view.summary.as_str(), view.progress),
            ("1 devices, 20 of 40 tiles", Some(0.5))
        );
        let first = Look { planned_for: 1, ..look(Instant::now(), 0, 0) };
        let first = View::new("vgg16", &first, None, None, 0);
        assert_eq!(first.rows[0].doing, "idle");
        assert!(first.summary.ends_with(", planning"), "{}", first.summary);
    }
}
