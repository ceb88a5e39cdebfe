//! Numbers for Prometheus: frames, tasks, steals, bytes, and how the workers are.

use net::Counters as Door;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use protocol::{Bundle, BundleKind, Counters, Health, WorkerId, WorkerReport};
use std::fmt;
use std::time::Duration;
use worker::metrics::{counter, gauge, seconds};

/// What the drive loop counts. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) frames: Counter,
    pub(crate) frames_failed: Counter,
    frame: Histogram,
    computing: Histogram,
    waiting: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let (frames, frames_failed) = Default::default();
        let (frame, computing, waiting) = (seconds(), seconds(), seconds());
        Self { frames, frames_failed, frame, computing, waiting }
    }
}

/// What the state machine knows when somebody asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) counters: Counters,
    pub(crate) reassigned: u64,
    pub(crate) in_flight: usize,
    pub(crate) unfinished: usize,
    /// Tasks that workers hold.
    pub(crate) held: usize,
    /// All workers, and how those that are there are.
    pub(crate) workers: Vec<(WorkerId, WorkerReport, Option<Health>)>,
}

impl Metrics {
    /// A frame is complete.
    pub(crate) fn finished(&self, makespan: Duration) {
        self.frames.inc();
        self.frame.observe(makespan.as_secs_f64());
    }

    /// A result came.
    pub(crate) fn result(&self, bundle: &Bundle) {
        if let BundleKind::Result { busy_ns, waited_ns } = bundle.kind {
            self.computing.observe(Duration::from_nanos(busy_ns).as_secs_f64());
            self.waiting.observe(Duration::from_nanos(waited_ns).as_secs_f64());
        }
    }

    /// All of it as Prometheus reads it.
    pub(crate) fn page(&self, snapshot: Snapshot, door: Door) -> String {
        let mut registry = Registry::with_prefix("tilehive_coordinator");
        let r = &mut registry;
        r.register("frames", "Frames that were computed", self.frames.clone());
        r.register("frames_failed", "Frames that ended in an error", self.frames_failed.clone());
        let (frame, task, wait) = (
            "First scatter to last gather of a frame",
            "How long tasks took to compute",
            "How long tasks lay with their workers before that",
        );
        r.register_with_unit("frame", frame, Unit::Seconds, self.frame.clone());
        r.register_with_unit("task", task, Unit::Seconds, self.computing.clone());
        r.register_with_unit("task_wait", wait, Unit::Seconds, self.waiting.clone());
        r.register_collector(Box::new(snapshot));
        r.register_collector(Box::new(worker::metrics::Device(door)));
        worker::metrics::text(&registry)
    }
}

/// A metric of each worker: its name, what it is, and where the number is.
type Row<T, V> = (&'static str, &'static str, fn(&T) -> V);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counters = &self.counters;
        for (name, help, value) in [
            ("tasks", "Tasks that were begun", counters.tasks),
            ("steals", "Tasks that changed their share", counters.stolen_tasks),
            ("steals_refused", "Times that a move was not worth it", counters.steals_refused),
            ("steal_bytes", "Input bytes that moved for steals", counters.stolen_bytes),
            ("exchange_bytes", "Bytes from worker to worker", counters.exchanged_bytes),
            ("backups", "Second copies of late tasks", counters.backups),
            ("reassigned", "Tasks issued again after a loss", self.reassigned),
            ("recomputed", "Tiles made again after a loss", counters.recomputed),
            ("refused", "Attempts that a worker had no memory for", counters.refused),
            ("spot_checks", "Tasks computed twice to compare", counters.spot_checks),
            ("fallbacks", "Frames that gave up exchanging", counters.fallbacks),
        ] {
            counter(&mut encoder, name, help, value)?;
        }
        let there = self.workers.iter().filter(|(_, report, _)| report.alive).count();
        let waiting = self.unfinished - self.in_flight;
        for (name, help, value) in [
            ("peers", "Workers that are there", there),
            ("queue_tasks", "Tasks that workers hold", self.held),
            ("frames_in_flight", "Frames being computed", self.in_flight),
            ("frames_waiting", "Frames that wait for their turn", waiting),
        ] {
            gauge(&mut encoder, name, help, value as f64)?;
        }
        let counts: [Row<WorkerReport, u64>; 4] = [
            ("worker_tasks", "Tasks gathered from it", |r| r.tasks),
            ("worker_received_bytes", "Tensor bytes that it received", |r| r.bytes_in),
            ("worker_sent_bytes", "Tensor bytes that it sent", |r| r.bytes_out),
            ("worker_weight_bytes", "Weight bytes sent to it", |r| r.weight_bytes),
        ];
        for (name, help, value) in counts {
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (id, report, _) in &self.workers {
                let labels = [("worker", report.name.clone()), ("id", id.0.to_string())];
                ConstCounter::new(value(report)).encode(family.encode_family(&labels)?)?;
            }
        }
        let states: [Row<Health, Option<f64>>; 2] = [
            ("worker_memory_free_bytes", "What its programs may still take", |health| {
                health.free_bytes.map(|bytes| bytes as f64)
            }),
            ("worker_temperature_celsius", "Its hottest sensor", |health| {
                health.temperature_mc.map(|mc| f64::from(mc) / 1e3)
            }),
        ];
        for (name, help, value) in states {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (id, report, health) in &self.workers {
                if let Some(value) = health.as_ref().and_then(value) {
                    let labels = [("worker", report.name.clone()), ("id", id.0.to_string())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_of_frames_and_of_each_worker() {
        let metrics = Metrics::default();
        metrics.finished(Duration::from_millis(30));
        let report = WorkerReport { name: "a \"pi\"\n".into(), tasks: 7, ..Default::default() };
        let health = Health { free_bytes: Some(5), ..Health::default() };
        let workers = vec![(WorkerId(3), WorkerReport { alive: true, ..report }, Some(health))];
        let snapshot = Snapshot { workers, in_flight: 1, unfinished: 3, ..Snapshot::default() };
        let page = metrics.page(snapshot, Door::default());
        for line in [
            "tilehive_coordinator_frames_total 1",
            "tilehive_coordinator_frame_seconds_count 1",
            "tilehive_coordinator_steals_total 0",
            "tilehive_coordinator_peers 1.0",
            "tilehive_coordinator_frames_waiting 2.0",
            r#"tilehive_coordinator_worker_tasks_total{worker="a \"pi\"\n",id="3"} 7"#,
            r#"tilehive_coordinator_worker_memory_free_bytes{worker="a \"pi\"\n",id="3"} 5.0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "`{line}` is missing from:\n{page}");
        }
    }
}
