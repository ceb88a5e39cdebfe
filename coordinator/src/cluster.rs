//! A running cluster: submit frames, see devices.

use crate::drive::{self, Request, Work};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::watts::Watts;
use anyhow::{Context, Result, anyhow};
use kernels::{Engine, Pieces};
use model::{LoadedModel, WeightHash};
use net::{Identity, Multiaddr, Net, NetConfig, PeerId, Register, Role, Terms, Token};
use planner::{Cost, DeviceProfile, PlanOptions, Strategy};
use protocol::{ActivePlan, CoordinatorConfig, Counters, Hello, ModelHash, WorkerId, WorkerReport};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiling::{Grid, Numerics, OperatorClass};
use tokio::sync::{mpsc, oneshot};
use worker::BlobCache;
use worker::metrics::Serving;

/// Where the workers are.
pub enum Reach {
    /// One worker inside this process, without any network.
    Embedded {
        /// Its compute threads.
        threads: usize,
        /// Where its profile is kept.
        profiles: Option<PathBuf>,
    },
    /// Workers that join over the network.
    Network {
        /// Our key.
        identity: Box<Identity>,
        /// Whom we invited, and who came.
        register: Register,
        /// Where to listen.
        listen: Vec<Multiaddr>,
        /// Whether to answer mDNS.
        mdns: bool,
    },
}

/// How to start a cluster.
pub struct ClusterConfig {
    /// Where the workers are.
    pub reach: Reach,
    /// How the state machine is set.
    pub machine: CoordinatorConfig,
}

/// A model that frames can be submitted for: its graph in wire form, and its weights by hash.
pub struct HostedModel {
    /// The model.
    pub loaded: LoadedModel,
    pub(crate) hash: ModelHash,
    pub(crate) graph_bytes: Arc<Vec<u8>>,
}

impl HostedModel {
    /// Encodes a model for the wire.
    ///
    /// *Errors*: the graph cannot be encoded.
    pub fn new(loaded: LoadedModel) -> Result<Arc<Self>> {
        let bytes = postcard::to_stdvec(&*loaded.graph).context("cannot encode the model")?;
        let hash = ModelHash(WeightHash::of_bytes(&bytes));
        Ok(Arc::new(Self { loaded, hash, graph_bytes: Arc::new(bytes) }))
    }
}

/// One frame to compute.
pub struct Job {
    /// The model.
    pub model: Arc<HostedModel>,
    /// Its inputs, whole.
    pub inputs: Pieces,
    /// Which plan.
    pub strategy: Strategy,
    /// Settings of the strategy.
    pub options: PlanOptions,
}

/// One band of a picture that is computed in parts.
pub struct BandJob {
    /// The model, opened for the whole picture.
    pub model: Arc<HostedModel>,
    /// The rows of its inputs that the band reads.
    pub inputs: Pieces,
    /// The tiles of the whole picture.
    pub grid: Grid,
    /// Which row of them.
    pub row: usize,
    /// Which answers it may give.
    pub numerics: Numerics,
}

/// What came of a frame.
#[derive(Debug)]
pub struct Answer {
    /// The model's output maps: whole, or the rows of a band.
    pub outputs: Pieces,
    /// First scatter to last gather.
    pub makespan: Duration,
    /// The plan that it was computed by.
    pub plan: Arc<ActivePlan>,
    /// What the plan should have cost.
    pub predicted: Cost,
}

/// The way from a worker to another one.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PairReport {
    /// The other's name.
    pub with: String,
    /// The other's id.
    pub id: u32,
    /// What the way carries.
    pub bytes_per_s: u64,
    /// Time of a word there and back.
    pub round_trip_ns: u64,
    /// Whether it is another than the links of the two to the coordinator suggest, so that plans heed it.
    pub unusual: bool,
}

/// A worker as seen from here.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Device {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Compute threads.
    pub threads: u32,
    /// Units of each operator class a second, as measured and as its tasks have corrected it.
    pub rates: BTreeMap<&'static str, u64>,
    /// How many times as fast as measured its tasks say it is.
    pub speed: f64,
    /// How many times as fast as one thread each number of threads is, in thousandths.
    pub speedups_per_mille: Vec<u32>,
    /// What its link carries, where that was measured.
    pub link_bytes_per_s: Option<u64>,
    /// Time of a word there and back, where that was measured.
    pub round_trip_ns: Option<u64>,
    /// Memory that it gives; none where it sets no limit.
    pub memory_bytes: Option<u64>,
    /// Memory that programs on it may still take, where its system tells.
    pub free_bytes: Option<u64>,
    /// Its hottest sensor, where its system tells.
    pub temperature_c: Option<f64>,
    /// Whether its processor is slowed down now, where its system tells.
    pub throttled: Option<bool>,
    /// How full its battery is, if it has one.
    pub battery_percent: Option<u8>,
    /// Whether its battery is being emptied.
    pub on_battery: bool,
    /// What its system says that it is.
    pub board: Option<String>,
    /// What it draws, and who says so, where that is known.
    pub watts: Option<Watts>,
    /// The ways to other workers, as far as they are measured.
    pub pairs: Vec<PairReport>,
    /// What the planner plans with.
    #[serde(skip)]
    pub profile: DeviceProfile,
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// Its transport identity.
    pub peer: String,
    /// Where it listens.
    pub addresses: Vec<String>,
}

impl Device {
    /// A device of which nothing but its profile is known.
    pub(crate) fn of(profile: DeviceProfile) -> Self {
        let rates = OperatorClass::ALL.map(|class| (class.name(), profile.rates.per_s(class)));
        Self {
            id: 0,
            name: profile.name.clone(),
            threads: 0,
            rates: rates.into(),
            speed: 1.0,
            speedups_per_mille: Vec::new(),
            link_bytes_per_s: None,
            round_trip_ns: None,
            memory_bytes: None,
            free_bytes: None,
            temperature_c: None,
            throttled: None,
            battery_percent: None,
            on_battery: false,
            board: None,
            watts: None,
            pairs: Vec::new(),
            protocol: protocol::VERSION,
            peer: String::new(),
            addresses: Vec::new(),
            profile,
        }
    }
}

/// Where workers come in.
struct Door {
    local: PeerId,
    listening: Vec<Multiaddr>,
    register: Register,
}

/// A running cluster. Dropping it ends it.
pub struct Cluster {
    requests: mpsc::UnboundedSender<Request>,
    door: Option<Door>,
    progress: Arc<Progress>,
    metrics: Metrics,
    counted: net::Counters,
    serving: Option<Serving>,
    ended: Option<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    /// Starts a coordinator.
    ///
    /// *Errors*: a port in use, an embedded worker that cannot start.
    pub async fn start(config: ClusterConfig) -> Result<Self> {
        let (net, door) = match config.reach {
            Reach::Embedded { threads, profiles } => {
                (embedded(threads, profiles.as_deref())?, None)
            }
            Reach::Network { identity, register, listen, mdns } => {
                let role = Role::Coordinator(register.clone());
                let mut settings = NetConfig::new(*identity, role, listen);
                settings.mdns = mdns;
                let net = net::start(settings).await?;
                let (local, listening) = (net.local, net.listening.clone());
                (net, Some(Door { local, listening, register }))
            }
        };
        let (requests, request_rx) = mpsc::unbounded_channel();
        let progress = Arc::new(Progress::default());
        let (metrics, counted) = (Metrics::default(), net.counters.clone());
        let shared = (progress.clone(), metrics.clone());
        let driving = drive::drive(net, config.machine, request_rx, shared);
        let ended = Some(tokio::spawn(driving));
        Ok(Self { requests, door, progress, metrics, counted, serving: None, ended })
    }

    /// Serves numbers for Prometheus as long as the cluster lives; gives back where.
    ///
    /// *Errors*: the address is taken or not ours.
    pub async fn serve_metrics(&mut self, address: SocketAddr) -> std::io::Result<SocketAddr> {
        let (requests, metrics) = (self.requests.clone(), self.metrics.clone());
        let counted = self.counted.clone();
        let page = move || {
            let (requests, metrics, counted) = (requests.clone(), metrics.clone(), counted.clone());
            async move {
                let (reply, snapshot) = oneshot::channel();
                let _ = requests.send(Request::Snapshot(reply));
                // A coordinator that is stopping knows nothing any more: zeros would be taken for a
                // new one.
                Some(metrics.page(snapshot.await.ok()?, counted))
            }
        };
        let serving = self.serving.insert(worker::metrics::serve(address, page).await?);
        Ok(serving.address)
    }

    /// Whether its one worker is inside this process.
    pub fn is_embedded(&self) -> bool {
        self.door.is_none()
    }

    /// Invites workers.
    ///
    /// *Errors*: a cluster inside this process, which nobody joins; invitations that cannot be
    /// written down.
    pub fn invite(&self, terms: &Terms) -> Result<Token> {
        let door = self.door.as_ref().context("nobody can join a cluster inside one process")?;
        let invitation = door.register.invite(terms)?;
        Ok(Token::new(door.local, door.listening.clone(), &invitation))
    }

    /// Tiles gathered so far.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || anyhow!("the coordinator stopped");
        self.requests.send(request(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// The workers that are there.
    pub async fn devices(&self) -> Result<Vec<Device>> {
        self.ask(Request::Devices).await
    }

    /// Waits until `count` workers are there, or for `patience`.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Result<Vec<Device>> {
        let give_up = tokio::time::Instant::now() + patience;
        loop {
            let devices = self.devices().await?;
            if devices.len() >= count || tokio::time::Instant::now() >= give_up {
                return Ok(devices);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all links are measured, the workers have found each other and measured the ways
    /// between them, or for `patience`.
    pub async fn settle(&self, patience: Duration) -> Result<Vec<Device>> {
        let give_up = tokio::time::Instant::now() + patience;
        loop {
            let devices = self.devices().await?;
            let known = devices.iter().all(|d| d.link_bytes_per_s.is_some())
                && self.ask(Request::Reach).await?;
            if known || tokio::time::Instant::now() >= give_up {
                return Ok(devices);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Computes one frame.
    ///
    /// *Errors*: no plan fits, or the frame failed everywhere.
    pub async fn submit(&self, job: Job) -> Result<Answer> {
        let work = Work::of(job);
        self.ask(|reply| Request::Submit(work, reply)).await?.map_err(|reason| anyhow!(reason))
    }

    /// Computes one band of a frame: the answer has those rows of the output maps.
    ///
    /// *Errors*: the grid does not fit the model, inputs that lack rows of the band, or the band
    /// failed everywhere.
    pub async fn submit_band(&self, job: BandJob) -> Result<Answer> {
        let work = Work::of_band(job);
        self.ask(|reply| Request::Submit(work, reply)).await?.map_err(|reason| anyhow!(reason))
    }

    /// What each worker did so far, and the number of tasks reassigned.
    pub async fn reports(&self) -> Result<(BTreeMap<WorkerId, WorkerReport>, u64)> {
        self.ask(Request::Reports).await
    }

    /// What the scheduler did so far.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask(Request::Counters).await
    }

    /// Writes down what happens from now on, for [`Cluster::timeline`].
    pub fn record(&self) {
        // A coordinator that stopped has nothing to record; the next request says so.
        let _ = self.requests.send(Request::Record);
    }

    /// What happened since [`Cluster::record`].
    pub async fn timeline(&self) -> Result<timeline::Timeline> {
        self.ask(Request::Timeline).await
    }

    /// Says goodbye to the workers and stops.
    pub async fn stop(mut self) {
        let _ = self.requests.send(Request::Stop);
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }
}

/// A worker inside this process.
fn embedded(threads: usize, profiles: Option<&Path>) -> Result<Net> {
    let (ours, theirs) = net::loopback();
    let engine = Arc::new(Engine::new(threads)?);
    let measured = worker::profile(&engine, profiles, false)?;
    let hello = Hello {
        speedups_per_mille: measured.speedups_per_mille,
        ..Hello::new("embedded", threads as u32, measured.rates, 0)
    };
    let coordinator = ours.local;
    let never = std::future::pending();
    tokio::spawn(async move {
        let ended =
            worker::drive(theirs, engine, BlobCache::in_memory(), hello, coordinator, never).await;
        if let Err(error) = ended {
            tracing::error!("the embedded worker cannot run: {error}");
        }
    });
    Ok(ours)
}
