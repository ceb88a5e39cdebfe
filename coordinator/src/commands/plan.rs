//! `tilehive plan`: explain before running.

use super::{open_model, profiles};
use crate::cli::{Context, PlanArguments};
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use kernels::Engine;
use planner::{Cost, DeviceProfile, PlannerError};
use serde_json::json;
use sim::WorkerSpec;
use sim::files::ClusterFile;
use sim::physics::Power;
use std::time::Duration;
use tiling::{Handover, Numerics, Plan, PlanError, Rates, Split, StageGeometry};

pub(crate) fn run(context: &Context, arguments: PlanArguments) -> Result<(), Failure> {
    let loaded = open_model(&arguments.model, arguments.input_size)?;
    let graph = &loaded.graph;
    let devices = devices(context, &arguments)?;
    let (strategy, options) = arguments.strategy.resolve(devices.len())?;
    let (plan, cost) = planner::plan(graph, &devices, strategy, options).map_err(bad_plan)?;
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&json!({ "plan": plan, "cost": cost }))?);
        return Ok(());
    }
    let count = devices.len();
    let like = match &arguments.on {
        Some(cluster) => format!(" of {cluster}"),
        None if arguments.speeds.is_empty() => " like this one".into(),
        None => String::new(),
    };
    let links = || devices.iter().map(|d| d.link_bytes_per_s);
    let (slowest, fastest) = (links().min().unwrap_or(0), links().max().unwrap_or(0));
    let link = match slowest == fastest {
        true => format!("{} each", table::bits(fastest)),
        false => format!("{} to {}", table::bits(slowest), table::bits(fastest)),
    };
    say!("{} by `{}` on {count} devices{like}, {link}\n", graph.name, plan.strategy);
    say!("{}\n", stages(graph, &plan, &cost));
    say!("{}\n", loads(&devices, &cost));
    let ns = Duration::from_nanos;
    say!("one device  {:>10}", table::time(ns(cost.one_device_ns)));
    say!("this plan   {:>10}", table::time(ns(cost.makespan_ns)));
    let over = cost.makespan_ns as f64 / cost.bound_ns.max(1) as f64;
    say!(
        "no plan can {:>10}  (this one takes {over:.2} times that)",
        table::time(ns(cost.bound_ns))
    );
    let frames = 1e9 / cost.period_ns.max(1) as f64;
    say!("in a stream {:>10}  a frame, {frames:.2} frames/s", table::time(ns(cost.period_ns)));
    say!("redundancy  {:>10.3}", cost.redundancy());
    if let Some(why) = one_device(&plan, &cost, devices.len()) {
        say!("\n{why}");
        match planner::turning_link(graph, &devices, options) {
            Some(link) => {
                say!("From links of {} on, several devices would be faster.", table::bits(link))
            }
            None => say!("No faster link would change that."),
        }
    } else if cost.makespan_ns >= cost.one_device_ns {
        say!("\nUse one device: this plan would not be faster.");
    }
    Ok(())
}

/// Says why a search over several devices ended with one; nothing where it did not.
pub(crate) fn one_device(plan: &Plan, cost: &Cost, devices: usize) -> Option<String> {
    let turned_down = cost.turned_down.filter(|_| planner::devices_used(plan) == 1)?;
    let time = |ns| table::time(Duration::from_nanos(ns));
    Some(format!(
        "One device is predicted to be fastest, {}: shared by {devices}, a frame would take {}, of \
         which {} are to be moved.",
        time(cost.makespan_ns),
        time(turned_down.makespan_ns),
        table::bytes(turned_down.moved_bytes),
    ))
}

/// The workers of a cluster file, as a planner sees them.
fn devices_of(cluster: &str) -> Result<Vec<DeviceProfile>, Failure> {
    let workers = ClusterFile::open(cluster).and_then(|file| file.workers());
    let workers = workers.map_err(|error| {
        Failure::bad_input(error).hint("`tilehive-sim list` names what comes with the program")
    })?;
    let profile = |worker: WorkerSpec| {
        let link = worker.link;
        let Power { idle_w, active_w } = worker.device.power;
        DeviceProfile {
            link_bytes_per_s: link.send_bytes_per_s.min(link.receive_bytes_per_s).max(1),
            round_trip_ns: link.round_trip.p50_ns,
            late_round_trip_ns: link.round_trip.p90_ns,
            air: link.medium.air(),
            memory_bytes: Some(worker.device.memory_bytes).filter(|&bytes| bytes > 0),
            // A device file without a [power] section has zeros.
            power: (active_w > 0.0).then_some(planner::Power { idle_w, active_w }),
            ..DeviceProfile::wired(worker.name, worker.claims)
        }
    };
    Ok(workers.into_iter().map(profile).collect())
}

/// The devices that are asked about.
fn devices(context: &Context, arguments: &PlanArguments) -> Result<Vec<DeviceProfile>, Failure> {
    if let Some(cluster) = &arguments.on {
        return devices_of(cluster);
    }
    let mut speeds: Vec<Rates> = arguments.speeds.iter().map(|&s| Rates::typical(s)).collect();
    if speeds.is_empty() {
        let engine = Engine::new(arguments.threads.clamp(1, 1024))?;
        let measured = worker::profile(&engine, Some(&profiles(context)), false)?;
        speeds = vec![measured.rates; usize::from(arguments.workers)];
    }
    // Framing and encryption take a little of every link.
    let link_bytes_per_s = (arguments.link / 8) / 100 * 94;
    let device = |(i, speed)| DeviceProfile {
        link_bytes_per_s: link_bytes_per_s.max(1),
        ..DeviceProfile::wired(format!("device-{i}"), speed)
    };
    Ok(speeds.into_iter().enumerate().map(device).collect())
}

/// A plan that cannot be is a matter of the arguments.
pub(crate) fn bad_plan(error: PlannerError) -> Failure {
    let hint = match &error {
        PlannerError::Plan(PlanError::TooLarge { .. }) => {
            "stream the picture with --max-memory, such as --max-memory 256M"
        }
        PlannerError::Plan(_)
        | PlannerError::TooManyFused { .. }
        | PlannerError::NothingToCut { .. } => {
            "see what can be tiled with `tilehive model inspect`, or leave out --grid and --fuse"
        }
        PlannerError::NoDevice => "start `tilehive-worker` on a device, or give --workers",
        PlannerError::NoOtherDevice { .. } => {
            "--strategy local runs the whole model here; `tilehive token` lets another device join"
        }
        PlannerError::TooLittleMemory { .. }
        | PlannerError::NoRoom { .. }
        | PlannerError::NoRoomForAll { .. } => {
            "add a device with more memory, raise --max-memory, or give the model a smaller input"
        }
        PlannerError::DoesNotFit { .. } => "--strategy auto looks for a plan that fits",
        PlannerError::NoPower { .. } => {
            "`plan --on CLUSTER` knows the watts of a cluster file, whose devices have a [power] \
             section with idle_w and active_w"
        }
        PlannerError::Deadline { .. } => "give a later --deadline, or a faster device",
    };
    Failure::bad_input(error).hint(hint)
}

fn stages(graph: &model::Model, plan: &Plan, cost: &Cost) -> comfy_table::Table {
    let header = [
        "stage",
        "tiles",
        "largest tile",
        "mult-adds",
        "redundancy",
        "scatter",
        "from peers",
        "gather",
        "time",
    ];
    let rows = plan.stages.iter().zip(&cost.stages).enumerate().map(|(i, (stage, c))| {
        let name = |l: u32| graph.layers.get(l as usize).map(|l| l.name.as_str()).unwrap_or("");
        let (first, last) = (name(stage.first_layer), name(stage.end_layer - 1));
        let layers = stage.end_layer - stage.first_layer;
        let grid = match &stage.split {
            Split::Whole => "whole".into(),
            Split::Spatial(grid) => {
                format!("{} x {}", grid.row_shares.len(), grid.col_shares.len())
            }
            Split::Band { grid, row } => format!("band {row}, 1 x {}", grid.col_shares.len()),
        };
        let redundancy = c.multiply_adds as f64 / (c.layer_multiply_adds as f64).max(1.0);
        vec![
            if layers == 1 { first.into() } else { format!("{first} .. {last} ({layers} layers)") },
            grid,
            largest_tile(graph, plan.numerics, i, stage),
            table::amount(c.multiply_adds),
            if c.layer_multiply_adds == 0 { "-".into() } else { format!("{redundancy:.3}") },
            table::bytes(c.scatter_bytes),
            table::bytes(c.exchange_bytes),
            match c.handover {
                Handover::Exchange if c.gather_bytes == 0 => "stays".into(),
                _ => table::bytes(c.gather_bytes),
            },
            table::time(Duration::from_nanos(c.duration_ns)),
        ]
    });
    table::table(&header, rows)
}

/// Output rows x cols of the largest tile, on its first output map.
fn largest_tile(
    graph: &model::Model,
    numerics: Numerics,
    index: usize,
    stage: &tiling::Stage,
) -> String {
    let geometry = StageGeometry::new(graph, numerics, index, stage);
    let tiles = geometry.map(|g| g.tiles).unwrap_or_default();
    let regions = tiles.iter().filter_map(|t| t.outputs.first().map(|(_, r)| *r));
    let largest = regions.max_by_key(|r| r.positions()).unwrap_or_default();
    format!("{} x {}", largest.rows.len(), largest.cols.len())
}

fn loads(devices: &[DeviceProfile], cost: &Cost) -> comfy_table::Table {
    let header = ["device", "tiles", "mult-adds", "bytes in", "bytes out", "weights", "peak maps"];
    let rows = devices.iter().zip(&cost.devices).map(|(device, c)| {
        vec![
            device.name.clone(),
            c.tiles.to_string(),
            table::amount(c.multiply_adds),
            table::bytes(c.bytes_in),
            table::bytes(c.bytes_out),
            table::bytes(c.weight_bytes),
            table::bytes(c.tile_bytes),
        ]
    });
    table::table(&header, rows)
}
