//! A running cluster: submit frames, see devices.

use crate::drive::{self, Request, Work};
use anyhow::{Context, Result, anyhow};
use kernels::{Engine, Pieces};
use model::{LoadedModel, WeightHash};
use net::{Identity, Multiaddr, Net, NetConfig, Role, Token};
use planner::{Cost, PlanOptions, Strategy};
use protocol::{ActivePlan, CoordinatorConfig, Counters, Hello, ModelHash, WorkerId, WorkerReport};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiling::{Grid, Numerics};
use tokio::sync::{mpsc, oneshot};
use worker::BlobCache;

/// Where the workers are.
pub enum Reach {
    /// One worker inside this process, without any network.
    Embedded {
        /// Its compute threads.
        threads: usize,
    },
    /// Workers that join over the network.
    Network {
        /// Our key; the token follows from it.
        identity: Box<Identity>,
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

/// A worker as seen from here.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Device {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Compute threads.
    pub threads: u32,
    /// Multiply-adds a second, as measured.
    pub multiply_adds_per_s: u64,
    /// Its transport identity.
    pub peer: String,
    /// Where it listens.
    pub addresses: Vec<String>,
}

/// Tiles gathered and expected, of all frames submitted; for a progress bar.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) tiles: AtomicU64,
    pub(crate) tiles_expected: AtomicU64,
}

impl Progress {
    /// Gathered and expected tiles.
    pub fn tiles(&self) -> (u64, u64) {
        (self.tiles.load(Ordering::Relaxed), self.tiles_expected.load(Ordering::Relaxed))
    }
}

/// A running cluster. Dropping it ends it.
pub struct Cluster {
    requests: mpsc::UnboundedSender<Request>,
    token: Option<Token>,
    progress: Arc<Progress>,
    ended: Option<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    /// Starts a coordinator.
    ///
    /// *Errors*: a port in use, an embedded worker that cannot start.
    pub async fn start(config: ClusterConfig) -> Result<Self> {
        let (net, token) = match config.reach {
            Reach::Embedded { threads } => (embedded(threads)?, None),
            Reach::Network { identity, listen, mdns } => {
                let mut settings = NetConfig::new((*identity).clone(), Role::Coordinator, listen);
                settings.mdns = mdns;
                let net = net::start(settings).await?;
                let token = Token::of(&identity, net.listening.clone());
                (net, Some(token))
            }
        };
        let (requests, request_rx) = mpsc::unbounded_channel();
        let progress = Arc::new(Progress::default());
        let driving = drive::drive(net, config.machine, request_rx, progress.clone());
        let ended = Some(tokio::spawn(driving));
        Ok(Self { requests, token, progress, ended })
    }

    /// What lets workers join; none for an embedded cluster.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
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
fn embedded(threads: usize) -> Result<Net> {
    let (ours, theirs) = net::loopback();
    let engine = Arc::new(Engine::new(threads)?);
    let hello = Hello {
        name: "embedded".into(),
        threads: threads as u32,
        multiply_adds_per_s: worker::measure_multiply_adds_per_s(&engine)?,
        memory_bytes: 0,
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
