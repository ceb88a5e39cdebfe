//! How fast one model runs, whole or layer by layer.
//!
//! usage: model_rate MODEL ROWSxCOLS THREADS RUNS [layers]

use kernels::{Engine, PackedModel, Piece, Pieces};
use model::{Axes, Element, LayerId, LoadOptions, Model};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tiling::{Handover, Region, Slot, Split, Stage, StageGeometry};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, size, threads, runs, rest @ ..] = &arguments[..] else {
        return Err("usage: model_rate MODEL ROWSxCOLS THREADS RUNS [layers]".into());
    };
    let (rows, cols) = size.split_once('x').ok_or("a size is ROWSxCOLS")?;
    let input_size = Some(Axes::new(rows.parse()?, cols.parse()?));
    let loaded = model::open(name, &LoadOptions { input_size })?;
    let packed = PackedModel::new(loaded.graph.clone());
    packed.pack_all(&loaded)?;
    let engine = Engine::new(threads.parse()?)?;
    let runs: usize = runs.parse()?;
    let inputs = inputs(&loaded.graph);
    if rest.is_empty() {
        let times = times(runs, || {
            for (_, piece) in engine.run_whole(&packed, &inputs)? {
                engine.recycle(piece);
            }
            Ok(())
        })?;
        println!("{:.3} ms median, {:.3} ms least", times[runs / 2], times[0]);
        return Ok(());
    }
    let graph = &loaded.graph;
    let mut maps: BTreeMap<_, Arc<Piece>> = inputs.into_iter().collect();
    let mut sums = BTreeMap::new();
    for (index, layer) in graph.layers.iter().enumerate() {
        let stage = Stage {
            first_layer: index as u32,
            end_layer: index as u32 + 1,
            split: Split::Whole,
            placement: vec![Slot(0)],
            handover: Handover::Gather,
        };
        let geometry = StageGeometry::new(graph, 0, &stage)?;
        let given: Pieces = layer.inputs.iter().map(|map| (*map, maps[map].clone())).collect();
        let first = LayerId(index as u32);
        let run = || engine.run_tile(&packed, first, &geometry.tiles[0], &given);
        let times = times(runs, || {
            for (_, piece) in run()? {
                engine.recycle(piece);
            }
            Ok(())
        })?;
        let gmac = graph.multiply_adds_per_position(first) as f64
            * (graph.shape(layer.output).rows() * graph.shape(layer.output).cols()) as f64
            / 1e9;
        let ms = times[runs / 2];
        *sums.entry(layer.op.name()).or_insert(0.0) += ms;
        let from = graph.shape(layer.inputs[0]);
        println!(
            "{ms:8.3} ms {:8.1} GMAC/s  {} {from} -> {}",
            gmac / ms * 1e3,
            layer.op.name(),
            graph.shape(layer.output)
        );
        for (map, piece) in run()? {
            maps.insert(map, Arc::new(piece));
        }
    }
    println!("{sums:.3?}");
    Ok(())
}

/// Milliseconds of each run, in order of length.
fn times(
    runs: usize,
    mut run: impl FnMut() -> Result<(), kernels::KernelError>,
) -> Result<Vec<f64>, kernels::KernelError> {
    run()?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn inputs(graph: &Model) -> Pieces {
    let input = |&map: &model::MapId| {
        let shape = graph.shape(map);
        let values = (0..shape.elements()).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect();
        let piece = Piece::from_values(Region::whole(shape), shape.channels(), values);
        let piece = piece.expect("as many values as elements");
        let piece =
            if graph.element(map) == Element::F32 { piece } else { piece.cast(graph.element(map)) };
        (map, Arc::new(piece))
    };
    graph.inputs.iter().map(input).collect()
}
