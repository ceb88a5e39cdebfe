//! `tilehive-sim compare`: strategies side by side on one scenario.

use super::run::simulate;
use super::{Choice, Failure, strategy};
use crate::report::{Report, bytes, time};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use planner::Strategy;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    choice: Choice,

    /// Which plans, with commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = strategy,
          default_value = "auto,local,deepthings,modnn,aofl,coedge,pico")]
    strategies: Vec<Strategy>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn compare(arguments: Arguments) -> Result<(), Failure> {
    let file = arguments.choice.open()?;
    file.check()?;
    let model = file.open_model()?;
    let mut reports = Vec::new();
    for strategy in &arguments.strategies {
        let mut file = file.clone();
        file.strategy = *strategy;
        if *strategy != Strategy::DeepThings {
            (file.grid, file.fused_layers) = (None, None);
        }
        let outcome = simulate(&file, model.clone(), false, false)?;
        let name = (file.model.as_str(), strategy.name(), file.seed);
        reports.push(Report::new(&arguments.choice.scenario, name, &outcome));
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([
        "strategy",
        "makespan",
        "latency p90",
        "frames/s",
        "redundancy",
        "scattered",
        "gathered",
        "energy",
        "over bound",
    ]);
    for report in &reports {
        table.add_row([
            report.strategy.clone(),
            time(report.makespan_ms),
            time(report.latency_ms.p90),
            format!("{:.2}", report.frames_per_s),
            format!("{:.3}", report.redundancy),
            bytes(report.traffic.scatter_bytes),
            bytes(report.traffic.gather_bytes),
            format!("{:.1} J", report.energy_j_per_frame),
            format!("{:.1} %", 100.0 * report.gap),
        ]);
    }
    for column in 1..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    let best = reports.iter().min_by(|a, b| a.makespan_ms.total_cmp(&b.makespan_ms));
    if let Some(best) = best {
        println!("{} has the shortest makespan on {}.", best.strategy, file.cluster);
    }
    Ok(())
}
