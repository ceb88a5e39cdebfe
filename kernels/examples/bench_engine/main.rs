//! Tilehive's engine as a process that `scripts/bench-engines` measures beside others.
//!
//! ```text
//!  bench_engine serve exact|fast        takes commands on stdin; serve.rs says which
//!  bench_engine serve exact|fast layers   the same, each layer whole before the next
//!  bench_engine profile MODEL exact|fast THREADS   the best time of each layer
//!  bench_engine export MODEL FILE       writes zoo:NAME or layer:NAME as ONNX
//!  bench_engine repeat MODEL exact|fast CALLS   so often on one thread, for who counts instructions
//!  bench_engine layers                  the names of single layers, one a line
//!  bench_engine peak                    multiply-adds of one thread, in GFLOP/s
//! ```

#[path = "../../benches/cases/mod.rs"]
mod cases;
#[allow(unreachable_pub)] // It is public among the peers.
mod serve;

use kernels::{Engine, PackedModel, Piece, Pieces};
use model::{LoadOptions, LoadedModel, MapId, WeightStore};
use serve::{Loaded, parsed, quoted, timed};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use tiling::{Grid, Numerics, Order, Schedule, Slot, Stage, StageGeometry, TileGeometry};

/// How sums may be ordered, as the command line says it.
static NUMERICS: OnceLock<String> = OnceLock::new();

/// Whether layers run one after another.
static BY_LAYERS: OnceLock<bool> = OnceLock::new();

fn numerics() -> Numerics {
    match NUMERICS.get() {
        Some(name) if name == "exact" => Numerics::Exact,
        _ => Numerics::Fast,
    }
}

/// Every call into the engine goes through here: the whole model, or one tile of it.
fn compute(
    engine: &Engine,
    packed: &PackedModel,
    tile: Option<(&StageGeometry, usize)>,
    inputs: &[(MapId, Arc<Piece>)],
) -> Result<Vec<(MapId, Piece)>, String> {
    let outputs = match tile {
        None => engine.run_whole(packed, numerics(), inputs),
        Some((stage, tile)) => engine.run_tile(packed, stage, tile, inputs),
    };
    outputs.map_err(|cause| cause.to_string())
}

struct Tilehive {
    engine: Engine,
    packed: PackedModel,
    inputs: Pieces,
    weights: WeightStore,
}

impl Tilehive {
    fn compute_and_recycle(
        &self,
        tile: Option<(&StageGeometry, usize)>,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<(), String> {
        let outputs = compute(&self.engine, &self.packed, tile, inputs)?;
        outputs.into_iter().for_each(|(_, piece)| self.engine.recycle(piece));
        Ok(())
    }

    /// All layers as one stage over a grid.
    fn cut(&self, grid: Grid) -> Result<StageGeometry, String> {
        let graph = self.packed.graph();
        let placement = vec![Slot(0); grid.tiles()];
        let stage = Stage::cut(0..graph.layers.len(), grid, placement);
        StageGeometry::new(graph, numerics(), 0, &stage).map_err(|cause| cause.to_string())
    }

    /// The model as a grid of tiles beside the model as a whole, in turns: one tile after another,
    /// and all of them in one call. Each tile has its input in a piece of its own, as a worker does.
    fn tiles(&self, grid: Grid, seconds: f64) -> Result<String, String> {
        let graph = self.packed.graph();
        let tiles = grid.tiles();
        let geometry = self.cut(grid)?;
        let at_once = geometry.clone().for_tiles_together(graph, numerics(), tiles);
        for stage in [&geometry, &at_once] {
            self.packed.pack_stage(stage, &self.weights).map_err(|cause| cause.to_string())?;
        }
        let cut = |tile: &TileGeometry| -> Pieces {
            let whole = |map| &self.inputs.iter().find(|(of, _)| *of == map).expect("an input").1;
            tile.inputs.iter().map(|&(map, r)| (map, Arc::new(whole(map).crop(r)))).collect()
        };
        let inputs: Vec<Pieces> = geometry.tiles.iter().map(cut).collect();
        let work = (0..tiles).map(|i| geometry.tile_multiply_adds(graph, i)).sum::<u64>();
        let pieces: Vec<_> = inputs.iter().map(|inputs| &inputs[..]).enumerate().collect();
        let [mut whole_ns, mut tiles_ns, mut together_ns] = [const { Vec::new() }; 3];
        timed(seconds, 3, || {
            whole_ns.extend(timed(0.0, 1, || self.compute_and_recycle(None, &self.inputs))?);
            tiles_ns.extend(timed(0.0, 1, || {
                let mut tiles = inputs.iter().enumerate();
                tiles.try_for_each(|(tile, inputs)| {
                    self.compute_and_recycle(Some((&geometry, tile)), inputs)
                })
            })?);
            together_ns.extend(timed(0.0, 1, || {
                let outputs = self.engine.run_tiles(&self.packed, &at_once, &pieces);
                let outputs = outputs.map_err(|cause| cause.to_string())?;
                outputs.into_iter().flatten().for_each(|(_, piece)| self.engine.recycle(piece));
                Ok(())
            })?);
            Ok(())
        })?;
        let whole_work = graph.multiply_adds();
        Ok(format!(
            "{{\"whole_ns\": {whole_ns:?}, \"tiles_ns\": {tiles_ns:?}, \
             \"together_ns\": {together_ns:?}, \
             \"whole_multiply_adds\": {whole_work}, \"tiles_multiply_adds\": {work}}}"
        ))
    }
}

impl Loaded for Tilehive {
    fn load(path: &Path, threads: usize) -> Result<Self, String> {
        let mut engine = Engine::new(threads).map_err(|cause| cause.to_string())?;
        if BY_LAYERS.get().is_some_and(|by_layers| *by_layers) {
            engine = engine.with_order(Order::LayerByLayer);
        }
        let reference = path.to_str().ok_or("a path that is not text")?;
        let model = open(reference)?;
        let packed = PackedModel::new(model.graph.clone());
        packed.pack_all(&model, numerics()).map_err(|cause| cause.to_string())?;
        let inputs = cases::inputs(&model.graph);
        Ok(Self { engine, packed, inputs, weights: model.weights })
    }

    fn facts(&self) -> String {
        let multiply_adds = self.packed.graph().multiply_adds();
        let (isa, packed_bytes) = (quoted(&self.engine.isa().to_string()), self.packed.bytes());
        let stage = StageGeometry::whole(self.packed.graph(), numerics());
        let schedule = Schedule::new(self.packed.graph(), &stage, 0, self.engine.order());
        let arena_bytes = schedule.arena_bytes;
        // Of the largest of 2x2 tiles, where the layers can be cut at all.
        let tile_arena_bytes = self.cut(Grid::even(2, 2)).map_or(0, |stage| {
            let arena = |tile| {
                Schedule::new(self.packed.graph(), &stage, tile, self.engine.order()).arena_bytes
            };
            (0..stage.tiles.len()).map(arena).max().unwrap_or_default()
        });
        format!(
            ", \"multiply_adds\": {multiply_adds}, \"isa\": {isa}, \
             \"packed_bytes\": {packed_bytes}, \"arena_bytes\": {arena_bytes}, \
             \"tile_arena_bytes\": {tile_arena_bytes}"
        )
    }

    fn run(&mut self) -> Result<(), String> {
        self.compute_and_recycle(None, &self.inputs)
    }

    fn output(&mut self) -> Result<Vec<f32>, String> {
        let outputs = compute(&self.engine, &self.packed, None, &self.inputs)?;
        Ok(outputs[0].1.to_chw().iter().copied().collect())
    }

    fn command(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["tiles", rows, cols, seconds] => {
                self.tiles(Grid::even(parsed(rows)?, parsed(cols)?), parsed(seconds)?)
            }
            words => Err(format!("unknown command {words:?}")),
        }
    }
}

fn open(reference: &str) -> Result<LoadedModel, String> {
    if let Some(name) = reference.strip_prefix("layer:") {
        let case = cases::all().find(|case| case.name == name);
        return Ok(case.ok_or_else(|| format!("no layer is called {name:?}"))?.model());
    }
    model::open(reference, &LoadOptions::default()).map_err(|cause| cause.to_string())
}

/// Prints the best time of each layer over some runs.
fn profile(reference: &str, threads: &str) -> Result<(), String> {
    let tilehive = Tilehive::load(Path::new(reference), parsed(threads)?)?;
    let Tilehive { engine, packed, inputs, .. } = &tilehive;
    let graph = packed.graph();
    let run = || engine.profile_whole(packed, numerics(), inputs).map_err(|e| e.to_string());
    let mut best = run()?;
    for _ in 0..20 {
        for (best, now) in best.iter_mut().zip(run()?) {
            best.2 = best.2.min(now.2);
        }
    }
    let mut total = 0.0;
    for (layer, algorithm, time) in best {
        let output = graph.shape(graph.layer(layer).output);
        let positions = (output.rows() * output.cols()) as u64;
        let gflop = 2e-9 * (graph.multiply_adds_per_position(layer) * positions) as f64;
        let ms = time.as_secs_f64() * 1e3;
        total += ms;
        let name = &graph.layer(layer).name;
        println!(
            "{ms:8.3} ms {:7.1} GFLOP/s {:11} {:18} {name}",
            gflop / ms * 1e3,
            format!("{algorithm:?}"),
            format!("{:?}", output.dims())
        );
    }
    println!("{total:8.3} ms");
    Ok(())
}

/// Runs a model so often on one thread, for who counts what that takes; says what one call is.
fn repeat(reference: &str, calls: &str) -> Result<(), String> {
    let mut tilehive = Tilehive::load(Path::new(reference), 1)?;
    println!("{}", tilehive.packed.graph().multiply_adds());
    (0..parsed(calls)?).try_for_each(|_| tilehive.run())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["profile", reference, numerics, threads] => {
            NUMERICS.get_or_init(|| numerics.into());
            profile(reference, threads)
        }
        ["repeat", reference, numerics, calls] => {
            NUMERICS.get_or_init(|| numerics.into());
            repeat(reference, calls)
        }
        ["serve", numerics @ ("exact" | "fast"), ref order @ ..] => {
            NUMERICS.get_or_init(|| numerics.into());
            BY_LAYERS.get_or_init(|| order == ["layers"]);
            serve::serve::<Tilehive>();
            Ok(())
        }
        ["export", reference, file] => open(reference).and_then(|model| {
            model::write_onnx(&model, Path::new(file)).map_err(|cause| cause.to_string())
        }),
        ["layers"] => {
            cases::CONVS.iter().for_each(|case| println!("{}", case.name));
            Ok(())
        }
        ["peak"] => Engine::new(1).map_err(|cause| cause.to_string()).map(|engine| {
            // Three times, since a busy machine shows less than it has.
            let peak = (0..3).map(|_| engine.peak_gflop_per_s()).fold(0.0, f64::max);
            println!(
                "{{\"gflop_per_s\": {peak:.1}, \"isa\": {}}}",
                quoted(&engine.isa().to_string())
            );
        }),
        _ => {
            eprintln!(
                "usage: bench_engine serve exact|fast [layers] | profile MODEL exact|fast THREADS \
                 | repeat MODEL exact|fast CALLS | export MODEL FILE | layers | peak"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("error: {cause}");
            ExitCode::FAILURE
        }
    }
}
