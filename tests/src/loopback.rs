//! Runner 5: the real coordinator and real workers over libp2p sockets on 127.0.0.1, in one
//! process.

use crate::Maps;
use anyhow::Result;
use coordinator::{Cluster, ClusterConfig, HostedModel, Job, Reach};
use kernels::Engine;
use net::{Identity, Multiaddr, NetConfig, Register, Role, Terms};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, Hello};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tiling::Rates;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use worker::{BlobCache, Ended};

/// A cluster of real nodes in this process.
pub struct Loopback {
    /// The coordinator.
    pub cluster: Cluster,
    workers: Mutex<Vec<RunningWorker>>,
}

struct RunningWorker {
    stop: Arc<Notify>,
    ended: JoinHandle<std::io::Result<Ended>>,
}

fn anywhere() -> Vec<Multiaddr> {
    vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a sound address")]
}

impl Loopback {
    /// Starts a coordinator and so many workers of different claimed speeds, and waits for them.
    ///
    /// *Errors*: a socket is refused, or the workers do not come.
    pub async fn start(workers: usize, machine: CoordinatorConfig) -> Result<Self> {
        let (identity, register) = (Box::new(Identity::ephemeral()), Register::in_memory());
        let reach = Reach::Network { identity, register, listen: anywhere(), mdns: false };
        let cluster = Cluster::start(ClusterConfig { reach, machine }).await?;
        let loopback = Self { cluster, workers: Mutex::default() };
        for i in 0..workers {
            loopback.join(1_000_000_000 * (1 + i as u64)).await?;
        }
        let there = loopback.cluster.wait_for(workers, Duration::from_secs(30)).await?;
        anyhow::ensure!(there.len() == workers, "{} of {workers} workers came", there.len());
        Ok(loopback)
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Vec<RunningWorker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a worker that claims a speed.
    ///
    /// *Errors*: a socket is refused.
    pub async fn join(&self, multiply_adds_per_s: u64) -> Result<()> {
        let token = self.cluster.invite(&Terms::default())?;
        let name = format!("worker {}", self.workers().len());
        let coordinator = token.coordinator;
        let config = NetConfig::new(Identity::ephemeral(), Role::Worker(token), anywhere());
        let net = net::start(NetConfig { mdns: false, ..config }).await?;
        let engine = Arc::new(Engine::new(1)?);
        let hello = Hello::new(name, 1, Rates::uniform(multiply_adds_per_s), 0);
        let stop = Arc::new(Notify::new());
        let told = stop.clone();
        let ended = tokio::spawn(async move {
            let stopped = told.notified();
            worker::drive(net, engine, BlobCache::in_memory(), hello, coordinator, stopped).await
        });
        self.workers().push(RunningWorker { stop, ended });
        Ok(())
    }

    /// Stops a worker in the middle of whatever it does.
    pub fn stop_worker(&self, i: usize) {
        self.workers()[i].stop.notify_one();
    }

    /// Computes one frame.
    ///
    /// *Errors*: no plan fits, or the frame failed.
    pub async fn run(
        &self,
        model: &Arc<HostedModel>,
        inputs: &Maps,
        strategy: Strategy,
        options: PlanOptions,
    ) -> Result<Maps> {
        let job = Job { model: model.clone(), inputs: inputs.clone(), strategy, options };
        let answer = tokio::time::timeout(Duration::from_secs(60), self.cluster.submit(job)).await;
        Ok(answer??.outputs)
    }

    /// Ends all of it in order.
    ///
    /// *Errors*: a worker ended badly.
    pub async fn stop(self) -> Result<()> {
        let Self { cluster, workers } = self;
        for worker in workers.into_inner().unwrap_or_else(PoisonError::into_inner) {
            worker.stop.notify_one();
            anyhow::ensure!(worker.ended.await?? == Ended::Stopped, "a worker ended badly");
        }
        cluster.stop().await;
        Ok(())
    }
}
