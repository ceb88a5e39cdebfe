//! Numbers for Prometheus: what this worker did, how its device is, what happened at its door.

mod serve;

pub use serve::{Serving, serve};

use crate::{BlobCache, health};
use net::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a worker counts. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Frames that ended while it was there.
    pub(crate) frames: Counter,
    /// Tasks computed.
    pub(crate) tasks: Counter,
    /// Tasks that ended in an error.
    pub(crate) broken: Counter,
    /// Tasks taken over from other workers.
    pub(crate) taken_over: Counter,
    /// Tasks handed over to other workers.
    pub(crate) handed_over: Counter,
    /// Tasks that are here.
    pub(crate) held: Gauge,
    /// Who is connected: the coordinator and other workers.
    pub(crate) peers: Gauge,
    /// How long tasks took to compute.
    pub(crate) computing: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            frames: Counter::default(),
            tasks: Counter::default(),
            broken: Counter::default(),
            taken_over: Counter::default(),
            handed_over: Counter::default(),
            held: Gauge::default(),
            peers: Gauge::default(),
            computing: seconds(),
        }
    }
}

/// A histogram of durations, from half a millisecond to half a minute.
pub fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

impl Metrics {
    pub(crate) fn computed(&self, busy_ns: u64) {
        self.tasks.inc();
        self.computing.observe(Duration::from_nanos(busy_ns).as_secs_f64());
    }

    /// All of it under its names, with the numbers of the device and its door.
    pub fn registry(&self, door: Counters, cache: BlobCache) -> Registry {
        let mut registry = Registry::with_prefix("tilehive_worker");
        let r = &mut registry;
        r.register("frames", "Frames that ended while it was there", self.frames.clone());
        r.register("tasks", "Tasks computed", self.tasks.clone());
        r.register("tasks_broken", "Tasks that ended in an error", self.broken.clone());
        r.register("steals_in", "Tasks taken over from other workers", self.taken_over.clone());
        r.register("steals_out", "Tasks handed over to other workers", self.handed_over.clone());
        r.register("queue_tasks", "Tasks that are here, the running one too", self.held.clone());
        r.register("peers", "Connected: the coordinator and other workers", self.peers.clone());
        r.register_with_unit(
            "task",
            "How long tasks took to compute",
            Unit::Seconds,
            self.computing.clone(),
        );
        registry.register_collector(Box::new(cache));
        registry.register_collector(Box::new(Device(door)));
        registry
    }
}

impl Collector for BlobCache {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let usage = self.usage();
        gauge(&mut encoder, "cache_bytes", "Weights and graphs that are kept", usage.bytes as f64)?;
        let help = "Blobs that made room for others";
        counter(&mut encoder, "cache_evicted", help, usage.evicted)?;
        let help = "Blobs that the disk did not take";
        counter(&mut encoder, "cache_unwritten", help, usage.unwritten)
    }
}

/// The numbers of a registry as Prometheus reads them.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a string does not fail; an empty page is what would show it.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

/// Serves a registry that needs nobody to be asked.
///
/// *Errors*: as [`serve`].
pub async fn serve_registry(
    address: std::net::SocketAddr,
    registry: Registry,
) -> std::io::Result<Serving> {
    let registry = Arc::new(registry);
    serve(address, move || {
        let page = text(&registry);
        async move { Some(page) }
    })
    .await
}

/// How this device is and what happened at its door, looked up when somebody asks.
#[derive(Debug)]
pub struct Device(pub Counters);

impl Collector for Device {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let door = &self.0;
        for (name, help, count) in [
            ("received_bytes", "Bytes from admitted peers", door.bytes_in()),
            ("sent_bytes", "Bytes to admitted peers", door.bytes_out()),
            ("door_admitted", "Handshakes that ended well", door.admitted()),
            ("door_turned_away", "Handshakes that did not end well", door.turned_away()),
            ("door_crowded_out", "Streams dropped unread, too many at once", door.crowded_out()),
            ("door_breaches", "Sessions ended for a breach of protocol", door.breaches()),
        ] {
            counter(&mut encoder, name, help, count)?;
        }
        let health = health::read(Path::new("/"));
        if let Some(bytes) = health.free_bytes {
            gauge(&mut encoder, "memory_free_bytes", "What programs may still take", bytes as f64)?;
        }
        if let Some(mc) = health.temperature_mc {
            let help = "The hottest sensor";
            gauge(&mut encoder, "temperature_celsius", help, f64::from(mc) / 1e3)?;
        }
        if health.throttled.is_some() {
            let throttled = f64::from(u8::from(health.is_throttled()));
            gauge(&mut encoder, "throttled", "Whether the processor is slowed down", throttled)?;
        }
        if let Some(bytes) = resident_bytes() {
            gauge(&mut encoder, "resident_bytes", "Memory of this process", bytes as f64)?;
        }
        Ok(())
    }
}

/// Writes a count that is kept elsewhere.
///
/// *Errors*: the text cannot be written.
pub fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Writes a number that is kept elsewhere.
///
/// *Errors*: the text cannot be written.
pub fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Memory of this process that is in use, by `/proc/self/statm`.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    #[cfg(target_os = "linux")]
    return pages.checked_mul(rustix::param::page_size() as u64);
    #[cfg(not(target_os = "linux"))]
    return pages.checked_mul(4096);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_number_with_its_name() {
        let metrics = Metrics::default();
        metrics.computed(3_000_000);
        metrics.held.set(2);
        let page = text(&metrics.registry(Counters::default(), BlobCache::in_memory()));
        for line in [
            "tilehive_worker_tasks_total 1",
            "tilehive_worker_queue_tasks 2",
            "tilehive_worker_steals_in_total 0",
            "tilehive_worker_task_seconds_bucket{le=\"0.002\"} 0",
            "tilehive_worker_task_seconds_bucket{le=\"0.004\"} 1",
            "tilehive_worker_task_seconds_count 1",
            "tilehive_worker_door_turned_away_total 0",
            "tilehive_worker_cache_bytes 0.0",
            "# EOF",
        ] {
            assert!(page.lines().any(|l| l == line), "`{line}` is missing from:\n{page}");
        }
    }
}
