//! Compares what the planner's cost model predicts for a device with what a real worker process
//! takes, over networks that no rate was fitted to: `scripts/bench-cost`.
//!
//! ```text
//!  bench_cost ROUNDS     prints JSON
//! ```
//!
//! Each model of each round gets a worker with nothing kept, which so measures itself anew right
//! before; so the profile and the times that it predicts are taken under the same load of the machine.
//! What counts is the time that its computing thread had a core: by Linux' `schedstat`, and of one
//! thread alone. A case counts with the median over the rounds of predicted / measured.

use anyhow::{Context, Result, anyhow};
use coordinator::{Cluster, ClusterConfig, HostedModel, Job, LocalWorkers, Reach};
use kernels::{Piece, Pieces};
use model::{LoadedModel, Model};
use net::{Identity, Register, Terms};
use planner::{PlanOptions, Strategy};
use protocol::CoordinatorConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tiling::{Numerics, OperatorClass, Pace, Region, Work};

/// Frames of a case in each round, the first apart, which warms up; the shortest counts.
const FRAMES: usize = 4;

const MODELS: [&str; 14] = [
    "zoo:resnet50",
    "zoo:mobilenetv2",
    "zoo:squeezenet",
    "zoo:vgg16",
    "zoo:unet",
    "zoo:tiny-yolov2",
    "zoo:yolov2@416x416",
    "zoo:googlenet",
    "zoo:densenet121",
    "zoo:alexnet",
    "zoo:shufflenetv2",
    "zoo:mobilenetv3",
    "zoo:yolov8n@320x320",
    "zoo:dncnn",
];

/// How a model is run: whole in both modes, and its early layers in tiles.
const WAYS: [Way; 3] = [
    ("whole, fast", Strategy::Local, Numerics::Fast, None),
    ("whole, exact", Strategy::Local, Numerics::Exact, None),
    ("2 x 2 tiles, fast", Strategy::DeepThings, Numerics::Fast, Some((2, 2))),
];

type Way = (&'static str, Strategy, Numerics, Option<(usize, usize)>);

struct Case {
    name: String,
    /// Predicted and measured nanoseconds of each round.
    rounds: Vec<(f64, f64)>,
    /// The share of each class of the time predicted in the last round.
    shares: Vec<(&'static str, f64)>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let rounds = arguments.next().context("how many rounds?")??;
    let threads = 1;
    let open = |name: &&str| -> Result<LoadedModel> { Ok(model::open(name, &Default::default())?) };
    let models = MODELS.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut cases: Vec<Case> = Vec::new();
    for name in MODELS {
        for (way, ..) in WAYS {
            let name = format!("{}, {way}", name.trim_start_matches("zoo:"));
            cases.push(Case { name, rounds: Vec::new(), shares: Vec::new() });
        }
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (model, cases) in models.iter().zip(cases.chunks_mut(WAYS.len())) {
            run_model(model, threads, cases).await?;
        }
    }
    println!("{}", serde_json::to_string_pretty(&report(&cases, rounds, threads))?);
    Ok(())
}

async fn run_model(model: &LoadedModel, threads: usize, cases: &mut [Case]) -> Result<()> {
    let state = std::env::temp_dir().join(format!("tilehive-bench-cost-{}", std::process::id()));
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    let identity = Box::new(Identity::ephemeral());
    let register = Register::in_memory();
    let reach = Reach::Network { identity, register, listen, mdns: false };
    let machine = CoordinatorConfig::default();
    let cluster = Cluster::start(ClusterConfig { reach, machine }).await?;
    let token = &cluster.invite(&Terms::default())?;
    let workers = LocalWorkers::start(1, threads, token, &state, Default::default());
    let workers = workers.map_err(|_| anyhow!("the worker does not start"))?;
    let devices = cluster.wait_for(1, Duration::from_secs(60)).await?;
    // Before any task has corrected it: what the worker measured.
    let pace = devices.first().context("the worker did not join")?.profile.rates.pace();
    let worker = *workers.process_ids().first().context("the worker has ended")?;
    let hosted = HostedModel::new(model.clone())?;
    for ((_, strategy, numerics, grid), case) in WAYS.iter().zip(cases) {
        let options = PlanOptions { grid: *grid, numerics: *numerics, ..Default::default() };
        let mut best: Option<(f64, f64)> = None;
        for frame in 0..=FRAMES {
            let before = computed_ns(worker)?;
            let job = Job {
                model: hosted.clone(),
                inputs: inputs(&model.graph),
                strategy: *strategy,
                options,
            };
            let answer = cluster.submit(job).await?;
            let took = (computed_ns(worker)? - before) as f64;
            let work = work_of(&answer.plan);
            case.shares = shares(&work, &pace);
            if frame > 0 && best.is_none_or(|(_, least)| took < least) {
                best = Some((pace.ns(&work), took));
            }
        }
        case.rounds.extend(best);
    }
    workers.stop().await;
    cluster.stop().await;
    std::fs::remove_dir_all(&state).context("cannot remove the worker's folder")?;
    Ok(())
}

/// How long the thread that computes was on a core. On a machine that others use, too, the clock on
/// the wall counts them in where a task is long, and not where a probe is short.
fn computed_ns(process: u32) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let folder = task?.path();
        if std::fs::read_to_string(folder.join("comm"))?.trim() == "compute" {
            let times = std::fs::read_to_string(folder.join("schedstat"))?;
            let on_core = times.split_whitespace().next().context("schedstat is empty")?;
            return Ok(on_core.parse()?);
        }
    }
    Err(anyhow!("process {process} has no thread called `compute`"))
}

fn work_of(plan: &protocol::ActivePlan) -> Work {
    let stages = plan.geometry().iter().enumerate();
    let tiles = stages.flat_map(|(stage, s)| (0..s.tiles.len()).map(move |tile| (stage, tile)));
    tiles.map(|(stage, tile)| plan.work_of(stage as u32, tile as u32)).sum()
}

/// What each class takes of the time predicted, the largest first.
fn shares(work: &Work, pace: &Pace) -> Vec<(&'static str, f64)> {
    let all = pace.ns(work).max(1.0);
    let share = |class: OperatorClass| (class.name(), pace.ns_of(class) * work[class] as f64 / all);
    let mut shares: Vec<_> = OperatorClass::ALL.into_iter().map(share).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares.truncate(3);
    shares
}

fn inputs(graph: &Model) -> Pieces {
    let input = |&map| {
        let shape = graph.shape(map);
        let values = (0..shape.elements()).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect();
        let piece = Piece::from_values(Region::whole(shape), shape.channels(), values);
        (map, Arc::new(piece.expect("as long as the map")))
    };
    graph.inputs.iter().map(input).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(cases: &[Case], rounds: usize, threads: usize) -> Value {
    let one = |case: &Case| {
        let of = |pick: fn(&(f64, f64)) -> f64| median(case.rounds.iter().map(pick).collect());
        let (predicted_ms, measured_ms) = (of(|r| r.0) / 1e6, of(|r| r.1) / 1e6);
        let error = of(|r| r.0 / r.1) - 1.0;
        let shares: Vec<Value> = case
            .shares
            .iter()
            .map(|(class, share)| json!({ "class": class, "share": share }))
            .collect();
        json!({ "case": case.name, "predicted_ms": predicted_ms, "measured_ms": measured_ms,
            "error": error, "largest_classes": shares })
    };
    let list: Vec<Value> = cases.iter().map(one).collect();
    let errors: Vec<f64> =
        list.iter().filter_map(|case| case["error"].as_f64()).map(f64::abs).collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    let worst = errors.iter().copied().fold(0.0, f64::max);
    json!({ "rounds": rounds, "threads": threads, "mean_error": mean, "worst_error": worst,
        "cases": list })
}
