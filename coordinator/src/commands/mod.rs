//! One file for each command, and what they share.

pub(crate) mod calibrate;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod devices;
pub(crate) mod doctor;
mod energy;
pub(crate) mod inspect;
pub(crate) mod invite;
pub(crate) mod model;
pub(crate) mod plan;
mod report;
pub(crate) mod run;
pub(crate) mod stream;

use crate::cli::{ClusterArguments, Context, Extent};
use crate::cluster::{Cluster, ClusterConfig, Device, Reach};
use crate::failure::{Failure, bad_model};
use crate::locals::LocalWorkers;
use crate::table;
use ::model::{Axes, LoadOptions, LoadedModel, ModelError};
use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use net::{Identity, NetError, Register, Terms};
use protocol::CoordinatorConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long local workers may take to start, measure themselves and join.
const LOCAL_START: Duration = Duration::from_secs(30);

/// How long to wait for devices when nobody said and some were invited before.
const INVITED_WAIT: Duration = Duration::from_secs(2);

/// How long links may take to be measured: a run goes on with what it knows, a question about the
/// devices wants the answer.
const SETTLE_TO_RUN: Duration = Duration::from_secs(1);
const SETTLE_TO_TELL: Duration = Duration::from_secs(15);

/// A cluster with its devices, and the local processes among them.
pub(crate) struct Opened {
    pub cluster: Cluster,
    pub locals: Option<LocalWorkers>,
    pub devices: Vec<Device>,
}

impl Opened {
    /// Ends everything in order.
    pub(crate) async fn stop(self) {
        if let Some(locals) = self.locals {
            locals.stop().await;
        }
        self.cluster.stop().await;
    }
}

pub(crate) fn key_file(context: &Context) -> std::path::PathBuf {
    context.state.join("coordinator.key")
}

/// Invitations and members of this user's cluster.
pub(crate) fn register(context: &Context) -> Register {
    Register::in_file(register_file(&context.state))
}

fn register_file(state: &Path) -> PathBuf {
    state.join("cluster.json")
}

/// Whether this user ever invited a device.
pub(crate) fn has_cluster(state: &Path) -> bool {
    register_file(state).exists()
}

/// Where what devices measured of themselves is kept, as their workers keep it.
pub(crate) fn profiles(context: &Context) -> std::path::PathBuf {
    context.state.join("profiles")
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Opens the cluster that the arguments describe: local processes, devices that join, or, with
/// none in reach, a worker in this process.
pub(crate) async fn open_cluster(
    context: &Context,
    arguments: &ClusterArguments,
    machine: CoordinatorConfig,
) -> Result<Opened, Failure> {
    if let Some(count) = arguments.workers {
        return open_locals(context, count.into(), arguments.threads.unwrap_or(1), machine).await;
    }
    let known = register(context).read().map_err(Failure::bad_input)?;
    let now = net::now_unix_s();
    let invited =
        known.present().next().is_some() || known.invitations.iter().any(|i| i.is_open(now));
    if let Some(patience) = arguments.join_wait.or(invited.then_some(INVITED_WAIT)) {
        let cluster = listen(context, arguments, machine.clone()).await?;
        let spinner =
            spinner(format!("waiting {} for devices", humantime::format_duration(patience)));
        let devices = cluster.wait_for(arguments.expect.unwrap_or(usize::MAX), patience).await?;
        spinner.finish_and_clear();
        if !devices.is_empty() {
            let devices = cluster.settle(SETTLE_TO_RUN).await?;
            return Ok(Opened { cluster, locals: None, devices });
        }
        cluster.stop().await;
        eprintln!("no device joined; running on this one alone");
    }
    let threads = arguments.threads.unwrap_or_else(cores);
    let profiles = Some(profiles(context));
    let reach = Reach::Embedded { threads, profiles };
    let cluster = start(context, ClusterConfig { reach, machine }).await?;
    let devices = cluster.wait_for(1, LOCAL_START).await?;
    Ok(Opened { cluster, locals: None, devices })
}

/// Listens with the key of this user's cluster.
pub(crate) async fn listen(
    context: &Context,
    arguments: &ClusterArguments,
    machine: CoordinatorConfig,
) -> Result<Cluster, Failure> {
    let identity = Identity::load_or_create(&key_file(context)).map_err(Failure::bad_input)?;
    let (identity, register) = (Box::new(identity), register(context));
    // Damaged, it would turn every device away without a word here.
    register.read().map_err(Failure::bad_input)?;
    let (listen, mdns) = (vec![arguments.listen.clone()], !arguments.no_mdns);
    let reach = Reach::Network { identity, register, listen, mdns };
    start(context, ClusterConfig { reach, machine }).await
}

/// Starts local worker processes and waits until all of them joined.
pub(crate) async fn open_locals(
    context: &Context,
    count: usize,
    threads: usize,
    machine: CoordinatorConfig,
) -> Result<Opened, Failure> {
    let reach = Reach::Network {
        identity: Box::new(Identity::ephemeral()),
        register: Register::in_memory(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().map_err(anyhow::Error::from)?],
        mdns: false,
    };
    let cluster = start(context, ClusterConfig { reach, machine }).await?;
    let token = cluster.invite(&Terms::default())?;
    let locals = LocalWorkers::start(count, threads, &token, &context.state, context.log)?;
    let spinner = spinner(format!("starting {count} workers"));
    let devices = cluster.wait_for(count, LOCAL_START).await?;
    spinner.finish_and_clear();
    if devices.len() < count {
        let error = anyhow!("{} of {count} workers joined within 30 s", devices.len());
        return Err(Failure::run(error).hint("try again with -v to see what they say"));
    }
    let devices = cluster.settle(SETTLE_TO_RUN).await?;
    Ok(Opened { cluster, locals: Some(locals), devices })
}

async fn start(context: &Context, config: ClusterConfig) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::start(config).await.map_err(|error| {
        let taken = matches!(error.downcast_ref(), Some(NetError::Listen { .. }));
        let failure = Failure::run(error);
        if taken {
            failure.hint("another coordinator may be running; give another address with --listen")
        } else {
            failure
        }
    })?;
    if let Some(address) = context.metrics {
        cluster.serve_metrics(address).await?;
    }
    Ok(cluster)
}

fn spinner(message: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A bar that follows the cluster's tiles, and what is done before them, until it is dropped.
pub(crate) struct TileBar {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl TileBar {
    pub(crate) fn start(cluster: &Cluster, what: &str) -> Self {
        let style = "{msg} [{bar:32}] {pos}/{len} tiles {elapsed}";
        let style = ProgressStyle::with_template(style).expect("a sound template");
        // Of no tiles all would be done.
        let bar = ProgressBar::no_length()
            .with_message(what.to_owned())
            .with_style(style.progress_chars("=> "));
        let (progress, shown) = (cluster.progress().clone(), bar.clone());
        let (base, base_expected) = progress.tiles();
        let what = what.to_owned();
        let task = tokio::spawn(async move {
            loop {
                shown.set_message(match progress.weights() {
                    Some((sent, all)) => {
                        format!("{what}, weights {} of {}", table::bytes(sent), table::bytes(all))
                    }
                    None if progress.planned_for() > 0 => format!("{what}, planning"),
                    None => what.clone(),
                });
                let (tiles, expected) = progress.tiles();
                if expected > base_expected {
                    shown.set_length(expected - base_expected);
                }
                shown.set_position(tiles - base);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { bar, task }
    }

    /// Prints something without leaving a piece of the bar on the line.
    pub(crate) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for TileBar {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Opens a model, with a size for what it leaves open.
pub(crate) fn open_model(reference: &str, size: Option<Extent>) -> Result<LoadedModel, Failure> {
    let input_size = size.map(|Extent { rows, cols }| Axes::new(rows, cols));
    ::model::open(reference, &LoadOptions { input_size }).map_err(|error| {
        let open = matches!(error, ModelError::DynamicInput { .. });
        let failure = bad_model(error);
        if open { failure.hint("give it a size, such as --input-size 512x512") } else { failure }
    })
}
