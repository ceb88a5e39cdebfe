//! `tilehive-sim`: the command line.
//!
//! | file | idea |
//! |---|---|
//! | `run.rs` | one scenario |
//! | `compare.rs` | strategies side by side |
//! | `sweep.rs` | one thing varied |
//! | `soak.rs` | many hostile seeds |
//! | `diff.rs` | a real timeline beside a simulated one |

mod compare;
mod diff;
mod run;
mod soak;
mod sweep;

use crate::files::{FileError, Kind, ScenarioFile, names};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use planner::Strategy;
use std::path::PathBuf;
use std::process::ExitCode;

/// Asks "would four Pi 4 on Wi-Fi be faster than one?" before anything is wired.
#[derive(Parser, Debug)]
#[command(
    name = "tilehive-sim",
    version,
    after_help = "\
Examples:
  What is there to simulate:      tilehive-sim list
  One scenario:                   tilehive-sim run yolov2-four-pi4
  ... drawn as a page:            tilehive-sim run bad-day --page bad-day.html
  ... for ui.perfetto.dev:        tilehive-sim run bad-day --trace bad-day.json
  Your own cluster:               tilehive-sim run my.toml
  Which strategy is best:         tilehive-sim compare vgg16-wifi
  How many devices pay:           tilehive-sim sweep vgg16-wifi --over devices
  A thousand hostile clusters:    tilehive-sim soak --seeds 1000
  How good the simulation is:     tilehive-sim diff real.json simulated.json"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one scenario and say what came of it
    Run(run::Arguments),
    /// Set strategies side by side on one scenario
    Compare(compare::Arguments),
    /// Vary the number of devices, the bandwidth or the grid
    Sweep(sweep::Arguments),
    /// Run random hostile clusters; a failure prints the line that replays it
    Soak(soak::Arguments),
    /// Set a real timeline (`tilehive run --trace`) beside a simulated one
    Diff(diff::Arguments),
    /// List the devices, links, clusters and scenarios that come with the program
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A scenario, and what to change about it.
#[derive(Args, Clone, Debug)]
struct Choice {
    /// A scenario: the path of a .toml file, or a name that `list` prints
    #[arg(value_name = "SCENARIO")]
    scenario: String,

    /// Where all chance comes from
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How many frames
    #[arg(long, value_name = "N")]
    frames: Option<usize>,

    /// Another cluster: a path or a name that `list` prints
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,

    /// Another model: a path or `zoo:NAME`
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// Rows x cols of the fused grid, as 4x4
    #[arg(long, value_name = "RxC", value_parser = grid)]
    grid: Option<(usize, usize)>,

    /// Layers in the fused group
    #[arg(long, value_name = "N")]
    fused_layers: Option<usize>,

    /// Leave the tiles where the plan puts them
    #[arg(long)]
    no_stealing: bool,

    /// Nothing goes wrong
    #[arg(long)]
    no_faults: bool,
}

fn grid(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once('x')
        .and_then(|(rows, cols)| Some((rows.trim().parse().ok()?, cols.trim().parse().ok()?)));
    match parsed {
        Some((rows, cols)) if rows > 0 && cols > 0 => Ok((rows, cols)),
        _ => Err("write it as ROWSxCOLS, 4x4 for example".into()),
    }
}

impl Choice {
    fn open(&self) -> Result<ScenarioFile, Failure> {
        let mut file = ScenarioFile::open(&self.scenario)?;
        file.seed = self.seed.unwrap_or(file.seed);
        file.frames = self.frames.unwrap_or(file.frames);
        file.cluster = self.cluster.clone().unwrap_or(file.cluster);
        file.model = self.model.clone().unwrap_or(file.model);
        file.grid = self.grid.or(file.grid);
        file.fused_layers = self.fused_layers.or(file.fused_layers);
        file.stealing &= !self.no_stealing;
        if self.no_faults {
            file.faults.clear();
        }
        Ok(file)
    }
}

/// What a program ends with when it does not end well.
#[derive(Debug)]
struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The run failed.
    fn run(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 1 }
    }

    /// What was asked for makes no sense.
    fn asked(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 2 }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Failure::asked(error)
            .hint("`tilehive-sim list` prints what there is; see configs/ for examples")
    }
}

impl From<model::ModelError> for Failure {
    fn from(error: model::ModelError) -> Self {
        let models: Vec<String> = model::zoo::names().map(|name| format!("zoo:{name}")).collect();
        Failure::asked(error).hint(format!("there are {}, and ONNX files", models.join(", ")))
    }
}

impl From<crate::Violation> for Failure {
    fn from(violation: crate::Violation) -> Self {
        let hint = match &violation {
            crate::Violation::Plan(_) => "try another --grid, --fused-layers or --strategy",
            crate::Violation::FrameFailed { .. } => {
                "give the devices more memory_mb, or cut with a finer --grid"
            }
            crate::Violation::NeverEnded { .. } => "raise patience_s in the scenario",
            _ => "this is a bug of tilehive: please report it with the command that you ran",
        };
        Failure::run(violation).hint(hint)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::run(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::run(error)
    }
}

/// A bar on stderr for what takes long; nothing where nobody looks.
fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

fn strategy(text: &str) -> Result<Strategy, String> {
    let known = Strategy::ALL.iter().copied();
    known.clone().find(|s| s.name() == text).ok_or_else(|| {
        let names: Vec<&str> = known.map(Strategy::name).collect();
        format!("there are {}", names.join(", "))
    })
}

fn list(json: bool) -> Result<(), Failure> {
    if json {
        let all: serde_json::Map<String, serde_json::Value> =
            Kind::ALL.iter().map(|k| (k.folder().to_owned(), names(*k).into())).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for kind in Kind::ALL {
        println!("{:<10} {}", kind.folder(), names(kind).join("\n           "));
    }
    Ok(())
}

fn write_file(
    path: &PathBuf,
    write: impl FnOnce(std::io::BufWriter<std::fs::File>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let file = std::fs::File::create(path).map_err(|cause| {
        Failure::asked(FileError::Read { path: path.clone(), cause })
            .hint("is the folder there, and may you write to it?")
    })?;
    write(std::io::BufWriter::new(file))
}

/// Runs the program.
pub fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments),
        Command::Compare(arguments) => compare::compare(arguments),
        Command::Sweep(arguments) => sweep::sweep(arguments),
        Command::Soak(arguments) => soak::soak(arguments),
        Command::Diff(arguments) => diff::diff(arguments),
        Command::List { json } => list(json),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { error, hint, code }) => {
            eprintln!("error: {error:#}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(code)
        }
    }
}
