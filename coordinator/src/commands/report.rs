//! What `tilehive run` says when its frames are through.

use super::check::Check;
use super::energy::Energy;
use super::run::Frame;
use crate::say::say;
use crate::table;
use planner::Strategy;
use protocol::{Counters, WorkerReport, measuring_bytes};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

/// What came of a run.
#[derive(Serialize)]
pub(super) struct Report {
    model: String,
    strategy: &'static str,
    frames: usize,
    last_input: String,
    makespan_ms: Vec<f64>,
    total_ms: f64,
    frames_per_s: f64,
    predicted_makespan_ms: f64,
    predicted_one_device_ms: f64,
    redundancy: f64,
    /// Why only one of several devices was used.
    one_device: Option<String>,
    reassigned: u64,
    /// Bytes of maps that a frame moved, each way between two devices counted once.
    moved_bytes: u64,
    predicted_moved_bytes: u64,
    /// Bytes that it took beside to measure the links of these workers when they joined, and the ways
    /// between them.
    measuring_bytes: u64,
    /// Bytes of maps that workers sent each other.
    exchanged_bytes: u64,
    /// What the scheduler did.
    counters: Counters,
    pub(super) check: Option<Check>,
    /// What a frame is predicted to make the devices draw.
    energy: Energy,
    workers: Vec<serde_json::Value>,
    usage: serde_json::Value,
    answers: Vec<Box<RawValue>>,
}

/// How long the frames took.
pub(super) struct Timing<'a> {
    pub(super) makespans: &'a [Duration],
    pub(super) took: Duration,
    pub(super) reassigned: u64,
    pub(super) counters: Counters,
}

impl Report {
    pub(super) fn new(
        last: &Frame,
        strategy: Strategy,
        timing: Timing<'_>,
        reports: &BTreeMap<protocol::WorkerId, WorkerReport>,
        (check, energy): (Option<Check>, Energy),
        answers: Vec<Box<RawValue>>,
    ) -> Self {
        let Timing { makespans, took, reassigned, counters } = timing;
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let predicted = &last.answer.predicted;
        Self {
            model: last.ready.model.loaded.graph.name.clone(),
            strategy: strategy.name(),
            frames: makespans.len(),
            last_input: last.path.display().to_string(),
            makespan_ms: makespans.iter().copied().map(ms).collect(),
            total_ms: ms(took),
            frames_per_s: makespans.len() as f64 / took.as_secs_f64().max(1e-9),
            predicted_makespan_ms: predicted.predicted_ns() as f64 / 1e6,
            predicted_one_device_ms: predicted.one_device_ns as f64 / 1e6,
            redundancy: predicted.redundancy(),
            one_device: super::plan::one_device(&last.answer.plan.plan, predicted, reports.len()),
            reassigned,
            moved_bytes: counters.moved_bytes() / makespans.len().max(1) as u64,
            predicted_moved_bytes: predicted.moved_bytes(),
            measuring_bytes: measuring_bytes(reports.len()),
            exchanged_bytes: counters.exchanged_bytes,
            counters,
            check,
            energy,
            workers: reports.values().map(worker_json).collect(),
            usage: last.ready.usage.told.clone(),
            answers,
        }
    }

    pub(super) fn print(&self, reports: &BTreeMap<protocol::WorkerId, WorkerReport>) {
        say!("{}", table::workers(reports));
        let ms = |ms: f64| table::time(Duration::from_secs_f64(ms / 1e3));
        let mut sorted = self.makespan_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let frames = if self.frames == 1 {
            let sent: u64 = reports.values().map(|r| r.weight_bytes).sum();
            let cold = match sent {
                0 => String::new(),
                _ => format!(" ({} of weights sent first)", table::bytes(sent)),
            };
            format!("makespan {}{cold}", ms(median))
        } else {
            let (n, fps) = (self.frames, self.frames_per_s);
            format!("{n} frames, median makespan {}, {fps:.2} frames/s", ms(median))
        };
        say!("{frames}, redundancy {:.3}, by `{}`", self.redundancy, self.strategy);
        let (plan, one) = (self.predicted_makespan_ms, self.predicted_one_device_ms);
        say!("predicted {}; one device alone {}", ms(plan), ms(one));
        let bytes = table::bytes;
        let (moved, expected) = (bytes(self.moved_bytes), bytes(self.predicted_moved_bytes));
        let measuring = bytes(self.measuring_bytes);
        say!(
            "a frame moved {moved} of maps; predicted {expected}; measuring the links took {measuring} once"
        );
        if self.energy.is_told() {
            say!("{}", self.energy);
        }
        if let Some(why) = &self.one_device {
            say!("{why}");
        }
        if self.exchanged_bytes > 0 {
            say!("workers sent each other {} between stages", table::bytes(self.exchanged_bytes));
        }
        if self.reassigned > 0 {
            say!("{} tasks were reassigned", self.reassigned);
        }
        match self.check {
            Some(Check { identical: true, .. }) => say!("bit-identical to one device: yes"),
            Some(Check { relative, .. }) => say!(
                "differs from the exact answer of one device by {relative:.1e} of the largest value \
                 (`--numerics exact` without `--wire f16` gives equal bits)"
            ),
            None => {}
        }
    }
}

/// What a worker did, for machines.
pub(crate) fn worker_json(r: &WorkerReport) -> serde_json::Value {
    json!({
        "name": r.name, "threads": r.threads, "alive": r.alive, "tiles": r.tasks,
        "stolen": r.stolen, "multiply_adds": r.multiply_adds, "bytes_in": r.bytes_in,
        "bytes_out": r.bytes_out, "weight_bytes": r.weight_bytes,
        "busy_ms": r.busy_ns as f64 / 1e6,
    })
}
