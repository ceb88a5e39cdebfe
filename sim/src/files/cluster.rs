//! Which devices there are, and how they are connected.

use super::find::{self, FileError, Kind};
use super::{DeviceFile, LinkFile, nanos};
use crate::physics::{LinkSpec, RoundTrip};
use crate::scenario::{PairSpec, WorkerSpec};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// More than anybody has, and few enough for the memory of the simulator.
const WORKERS_MAX: usize = 100_000;

/// A file of `configs/clusters`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// What people call it.
    pub name: String,
    coordinator: CoordinatorSection,
    #[serde(rename = "worker", default)]
    workers: Vec<WorkerSection>,
    #[serde(rename = "pair", default)]
    pairs: Vec<PairSection>,
    /// Multiplies the rate of every link; for sweeps.
    #[serde(skip)]
    pub link_scale: Option<f64>,
    /// Where it lies: a device or link called `./NAME.toml` lies beside it.
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CoordinatorSection {
    link: String,
    #[serde(default)]
    access_point: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkerSection {
    device: String,
    link: String,
    #[serde(default = "one")]
    count: usize,
    name: Option<String>,
    threads: Option<usize>,
    memory_mb: Option<u64>,
    #[serde(default)]
    access_point: u32,
    #[serde(default)]
    joins_s: f64,
}

/// The way between two workers, where it is not what their links suggest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PairSection {
    workers: (String, String),
    mbit_per_s: f64,
    round_trip_ms: f64,
}

fn one() -> usize {
    1
}

impl ClusterFile {
    /// Opens a cluster by name or path.
    ///
    /// *Errors*: no such file, an unknown key.
    pub fn open(reference: &str) -> Result<Self, FileError> {
        let file: Self = find::open(Kind::Cluster, reference)?;
        let folder = Path::new(reference).parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { folder, ..file })
    }

    /// A reference to a device or a link as seen from where the program runs.
    fn seen(&self, reference: &str) -> String {
        match reference.strip_prefix("./") {
            Some(beside) => {
                // A bare name would be taken for one that comes with the program.
                Path::new(".").join(&self.folder).join(beside).to_string_lossy().into()
            }
            None => reference.to_owned(),
        }
    }

    /// The coordinator's link.
    ///
    /// *Errors*: an unknown link.
    pub fn head_link(&self) -> Result<LinkSpec, FileError> {
        let section = &self.coordinator;
        Ok(LinkFile::open(&self.seen(&section.link))?.spec(section.access_point, self.scale()))
    }

    fn scale(&self) -> f64 {
        self.link_scale.unwrap_or(1.0)
    }

    /// Its workers, in order.
    ///
    /// *Errors*: an unknown device or link, or none at all.
    pub fn workers(&self) -> Result<Vec<WorkerSpec>, FileError> {
        let mut workers: Vec<WorkerSpec> = Vec::new();
        let mut bases: Vec<String> = Vec::new();
        for section in &self.workers {
            let mut device = DeviceFile::open(&self.seen(&section.device))?.model();
            if let Some(threads) = section.threads {
                device.threads = threads.clamp(1, device.speedup_by_threads.len());
            }
            if let Some(memory_mb) = section.memory_mb {
                device.memory_bytes = memory_mb * 1_000_000;
            }
            let link =
                LinkFile::open(&self.seen(&section.link))?.spec(section.access_point, self.scale());
            if workers.len() + section.count > WORKERS_MAX {
                let what = format!("cluster `{}` has over {WORKERS_MAX} workers", self.name);
                return Err(FileError::Value(what));
            }
            let base = section.name.clone().unwrap_or_else(|| section.device.clone());
            for _ in 0..section.count {
                let alike = bases.iter().filter(|known| **known == base).count();
                bases.push(base.clone());
                let many = section.count > 1 || alike > 0;
                let name = if many { format!("{base}-{}", alike + 1) } else { base.clone() };
                let joins_ns = nanos(section.joins_s);
                let worker = WorkerSpec::of(device.clone(), link);
                workers.push(WorkerSpec { name, joins_ns, ..worker });
            }
        }
        if workers.is_empty() {
            let what = format!("cluster `{}` has no [[worker]]", self.name);
            return Err(FileError::Value(what));
        }
        Ok(workers)
    }

    /// The ways between workers that are not what their links suggest.
    ///
    /// *Errors*: as for [`ClusterFile::workers`], a name that no worker has, numbers that no way has.
    pub fn pairs(&self) -> Result<Vec<PairSpec>, FileError> {
        if self.pairs.is_empty() {
            return Ok(Vec::new());
        }
        let workers = self.workers()?;
        let wrong = |pair: &PairSection, what: String| {
            let (a, b) = &pair.workers;
            FileError::Value(format!("the [[pair]] of {a} and {b} is not sound: {what}"))
        };
        let spec = |pair: &PairSection| {
            let place = |name: &String| {
                workers.iter().position(|worker| worker.name == *name).ok_or_else(|| {
                    let names: Vec<&str> = workers.iter().map(|w| &*w.name).take(16).collect();
                    let names = names.join(", ");
                    wrong(pair, format!("no worker is called {name}; there are {names}"))
                })
            };
            let ends = (place(&pair.workers.0)?, place(&pair.workers.1)?);
            if ends.0 == ends.1 {
                return Err(wrong(pair, "two different workers are needed".into()));
            }
            let rate = pair.mbit_per_s * self.scale() * 125_000.0;
            if !(rate > 0.0 && rate.is_finite() && pair.round_trip_ms >= 0.0) {
                let what = "mbit_per_s must be positive, and round_trip_ms not negative";
                return Err(wrong(pair, what.into()));
            }
            let trip = nanos(pair.round_trip_ms / 1e3);
            let (bytes_per_s, round_trip) = ((rate as u64).max(1), RoundTrip::even(trip, trip));
            Ok(PairSpec { workers: ends, bytes_per_s, round_trip })
        };
        self.pairs.iter().map(spec).collect()
    }

    /// The same cluster with so many workers: the first kinds again and again, or fewer.
    pub fn workers_limited(&self, count: usize) -> Result<Vec<WorkerSpec>, FileError> {
        let all = self.workers()?;
        let repeated = all.iter().cycle().take(count.clamp(1, WORKERS_MAX)).enumerate();
        let named = repeated.map(|(i, worker)| {
            let again = i / all.len();
            let name = match again {
                0 => worker.name.clone(),
                _ => format!("{}+{again}", worker.name),
            };
            WorkerSpec { name, ..worker.clone() }
        });
        Ok(named.collect())
    }
}
