//! What a run says of itself: the same numbers for people and for machines.

use crate::outcome::{DeviceOutcome, FrameOutcome, Outcome};
use crate::record::Traffic;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use protocol::{Counters, Nanos};
use serde::Serialize;
use std::fmt::Write as _;

/// The numbers of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario, as it was asked for.
    pub scenario: String,
    /// The model.
    pub model: String,
    /// The strategy.
    pub strategy: String,
    /// The seed.
    pub seed: u64,
    /// Frames that ended well.
    pub frames: usize,
    /// Frames that failed, with their reasons.
    pub failures: Vec<String>,
    /// First scatter to last gather of a frame, at the median.
    pub makespan_ms: f64,
    /// Submission to answer.
    pub latency_ms: Percentiles,
    /// Frames a second, first scatter to last gather of all.
    pub frames_per_s: f64,
    /// The least that one frame of this plan can take.
    pub bound_ms: f64,
    /// The least that one frame of any plan can take, without halo and without a network.
    pub bound_any_plan_ms: f64,
    /// How far the time of all frames is from their least possible, as a part of it.
    pub gap: f64,
    /// Multiply-adds executed / multiply-adds of the untiled model.
    pub redundancy: f64,
    /// Bytes by kind.
    pub traffic: Traffic,
    /// Energy of all devices, and what they would not have drawn idle, for each frame.
    pub energy_j_per_frame: f64,
    /// The part of it that they would not have drawn idle.
    pub marginal_j_per_frame: f64,
    /// What the scheduler did.
    pub counters: Counters,
    /// Tasks issued again.
    pub reassigned: u64,
    /// Each device.
    pub devices: Vec<DeviceOutcome>,
    /// Simulated steps.
    pub steps: u64,
    /// Hash of everything that happened.
    pub event_hash: String,
}

/// Percentiles of a time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50: f64,
    /// Nine of ten are shorter.
    pub p90: f64,
    /// All but one in a hundred are shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Percentiles {
    /// Of these times, in milliseconds.
    pub fn of(times: impl Iterator<Item = Nanos>) -> Self {
        let mut times: Vec<Nanos> = times.collect();
        times.sort_unstable();
        let at = |per_cent: usize| {
            let rank = (times.len() * per_cent).div_ceil(100).max(1) - 1;
            times.get(rank).map_or(0.0, |&ns| ms(ns))
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

fn ms(ns: Nanos) -> f64 {
    ns as f64 / 1e6
}

impl Report {
    /// The numbers of a run.
    pub fn new(
        scenario: &str,
        (model, strategy, seed): (&str, &str, u64),
        outcome: &Outcome,
    ) -> Self {
        let frames = outcome.frames.len();
        let all_s = outcome.makespan_ns as f64 / 1e9;
        // No schedule starts a frame before it is submitted.
        let started = outcome.frames.iter().map(|f| f.started_ns).min().unwrap_or(0);
        let last = outcome.frames.iter().map(|f| f.submitted_ns).max().unwrap_or(0);
        let arrival = last.saturating_sub(started) + outcome.bound.frame_ns;
        let least = outcome.bound.frames_ns(frames).max(arrival).max(1) as f64;
        let per_frame = |sum: f64| sum / frames.max(1) as f64;
        let energy = outcome.devices.iter().map(|d| d.energy);
        Self {
            scenario: scenario.into(),
            model: model.into(),
            strategy: strategy.into(),
            seed,
            frames,
            failures: outcome.failures.iter().map(|(_, reason)| reason.clone()).collect(),
            makespan_ms: Percentiles::of(outcome.frames.iter().map(FrameOutcome::makespan_ns)).p50,
            latency_ms: Percentiles::of(outcome.frames.iter().map(FrameOutcome::latency_ns)),
            frames_per_s: if all_s > 0.0 { frames as f64 / all_s } else { 0.0 },
            bound_ms: ms(outcome.bound.frame_ns),
            bound_any_plan_ms: ms(outcome.bound.any_plan_ns),
            gap: outcome.makespan_ns as f64 / least - 1.0,
            redundancy: outcome.redundancy(),
            traffic: outcome.traffic,
            energy_j_per_frame: per_frame(energy.clone().map(|e| e.total_j).sum()),
            marginal_j_per_frame: per_frame(energy.map(|e| e.marginal_j).sum()),
            counters: outcome.counters,
            reassigned: outcome.reassigned,
            devices: outcome.devices.clone(),
            steps: outcome.steps,
            event_hash: format!("{:016x}", outcome.event_hash),
        }
    }

    /// The numbers for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<14}{value}");
        };
        line(
            "frames",
            match self.failures.as_slice() {
                [] => format!("{} of {}", self.frames, self.model),
                [first, ..] => {
                    format!(
                        "{} of {}, {} failed: {first}",
                        self.frames,
                        self.model,
                        self.failures.len()
                    )
                }
            },
        );
        line("plan", format!("{}, redundancy {:.3}", self.strategy, self.redundancy));
        line("makespan", format!("{} a frame at the median", time(self.makespan_ms)));
        let latency = &self.latency_ms;
        line(
            "latency",
            format!(
                "p50 {}   p90 {}   p99 {}   max {}",
                time(latency.p50),
                time(latency.p90),
                time(latency.p99),
                time(latency.max)
            ),
        );
        line("throughput", format!("{:.2} frames/s", self.frames_per_s));
        line(
            "lower bound",
            format!(
                "{} for this plan, {} for any; all frames took {:.1} % more than they must",
                time(self.bound_ms),
                time(self.bound_any_plan_ms),
                100.0 * self.gap
            ),
        );
        let traffic = &self.traffic;
        line(
            "sent",
            format!(
                "{} scattered, {} gathered, {} exchanged, {} handed over, {} weights, {} control",
                bytes(traffic.scatter_bytes),
                bytes(traffic.gather_bytes),
                bytes(traffic.exchange_bytes),
                bytes(traffic.handover_bytes),
                bytes(traffic.weight_bytes),
                bytes(traffic.control_bytes)
            ),
        );
        line(
            "energy",
            format!(
                "{:.1} J a frame, {:.1} J of it over idling",
                self.energy_j_per_frame, self.marginal_j_per_frame
            ),
        );
        let counters = &self.counters;
        line(
            "scheduler",
            format!(
                "{} tasks, {} stolen in {} steals ({} refused, {} kept), {} copies, {} reissued",
                counters.tasks,
                counters.stolen_tasks,
                counters.steals_granted,
                counters.steals_refused,
                counters.steals_kept,
                counters.backups,
                self.reassigned
            ),
        );
        let _ = writeln!(text, "\n{}", self.table());
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header([
            "device", "tasks", "stolen", "busy", "use", "received", "sent", "peak", "energy",
            "warm",
        ]);
        const ROWS_MAX: usize = 24;
        for device in self.devices.iter().take(ROWS_MAX) {
            table.add_row([
                device.name.clone(),
                device.tasks.to_string(),
                device.stolen.to_string(),
                time(ms(device.busy_ns)),
                format!("{:.0} %", 100.0 * device.utilisation),
                bytes(device.received_bytes),
                bytes(device.sent_bytes),
                bytes(device.peak_bytes),
                format!("{:.1} J", device.energy.total_j),
                device.peak_c.map_or_else(String::new, |c| format!("{c:.0} C")),
            ]);
        }
        if self.devices.len() > ROWS_MAX {
            table.add_row([format!("... {} more", self.devices.len() - ROWS_MAX)]);
        }
        for column in 1..10 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// A time for people.
pub fn time(ms: f64) -> String {
    match ms {
        0.0 => "0".into(),
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 1_000.0 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// A size for people.
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.0} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_there() {
        let all = Percentiles::of((1..=100).map(|i| i * 1_000_000));
        assert_eq!((all.p50, all.p90, all.p99, all.max), (50.0, 90.0, 99.0, 100.0));
        let one = Percentiles::of(std::iter::once(7_000_000));
        assert_eq!((one.p50, one.max), (7.0, 7.0));
        assert_eq!(Percentiles::of(std::iter::empty()).p50, 0.0);
    }
}
