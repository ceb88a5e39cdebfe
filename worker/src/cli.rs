//! `tilehive-worker`: the command line.

use crate::board::{self, Watts};
use crate::doctor::{Diagnosis, device, network, reach};
use crate::logging::LogArguments;
use crate::manual::{self, Shell};
use crate::membership::{self, Joined};
use crate::metrics::{self, Metrics};
use crate::profile::given;
use crate::{BlobCache, Ended, Pace, drive_paced, freed, health, logging, profile, service};
use anyhow::{Context, Result};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kernels::Engine;
use net::{Identity, Multiaddr, NetConfig, Role, Token};
use protocol::Hello;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tiling::OperatorClass;

/// Lends this device to a Tilehive cluster.
#[derive(Parser, Debug)]
#[command(
    name = "tilehive-worker",
    version,
    after_help = "\
Examples:
  On the coordinator:     tilehive cluster token
  On this device, once:   tilehive-worker join TOKEN
  From then on:           tilehive-worker
  With two threads:       tilehive-worker run --threads 2

The worker may start before the coordinator: it tries until it is there, and joins again by itself
when either of them restarts."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: RunArguments,

    /// Where the key, the token and the weights are kept [default: the user's data folder; for root that
    /// of the service, /var/lib/tilehive, where a package made it]
    #[arg(long, value_name = "DIR", env = "TILEHIVE_STATE", global = true)]
    state: Option<PathBuf>,

    #[command(flatten)]
    log: LogArguments,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show a token to its coordinator and keep it, so that this device joins by itself from then on
    Join(JoinArguments),
    /// Work for the cluster that was joined; the same as no command at all
    Run(Box<RunArguments>),
    /// Say what is wrong with this device, its network or its membership, and the cure
    #[command(after_help = "\
Exit code 0 when nothing failed, 1 when something did. A worker that runs with the same key goes on.")]
    Doctor(DoctorArguments),
    /// Print completions for a shell
    #[command(after_help = "\
Example: tilehive-worker completions bash > ~/.local/share/bash-completion/completions/tilehive-worker")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual {
        /// The folder
        folder: PathBuf,
    },
    /// Forget the token that is kept
    Leave {
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
struct JoinArguments {
    /// The line that `tilehive cluster token` prints on the coordinator
    token: String,

    /// Do not look for the coordinator by mDNS; use only the addresses in the token
    #[arg(long)]
    no_mdns: bool,

    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct DoctorArguments {
    /// Look at this token instead of the one that is kept
    #[arg(long, value_name = "TOKEN", env = "TILEHIVE_TOKEN", hide_env_values = true)]
    join: Option<String>,

    /// Do not look for the coordinator by mDNS; use only the addresses in the token
    #[arg(long)]
    no_mdns: bool,

    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RunArguments {
    /// Join with this token, and do not keep it
    #[arg(long, value_name = "TOKEN", env = "TILEHIVE_TOKEN", hide_env_values = true)]
    join: Option<String>,

    /// Measure this device anew, although its speed is known; without --join, that alone
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
    /// others; 0 means no limit [default: three quarters of what is free]
    #[arg(long, value_name = "MB")]
    memory_mb: Option<u64>,

    /// What weights may take on disk, so that they need not be sent again; 0 keeps none [default: 2000,
    /// or a tenth of what the disk has free where that is less]
    #[arg(long, value_name = "MB")]
    cache_mb: Option<u64>,

    /// What this device draws idle and with all threads at work, in watts, such as 1.6:5; for --objective
    /// energy [default: what is known of its board, if that is known]
    #[arg(long, value_name = "IDLE:ACTIVE", env = "TILEHIVE_WATTS")]
    watts: Option<Watts>,

    /// Name of this device in tables and logs [default: the host name]
    #[arg(long)]
    name: Option<String>,

    /// Where to listen for other workers; port 0 means any free one
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/0.0.0.0/tcp/0")]
    listen: Multiaddr,

    /// Do not look for the coordinator by mDNS; use only the addresses in the token
    #[arg(long)]
    no_mdns: bool,

    /// Serve numbers for Prometheus at this address, such as 127.0.0.1:9477, on /metrics. Whoever can
    /// reach the address may read them
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,

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

/// How to get in, for whoever is not.
const INVITE: &str = "print a token with `tilehive cluster token` on the coordinator, then run \
                      `tilehive-worker join TOKEN` here";

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = parse();
    logging::start(arguments.log);
    let Some(state) = arguments.state.or_else(service::state_folder) else {
        return failed("this user has no data folder", "give one with --state", 2);
    };
    match &arguments.command {
        Some(Command::Run(run)) => freed::give_back_if_little(run.memory_mb),
        None => freed::give_back_if_little(arguments.run.memory_mb),
        Some(_) => {}
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the runtime: {error}"), "", 1),
    };
    let ended = runtime.block_on(async {
        match arguments.command {
            Some(Command::Join(arguments)) => join(&state, arguments).await,
            Some(Command::Doctor(arguments)) => doctor(&state, arguments).await,
            Some(Command::Leave { json }) => leave(&state, json),
            Some(Command::Completions { shell }) => {
                manual::completions(Arguments::command(), shell).map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Manual { folder }) => {
                manual::pages(Arguments::command(), &folder).map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Run(arguments)) => work(&state, *arguments).await,
            None => work(&state, arguments.run).await,
        }
    });
    // A pending read of standard input would hold up an orderly shutdown for ever.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| failed(&format!("{error:#}"), "", 1))
}

/// Options of a run may stand alone or after `run`. Before another command they would do nothing.
fn parse() -> Arguments {
    let mut command = Arguments::command();
    let matches = command.get_matches_mut();
    if let Some((name, _)) = matches.subcommand() {
        let shared = |id: &str| ["state", "verbose", "log_format"].contains(&id);
        let misplaced = command.get_arguments().map(|a| a.get_id().as_str()).find(|id| {
            !shared(id)
                && matches.ids().any(|i| i == id)
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        });
        if let Some(id) = misplaced {
            let flag = id.replace('_', "-");
            let message = format!(
                "--{flag} is of a run: `tilehive-worker run --{flag} ...`, not before `{name}`\n"
            );
            command.error(clap::error::ErrorKind::ArgumentConflict, message).exit();
        }
    }
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn failed(error: &str, hint: &str, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    if !hint.is_empty() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}

/// Reads a token, or says how to get one that can be read.
fn token(text: &str) -> Result<Token, ExitCode> {
    text.parse::<Token>().map_err(|error| {
        let hint = "copy the whole line that `tilehive cluster token` prints on the coordinator";
        failed(&error.to_string(), hint, 2)
    })
}

fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into()
}

async fn join(state: &Path, arguments: JoinArguments) -> Result<ExitCode> {
    let token = match token(&arguments.token) {
        Ok(token) => token,
        Err(code) => return Ok(code),
    };
    // A damaged one is about to be replaced.
    let before = membership::kept(state).ok().flatten();
    let joined = membership::join(state, &token, &host_name(), !arguments.no_mdns).await?;
    if arguments.json {
        let (admitted, reason) = match &joined {
            Joined::Admitted => (true, None),
            Joined::Later(reason) => (false, Some(reason.clone())),
            Joined::Refused(refused) => (false, Some(refused.reason.clone())),
        };
        let report = serde_json::json!({
            "admitted": admitted,
            "kept": !matches!(joined, Joined::Refused(_)),
            "coordinator": token.coordinator.to_string(),
            "reason": reason,
        });
        println!("{report}");
    }
    if let Joined::Refused(refused) = &joined {
        let reason = format!("this token does not let the device in: {}", refused.reason);
        return Ok(failed(&reason, &refused.cure, 2));
    }
    if before.is_some_and(|before| before.coordinator != token.coordinator) {
        eprintln!("this device was in another cluster before, and leaves it");
    }
    match joined {
        Joined::Later(reason) => {
            eprintln!("the token is kept; the coordinator does not answer now ({reason})");
            match service::is_service(state) {
                true => eprintln!("the service tries until it is there"),
                false => eprintln!("`tilehive-worker` tries until it is there"),
            }
            if let Some(end) = token.expires_unix_s {
                let left = Duration::from_secs(end.saturating_sub(net::now_unix_s()));
                let left = humantime::format_duration(left);
                eprintln!(
                    "the token is good for {left} more, until they have met for the first time"
                );
            }
        }
        _ if service::is_service(state) => {
            eprintln!("this device is a member now, and its service works from now on");
        }
        _ => eprintln!("this device is a member now; start it with `tilehive-worker`"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn doctor(state: &Path, arguments: DoctorArguments) -> Result<ExitCode> {
    let given = match arguments.join.as_deref().map(token).transpose() {
        Ok(given) => given,
        Err(code) => return Ok(code),
    };
    let mut checks = device::checks(state, &["worker.key", "worker.token"]);
    checks.push(device::key(&membership::key_file(state)));
    checks.extend(network::checks().await);
    checks.extend(reach(state, given, (&host_name(), !arguments.no_mdns)).await);
    let diagnosis = Diagnosis::of(checks);
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&diagnosis)?),
        false => println!("{diagnosis}"),
    }
    Ok(if diagnosis.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn leave(state: &Path, json: bool) -> Result<ExitCode> {
    let left = membership::leave(state)?;
    if json {
        println!("{}", serde_json::json!({ "left": left }));
    }
    match left {
        true => eprintln!(
            "the token is forgotten; the coordinator lists this device as away until \
             `tilehive devices remove {}` there",
            host_name()
        ),
        false => eprintln!("no token is kept here"),
    }
    if left && service::is_service(state) {
        eprintln!("hint: what runs now works on until `sudo systemctl stop tilehive-worker`");
    }
    Ok(ExitCode::SUCCESS)
}

/// Works with the token that was given or that is kept, or only measures.
async fn work(state: &Path, arguments: RunArguments) -> Result<ExitCode> {
    let given = match arguments.join.as_deref().map(token).transpose() {
        Ok(given) => given,
        Err(code) => return Ok(code),
    };
    let token = match given {
        None if !arguments.calibrate => match membership::kept(state)? {
            Some(token) => Some(token),
            None => return Ok(failed("this device has joined no cluster", INVITE, 2)),
        },
        given => given,
    };
    Ok(match run(state, arguments, token).await? {
        Ended::Stopped => ExitCode::SUCCESS,
        Ended::Refused(refused) => {
            let reason = format!("the coordinator turned this worker away: {}", refused.reason);
            failed(&reason, &refused.cure, 2)
        }
        Ended::NetworkGone => failed("the network stopped", "", 1),
    })
}

async fn run(state: &Path, arguments: RunArguments, token: Option<Token>) -> Result<Ended> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = arguments.threads.unwrap_or(cores).clamp(1, 1024);
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
    let limit_bytes = arguments.cache_mb.map(|mb| mb.saturating_mul(1_000_000));
    let cache = BlobCache::on_disk(state.join("blobs"), limit_bytes)
        .with_context(|| format!("cannot use {}", state.join("blobs").display()))?;
    let identity = if arguments.child {
        Identity::ephemeral()
    } else {
        Identity::load_or_create(&membership::key_file(state))?
    };
    let health = health::read(Path::new("/"));
    let hello = Hello {
        name: arguments.name.unwrap_or_else(host_name),
        threads: threads as u32,
        rates: measured.rates,
        speedups_per_mille: measured.speedups_per_mille,
        memory_bytes: match arguments.memory_mb {
            Some(mb) => mb.saturating_mul(1_000_000),
            // Its parent is on the same machine, and counts for itself.
            None if arguments.child => 0,
            None => health.free_bytes.unwrap_or(0) / 4 * 3,
        },
        health,
        // A child shares its board with others.
        board: board::name(Path::new("/")).filter(|_| !arguments.child),
        power: arguments.watts.map(|Watts(power)| power),
    };
    tracing::info!("{} threads, {:?}", threads, engine.isa());
    let coordinator = token.coordinator;
    let mut config = NetConfig::new(identity, Role::Worker(token), vec![arguments.listen]);
    config.mdns = !arguments.no_mdns && !arguments.child;
    config.version = arguments.protocol_version;
    config.name = hello.name.clone();
    let net = net::start(config).await?;
    tracing::info!("listening on {:?}", net.listening);
    let metrics = Metrics::default();
    let _serving = match arguments.metrics {
        Some(at) => {
            let registry = metrics.registry(net.counters.clone(), cache.clone());
            Some(metrics::serve_registry(at, registry).await?)
        }
        None => None,
    };
    service::ready();
    let stopped = stop(arguments.child);
    let driven = drive_paced(net, (engine, pace, metrics), cache, hello, coordinator, stopped);
    // As a task of the runtime it is woken by the network's without a switch of threads.
    let ended = tokio::spawn(driven).await.context("the worker broke off")?;
    Ok(ended?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
