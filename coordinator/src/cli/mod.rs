//! `tilehive`: the command line. Each flag is defined once; what commands share is flattened in.

mod membership;
mod strategy;
mod values;

pub(crate) use membership::{
    ClusterCommand, DevicesArguments, DevicesCommand, DoctorArguments, TokenArguments,
};
pub(crate) use strategy::{NumericsName, StrategyArguments};
pub(crate) use values::{Anchors, Bytes, Extent};

use crate::commands;
use clap::{Args, CommandFactory, Parser, Subcommand};
use net::Multiaddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use values::{part_of_one, rate};
use vision::{ChannelOrder, FitMode, Head, Normalize, Task};
use worker::logging::LogArguments;
use worker::manual::{self, Shell};

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
  tilehive cluster init                             let other devices join
  tilehive devices                                  who joined"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogArguments,

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
    Run(Box<RunArguments>),
    /// Explain how a model would be cut and what it would cost, without running it
    Plan(PlanArguments),
    /// Make a cluster, and invite devices into it
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// List the devices that join, and those that are away
    Devices(DevicesArguments),
    /// Say what is wrong with this coordinator, its network or its members, and the cure
    Doctor(DoctorArguments),
    /// Write what the devices that join have measured as files that the simulator reads
    Calibrate(CalibrateArguments),
    /// Short for `cluster token`
    Token(TokenArguments),
    /// Look at models and write them
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print completions for a shell
    #[command(after_help = "\
Example: tilehive completions bash > ~/.local/share/bash-completion/completions/tilehive")]
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
}

impl Command {
    /// Where the numbers of the command's cluster are served.
    fn metrics(&self) -> Option<SocketAddr> {
        match self {
            Command::Run(arguments) => arguments.cluster.metrics,
            Command::Devices(arguments) => arguments.cluster.metrics,
            Command::Calibrate(arguments) => arguments.cluster.metrics,
            _ => None,
        }
    }
}

/// Who computes.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClusterArguments {
    /// Start N worker processes on this machine
    #[arg(long, value_name = "N", conflicts_with = "join_wait", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,

    /// Wait this long for devices to join, such as 5s [default: 2s where any was invited, else not at
    /// all]
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

    /// Serve numbers for Prometheus at this address while the command runs, such as 127.0.0.1:9478,
    /// on /metrics. Whoever can reach the address may read them
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
}

fn default_listen() -> Multiaddr {
    let address = format!("/ip4/0.0.0.0/tcp/{}", net::DEFAULT_PORT);
    address.parse().expect("a sound address")
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

/// How pictures become the input of a model. What is not given is read from the model's metadata,
/// else it is what is usual for the task; the run says which.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct PictureArguments {
    /// Which numbers stand for the pixels: imagenet, 0-1, -1-1, 0-255, or MEAN/STD with one or
    /// three numbers each, in bytes where any is above 1
    #[arg(long, value_name = "NUMBERS", allow_hyphen_values = true)]
    pub normalize: Option<Normalize>,

    /// Which colour comes first: rgb or bgr
    #[arg(long, value_name = "ORDER")]
    pub channels: Option<ChannelOrder>,

    /// How another size fits: stretch, letterbox (all of it, with bars), crop (the middle), none
    #[arg(long, value_name = "HOW")]
    pub fit: Option<FitMode>,

    /// Rows x cols of the input, where the model leaves it open [default: the model's metadata,
    /// else the picture's own size]
    #[arg(long, value_name = "RxC")]
    pub size: Option<Extent>,
}

/// What is made of the answer.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Results")]
pub(crate) struct ResultArguments {
    /// What the model is for: classify, detect, segment, picture or raw [default: by its metadata
    /// or the shapes of its outputs]
    #[arg(long, value_name = "TASK")]
    pub task: Option<Task>,

    /// Names of the classes: a file with one a line, or JSON [default: the model's metadata]
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,

    /// How many classes to name
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    /// How a detector's outputs are read: yolov2, yolov3-tiny, yolov3, yolov4-tiny, yolov4, yolov5
    /// (also v7), yolox, yolov8 (also v9, v11), end-to-end, ssd [default: by their shapes]
    #[arg(long, value_name = "HEAD")]
    pub head: Option<Head>,

    /// Widths and heights of a detector's anchors, finest map first: W,H,W,H,... [default: the
    /// published ones]
    #[arg(long, value_name = "NUMBERS")]
    pub anchors: Option<Anchors>,

    /// Boxes below this score are left out
    #[arg(long, value_name = "0..1", default_value_t = 0.25, value_parser = part_of_one)]
    pub confidence: f32,

    /// Of two boxes of one class that overlap by more, the less certain is left out [default: 0.7
    /// for YOLOv8 and later, else 0.45]
    #[arg(long, value_name = "0..1", value_parser = part_of_one)]
    pub overlap: Option<f32>,

    /// Lay the colours of a segmentation over the picture
    #[arg(long)]
    pub overlay: bool,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tilehive run classifier.onnx photo.jpg --labels names.txt
  tilehive run yolo11n.onnx street.jpg -o boxes.png -o boxes.json
  tilehive run unet.onnx scan.png -o mask.png --normalize 0-1 --workers 4
  tilehive run superres.onnx photo.png -o large.png --workers 4 --grid 3x3 --check
  tilehive run model.onnx input.npy -o output.npy
  tilehive run superres.onnx map-8192x8192.png -o large.png --max-memory 256M --workers 2
  tilehive run model.onnx pictures/ -o results/ --join-wait 5s
  tilehive run zoo:vgg16 photo.jpg --fit stretch --strategy modnn --workers 2

docs/own-models.md tells more of conventions and tasks.")]
pub(crate) struct RunArguments {
    /// An ONNX file, or zoo:NAME (see `tilehive model list`)
    pub model: String,

    /// Pictures (PNG, JPEG, WebP, PPM, ...), arrays (.npy, .npz), or folders of them
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,

    /// Where the answer goes: a picture (.png, .jpg, .webp, .ppm), the numbers (.npy, .npz) or
    /// .json; may be given more than once; a folder for several inputs [default: only the report]
    #[arg(short, long, visible_alias = "out", value_name = "OUT")]
    pub output: Vec<PathBuf>,

    /// Ending of the files in an output folder
    #[arg(long, value_name = "ENDING", default_value = "png")]
    pub format: String,

    #[command(flatten)]
    pub strategy: StrategyArguments,

    #[command(flatten)]
    pub cluster: ClusterArguments,

    #[command(flatten)]
    pub pictures: PictureArguments,

    #[command(flatten)]
    pub results: ResultArguments,

    /// Stream a picture that does not fit: no process of the run holds more than this, such as
    /// 256M. Rows are read and written as they are needed (PNG, PPM), and every layer of the model
    /// must be one that can be tiled
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["check", "grid", "fuse", "strategy", "wire"])]
    pub max_memory: Option<Bytes>,

    /// Compare with this device alone, bit for bit
    #[arg(long)]
    pub check: bool,

    /// Of a thousand tiles, compute so many on two workers and compare; a third decides, and a worker
    /// that gave a wrong answer is sent away
    #[arg(long, value_name = "PER_MILLE", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub spot_checks: u64,

    /// Frames computed at once; 1 is one after another, each planned with what the last one taught
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub in_flight: u16,

    /// Time from one frame to the next, such as 250ms [default: as soon as there is room]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub interval: Option<Duration>,

    /// Write what ran where and when, for <https://ui.perfetto.dev> and `tilehive-sim diff`
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,

    /// Turn stealing off
    #[arg(long)]
    pub no_stealing: bool,

    /// Show live who does what; q closes the view, and the run goes on. Needs a terminal
    #[arg(long, conflicts_with_all = ["json", "max_memory"])]
    pub watch: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tilehive plan zoo:yolov2 --workers 4
  tilehive plan zoo:yolov2 --speeds 6G,6G,6G,40G --link 1G
  tilehive plan zoo:yolov2 --on home-swarm --html plan.html
  tilehive plan zoo:resnet50 --on phones --objective energy --deadline 300ms
  tilehive plan model.onnx --input-size 512x512 --workers 3 --grid 3x3 --json")]
pub(crate) struct PlanArguments {
    /// An ONNX file, or zoo:NAME
    pub model: String,

    /// Rows x cols of the input, where the model leaves it open
    #[arg(long, value_name = "RxC")]
    pub input_size: Option<Extent>,

    /// The devices and links of a cluster file, as `calibrate` writes and tilehive-sim reads, or the
    /// name of one that comes with the program, such as four-pi4-ethernet
    #[arg(long, value_name = "CLUSTER", conflicts_with_all = ["workers", "speeds", "link", "threads"])]
    pub on: Option<String>,

    /// Devices like this one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,

    /// The devices by their multiply-adds a second, fastest or not first, in place of --workers
    #[arg(long, value_name = "RATE,..", value_delimiter = ',', value_parser = rate)]
    pub speeds: Vec<u64>,

    /// What each link carries, in bits a second
    #[arg(long, value_name = "RATE", default_value = "100M", value_parser = rate)]
    pub link: u64,

    /// Compute threads of each
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,

    /// What each device may hold at a time of weights and maps, such as 256M
    #[arg(long, value_name = "BYTES")]
    pub max_memory: Option<Bytes>,

    #[command(flatten)]
    pub strategy: StrategyArguments,

    /// Write a page with all of it: the network, its stages, who holds what, the plans that lost
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,

    /// Print all of it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `calibrate`.
#[derive(Args, Debug)]
pub(crate) struct CalibrateArguments {
    #[command(flatten)]
    pub cluster: ClusterArguments,

    /// A folder for cluster.toml and the devices and links that it names
    #[arg(short, long, value_name = "DIR", default_value = "calibrated")]
    pub output: PathBuf,
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
    /// List the ONNX operators that a file may use
    Operators {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show layers, shapes, multiply-adds, memory, and what can be tiled
    #[command(after_help = "\
Examples:
  tilehive model inspect model.onnx
  tilehive model inspect model.onnx --input-size 512x512 --svg graph.svg
  tilehive model inspect zoo:resnet50 --json")]
    Inspect {
        /// An ONNX file, or zoo:NAME
        model: String,
        /// Rows x cols of the input, where the model leaves it open
        #[arg(long, value_name = "RxC")]
        input_size: Option<Extent>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Draw the graph into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

/// What all commands know.
pub(crate) struct Context {
    pub log: LogArguments,
    pub state: PathBuf,
    pub metrics: Option<SocketAddr>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    worker::logging::start(arguments.log);
    let state = arguments.state.or_else(|| Some(dirs::data_local_dir()?.join("tilehive")));
    let Some(state) = state else {
        eprintln!("error: this user has no data folder\nhint: give one with --state");
        return ExitCode::from(2);
    };
    if let Command::Run(run) = &arguments.command {
        // A run over devices may last; one on this machine alone would only be slower.
        let listens = run.cluster.join_wait.is_some() || crate::commands::has_cluster(&state);
        if run.max_memory.is_some() || (run.cluster.workers.is_none() && listens) {
            worker::freed::give_back(run.max_memory.is_some());
        }
    }
    let metrics = arguments.command.metrics();
    let context = Context { log: arguments.log, state, metrics };
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
            Command::Run(arguments) => commands::run::run(&context, *arguments).await,
            Command::Plan(arguments) => commands::plan::run(&context, arguments),
            Command::Cluster(command) => commands::invite::run(&context, command).await,
            Command::Devices(arguments) => commands::devices::run(&context, arguments).await,
            Command::Doctor(arguments) => commands::doctor::run(&context, arguments).await,
            Command::Calibrate(arguments) => commands::calibrate::run(&context, arguments).await,
            Command::Token(arguments) => commands::invite::token(&context, arguments).await,
            Command::Model(command) => commands::model::run(command),
            Command::Completions { shell } => Ok(manual::completions(Arguments::command(), shell)?),
            Command::Manual { folder } => Ok(manual::pages(Arguments::command(), &folder)?),
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

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
