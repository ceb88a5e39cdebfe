//! `tilehive-sim sweep`: one thing varied, and the curve of it.

use super::run::simulate;
use super::{Choice, Failure, bar, write_file};
use crate::page::curve;
use crate::report::{Report, time};
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    choice: Choice,

    /// What to vary
    #[arg(long, value_enum)]
    over: Over,

    /// The values, with commas: numbers of devices, multiples of the bandwidth, or tiles along a side
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    values: Vec<f64>,

    /// Draw the curve on one page without external resources
    #[arg(long, value_name = "FILE.html")]
    page: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Over {
    /// Number of workers: the first ones of the cluster, repeated where it has fewer
    Devices,
    /// Rate of every link, as a multiple
    Bandwidth,
    /// Tiles along each side of the fused grid
    Grid,
}

impl Over {
    fn defaults(self) -> Vec<f64> {
        match self {
            Over::Devices => vec![1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
            Over::Bandwidth => vec![0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0],
            Over::Grid => vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Over::Devices => "devices",
            Over::Bandwidth => "bandwidth",
            Over::Grid => "grid side",
        }
    }
}

/// One value, and what came of it.
#[derive(Debug, Serialize)]
struct Point {
    value: f64,
    report: Option<Report>,
    error: Option<String>,
}

pub(super) fn sweep(arguments: Arguments) -> Result<(), Failure> {
    let file = arguments.choice.open()?;
    file.check()?;
    let model = file.open_model()?;
    let over = arguments.over;
    let values = if arguments.values.is_empty() { over.defaults() } else { arguments.values };
    let mut points = Vec::new();
    let progress = bar(values.len() as u64, over.word());
    for value in values {
        let mut file = file.clone();
        match over {
            Over::Devices => file.workers = Some(value.max(1.0) as usize),
            Over::Bandwidth => file.link_scale = Some(value),
            Over::Grid => file.grid = Some((value.max(1.0) as usize, value.max(1.0) as usize)),
        }
        let name = (file.model.as_str(), file.strategy.name(), file.seed);
        let (report, error) = match simulate(&file, model.clone(), false, false) {
            Ok(outcome) => (Some(Report::new(&arguments.choice.scenario, name, &outcome)), None),
            Err(failure) => (None, Some(format!("{:#}", failure.error))),
        };
        points.push(Point { value, report, error });
        progress.inc(1);
    }
    progress.finish_and_clear();
    if let Some(path) = &arguments.page {
        let drawn: Vec<(f64, f64, f64)> = points
            .iter()
            .filter_map(|p| p.report.as_ref().map(|r| (p.value, r.makespan_ms, r.bound_ms)))
            .collect();
        let title = format!("{} on {}, by {}", file.model, file.cluster, over.word());
        let html = curve(&title, over.word(), &drawn)?;
        write_file(path, |mut to| Ok(std::io::Write::write_all(&mut to, html.as_bytes())?))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&points)?);
        return Ok(());
    }
    let times = points.iter().filter_map(|p| p.report.as_ref()).map(|r| r.makespan_ms);
    let longest = times.fold(0.0, f64::max);
    println!("{:>10}  {:>10}  {:>10}  {:>8}", over.word(), "makespan", "bound", "frames/s");
    for point in &points {
        match &point.report {
            Some(report) => println!(
                "{:>10}  {:>10}  {:>10}  {:>8.2}  {}",
                point.value,
                time(report.makespan_ms),
                time(report.bound_ms),
                report.frames_per_s,
                "█".repeat((40.0 * report.makespan_ms / longest.max(1e-9)) as usize)
            ),
            None => println!("{:>10}  {}", point.value, point.error.as_deref().unwrap_or("?")),
        }
    }
    Ok(())
}
