//! `tilehive-sim run`: one scenario.

use super::{Choice, Failure, bar, strategy, write_file};
use crate::Cluster;
use crate::files::ScenarioFile;
use crate::outcome::Outcome;
use crate::page;
use crate::report::Report;
use model::LoadedModel;
use planner::Strategy;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    choice: Choice,

    /// Which plan, as `auto`, `deepthings` or `replicate`; a wrong name lists all
    #[arg(long, value_name = "NAME", value_parser = strategy)]
    strategy: Option<Strategy>,

    /// Write the timeline here, for <https://ui.perfetto.dev>
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,

    /// Draw the run on one page without external resources
    #[arg(long, value_name = "FILE.html")]
    page: Option<PathBuf>,

    /// Print every event on stderr
    #[arg(long)]
    events: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a scenario file with a model.
pub(super) fn simulate(
    file: &ScenarioFile,
    model: LoadedModel,
    keep: bool,
    events: bool,
) -> Result<Outcome, Failure> {
    let scenario = file.scenario(model)?;
    let cluster = Cluster::new(scenario);
    let cluster = if keep { cluster.recorded() } else { cluster };
    let cluster = if events { cluster.traced() } else { cluster };
    let bar = bar(file.frames as u64, "frames");
    let outcome = cluster.run_watched(|ended| bar.set_position(ended as u64));
    bar.finish_and_clear();
    Ok(outcome?)
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut file = arguments.choice.open()?;
    file.strategy = arguments.strategy.unwrap_or(file.strategy);
    file.check()?;
    let model = file.open_model()?;
    let keep = arguments.trace.is_some() || arguments.page.is_some();
    let outcome = simulate(&file, model.clone(), keep, arguments.events)?;
    let name = (file.model.as_str(), file.strategy.name(), file.seed);
    let report = Report::new(&arguments.choice.scenario, name, &outcome);
    if let Some(path) = &arguments.trace {
        write_file(path, |to| timeline::write(&outcome.timeline, to).map_err(Failure::run))?;
    }
    if let Some(path) = &arguments.page {
        let html = page::page(&file, &model.graph, &report, &outcome)?;
        write_file(path, |mut to| Ok(std::io::Write::write_all(&mut to, html.as_bytes())?))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}
