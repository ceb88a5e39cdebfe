//! `tilehive run --max-memory`: a picture that no device can hold, band by band.
//!
//! Each band is one row of tiles, a frame with a plan of its own, whose regions are those of the
//! whole map: so padding lies at the picture's real border, and in exact numerics the answer has
//! the bits of a run that holds everything. Two bands are in flight: one is computed while the
//! other is cut or written.

use super::plan::bad_plan;
use super::report::worker_json;
use super::{Opened, open_cluster};
use crate::cli::{Bytes, Context, NumericsName, PictureArguments, RunArguments};
use crate::cluster::{Answer, BandJob, HostedModel};
use crate::failure::{Failure, bad_model};
use crate::input::picture_input;
use crate::memory;
use crate::rows::{RowSink, RowSource};
use crate::say::say;
use crate::table;
use crate::usage::{Hinted, Usage};
use anyhow::{Context as _, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kernels::Piece;
use model::{Axes, LoadOptions, MapId, Model};
use planner::{DeviceProfile, StreamGrid, StreamLimits};
use protocol::CoordinatorConfig;
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tiling::{Grid, Numerics, Region, Span, StageGeometry};
use vision::{FitMode, Layout, Size, Task, colours, picture, prepare, segment};

/// Bands in flight: computed, and cut or written.
const BANDS: usize = 2;

/// Tasks that a worker holds: computed, and on the way.
const TASKS: usize = 2;

/// What a process takes beside its maps, where it cannot be measured: a worker on another device.
const PROCESS_BYTES: u64 = 40 << 20;

/// Of what is left for maps, how much is planned with. The rest is for copies on their way between
/// sockets and maps.
const PLANNED_PERCENT: u64 = 70;

/// What a worker in the same process takes beside its tiles: threads, and packed rows of each.
const SHARED_WORKER_BYTES: u64 = 12 << 20;

pub(crate) async fn run(
    context: &Context,
    arguments: &RunArguments,
    limit: Bytes,
) -> Result<(), Failure> {
    let [path] = arguments.inputs.as_slice() else {
        return Err(Failure::bad_input(anyhow!("--max-memory streams one picture at a time")));
    };
    let [out] = arguments.output.as_slice() else {
        let error = anyhow!("--max-memory writes one picture, {} given", arguments.output.len());
        return Err(Failure::bad_input(error).hint("name it with -o, as .png or .ppm"));
    };
    let whole_bytes = limit.0.saturating_sub(PROCESS_BYTES) / 2;
    let opened = Picture::open(arguments, path, whole_bytes)?;
    eprintln!("{}: {}", opened.model.loaded.graph.name, opened.usage.line);
    opened.check(out)?;

    let machine = CoordinatorConfig {
        stealing: !arguments.no_stealing,
        window_tasks_max: TASKS,
        frames_in_flight_max: BANDS,
        ..Default::default()
    };
    let cluster = open_cluster(context, &arguments.cluster, machine).await?;
    let grid = opened.grid(limit, cluster.devices.len(), cluster.cluster.is_embedded())?;
    let rows = grid.grid.row_shares.len();
    let cols = grid.grid.col_shares.len();
    let numerics = arguments.strategy.numerics.unwrap_or(NumericsName::Exact);
    eprintln!(
        "{rows} bands of {cols} tiles under {}, numerics {}",
        table::bytes(limit.0),
        match numerics {
            NumericsName::Exact => "exact: the bytes of a run without a limit",
            NumericsName::Fast => "fast",
        }
    );
    let began = Instant::now();
    let Opened { cluster, locals, devices } = cluster;
    let cluster = Arc::new(cluster);
    let streamed = opened.stream(&cluster, &grid.grid, numerics.into(), out).await;
    let took = began.elapsed();
    let cluster = Arc::into_inner(cluster).ok_or_else(|| anyhow!("a band is still running"))?;
    let reports = cluster.reports().await;
    let ours = memory::peak_resident(None);
    let ids = locals.as_ref().map(|locals| locals.process_ids()).unwrap_or_default();
    let theirs: Vec<Option<u64>> = ids.iter().map(|id| memory::peak_resident(Some(*id))).collect();
    Opened { cluster, locals, devices }.stop().await;
    let multiply_adds = streamed?;
    let (reports, reassigned) = reports?;

    if arguments.json {
        let report = json!({
            "output": out,
            "strategy": "stream",
            "bands": rows, "tiles": rows * cols,
            "total_ms": took.as_secs_f64() * 1e3,
            "multiply_adds": multiply_adds,
            "reassigned": reassigned,
            "max_memory": limit.0,
            "peak_resident_bytes": { "coordinator": ours, "workers": theirs },
            "workers": reports.values().map(worker_json).collect::<Vec<_>>(),
        });
        say!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    say!("{}", table::workers(&reports));
    say!("{} tiles in {}, wrote {}", rows * cols, table::time(took), out.display());
    let shown = |bytes: &Option<u64>| bytes.map_or("unknown".into(), table::bytes);
    let workers: Vec<String> = theirs.iter().map(shown).collect();
    let workers = match workers.is_empty() {
        true => String::new(),
        false => format!(", workers {}", workers.join(", ")),
    };
    say!("peak of memory: this process {}{workers}", shown(&ours));
    Ok(())
}

/// A picture that is open, and the model for its size.
struct Picture {
    source: RowSource,
    model: Arc<HostedModel>,
    usage: Usage,
    input: MapId,
    output: MapId,
    channels: usize,
}

impl Picture {
    fn open(arguments: &RunArguments, path: &Path, whole_bytes: u64) -> Result<Self, Failure> {
        let shown = path.display();
        let hint = "give a PNG that is not interlaced, or a PPM: these are read by rows";
        let unreadable = |error: anyhow::Error| Failure::bad_input(error).hint(hint);
        let open = |channels: usize| {
            RowSource::open(path, channels, whole_bytes)
                .with_context(|| format!("cannot read {shown}"))
                .map_err(unreadable)
        };
        let spec = model::input_spec(&arguments.model).map_err(bad_model)?;
        let channels = spec.first().and_then(|s| s.channels()).unwrap_or(3);
        let source = open(channels)?;
        let size = source.size();
        let input_size = Some(Axes::new(size.rows, size.cols));
        let loaded =
            model::open(&arguments.model, &LoadOptions { input_size }).map_err(bad_model)?;
        let loaded = arguments.strategy.weigh(loaded);
        let hinted = Hinted::read(&arguments.model, arguments.results.labels.as_deref())?;
        let graph = loaded.graph.clone();
        // What is streamed is not scaled.
        let flags = PictureArguments { fit: Some(FitMode::None), ..arguments.pictures.clone() };
        let usage = hinted.usage(&graph, &flags, &arguments.results, true)?;
        let (&[input], &[output]) = (graph.inputs.as_slice(), graph.outputs.as_slice()) else {
            let error = anyhow!("--max-memory streams models of one input and one output");
            return Err(Failure::bad_input(error));
        };
        let taken = picture_input(&graph, input).filter(|(.., layout)| *layout == Layout::Nchw);
        match taken {
            Some((wanted, found, _)) if wanted == size && found == channels => {}
            _ => {
                let dims = graph.shape(input).dims();
                let error = anyhow!("the model takes {dims:?}, the picture has {size}");
                return Err(Failure::bad_input(error).hint(
                    "a picture that is streamed is not scaled: export the model with open rows and \
                     columns, channels first",
                ));
            }
        }
        let model = HostedModel::new(loaded)?;
        Ok(Self { source, model, usage, input, output, channels })
    }

    fn graph(&self) -> &Model {
        &self.model.loaded.graph
    }

    /// Rows, columns and channels of the output.
    fn made(&self) -> (Size, usize) {
        let shape = self.graph().shape(self.output);
        (Size::new(shape.rows(), shape.cols()), shape.channels())
    }

    /// Refuses, before anything runs, what cannot be written by rows.
    fn check(&self, out: &Path) -> Result<(), Failure> {
        let (size, channels) = self.made();
        let fits = match self.usage.task {
            Task::Picture => matches!(channels, 1 | 3),
            Task::Segment => self.usage.head.is_none() && size == self.source.size(),
            _ => false,
        };
        let is_rows = matches!(crate::input::ending(out).as_str(), "png" | "ppm" | "pgm" | "pnm");
        if !fits || self.usage.overlay {
            let error = anyhow!("an answer of task {} cannot be streamed", self.usage.task);
            return Err(Failure::bad_input(error).hint(
                "pictures, and classes of pixels at the picture's own size, are written by rows; \
                 say which with --task",
            ));
        }
        if !is_rows {
            let error = anyhow!("cannot write {} by rows", out.display());
            return Err(Failure::bad_input(error).hint("name the output .png or .ppm"));
        }
        Ok(())
    }

    /// The coarsest grid under the limit.
    fn grid(&self, limit: Bytes, devices: usize, shared: bool) -> Result<StreamGrid, Failure> {
        let graph = self.graph();
        let weights: u64 = graph.weights.iter().map(|w| w.bytes() as u64).sum();
        let resident = memory::resident().unwrap_or(PROCESS_BYTES + weights);
        let left = |taken: u64| limit.0.saturating_sub(taken) * PLANNED_PERCENT / 100;
        // A worker has the weights as they came and as the kernels want them.
        let worker = match shared {
            true => resident + SHARED_WORKER_BYTES + 2 * weights,
            false => PROCESS_BYTES + 3 * weights,
        };
        let limits = StreamLimits {
            worker_bytes: left(worker),
            coordinator_bytes: left(if shared { worker } else { resident + (8 << 20) }),
            shared,
            devices,
            bands: BANDS,
            tasks: TASKS,
        };
        planner::stream_grid(graph, limits).map_err(|error| match error {
            planner::PlannerError::TooLittleMemory { needed, given } => {
                let more = limit.0 + (needed - given.min(needed)) * 100 / PLANNED_PERCENT;
                let more = more.div_ceil(1 << 20);
                Failure::bad_input(error).hint(format!("give --max-memory {more}M or more"))
            }
            error => bad_plan(error),
        })
    }

    /// Reads, computes and writes; returns the multiply-adds executed.
    async fn stream(
        mut self,
        cluster: &Arc<crate::cluster::Cluster>,
        grid: &Grid,
        numerics: Numerics,
        out: &Path,
    ) -> anyhow::Result<u64> {
        let (size, channels) = self.made();
        let written = match self.usage.task {
            Task::Segment => 3,
            _ => channels,
        };
        let mut sink = RowSink::create(out, size, written)
            .with_context(|| format!("cannot write {}", out.display()))?;
        let bar = bar(size.rows as u64, &self.graph().name);
        let mut window = Window::default();
        let mut pending = VecDeque::new();
        let mut multiply_adds = 0;
        let mut next = 0;
        while next < grid.row_shares.len() || !pending.is_empty() {
            while pending.len() < BANDS && next < grid.row_shares.len() {
                let region = self.read_region(grid, next, numerics)?;
                let inputs = vec![(self.input, Arc::new(self.cut(&mut window, region)?))];
                let (model, grid) = (self.model.clone(), grid.clone());
                let job = BandJob { model, inputs, grid, row: next, numerics };
                let running = cluster.clone();
                pending.push_back(tokio::spawn(async move { running.submit_band(job).await }));
                next += 1;
            }
            let Some(answer) = pending.pop_front() else { break };
            let answer: Answer = answer.await.context("a band was lost")??;
            multiply_adds += answer.plan.multiply_adds();
            let [(_, piece)] = answer.outputs.as_slice() else { bail!("a band without an output") };
            self.write(&mut sink, piece, channels)?;
            bar.inc(piece.region.rows.len() as u64);
        }
        bar.finish_and_clear();
        sink.finish()?;
        Ok(multiply_adds)
    }

    /// The rows of the input that a band reads.
    fn read_region(&self, grid: &Grid, row: usize, numerics: Numerics) -> anyhow::Result<Region> {
        let device = [DeviceProfile::wired("any", tiling::Rates::default())];
        let (plan, _) = planner::band(self.graph(), &device, grid, row, numerics)?;
        let geometry = StageGeometry::new(self.graph(), numerics, 0, &plan.stages[0])?;
        let reads = geometry.tiles.iter().flat_map(|t| &t.inputs);
        Ok(reads.fold(Region::EMPTY, |hull, (_, region)| hull.hull(*region)))
    }

    /// Those rows as a piece of the whole input.
    fn cut(&mut self, window: &mut Window, region: Region) -> anyhow::Result<Piece> {
        window.advance(&mut self.source, region.rows)?;
        let cols = self.source.size().cols;
        let region = Region::new(region.rows, Span::whole(cols));
        let element = self.graph().element(self.input);
        let mut piece = Piece::zeroed_of(region, self.channels, element);
        // Row by row into its place: the band is never there twice.
        for (index, bytes) in region.rows.indices().zip(window.rows_of(region.rows)) {
            let row = Region::new(Span::new(index, index + 1), region.cols);
            let values = prepare::values_of_bytes(bytes, &self.usage.convention, self.channels);
            piece.paste(&Piece::from_values(row, self.channels, values)?.cast(element));
        }
        Ok(piece)
    }

    fn write(&self, sink: &mut RowSink, piece: &Piece, channels: usize) -> anyhow::Result<()> {
        let cols = piece.region.cols;
        for index in piece.region.rows.indices() {
            let row = Region::new(Span::new(index, index + 1), cols);
            let row = piece.crop(row).cast(model::Element::F32);
            let row = row.values();
            let bytes = match self.usage.task {
                Task::Segment => segment::classes_of_rows(row, channels, self.usage.mask_threshold)
                    .into_iter()
                    .flat_map(|class| colours::of_segment(class.into()).0)
                    .collect(),
                _ => picture::bytes_of_rows(row, &self.usage.convention, channels),
            };
            sink.write(&bytes)?;
        }
        Ok(())
    }
}

fn bar(rows: u64, what: &str) -> ProgressBar {
    let style = "{msg} [{bar:32}] {pos}/{len} rows {elapsed}, {eta} to go";
    let style = ProgressStyle::with_template(style).expect("a sound template");
    let bar = ProgressBar::new(rows).with_message(what.to_owned());
    bar.with_style(style.progress_chars("=> "))
}

/// The rows of the picture that some band still reads, as bytes.
#[derive(Default)]
struct Window {
    first: usize,
    rows: VecDeque<Vec<u8>>,
}

impl Window {
    /// Lets go of the rows above a span and reads up to its end. Spans come from top to bottom.
    fn advance(&mut self, source: &mut RowSource, span: Span) -> anyhow::Result<()> {
        ensure!(span.start >= self.first, "bands are read from top to bottom");
        while self.first < span.start {
            // Rows between two bands that neither reads are skipped.
            if self.rows.pop_front().is_none() {
                source.next_row()?;
            }
            self.first += 1;
        }
        while self.first + self.rows.len() < span.end {
            self.rows.push_back(source.next_row()?);
        }
        Ok(())
    }

    fn rows_of(&self, span: Span) -> impl Iterator<Item = &Vec<u8>> {
        self.rows.range(span.start - self.first..span.end - self.first)
    }
}
