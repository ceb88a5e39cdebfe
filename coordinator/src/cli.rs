//! `tilehive`: the command line. Each flag is defined once; what commands share is flattened in.

use crate::commands;
use clap::{Args, Parser, Subcommand, ValueEnum};
use net::Multiaddr;
use planner::{PlanOptions, Strategy};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tiling::Numerics;

/// Runs one convolutional network over the devices you already own.
#[derive(Parser, Debug)]
#[command(
    name = "tilehive",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  tilehive demo                                     see it work, no other device needed
  tilehive run model.onnx photo.png -o out.png      run a model, in this process if nobody joins
  tilehive run model.onnx photo.png -o out.png --workers 4
  tilehive plan zoo:vgg16 --workers 4               explain before running
  tilehive token                                    the line that lets another device join"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// More log: -v tells what happens, -vv tells all
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    /// Where the cluster's key and the weights of local workers are kept [default: the user's data
    /// folder]
    #[arg(long, value_name = "DIR", global = true, env = "TILEHIVE_STATE")]
    state: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Enlarge a photograph with four worker processes on this machine, and compare with one
    Demo(DemoArguments),
    /// Run a model on pictures or arrays
    Run(RunArguments),
    /// Explain how a model would be cut and what it would cost, without running it
    Plan(PlanArguments),
    /// List the devices that join
    Devices(DevicesArguments),
    /// Print the line that lets a worker join this coordinator
    Token(TokenArguments),
    /// Look at models and write them
    #[command(subcommand)]
    Model(ModelCommand),
}

/// Who computes.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClusterArguments {
    /// Start N worker processes on this machine
    #[arg(long, value_name = "N", conflicts_with = "join_wait", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,

    /// Wait this long for devices to join, such as 5s [default: 2s once `tilehive token` was used,
    /// else not at all]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub join_wait: Option<Duration>,

    /// Go on as soon as N devices joined
    #[arg(long, value_name = "N", requires = "join_wait")]
    pub expect: Option<usize>,

    /// Compute threads, of each local worker or of this process [default: 1 for each local worker,
    /// else all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Where to listen for workers
    #[arg(long, value_name = "MULTIADDR", default_value_t = default_listen())]
    pub listen: Multiaddr,

    /// Do not answer mDNS
    #[arg(long)]
    pub no_mdns: bool,
}

fn default_listen() -> Multiaddr {
    let address = format!("/ip4/0.0.0.0/tcp/{}", net::DEFAULT_PORT);
    address.parse().expect("a sound address")
}

/// How the model is cut.
#[derive(Args, Debug, Clone)]
pub(crate) struct StrategyArguments {
    /// Which plan [default: deepthings on several devices, local on one]
    #[arg(long, value_enum)]
    pub strategy: Option<StrategyName>,

    /// Rows x cols of the fused grid, such as 3x3 [default: chosen]
    #[arg(long, value_name = "RxC")]
    pub grid: Option<Extent>,

    /// Whether layers may use Winograd transforms, which are up to three times as fast
    #[arg(long, value_enum, default_value_t = NumericsName::Fast)]
    pub numerics: NumericsName,

    /// How many of the first layers to fuse [default: chosen]
    #[arg(long, value_name = "LAYERS")]
    pub fuse: Option<usize>,
}

/// The strategies by the names of their papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// The whole model on the fastest device
    Local,
    /// One fused grid over the early layers, the rest on one device
    Deepthings,
    /// A stage a layer, strips by speed, gather after each
    Modnn,
}

/// How exact the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NumericsName {
    /// Any plan gives the bits of one device
    Exact,
    /// The last bits depend on the plan, by about 1e-6 of the largest value
    Fast,
}

impl From<NumericsName> for Numerics {
    fn from(name: NumericsName) -> Self {
        match name {
            NumericsName::Exact => Numerics::Exact,
            NumericsName::Fast => Numerics::Fast,
        }
    }
}

impl StrategyArguments {
    /// The strategy for so many devices, with its settings.
    pub(crate) fn resolve(&self, devices: usize) -> (Strategy, PlanOptions) {
        let strategy = match self.strategy {
            Some(StrategyName::Local) => Strategy::Local,
            Some(StrategyName::Deepthings) => Strategy::DeepThings,
            Some(StrategyName::Modnn) => Strategy::Modnn,
            None if devices > 1 || self.grid.is_some() || self.fuse.is_some() => {
                Strategy::DeepThings
            }
            None => Strategy::Local,
        };
        let grid = self.grid.map(|Extent { rows, cols }| (rows, cols));
        (strategy, PlanOptions { grid, fused_layers: self.fuse, numerics: self.numerics.into() })
    }
}

/// `ROWSxCOLS` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub rows: usize,
    pub cols: usize,
}

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(['x', 'X']).and_then(|(rows, cols)| {
            Some(Self { rows: rows.trim().parse().ok()?, cols: cols.trim().parse().ok()? })
        });
        let sound =
            parts.filter(|e| (1..=65_535).contains(&e.rows) && (1..=65_535).contains(&e.cols));
        sound.ok_or_else(|| "expected ROWSxCOLS, such as 3x3".into())
    }
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArguments {
    /// Worker processes to start
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,

    /// Where the pictures go
    #[arg(long, value_name = "DIR", default_value = "tilehive-demo")]
    pub out: PathBuf,

    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tilehive run model.onnx photo.png -o out.png
  tilehive run model.onnx photo.png -o out.json --workers 4 --grid 3x3 --check
  tilehive run model.onnx pictures/ -o results/ --join-wait 5s
  tilehive run zoo:vgg16 photo.jpg --resize --strategy modnn --workers 2")]
pub(crate) struct RunArguments {
    /// An ONNX file, or zoo:NAME (see `tilehive model list`)
    pub model: String,

    /// Pictures (PNG, JPEG), arrays (.npy), or folders of them
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,

    /// Where the output goes: .png, .npy, .npz or .json; a folder for several inputs [default: only
    /// the report]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,

    /// Ending of the files in an output folder
    #[arg(long, value_name = "ENDING", default_value = "png")]
    pub format: String,

    #[command(flatten)]
    pub strategy: StrategyArguments,

    #[command(flatten)]
    pub cluster: ClusterArguments,

    /// Scale pictures to the size that the model takes
    #[arg(long)]
    pub resize: bool,

    /// Compare with this device alone, bit for bit
    #[arg(long)]
    pub check: bool,

    /// Of a thousand tiles, compute so many on two workers and compare; a third decides, and a worker
    /// that gave a wrong answer is sent away
    #[arg(long, value_name = "PER_MILLE", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub spot_checks: u64,

    /// Write what ran where and when, for <https://ui.perfetto.dev> and `tilehive-sim diff`
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,

    /// Turn stealing off
    #[arg(long)]
    pub no_stealing: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tilehive plan zoo:yolov2 --workers 4
  tilehive plan model.onnx --input-size 512x512 --workers 3 --grid 3x3 --json")]
pub(crate) struct PlanArguments {
    /// An ONNX file, or zoo:NAME
    pub model: String,

    /// Rows x cols of the input, where the model leaves it open
    #[arg(long, value_name = "RxC")]
    pub input_size: Option<Extent>,

    /// Devices like this one, on 100 Mbit/s Ethernet
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,

    /// Compute threads of each
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,

    #[command(flatten)]
    pub strategy: StrategyArguments,

    /// Print the plan and its cost as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `devices`.
#[derive(Args, Debug)]
pub(crate) struct DevicesArguments {
    #[command(flatten)]
    pub cluster: ClusterArguments,

    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `token`.
#[derive(Args, Debug)]
pub(crate) struct TokenArguments {
    /// Where this coordinator listens
    #[arg(long, value_name = "MULTIADDR", default_value_t = default_listen())]
    pub listen: Multiaddr,
}

/// Commands about models.
#[derive(Subcommand, Debug)]
pub(crate) enum ModelCommand {
    /// List the architectures of the zoo
    List,
    /// Write a model as an ONNX file
    Export {
        /// An ONNX file, or zoo:NAME
        model: String,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Rows x cols of the input, where the model leaves it open
        #[arg(long, value_name = "RxC")]
        input_size: Option<Extent>,
    },
    /// Show layers, shapes, multiply-adds, and what can be tiled
    Inspect {
        /// An ONNX file, or zoo:NAME
        model: String,
        /// Rows x cols of the input, where the model leaves it open
        #[arg(long, value_name = "RxC")]
        input_size: Option<Extent>,
    },
}

/// What all commands know.
pub(crate) struct Context {
    pub verbose: u8,
    pub state: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    worker::logging::start(arguments.verbose);
    let state = arguments.state.or_else(|| Some(dirs::data_local_dir()?.join("tilehive")));
    let Some(state) = state else {
        eprintln!("error: this user has no data folder\nhint: give one with --state");
        return ExitCode::from(2);
    };
    let context = Context { verbose: arguments.verbose, state };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start the runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Demo(arguments) => commands::demo::run(&context, arguments).await,
            Command::Run(arguments) => commands::run::run(&context, arguments).await,
            Command::Plan(arguments) => commands::plan::run(arguments),
            Command::Devices(arguments) => commands::devices::run(&context, arguments).await,
            Command::Token(arguments) => commands::token::run(&context, arguments).await,
            Command::Model(command) => commands::model::run(command),
        }
    });
    // An embedded worker may still compute; nobody waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn extents() {
        assert_eq!("3x4".parse(), Ok(Extent { rows: 3, cols: 4 }));
        for bad in ["3", "0x1", "x", "3x", "99999999x1", "-1x2"] {
            assert!(bad.parse::<Extent>().is_err(), "{bad}");
        }
    }
}
