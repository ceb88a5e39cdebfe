//! `tilehive demo`: the main job on one machine, with real processes.
//!
//! A trained network enlarges a photograph. The frame is computed in tiles by several worker
//! processes and, interleaved with that, whole by one of them, so that both times come from the
//! same machine in the same minute.

use super::check::{Check, alone};
use super::report::worker_json;
use super::{Opened, TileBar, cores, open_locals};
use crate::cli::{Context, DemoArguments};
use crate::cluster::{Answer, Cluster, HostedModel, Job};
use crate::failure::{Failure, bad_model};
use crate::input::Input;
use crate::say::say;
use crate::table;
use anyhow::Context as _;
use image::imageops::{FilterType, crop_imm, replace, resize};
use kernels::Piece;
use model::{LoadOptions, MapId, Model};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, WorkerId, WorkerReport};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiling::Numerics;
use vision::{Convention, Output, Task};

/// Tiles of the picture: three for each worker, also where the planner would use one device alone
/// since the machine is busy.
const GRID: (usize, usize) = (4, 3);

/// Trained by `scripts/train-superres`; this photograph was held out.
const MODEL: &[u8] = include_bytes!("../../../assets/superres-x2.onnx");
const PHOTO: &[u8] = include_bytes!("../../../assets/astronaut.jpg");

/// Frames of each kind that are timed, after one of each that is not: that one sends the weights.
const ROUNDS: usize = 5;

/// Side of the square of the enlarged picture that the comparison shows.
const DETAIL: u32 = 320;

/// Files that the demo writes.
struct Files {
    model: PathBuf,
    photo: PathBuf,
    enlarged: PathBuf,
    comparison: PathBuf,
}

/// One timed frame, and what each worker did for it.
struct Timed {
    answer: Answer,
    workers: BTreeMap<WorkerId, WorkerReport>,
}

pub(crate) async fn run(context: &Context, arguments: DemoArguments) -> Result<(), Failure> {
    let files = unpack(&arguments.out)?;
    let input = Input::read(&files.photo)?;
    let options = LoadOptions { input_size: input.size() };
    let model = files.model.to_string_lossy();
    let model = HostedModel::new(model::open(&model, &options).map_err(bad_model)?)?;
    let convention = Task::Picture.usual_convention(None);
    let inputs = input.for_model(&model.loaded.graph, &convention)?.pieces;

    let workers = usize::from(arguments.workers);
    let opened = open_locals(context, workers, 1, CoordinatorConfig::default()).await?;
    let measured = measure(&opened.cluster, &model, &inputs).await;
    let reassigned = opened.cluster.reports().await.map(|(_, reassigned)| reassigned);
    Opened::stop(opened).await;
    let (tiled, whole) = measured?;
    let reassigned = reassigned?;

    let last = tiled.last().context("no frame was timed")?;
    let graph = &model.loaded.graph;
    write_enlarged(&files.enlarged, graph, &last.answer.outputs, &convention)?;
    compare_pictures(&files)?;
    let check = Check::compare(&last.answer.outputs, &alone(&model, Numerics::Exact, &inputs)?);
    let (makespan, one_device) = (median(&tiled), median(&whole));
    let redundancy = last.answer.plan.multiply_adds() as f64 / graph.multiply_adds() as f64;

    if arguments.json {
        let report = json!({
            "workers": last.workers.values().map(worker_json).collect::<Vec<_>>(),
            "makespan_ms": times(&tiled),
            "one_device_ms": times(&whole),
            "speed_up": one_device.as_secs_f64() / makespan.as_secs_f64(),
            "redundancy": redundancy,
            "reassigned": reassigned,
            "bit_identical": check.identical,
            "cores": cores(),
            "picture": files.enlarged,
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        say!("{}", table::workers(&last.workers));
        say!(
            "one device          {:>10}   (median of {ROUNDS}, interleaved)",
            table::time(one_device)
        );
        say!("{workers} devices, makespan {:>10}", table::time(makespan));
        let speed_up = one_device.as_secs_f64() / makespan.as_secs_f64();
        say!("speed-up            {speed_up:>9.2}x   {}", bound_by_cores(workers));
        say!("redundancy          {redundancy:>10.3}");
        let verdict = if check.identical { "yes" } else { "NO" };
        say!("bit-identical to one device: {verdict}");
        say!("\nwrote {} and {}", files.enlarged.display(), files.comparison.display());
        next_steps(&files);
    }
    if check.identical {
        Ok(())
    } else {
        Err(Failure::run(anyhow::anyhow!("the tiled answer differs from one device")))
    }
}

fn unpack(folder: &Path) -> Result<Files, Failure> {
    let files = Files {
        model: folder.join("superres-x2.onnx"),
        photo: folder.join("photo.jpg"),
        enlarged: folder.join("enlarged.png"),
        comparison: folder.join("comparison.png"),
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&files.model, MODEL))
        .and_then(|()| std::fs::write(&files.photo, PHOTO))
        .with_context(|| format!("cannot write into {}", folder.display()))
        .map_err(|e| Failure::bad_input(e).hint("give another folder with --out"))?;
    Ok(files)
}

fn write_enlarged(
    path: &Path,
    graph: &Model,
    outputs: &[(MapId, Arc<Piece>)],
    convention: &Convention,
) -> anyhow::Result<()> {
    let (map, piece) = outputs.first().context("the network has no output")?;
    let array = crate::arrays::array_of(graph.shape(*map), piece)?;
    let output = Output { name: "enlarged", values: array.view() };
    crate::pictures::write(path, &vision::picture::picture(&[output], convention, None)?)
}

/// Times both kinds of frame, taking turns.
async fn measure(
    cluster: &Cluster,
    model: &Arc<HostedModel>,
    inputs: &[(MapId, Arc<Piece>)],
) -> Result<(Vec<Timed>, Vec<Timed>), Failure> {
    let _bar = TileBar::start(cluster, "enlarging the photograph");
    let (mut tiled, mut whole) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for (strategy, times) in [(Strategy::DeepThings, &mut tiled), (Strategy::Local, &mut whole)]
        {
            let (before, _) = cluster.reports().await?;
            let options = PlanOptions { grid: Some(GRID), ..PlanOptions::EXACT };
            let job = Job { model: model.clone(), inputs: inputs.to_vec(), strategy, options };
            let answer = cluster.submit(job).await?;
            let (after, _) = cluster.reports().await?;
            if round > 0 {
                times.push(Timed { answer, workers: since(&before, after) });
            }
        }
    }
    Ok((tiled, whole))
}

/// What was done between two reports; the weights are those of all time.
fn since(
    before: &BTreeMap<WorkerId, WorkerReport>,
    after: BTreeMap<WorkerId, WorkerReport>,
) -> BTreeMap<WorkerId, WorkerReport> {
    let difference = |(id, now): (WorkerId, WorkerReport)| {
        let then = before.get(&id).cloned().unwrap_or_default();
        let report = WorkerReport {
            tasks: now.tasks - then.tasks,
            stolen: now.stolen - then.stolen,
            multiply_adds: now.multiply_adds - then.multiply_adds,
            bytes_in: now.bytes_in - then.bytes_in,
            bytes_out: now.bytes_out - then.bytes_out,
            busy_ns: now.busy_ns - then.busy_ns,
            ..now
        };
        (id, report)
    };
    after.into_iter().map(difference).collect()
}

fn times(frames: &[Timed]) -> Vec<f64> {
    frames.iter().map(|f| f.answer.makespan.as_secs_f64() * 1e3).collect()
}

fn median(frames: &[Timed]) -> Duration {
    let mut sorted: Vec<Duration> = frames.iter().map(|f| f.answer.makespan).collect();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Local workers share the cores of one machine; without this line the speed-up would mislead.
fn bound_by_cores(workers: usize) -> String {
    match cores() {
        cores if cores < workers => {
            format!("({workers} processes share the {cores} cores of this machine)")
        }
        _ => String::new(),
    }
}

/// A detail of the picture enlarged by interpolation, beside the same detail by the network.
fn compare_pictures(files: &Files) -> anyhow::Result<()> {
    let photo = image::open(&files.photo)?.to_rgb8();
    let ours = image::open(&files.enlarged)?.to_rgb8();
    let (width, height) = ours.dimensions();
    let interpolated = resize(&photo, width, height, FilterType::CatmullRom);
    let side = DETAIL.min(width).min(height);
    // The face, in the photograph that comes with the demo.
    let (x, y) = (((width - side) * 2) / 5, (height - side) / 16);
    let mut both = image::RgbImage::new(2 * side, side);
    replace(&mut both, &crop_imm(&interpolated, x, y, side, side).to_image(), 0, 0);
    replace(&mut both, &crop_imm(&ours, x, y, side, side).to_image(), side.into(), 0);
    Ok(both.save(&files.comparison)?)
}

fn next_steps(files: &Files) {
    let (model, photo) = (files.model.display(), files.photo.display());
    say!(
        "
Try next:
  tilehive run {model} {photo} -o big.png --workers 4 --check
  tilehive plan zoo:vgg16 --workers 4          what would four devices gain?
  tilehive run {model} YOUR_PHOTO.jpg -o big.png
  tilehive cluster init                        let a Raspberry Pi join, then run with --join-wait 5s
(from the source tree: `cargo run --release --bin tilehive -- run ...`)"
    );
}
