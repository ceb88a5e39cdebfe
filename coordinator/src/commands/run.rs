//! `tilehive run`.

use super::{Opened, TileBar, open_cluster, plan::bad_plan};
use crate::cli::{Context, RunArguments};
use crate::cluster::{Answer, HostedModel, Job};
use crate::failure::{Failure, bad_model};
use crate::table;
use crate::tensors::{Input, check_output, read_input, write_output};
use anyhow::{Context as _, anyhow};
use kernels::{Engine, PackedModel, Piece, Pieces};
use model::{Axes, Element, InputSpec, LoadOptions, MapId};
use planner::{PlanOptions, Strategy};
use protocol::{CoordinatorConfig, WorkerReport};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiling::Numerics;

/// Frames submitted and not answered. One more than the machine has in flight, so that the next is
/// decoded while they run.
const SUBMITTED_MAX: usize = 5;

/// What a frame was and what came of it.
struct Frame {
    path: PathBuf,
    model: Arc<HostedModel>,
    inputs: Pieces,
    answer: Answer,
}

pub(crate) async fn run(context: &Context, arguments: RunArguments) -> Result<(), Failure> {
    let paths = expand(&arguments.inputs)?;
    let outputs = Outputs::new(&arguments, paths.len())?;
    if let Some(path) = &arguments.trace {
        // A mistake shows here rather than after the run.
        write_trace(path, &timeline::Timeline::default())?;
    }
    let mut models = Models::new(&arguments)?;
    // The first frame is read before anything is started: most mistakes show here.
    let first = models.frame(&paths[0])?;
    let machine = CoordinatorConfig {
        stealing: !arguments.no_stealing,
        spot_checks_per_mille: arguments.spot_checks,
        // Nobody shall know beforehand which tiles are checked.
        seed: RandomState::new().hash_one(std::process::id()),
        ..Default::default()
    };
    let opened = open_cluster(context, &arguments.cluster, machine).await?;
    let (strategy, options) = arguments.strategy.resolve(opened.devices.len());
    check_plan(&first.0, opened.devices.len(), strategy, options)?;

    let began = Instant::now();
    let bar = TileBar::start(&opened.cluster, &models.name);
    if arguments.trace.is_some() {
        opened.cluster.record();
    }
    let cluster = Arc::new(opened.cluster);
    let mut pending = VecDeque::new();
    let mut makespans = Vec::new();
    let mut last = None;
    let mut next = Some(first);
    let mut rest = paths.iter();
    loop {
        while pending.len() < SUBMITTED_MAX {
            let Some(path) = rest.next() else { break };
            let (model, inputs) = match next.take() {
                Some(first) => first,
                None => models.frame(path)?,
            };
            let job = Job { model: model.clone(), inputs: inputs.clone(), strategy, options };
            let running = cluster.clone();
            let answer = tokio::spawn(async move { running.submit(job).await });
            pending.push_back((path.clone(), model, inputs, answer));
        }
        let Some((path, model, inputs, answer)) = pending.pop_front() else { break };
        let answer = answer.await.context("a frame was lost")?;
        let answer = answer.with_context(|| format!("{} failed", path.display()))?;
        makespans.push(answer.makespan);
        outputs.write(&path, &model, &answer.outputs)?;
        last = Some(Frame { path, model, inputs, answer });
    }
    let took = began.elapsed();
    drop(bar);

    let cluster = Arc::into_inner(cluster).ok_or_else(|| anyhow!("a frame is still running"))?;
    let (reports, reassigned) = cluster.reports().await?;
    if let Some(path) = &arguments.trace {
        write_trace(path, &cluster.timeline().await?)?;
    }
    Opened { cluster, locals: opened.locals, devices: opened.devices }.stop().await;
    let Some(last) = last else { return Ok(()) };
    let check = if arguments.check { Some(check(&last)?) } else { None };
    let report = Report::new(&last, strategy, &makespans, took, reassigned, &reports, check);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print(&reports);
    }
    match report.check {
        Some(check) if !check.passes(options.numerics) => Err(Failure::run(anyhow!(
            "the answer differs from one device by up to {:e}",
            check.max_difference
        ))),
        _ => Ok(()),
    }
}

fn write_trace(path: &Path, timeline: &timeline::Timeline) -> Result<(), Failure> {
    let file = std::fs::File::create(path)
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(Failure::bad_input)?;
    timeline::write(timeline, std::io::BufWriter::new(file))
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(Failure::run)
}

/// Files as given, and the pictures and arrays in the folders given, by name.
fn expand(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            paths.push(input.clone());
            continue;
        }
        let listed = std::fs::read_dir(input)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("cannot read the folder {}", input.display()))
            .map_err(Failure::bad_input)?;
        let known = |p: &PathBuf| {
            let ending = p.extension().map(|e| e.to_string_lossy().to_lowercase());
            matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "npy" | "npz"))
        };
        let mut listed: Vec<PathBuf> = listed.into_iter().filter(known).collect();
        listed.sort();
        paths.extend(listed);
    }
    if paths.is_empty() {
        let error = anyhow!("there is no picture or array in {}", inputs[0].display());
        return Err(
            Failure::bad_input(error).hint("inputs are .png, .jpg, .jpeg, .npy and .npz files")
        );
    }
    Ok(paths)
}

/// Where answers go.
enum Outputs {
    Nowhere,
    File(PathBuf),
    Folder(PathBuf, String),
}

impl Outputs {
    fn new(arguments: &RunArguments, count: usize) -> Result<Self, Failure> {
        let Some(path) = &arguments.output else { return Ok(Outputs::Nowhere) };
        let folder = path.is_dir() || path.extension().is_none();
        if !folder {
            check_output(path)?;
            if count > 1 {
                let error = anyhow!("{count} inputs cannot all go into {}", path.display());
                return Err(Failure::bad_input(error).hint("give a folder with -o"));
            }
            return Ok(Outputs::File(path.clone()));
        }
        check_output(Path::new(&format!("x.{}", arguments.format)))?;
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot make the folder {}", path.display()))
            .map_err(Failure::bad_input)?;
        Ok(Outputs::Folder(path.clone(), arguments.format.clone()))
    }

    fn write(
        &self,
        input: &Path,
        model: &HostedModel,
        outputs: &[(MapId, Arc<Piece>)],
    ) -> anyhow::Result<()> {
        let graph = &model.loaded.graph;
        match self {
            Outputs::Nowhere => Ok(()),
            Outputs::File(path) => write_output(path, graph, outputs),
            Outputs::Folder(folder, format) => {
                let name = input.file_stem().unwrap_or_default();
                write_output(&folder.join(name).with_extension(format), graph, outputs)
            }
        }
    }
}

/// The model, once for each input size where it leaves the size open.
struct Models {
    reference: String,
    name: String,
    spec: Vec<InputSpec>,
    resize: bool,
    by_size: BTreeMap<Option<(usize, usize)>, Arc<HostedModel>>,
}

impl Models {
    fn new(arguments: &RunArguments) -> Result<Self, Failure> {
        let spec = model::input_spec(&arguments.model).map_err(bad_model)?;
        let (reference, resize) = (arguments.model.clone(), arguments.resize);
        let name = Path::new(&reference).file_stem().unwrap_or_default().to_string_lossy().into();
        Ok(Self { reference, name, spec, resize, by_size: BTreeMap::new() })
    }

    /// Reads an input and finds the model for its size.
    fn frame(&mut self, path: &Path) -> Result<(Arc<HostedModel>, Pieces), Failure> {
        let mut input: Input = read_input(path)?;
        if self.resize
            && let Some(spec) = self.spec.first()
        {
            input = input.resize(spec);
        }
        let open = self.spec.iter().any(|s| s.dims.iter().skip(2).any(|d| d.is_none()));
        let size = input.size().filter(|_| open);
        let key = size.map(|Axes { rows, cols }| (rows, cols));
        let model = match self.by_size.get(&key) {
            Some(model) => model.clone(),
            None => {
                let options = LoadOptions { input_size: size };
                let loaded = model::open(&self.reference, &options).map_err(bad_model)?;
                let model = HostedModel::new(loaded)?;
                self.by_size.insert(key, model.clone());
                model
            }
        };
        let inputs = input
            .for_model(&model.loaded.graph)
            .with_context(|| format!("{} does not fit the model", path.display()))
            .map_err(|e| {
                Failure::bad_input(e).hint("scale pictures to the model's size with --resize")
            })?;
        Ok((model, inputs))
    }
}

/// Refuses a plan that cannot be before anything is sent.
fn check_plan(
    model: &HostedModel,
    devices: usize,
    strategy: Strategy,
    options: PlanOptions,
) -> Result<(), Failure> {
    let alike = vec![planner::DeviceProfile::wired("device", 0); devices.max(1)];
    planner::plan(&model.loaded.graph, &alike, strategy, options).map(drop).map_err(bad_plan)
}

/// The largest relative difference that Winograd transforms may make.
const DIFFERENCE_MAX: f32 = 1e-4;

/// Whether the answer is that of one device, computed exactly.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Check {
    pub identical: bool,
    /// Largest difference / largest value, over all maps.
    pub relative: f32,
    pub max_difference: f32,
}

impl Check {
    /// Compares whole maps bit by bit.
    pub(crate) fn compare(a: &[(MapId, Arc<Piece>)], b: &[(MapId, Piece)]) -> Self {
        let mut check = Self { identical: a.len() == b.len(), relative: 0.0, max_difference: 0.0 };
        let mut largest = f32::MIN_POSITIVE;
        for ((map, ours), (other, theirs)) in a.iter().zip(b) {
            check.identical &= map == other && ours.as_bytes() == theirs.as_bytes();
            let (ours, theirs) = (ours.cast(Element::F32), theirs.cast(Element::F32));
            for (x, y) in ours.values().iter().zip(theirs.values()) {
                check.max_difference = check.max_difference.max((x - y).abs());
                largest = largest.max(y.abs());
            }
        }
        check.relative = check.max_difference / largest;
        check
    }

    /// Whether the answer may differ so much.
    pub(crate) fn passes(&self, numerics: Numerics) -> bool {
        match numerics {
            Numerics::Exact => self.identical,
            Numerics::Fast => self.relative <= DIFFERENCE_MAX,
        }
    }
}

/// Runs a frame again in this process, untiled.
fn check(frame: &Frame) -> anyhow::Result<Check> {
    Ok(Check::compare(&frame.answer.outputs, &alone(&frame.model, Numerics::Exact, &frame.inputs)?))
}

/// The answer of this device alone, without any cluster.
pub(crate) fn alone(
    model: &HostedModel,
    numerics: Numerics,
    inputs: &[(MapId, Arc<Piece>)],
) -> anyhow::Result<Vec<(MapId, Piece)>> {
    let packed = PackedModel::new(model.loaded.graph.clone());
    packed.pack_all(&model.loaded, numerics)?;
    Ok(Engine::new(super::cores())?.run_whole(&packed, numerics, inputs)?)
}

#[derive(Serialize)]
struct Report {
    model: String,
    strategy: &'static str,
    frames: usize,
    last_input: String,
    makespan_ms: Vec<f64>,
    total_ms: f64,
    frames_per_s: f64,
    predicted_makespan_ms: f64,
    predicted_one_device_ms: f64,
    redundancy: f64,
    reassigned: u64,
    check: Option<Check>,
    workers: Vec<serde_json::Value>,
}

impl Report {
    fn new(
        last: &Frame,
        strategy: Strategy,
        makespans: &[Duration],
        took: Duration,
        reassigned: u64,
        reports: &BTreeMap<protocol::WorkerId, WorkerReport>,
        check: Option<Check>,
    ) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let predicted = &last.answer.predicted;
        Self {
            model: last.model.loaded.graph.name.clone(),
            strategy: strategy.name(),
            frames: makespans.len(),
            last_input: last.path.display().to_string(),
            makespan_ms: makespans.iter().copied().map(ms).collect(),
            total_ms: ms(took),
            frames_per_s: makespans.len() as f64 / took.as_secs_f64().max(1e-9),
            predicted_makespan_ms: predicted.makespan_ns as f64 / 1e6,
            predicted_one_device_ms: predicted.one_device_ns as f64 / 1e6,
            redundancy: predicted.redundancy(),
            reassigned,
            check,
            workers: reports.values().map(worker_json).collect(),
        }
    }

    fn print(&self, reports: &BTreeMap<protocol::WorkerId, WorkerReport>) {
        println!("{}", table::workers(reports));
        let ms = |ms: f64| table::time(Duration::from_secs_f64(ms / 1e3));
        let mut sorted = self.makespan_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let frames = if self.frames == 1 {
            let sent: u64 = reports.values().map(|r| r.weight_bytes).sum();
            let cold = if sent > 0 { " (weights sent first)" } else { "" };
            format!("makespan {}{cold}", ms(median))
        } else {
            let (n, fps) = (self.frames, self.frames_per_s);
            format!("{n} frames, median makespan {}, {fps:.2} frames/s", ms(median))
        };
        println!("{frames}, redundancy {:.3}, by `{}`", self.redundancy, self.strategy);
        if self.reassigned > 0 {
            println!("{} tasks were reassigned", self.reassigned);
        }
        match self.check {
            Some(Check { identical: true, .. }) => println!("bit-identical to one device: yes"),
            Some(Check { relative, .. }) => println!(
                "differs from the exact answer of one device by {relative:.1e} of the largest value \
                 (`--numerics exact` gives equal bits)"
            ),
            None => {}
        }
    }
}

/// What a worker did, for machines.
pub(crate) fn worker_json(r: &WorkerReport) -> serde_json::Value {
    json!({
        "name": r.name, "threads": r.threads, "alive": r.alive, "tiles": r.tasks,
        "stolen": r.stolen, "multiply_adds": r.multiply_adds, "bytes_in": r.bytes_in,
        "bytes_out": r.bytes_out, "weight_bytes": r.weight_bytes,
        "busy_ms": r.busy_ns as f64 / 1e6,
    })
}
