//! `tilehive-sim diff`: a real timeline beside a simulated one.

use super::Failure;
use crate::report::time;
use anyhow::Context;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use std::path::{Path, PathBuf};
use timeline::{Timeline, difference};

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// What `tilehive run --trace` wrote
    #[arg(value_name = "REAL.json")]
    real: PathBuf,

    /// What `tilehive-sim run --trace` wrote
    #[arg(value_name = "SIMULATED.json")]
    simulated: PathBuf,

    /// Tasks to print
    #[arg(long, value_name = "N", default_value_t = 20)]
    rows: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn read(path: &Path) -> Result<Timeline, Failure> {
    let hint = "traces are written by `tilehive run --trace` and `tilehive-sim run --trace`";
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(|e| Failure::asked(e).hint(hint))?;
    timeline::read(&text)
        .with_context(|| format!("cannot use {}", path.display()))
        .map_err(|e| Failure::asked(e).hint(hint))
}

pub(super) fn diff(arguments: Arguments) -> Result<(), Failure> {
    let (real, simulated) = (read(&arguments.real)?, read(&arguments.simulated)?);
    let difference = difference(&real, &simulated);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&difference)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["task", "real on", "busy", "ends", "simulated on", "busy", "ends"]);
    let ms = |ns: u64| time(ns as f64 / 1e6);
    for pair in difference.pairs.iter().take(arguments.rows) {
        table.add_row([
            pair.task.name(),
            pair.device_a.clone(),
            ms(pair.busy_a_ns),
            ms(pair.end_a_ns),
            pair.device_b.clone(),
            ms(pair.busy_b_ns),
            ms(pair.end_b_ns),
        ]);
    }
    for column in [2, 3, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    println!(
        "{} tasks in both, {} only real, {} only simulated; makespans differ by {:.1} % on \
         average, computing times by {:.1} %; {:.0} % of the tasks ran on the device of that name",
        difference.pairs.len(),
        difference.only_a,
        difference.only_b,
        100.0 * difference.makespan_error,
        100.0 * difference.busy_error,
        100.0 * difference.same_device
    );
    Ok(())
}
