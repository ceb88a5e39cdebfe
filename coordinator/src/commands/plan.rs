//! `tilehive plan`: explain before running.

use super::{open_model, profiles};
use crate::cli::{Bytes, Context, PlanArguments};
use crate::explanation::{self, Explanation, Question};
use crate::failure::Failure;
use crate::say::say;
use crate::table;
use anyhow::anyhow;
use kernels::Engine;
use planner::{Cost, DeviceProfile, PlannerError};
use sim::files::ClusterFile;
use sim::physics::Power;
use sim::rehearsal::Wish;
use sim::{LinkSpec, WorkerSpec};
use std::path::Path;
use std::time::Duration;
use tiling::{Plan, PlanError, Rates, Shares};

pub(crate) fn run(context: &Context, arguments: PlanArguments) -> Result<(), Failure> {
    arguments.strategy.check()?;
    let model = open_model(&arguments.model, arguments.input_size)?;
    let model = arguments.strategy.weigh(model);
    let devices = devices(context, &arguments)?;
    let (strategy, options) = arguments.strategy.resolve(devices.len())?;
    let pictures = Shares::of_pictures(&model.graph);
    let shares = Shares::expected(&model.graph, options.wire, pictures);
    let devices: Vec<_> =
        devices.into_iter().map(|device| device.sharing(options.wire, &shares)).collect();
    if let Some(path) = &arguments.html {
        // A mistake shows here rather than after the search.
        write(path, "")?;
    }
    let graph = &model.graph;
    let wish = Wish { graph, devices: &devices, strategy, options, rehearsed: true };
    let (plan, cost) = wish.plan().map_err(bad_plan)?;
    planner::check_memory(&model.graph, &devices, &plan).map_err(bad_plan)?;
    let cluster = match &arguments.on {
        Some(cluster) => format!(" of {cluster}"),
        None if arguments.speeds.is_empty() => " like this one".into(),
        None => String::new(),
    };
    let question = Question { model: &model, cluster, devices: &devices, strategy, options };
    let facts = Explanation::of(question, plan, cost);
    if let Some(path) = &arguments.html {
        write(path, &explanation::page(&facts)?)?;
        eprintln!("wrote {}", path.display());
    }
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&facts)?);
    } else {
        explanation::print(&facts);
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        let error = anyhow!("cannot write {}: {error}", path.display());
        Failure::bad_input(error).hint("give a file in a folder that is there: --html plan.html")
    })
}

/// Says why a search over several devices ended with one; nothing where it did not.
pub(crate) fn one_device(plan: &Plan, cost: &Cost, devices: usize) -> Option<String> {
    let turned_down = cost.turned_down.filter(|_| planner::devices_used(plan) == 1)?;
    let time = |ns| table::time(Duration::from_nanos(ns));
    Some(format!(
        "One device is predicted to be fastest, {}: shared by {devices}, a frame would take {}, of \
         which {} are to be moved.",
        time(cost.predicted_ns()),
        time(turned_down.makespan_ns),
        table::bytes(turned_down.moved_bytes),
    ))
}

/// The workers of a cluster file, as a planner sees them.
fn devices_of(cluster: &str) -> Result<Vec<DeviceProfile>, Failure> {
    let parts = ClusterFile::open(cluster)
        .and_then(|file| Ok((file.workers()?, file.pairs()?, file.head_link()?)));
    let (workers, mut pairs, head) = parts.map_err(|error| {
        Failure::bad_input(error).hint("`tilehive-sim list` names what comes with the program")
    })?;
    // The coordinator sees all through its own link.
    pairs.extend(sim::pairs::hidden_by(&head, &workers, &pairs));
    let carries = |link: &LinkSpec| link.send_bytes_per_s.min(link.receive_bytes_per_s).max(1);
    let profile = |worker: WorkerSpec| {
        let link = worker.link;
        let Power { idle_w, active_w } = worker.device.power;
        DeviceProfile {
            link_bytes_per_s: carries(&link).min(carries(&head)),
            round_trip_ns: link.round_trip.p50_ns + head.round_trip.p50_ns,
            late_round_trip_ns: link.round_trip.p90_ns + head.round_trip.p50_ns,
            air: link.medium.air().or(head.medium.air()),
            memory_bytes: Some(worker.device.memory_bytes).filter(|&bytes| bytes > 0),
            // A device file without a [power] section has zeros.
            power: (active_w > 0.0).then_some(planner::Power { idle_w, active_w }),
            ..DeviceProfile::wired(worker.name, worker.claims)
        }
    };
    let mut devices: Vec<DeviceProfile> = workers.into_iter().map(profile).collect();
    sim::pairs::tell(&pairs, &mut devices, |place| place);
    Ok(devices)
}

/// The devices that are asked about.
fn devices(context: &Context, arguments: &PlanArguments) -> Result<Vec<DeviceProfile>, Failure> {
    let mut devices = devices_without_limit(context, arguments)?;
    if let Some(Bytes(most)) = arguments.max_memory {
        for device in &mut devices {
            device.memory_bytes = Some(device.memory_bytes.map_or(most, |given| given.min(most)));
        }
    }
    Ok(devices)
}

fn devices_without_limit(
    context: &Context,
    arguments: &PlanArguments,
) -> Result<Vec<DeviceProfile>, Failure> {
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
            "--strategy local runs the whole model here; `tilehive cluster token` lets another device join"
        }
        PlannerError::TooLittleMemory { .. }
        | PlannerError::NoRoom { .. }
        | PlannerError::NoRoomForAll { .. } => {
            "add a device with more memory, raise --max-memory, or give the model a smaller input"
        }
        PlannerError::DoesNotFit { .. } => {
            "--strategy auto looks for a plan that fits; --numerics exact takes less memory, since weights \
             stay as they are"
        }
        PlannerError::NoPower { .. } => {
            "start its worker with `tilehive-worker --watts IDLE:ACTIVE`; `plan --on CLUSTER` takes the \
             watts of a cluster file, whose devices have a [power] section with idle_w and active_w"
        }
        PlannerError::Deadline { .. } => "give a later --deadline, or a faster device",
    };
    Failure::bad_input(error).hint(hint)
}
