//! A plan explained on a terminal: a picture of it, then tables.
//!
//! ```text
//!   input
//!     │ 602 kB
//!   conv1_1 .. pool3         10 layers   AAAAAAAAABBBBBBBBBCCCCC   41.2 ms
//!     │ stays, 96 kB between workers
//!   fc6 .. prob               5 layers   AAAAAAAAAAAAAAAAAAAAAAA   12.0 ms
//!     │ 4 kB
//!   output
//! ```

use super::{Explanation, StageFacts};
use crate::commands::plan::one_device;
use crate::say::say;
use crate::table;
use planner::{Cost, Objective, PlanOptions, Strategy, Turning};
use std::time::Duration;
use tiling::{Handover, Plan};

/// Letters of a stage's map.
const WIDTH: usize = 24;

/// Lines of a stage that is cut both ways.
const LINES_MAX: usize = 6;

/// Stages in the picture and the table; more are told in a line.
const STAGES_MAX: usize = 24;

/// Ways between two devices.
const PAIRS_MAX: usize = 8;

/// Said where fast numerics were asked for and would be slower.
pub(super) const SCARCE: &str = "Memory is scarce: as with --numerics exact no layer is transformed, since transformed \
                                 weights take more of it.";

/// Plans that lost.
const RUNNER_UPS_MAX: usize = 5;

fn time(ns: u64) -> String {
    table::time(Duration::from_nanos(ns))
}

/// Prints all of it.
pub(crate) fn print(facts: &Explanation) {
    let links = || facts.devices.iter().map(|d| d.link_bytes_per_s);
    let (slowest, fastest) = (links().min().unwrap_or(0), links().max().unwrap_or(0));
    let link = match slowest == fastest {
        true => format!("{} each", table::bits(fastest)),
        false => format!("{} to {}", table::bits(slowest), table::bits(fastest)),
    };
    let (count, cost) = (facts.devices.len(), &facts.cost);
    let plural = if count == 1 { "" } else { "s" };
    let by = &facts.plan.strategy;
    say!("{} by `{by}` on {count} device{plural}{}, {link}\n", facts.model, facts.cluster);
    for line in picture(facts) {
        say!("{line}");
    }
    say!("\n{}\n", stages(facts));
    say!("{}\n", devices(facts));
    for pair in facts.pairs.iter().take(PAIRS_MAX) {
        let ([a, b], rate) = (&pair.devices, table::bits(pair.bytes_per_s));
        say!("{a} and {b}: {rate} between them, a round trip takes {}", time(pair.round_trip_ns));
    }
    match facts.pairs.len().saturating_sub(PAIRS_MAX) {
        0 if facts.pairs.is_empty() => {}
        0 => say!(""),
        more => say!("and {more} more such pairs\n"),
    }
    if !facts.runner_ups.is_empty() {
        say!("{}\n", runner_ups(facts));
    }
    let sent = match facts.alone_ns > cost.one_device_ns {
        true => format!("  {} with its input sent there", time(facts.alone_ns)),
        false => String::new(),
    };
    say!("one device  {:>10}{sent}", time(cost.one_device_ns));
    say!("this plan   {:>10}", time(cost.makespan_ns));
    if let Some(ns) = cost.rehearsed_ns {
        say!("simulated   {:>10}  with words, queues and stealing", time(ns));
    }
    let over = (cost.over_bound() - 1.0) * 100.0;
    say!("lower bound {:>10}  (this plan is {over:.0} % above it)", time(cost.bound_ns));
    let frames = 1e9 / cost.period_ns.max(1) as f64;
    say!("in a stream {:>10}  a frame, {frames:.2} frames/s", time(cost.period_ns));
    say!("moved       {:>10}  a frame", table::bytes(cost.moved_bytes()));
    if let Some(joules) = cost.energy_j {
        say!("energy      {joules:>8.2} J  a frame, beyond what idle devices draw");
    }
    say!("redundancy  {:>10.3}", cost.redundancy());
    say!("\n{}", facts.verdict);
    for sentence in &facts.turns {
        say!("{sentence}");
    }
}

/// The stages from input to output, with the devices' shares of each map.
pub(crate) fn picture(facts: &Explanation) -> Vec<String> {
    let mut lines = vec!["input".to_owned()];
    let mut arrives = facts.stages.first().map(scattered).unwrap_or_default();
    for (i, stage) in facts.stages.iter().take(STAGES_MAX).enumerate() {
        lines.push(format!("  │ {arrives}"));
        let maps = letters(stage);
        let layers = stage.end_layer - stage.first_layer;
        let plural = if layers == 1 { ' ' } else { 's' };
        let head = format!("{:<34} {layers:>4} layer{plural}", named(stage));
        let took = time(stage.cost.duration_ns);
        lines.push(format!("{head}  {}  {took:>9}", maps[0]));
        let indent = " ".repeat(head.chars().count());
        lines.extend(maps[1..].iter().map(|map| format!("{indent}  {map}")));
        arrives = match facts.stages.get(i + 1) {
            Some(next) => handed_over(stage, next),
            None => format!("{} gathered", table::bytes(stage.cost.gather_bytes)),
        };
    }
    match facts.stages.len().checked_sub(STAGES_MAX) {
        Some(more) if more > 0 => lines.push(format!("  ┆ and {more} more stages")),
        _ => lines.push(format!("  │ {arrives}")),
    }
    lines.push("output".to_owned());
    let named = facts.devices.iter().enumerate().take(26);
    let named = named.filter(|(_, device)| device.load.tiles > 0);
    let legend: Vec<String> =
        named.map(|(i, device)| format!("{} {}", letter(Some(i as u32)), device.name)).collect();
    lines.push(format!("\n{}", legend.join("   ")));
    lines
}

fn scattered(stage: &StageFacts) -> String {
    format!("{} scattered", table::bytes(stage.cost.scatter_bytes))
}

fn handed_over(stage: &StageFacts, next: &StageFacts) -> String {
    let peers = next.cost.exchange_bytes;
    match stage.handover {
        Handover::Exchange if peers == 0 => "stays where it is".into(),
        Handover::Exchange => format!("stays, {} between devices", table::bytes(peers)),
        Handover::Gather => {
            format!("{} gathered, {}", table::bytes(stage.cost.gather_bytes), scattered(next))
        }
    }
}

fn named(stage: &StageFacts) -> String {
    let short = |name: &str| {
        let count = name.chars().count();
        let end: String = name.chars().skip(count.saturating_sub(15)).collect();
        if count > 15 {
            format!("…{}", &end[end.chars().next().map_or(0, char::len_utf8)..])
        } else {
            end
        }
    };
    match stage.first == stage.last {
        true => short(&stage.first),
        false => format!("{} .. {}", short(&stage.first), short(&stage.last)),
    }
}

/// A to Z for the first devices.
fn letter(device: Option<u32>) -> char {
    let known = device.filter(|&device| device < 26);
    match device {
        None => '*',
        Some(_) => known.map_or('+', |device| (b'A' + device as u8) as char),
    }
}

/// The map of a stage with a letter for the device of each part. Strips of rows are drawn from left to
/// right.
fn letters(stage: &StageFacts) -> Vec<String> {
    let [rows, cols] = stage.extent;
    let at = |row: usize, col: usize| {
        let covers = |range: [usize; 2], at: usize| (range[0]..range[1]).contains(&at);
        let mut tiles = stage.tiles.iter();
        let tile = tiles.find(|tile| covers(tile.rows, row) && covers(tile.cols, col));
        tile.map_or(' ', |tile| letter(tile.device))
    };
    let starts = |axis: fn(&super::TileFacts) -> [usize; 2]| {
        let mut starts: Vec<usize> = stage.tiles.iter().map(|tile| axis(tile)[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    };
    let (of_rows, of_cols) = (starts(|tile| tile.rows), starts(|tile| tile.cols));
    if of_cols.len() <= 1 {
        return vec![(0..WIDTH).map(|i| at(i * rows / WIDTH, 0)).collect()];
    }
    let lines = of_rows.len().min(LINES_MAX);
    let line = |i: usize| {
        let row = of_rows[i * of_rows.len() / lines];
        (0..WIDTH).map(|i| at(row, i * cols / WIDTH)).collect()
    };
    (0..lines).map(line).collect()
}

fn stages(facts: &Explanation) -> comfy_table::Table {
    let header = [
        "stage",
        "cut",
        "largest tile",
        "mult-adds",
        "redundancy",
        "scatter",
        "from peers",
        "gather",
        "time",
    ];
    let rows = facts.stages.iter().take(STAGES_MAX).map(|stage| {
        let c = &stage.cost;
        let redundancy = c.multiply_adds as f64 / (c.layer_multiply_adds as f64).max(1.0);
        let extent = |tile: &super::TileFacts| {
            [tile.rows, tile.cols].map(|range| range[1].saturating_sub(range[0]))
        };
        let largest = stage.tiles.iter().map(extent).max_by_key(|[rows, cols]| rows * cols);
        let [rows, cols] = largest.unwrap_or_default();
        vec![
            named(stage),
            stage.cut.clone(),
            format!("{rows} x {cols}"),
            table::amount(c.multiply_adds),
            if c.layer_multiply_adds == 0 { "-".into() } else { format!("{redundancy:.3}") },
            table::bytes(c.scatter_bytes),
            table::bytes(c.exchange_bytes),
            match c.handover {
                Handover::Exchange if c.gather_bytes == 0 => "stays".into(),
                _ => table::bytes(c.gather_bytes),
            },
            time(c.duration_ns),
        ]
    });
    table::table(&header, rows)
}

fn devices(facts: &Explanation) -> comfy_table::Table {
    let knows_energy = facts.cost.devices.iter().any(|load| load.energy_j.is_some());
    let mut header =
        vec!["device", "alone", "tiles", "busy", "bytes in", "bytes out", "weights", "memory"];
    header.extend(knows_energy.then_some("energy"));
    let rows = facts.devices.iter().map(|device| {
        let load = &device.load;
        let limit = device.memory_bytes.map(|bytes| format!(" of {}", table::bytes(bytes)));
        let mut row = vec![
            device.name.clone(),
            time(device.alone_ns),
            load.tiles.to_string(),
            time(load.busy_ns),
            table::bytes(load.bytes_in),
            table::bytes(load.bytes_out),
            table::bytes(load.weight_bytes),
            format!("{}{}", table::bytes(load.memory_bytes()), limit.unwrap_or_default()),
        ];
        if knows_energy {
            row.push(load.energy_j.map_or("?".into(), |joules| format!("{joules:.2} J")));
        }
        row
    });
    table::table(&header, rows)
}

fn runner_ups(facts: &Explanation) -> comfy_table::Table {
    let header = ["instead", "one frame", "in a stream", "devices", "moved", "why not"];
    let rows = facts.runner_ups.iter().take(RUNNER_UPS_MAX).map(|other| match other.cost {
        Some(cost) => vec![
            other.strategy.to_owned(),
            time(cost.makespan_ns),
            time(cost.period_ns),
            cost.devices.to_string(),
            table::bytes(cost.moved_bytes),
            other.why.clone(),
        ],
        None => {
            let none = || "-".to_owned();
            vec![other.strategy.to_owned(), none(), none(), none(), none(), other.why.clone()]
        }
    });
    table::words(&header, rows)
}

/// What was asked, as far as the answer speaks of it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub devices: usize,
    pub strategy: Strategy,
    pub options: PlanOptions,
    /// One frame on one device, both ways included.
    pub alone_ns: u64,
}

/// What is to be done.
pub(super) fn verdict(asked: Asked, plan: &Plan, cost: &Cost) -> String {
    let Asked { devices, strategy, options, alone_ns } = asked;
    let used = planner::devices_used(plan).min(devices);
    let several = if used == 1 { "One device".to_owned() } else { format!("{used} devices") };
    let times = |alone: u64, ns: u64| alone as f64 / ns.max(1) as f64;
    let streams = times(cost.one_device_ns, cost.period_ns);
    match options.objective {
        Objective::Energy => {
            let within = options.deadline_ns.map(|ns| format!(", within {}", time(ns)));
            let joules = cost.energy_j.unwrap_or_default();
            let within = within.unwrap_or_default();
            format!("{several}: {joules:.2} J a frame in {}{within}.", time(cost.makespan_ns))
        }
        Objective::Throughput if streams > 1.0 && used > 1 => {
            format!("{several} let {streams:.2} times the frames of one through.")
        }
        Objective::Throughput if devices > 1 => {
            "Use one device: no more frames would come through with several.".into()
        }
        Objective::Latency if used > 1 && cost.makespan_ns < alone_ns => {
            let times = times(alone_ns, cost.makespan_ns);
            format!("{several} are {times:.2} times as fast as one.")
        }
        Objective::Latency if strategy == Strategy::Replicate && streams > 1.0 && devices > 1 => {
            format!("For a stream: {several} let {streams:.2} times the frames of one through.")
        }
        Objective::Latency if used > 1 => "Use one device: this plan would not be faster.".into(),
        _ => one_device(plan, cost, devices)
            .unwrap_or_else(|| format!("One device, {}.", time(cost.makespan_ns))),
    }
}

/// What would have to change for another answer.
pub(super) fn turns(asked: Asked, turning: Turning) -> Vec<String> {
    let searched =
        asked.strategy == Strategy::Auto && asked.options.objective == Objective::Latency;
    if !searched || asked.devices < 2 {
        return Vec::new();
    }
    let mut turns = vec![match (turning.shares, turning.link_bytes_per_s) {
        (false, Some(link)) => {
            format!("From links of {} on, several devices would be faster.", table::bits(link))
        }
        (false, None) => "No faster link would change that.".into(),
        (true, Some(link)) => {
            format!("With links of {} and below, one device would be faster.", table::bits(link))
        }
        (true, None) => "No slower link would change that.".into(),
    }];
    turns.extend(turning.others_times.map(|times| match turning.shares {
        false => {
            format!(
                "Several would be if the other devices were {times:.1} times as fast as they are."
            )
        }
        true => {
            let percent = (times * 100.0).max(1.0);
            format!("One would be if the other devices had {percent:.0} % of their speed or less.")
        }
    }));
    turns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explanation::{Explanation, Question};
    use model::{LoadOptions, LoadedModel, open};
    use planner::DeviceProfile;
    use tiling::Rates;

    pub(crate) fn explained(
        model: &LoadedModel,
        speeds: &[u64],
        strategy: Strategy,
    ) -> Explanation {
        let device = |(i, &speed): (usize, &u64)| DeviceProfile {
            link_bytes_per_s: 117_000_000,
            ..DeviceProfile::wired(format!("d{i}"), Rates::typical(speed * 1_000_000_000))
        };
        let devices: Vec<DeviceProfile> = speeds.iter().enumerate().map(device).collect();
        let options = PlanOptions::default();
        let (plan, cost) = planner::plan(&model.graph, &devices, strategy, options).unwrap();
        let cluster = String::new();
        let question = Question { model, cluster, devices: &devices, strategy, options };
        Explanation::of(question, plan, cost)
    }

    #[test]
    fn the_picture_has_every_stage_and_who_computes_it() {
        let model = open("zoo:vgg16@224x224", &LoadOptions::default()).unwrap();
        let facts = explained(&model, &[8, 8, 4], Strategy::DeepThings);
        let picture = picture(&facts);
        assert_eq!((picture[0].as_str(), facts.stages.len()), ("input", 2));
        let text = picture.join("\n");
        assert!(text.contains("conv1_1 .. ") && text.contains(" .. prob"), "{text}");
        // Tiles by speed: the letters of the slower device are fewer.
        let letters = |letter: char| text.chars().filter(|&c| c == letter).count();
        assert!(letters('A') > letters('C') && letters('C') > 1, "{text}");
        assert!(text.contains("scattered") && text.contains("gathered"), "{text}");
        assert!(facts.verdict.contains("times as fast as one"), "{}", facts.verdict);
    }

    #[test]
    fn a_stream_over_replicas_is_no_reason_for_one_device() {
        let model = open("zoo:resnet50@224x224", &LoadOptions::default()).unwrap();
        let facts = explained(&model, &[8, 8], Strategy::Replicate);
        assert!(facts.verdict.contains("2.00 times the frames"), "{}", facts.verdict);
        let whole = picture(&facts);
        assert!(whole.iter().any(|line| line.contains("********")), "{whole:?}");
    }
}
