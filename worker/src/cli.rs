//! `tilehive-worker`: the command line.

use crate::profile::given;
use crate::{BlobCache, Ended, Pace, drive_paced, health, logging, profile};
use anyhow::{Context, Result};
use clap::Parser;
use kernels::Engine;
use net::{Identity, Multiaddr, NetConfig, Role, Token};
use protocol::Hello;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tiling::OperatorClass;

/// Lends this device to a Tilehive cluster.
#[derive(Parser, Debug)]
#[command(
    name = "tilehive-worker",
    version,
    after_help = "\
Examples:
  On the coordinator:   tilehive token
  On this device:       tilehive-worker --join TOKEN
  With two threads:     tilehive-worker --join TOKEN --threads 2

The worker may start before the coordinator: it tries until it is there, and joins again by itself
when either of them restarts."
)]
struct Arguments {
    /// The line that `tilehive token` prints on the coordinator
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TILEHIVE_TOKEN",
        hide_env_values = true,
        required_unless_present = "calibrate"
    )]
    join: Option<String>,

    /// Measure this device anew, although its speed is known; without a token, that alone
    #[arg(long)]
    calibrate: bool,

    /// Believe these rates instead of measuring: a file with what --calibrate prints. For devices whose
    /// processor time is limited from outside, where short measurements do not see the limit
    #[arg(long, value_name = "FILE.json", conflicts_with = "calibrate")]
    rates: Option<PathBuf>,

    /// Compute threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Memory that feature maps and packed weights may take together; what does not fit is given to
    /// others [default: no limit]
    #[arg(long, value_name = "MB")]
    memory_mb: Option<u64>,

    /// Name of this device in tables and logs [default: the host name]
    #[arg(long)]
    name: Option<String>,

    /// Where to listen for other workers; port 0 means any free one
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/0.0.0.0/tcp/0")]
    listen: Multiaddr,

    /// Where the key and the weights are kept [default: the user's data folder]
    #[arg(long, value_name = "DIR", env = "TILEHIVE_STATE")]
    state: Option<PathBuf>,

    /// Do not look for the coordinator by mDNS; use only the addresses in the token
    #[arg(long)]
    no_mdns: bool,

    /// More log: -v tells what happens, -vv tells all
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Take as many times the processor time for computing as this file says, read again all the time
    /// (for emulated swarms, with one thread)
    #[arg(long, hide = true, value_name = "FILE")]
    pace: Option<PathBuf>,

    /// With --pace: tasks take what --rates says of them
    #[arg(long, hide = true, requires = "pace", requires = "rates")]
    pace_by_rates: bool,

    /// Started by a coordinator on the same machine: a fresh key, and end with its standard input
    #[arg(long, hide = true)]
    child: bool,

    /// Speak another protocol version (for tests)
    #[arg(long, hide = true, default_value_t = protocol::VERSION)]
    protocol_version: u32,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(arguments.verbose);
    let token = match arguments.join.as_deref().map(str::parse::<Token>).transpose() {
        Ok(token) => token,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("hint: copy the whole line that `tilehive token` prints on the coordinator");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime");
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(run(arguments, token));
        // A pending read of standard input would hold up an orderly shutdown for ever.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Refused(reason)) => {
            eprintln!("error: the coordinator turned this worker away: {reason}");
            eprintln!("hint: print a fresh token with `tilehive token` and join with that one");
            ExitCode::from(2)
        }
        Ok(Ended::NetworkGone) => {
            eprintln!("error: the network stopped");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, token: Option<Token>) -> Result<Ended> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = arguments.threads.unwrap_or(cores).clamp(1, 1024);
    let state = match arguments.state {
        Some(state) => state,
        None => dirs::data_local_dir()
            .context("this user has no data folder; give --state")?
            .join("tilehive"),
    };
    let engine = Arc::new(Engine::new(threads)?);
    let measured = match &arguments.rates {
        Some(path) => given(path, threads)?,
        None => profile(&engine, Some(&state.join("profiles")), arguments.calibrate)?,
    };
    let pace = match &arguments.pace {
        Some(_) if threads > 1 => {
            anyhow::bail!("--pace counts the time of one thread: --threads 1")
        }
        Some(path) => Pace::from_file(path, arguments.pace_by_rates.then_some(measured.rates))?,
        None => Pace::own(),
    };
    for class in OperatorClass::ALL {
        let giga_per_s = measured.rates.per_s(class) as f64 / 1e9;
        tracing::info!("{}: {giga_per_s:.3} thousand million a second", class.name());
    }
    let Some(token) = token else {
        println!("{}", serde_json::to_string(&measured.rates)?);
        return Ok(Ended::Stopped);
    };
    let cache = BlobCache::on_disk(state.join("blobs"))
        .with_context(|| format!("cannot use {}", state.join("blobs").display()))?;
    let identity = if arguments.child {
        Identity::ephemeral()
    } else {
        Identity::load_or_create(&state.join("worker.key"))?
    };
    let hello = Hello {
        name: arguments.name.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into()),
        threads: threads as u32,
        rates: measured.rates,
        speedups_per_mille: measured.speedups_per_mille,
        memory_bytes: arguments.memory_mb.unwrap_or(0).saturating_mul(1_000_000),
        health: health::read(Path::new("/")),
    };
    tracing::info!("{} threads, {:?}", threads, engine.isa());
    let coordinator = token.coordinator;
    let mut config = NetConfig::new(identity, Role::Worker(token), vec![arguments.listen]);
    config.mdns = !arguments.no_mdns && !arguments.child;
    config.version = arguments.protocol_version;
    let net = net::start(config).await?;
    tracing::info!("listening on {:?}", net.listening);
    let stopped = stop(arguments.child);
    Ok(drive_paced(net, (engine, pace), cache, hello, coordinator, stopped).await?)
}

/// Ends on SIGTERM or SIGINT, and for a child when its parent is gone.
async fn stop(child: bool) {
    let parent_gone = async {
        if !child {
            return std::future::pending().await;
        }
        let mut byte = [0];
        let mut input = tokio::io::stdin();
        while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut input, &mut byte).await {}
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = parent_gone => {}
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
