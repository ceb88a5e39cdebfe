//! `tilehive run`.

use super::check::{Check, alone};
use super::energy::Energy;
use super::report::{Report, Timing};
use super::{Opened, TileBar, open_cluster, plan::bad_plan};
use crate::cli::{Context, RunArguments};
use crate::cluster::{Answer, Device, HostedModel, Job};
use crate::failure::{Failure, bad_model};
use crate::input::Input;
use crate::pictures;
use crate::results::{self, Outcome, Question};
use crate::say::say;
use crate::usage::{Hinted, Usage};
use crate::watch::{self, Beside};
use anyhow::{Context as _, anyhow};
use image::DynamicImage;
use kernels::Pieces;
use model::{Axes, InputSpec, LoadOptions, ModelError};
use planner::{Objective, PlanOptions, Strategy};
use protocol::CoordinatorConfig;
use serde_json::json;
use serde_json::value::to_raw_value;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tiling::{Numerics, Rates};
use vision::{Fit, Size};

/// Frames submitted and not answered: one more than the machine has in flight, so that the next is
/// decoded while they run. One alone is waited for, so that the next is planned by what it taught.
fn submitted_max(in_flight: usize) -> usize {
    if in_flight == 1 { 1 } else { in_flight + 1 }
}

/// One input, ready for its model.
pub(super) struct Ready {
    pub(super) model: Arc<HostedModel>,
    pub(super) usage: Arc<Usage>,
    inputs: Pieces,
    picture: Option<(Arc<DynamicImage>, Fit)>,
}

/// What a frame was and what came of it.
pub(super) struct Frame {
    pub(super) path: PathBuf,
    pub(super) ready: Ready,
    pub(super) answer: Answer,
}

pub(crate) async fn run(context: &Context, arguments: RunArguments) -> Result<(), Failure> {
    if let Some(limit) = arguments.max_memory {
        return super::stream::run(context, &arguments, limit).await;
    }
    arguments.strategy.check()?;
    arguments.strategy.check_beside_spot_checks(arguments.spot_checks)?;
    let paths = expand(&arguments.inputs)?;
    let outputs = Outputs::new(&arguments, paths.len())?;
    if let Some(path) = &arguments.trace {
        // A mistake shows here rather than after the run.
        write_trace(path, &timeline::Timeline::default())?;
    }
    if arguments.watch {
        watch::needs_terminal("without --watch a bar shows how far it is")?;
    }
    let mut models = Models::new(&arguments)?;
    // The first frame is read before anything is started: most mistakes show here.
    let first = models.frame(&paths[0])?;
    outputs.check(&first)?;
    eprintln!("{}: {}", models.name, first.usage.line);
    let machine = CoordinatorConfig {
        stealing: !arguments.no_stealing,
        spot_checks_per_mille: arguments.spot_checks,
        frames_in_flight_max: arguments.in_flight.into(),
        // Nobody shall know beforehand which tiles are checked.
        seed: RandomState::new().hash_one(std::process::id()),
        ..Default::default()
    };
    let opened = open_cluster(context, &arguments.cluster, machine).await?;
    let (strategy, options) = arguments.strategy.resolve(opened.devices.len())?;
    check_plan(&first.model, opened.devices.len(), strategy, options)?;
    check_energy(&first.model, &opened.devices, strategy, options)?;

    let began = Instant::now();
    if arguments.trace.is_some() {
        opened.cluster.record();
    }
    let cluster = Arc::new(opened.cluster);
    let screen = arguments.watch.then(|| Beside::open(cluster.clone(), &models.name));
    let bar = (!arguments.watch).then(|| TileBar::start(&cluster, &models.name));
    let mut unsaid = Vec::new();
    let mut pending = VecDeque::new();
    let mut makespans = Vec::new();
    let mut answers = Vec::new();
    let mut last = None;
    let mut next = Some(first);
    let mut rest = paths.iter();
    loop {
        while pending.len() < submitted_max(arguments.in_flight.into()) {
            let Some(path) = rest.next() else { break };
            let frame = (paths.len() - rest.len() - 1) as u32;
            let due = arguments.interval.map(|interval| began + interval * frame);
            let ready = match next.take() {
                Some(first) => first,
                None => models.frame(path)?,
            };
            let (model, inputs) = (ready.model.clone(), ready.inputs.clone());
            let job = Job { model, inputs, strategy, options };
            let running = cluster.clone();
            let answer = tokio::spawn(async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due.into()).await;
                }
                running.submit(job).await
            });
            pending.push_back((path.clone(), ready, answer));
        }
        let Some((path, ready, answer)) = pending.pop_front() else { break };
        let answer = answer.await.context("a frame was lost")?;
        let answer = answer.with_context(|| format!("{} failed", path.display()))?;
        makespans.push(answer.makespan);
        let frame = Frame { path, ready, answer };
        let outcome = outputs.take(&frame)?;
        if arguments.json {
            // As text, which takes far less than a tree of values: a run may have many frames.
            let answer = json!({ "input": frame.path, "result": outcome.json });
            answers.push(to_raw_value(&answer).map_err(anyhow::Error::from)?);
        }
        let words = words(&frame.path, paths.len(), &outcome, arguments.json);
        match &bar {
            Some(bar) => bar.aside(|| words.iter().for_each(|line| say!("{line}"))),
            // Words of the run would lie across the view.
            None => unsaid.extend(words),
        }
        last = Some(frame);
    }
    let took = began.elapsed();
    drop(bar);
    if let Some(screen) = screen {
        screen.close().await?;
    }
    unsaid.iter().for_each(|line| say!("{line}"));

    let cluster = Arc::into_inner(cluster).ok_or_else(|| anyhow!("a frame is still running"))?;
    let (reports, reassigned) = cluster.reports().await?;
    let counters = cluster.counters().await?;
    if let Some(path) = &arguments.trace {
        write_trace(path, &cluster.timeline().await?)?;
    }
    let devices = cluster.devices().await?;
    Opened { cluster, locals: opened.locals, devices: opened.devices }.stop().await;
    let Some(last) = last else { return Ok(()) };
    let check = if arguments.check { Some(check(&last)?) } else { None };
    let timing = Timing { makespans: &makespans, took, reassigned, counters };
    let energy = Energy::of(&last.answer, &devices);
    let report = Report::new(&last, strategy, timing, &reports, (check, energy), answers);
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print(&reports);
    }
    match report.check {
        Some(check) if !check.passes(options.numerics, options.wire) => Err(Failure::run(anyhow!(
            "the answer differs from one device by up to {:e}",
            check.max_difference
        ))),
        _ => Ok(()),
    }
}

/// What an answer says: all of it for one input, its first line for each of several.
fn words(path: &Path, count: usize, outcome: &Outcome, json: bool) -> Vec<String> {
    match (json, count, outcome.lines.as_slice()) {
        (true, ..) => Vec::new(),
        (_, 1, lines) => lines.to_vec(),
        (_, _, [first, rest @ ..]) => {
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            vec![format!("{}: {}{more}", path.display(), first.trim())]
        }
        _ => Vec::new(),
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
            let arrays = |e: &str| matches!(e, "npy" | "npz");
            ending.as_deref().is_some_and(|e| arrays(e) || pictures::is_readable(e))
        };
        let mut listed: Vec<PathBuf> = listed.into_iter().filter(known).collect();
        listed.sort();
        paths.extend(listed);
    }
    if paths.is_empty() {
        let error = anyhow!("there is no picture or array in {}", inputs[0].display());
        return Err(Failure::bad_input(error)
            .hint("inputs are pictures (.png, .jpg, .webp, .ppm, ...), .npy and .npz files"));
    }
    Ok(paths)
}

/// Where answers go.
enum Outputs {
    Files(Vec<PathBuf>),
    Folder(PathBuf, String),
}

impl Outputs {
    fn new(arguments: &RunArguments, count: usize) -> Result<Self, Failure> {
        let paths = &arguments.output;
        let is_folder = |path: &&PathBuf| path.is_dir() || path.extension().is_none();
        match (paths.iter().find(is_folder), paths.as_slice()) {
            (Some(folder), [_]) => {
                results::check_ending(Path::new(&format!("x.{}", arguments.format)))?;
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make the folder {}", folder.display()))
                    .map_err(Failure::bad_input)?;
                Ok(Outputs::Folder(folder.clone(), arguments.format.clone()))
            }
            (Some(folder), _) => {
                let error = anyhow!("{} cannot stand beside other outputs", folder.display());
                Err(Failure::bad_input(error).hint("give one folder, or only files, with -o"))
            }
            (None, files) => {
                files.iter().try_for_each(|path| results::check_ending(path))?;
                if let (Some(file), 2..) = (files.first(), count) {
                    let error = anyhow!("{count} inputs cannot all go into {}", file.display());
                    return Err(Failure::bad_input(error).hint("give a folder with -o"));
                }
                Ok(Outputs::Files(files.to_vec()))
            }
        }
    }

    /// The files of one input.
    fn files(&self, input: &Path) -> Vec<PathBuf> {
        match self {
            Outputs::Files(files) => files.clone(),
            Outputs::Folder(folder, format) => {
                let name = input.file_stem().unwrap_or_default();
                vec![folder.join(name).with_extension(format)]
            }
        }
    }

    /// Refuses, before anything runs, what the answers of a model cannot be written as.
    fn check(&self, first: &Ready) -> Result<(), Failure> {
        let (task, is_picture) = (first.usage.task, first.picture.is_some());
        self.files(Path::new("x")).iter().try_for_each(|f| results::check_task(f, task, is_picture))
    }

    /// Reads an answer and writes it.
    fn take(&self, frame: &Frame) -> Result<Outcome, Failure> {
        let files = self.files(&frame.path);
        let is_picture = |path: &PathBuf| pictures::is_writable(&crate::input::ending(path));
        let question = Question {
            usage: &frame.ready.usage,
            graph: &frame.ready.model.loaded.graph,
            outputs: &frame.answer.outputs,
            picture: frame.ready.picture.as_ref().map(|(picture, fit)| (&**picture, *fit)),
            drawn: files.iter().any(is_picture),
        };
        let outcome = results::read(&question).map_err(|error| {
            Failure::run(error)
                .hint("say what the answer is with --task; --task raw is the numbers")
        })?;
        files.iter().try_for_each(|file| results::write(file, &question, &outcome))?;
        Ok(outcome)
    }
}

/// The model, once for each input size where it leaves the size open.
struct Models<'a> {
    arguments: &'a RunArguments,
    name: String,
    spec: Vec<InputSpec>,
    hinted: Hinted,
    by_size: BTreeMap<Option<Size>, Arc<HostedModel>>,
}

impl<'a> Models<'a> {
    fn new(arguments: &'a RunArguments) -> Result<Self, Failure> {
        let reference = &arguments.model;
        let spec = model::input_spec(reference).map_err(bad_model)?;
        let hinted = Hinted::read(reference, arguments.results.labels.as_deref())?;
        let name = Path::new(reference).file_stem().unwrap_or_default().to_string_lossy().into();
        Ok(Self { arguments, name, spec, hinted, by_size: BTreeMap::new() })
    }

    /// Reads an input and finds the model for its size.
    fn frame(&mut self, path: &Path) -> Result<Ready, Failure> {
        let arguments = self.arguments;
        let input = Input::read(path)?;
        let open = self.spec.iter().any(|s| s.dims.iter().skip(1).any(|d| d.is_none()));
        let own = input.size().filter(|_| open).map(|Axes { rows, cols }| Size::new(rows, cols));
        let size = match input.picture() {
            Some(_) => own.map(|own| self.hinted.open_size(&arguments.pictures, own)),
            None => own,
        };
        let model = match self.by_size.get(&size) {
            Some(model) => model.clone(),
            None => {
                let model = HostedModel::new(self.load(size)?)?;
                self.by_size.insert(size, model.clone());
                model
            }
        };
        let graph = &model.loaded.graph;
        let is_picture = input.picture().is_some();
        let usage =
            self.hinted.usage(graph, &arguments.pictures, &arguments.results, is_picture)?;
        let prepared = input
            .for_model(graph, &usage.convention)
            .with_context(|| format!("{} does not fit the model", path.display()))
            .map_err(|e| {
                let hint = "scale pictures with --fit stretch, letterbox or crop; for a model of \
                            open size see --size";
                Failure::bad_input(e).hint(hint)
            })?;
        let picture = input.picture().cloned().zip(prepared.fit);
        Ok(Ready { usage: Arc::new(usage), inputs: prepared.pieces, picture, model })
    }

    fn load(&self, size: Option<Size>) -> Result<model::LoadedModel, Failure> {
        let input_size = size.map(|size| Axes::new(size.rows, size.cols));
        let loaded = model::open(&self.arguments.model, &LoadOptions { input_size });
        loaded.map(|model| self.arguments.strategy.weigh(model)).map_err(|error| {
            let shapes = matches!(error, ModelError::UnsupportedShape { .. });
            let failure = bad_model(error);
            match size.filter(|_| shapes) {
                // Networks that halve the map and join it again take multiples of 32, say.
                Some(size) => failure.hint(format!(
                    "the model was opened for {size}: try --size with multiples of 32, and --fit \
                     letterbox"
                )),
                None => failure,
            }
        })
    }
}

/// Refuses a plan that cannot be before anything is sent.
fn check_plan(
    model: &HostedModel,
    devices: usize,
    strategy: Strategy,
    options: PlanOptions,
) -> Result<(), Failure> {
    let alike = vec![planner::DeviceProfile::wired("device", Rates::default()); devices.max(1)];
    // Of these nobody knows what they draw, nor how fast they are.
    let options = PlanOptions { objective: Objective::Latency, deadline_ns: None, ..options };
    planner::plan(&model.loaded.graph, &alike, strategy, options).map(drop).map_err(bad_plan)
}

/// Refuses, before anything is sent, a thriftiest plan that cannot be: of a device it is not known what it
/// draws, or none ends in time.
fn check_energy(
    model: &HostedModel,
    devices: &[Device],
    strategy: Strategy,
    options: PlanOptions,
) -> Result<(), Failure> {
    if options.objective != Objective::Energy {
        return Ok(());
    }
    let profiles: Vec<_> = devices.iter().map(|device| device.profile.clone()).collect();
    planner::plan(&model.loaded.graph, &profiles, strategy, options).map(drop).map_err(bad_plan)
}

/// Runs a frame again in this process, untiled.
fn check(frame: &Frame) -> anyhow::Result<Check> {
    Ok(Check::compare(
        &frame.answer.outputs,
        &alone(&frame.ready.model, Numerics::Exact, &frame.ready.inputs)?,
    ))
}
