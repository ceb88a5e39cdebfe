//! `tilehive model inspect`: what a model is made of, and which part of it can be tiled.

use crate::failure::Failure;
use crate::graph_svg;
use crate::say::say;
use crate::table;
use anyhow::Context;
use model::{LayerId, LoadedModel, MapId, Model, Op};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tiling::{Locality, Numerics, Order, Region, Schedule, StageGeometry, locality};

/// What is printed, drawn and written as JSON.
#[derive(Serialize)]
pub(crate) struct Inspection {
    pub model: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    pub layers: Vec<LayerFacts>,
    pub multiply_adds: u64,
    weight_bytes: u64,
    /// Largest sum of maps that the whole model holds at a time on one device.
    peak_map_bytes: u64,
    /// How many of the first layers can be cut into tiles together.
    pub tiled_prefix: usize,
    /// Multiply-adds of the layers that can be cut, of all.
    tiled_share: f64,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dims: Vec<usize>,
    element: String,
}

/// One layer.
#[derive(Serialize)]
pub(crate) struct LayerFacts {
    pub name: String,
    pub operator: String,
    /// What it computes, with its numbers.
    pub does: String,
    /// The layers that it reads; none for an input of the model.
    pub reads: Vec<Option<usize>>,
    pub dims: Vec<usize>,
    pub multiply_adds: u64,
    weight_bytes: u64,
    map_bytes: u64,
    pub tiled: bool,
    /// Why it cannot be cut.
    reason: Option<&'static str>,
}

impl Inspection {
    pub(crate) fn of(loaded: &LoadedModel, metadata: BTreeMap<String, String>) -> Self {
        let graph = &*loaded.graph;
        let port = |map: &MapId| Port {
            name: graph.map(*map).name.clone(),
            dims: graph.shape(*map).dims(),
            element: graph.element(*map).to_string(),
        };
        let layers: Vec<LayerFacts> = (0..graph.layers.len()).map(|i| facts(graph, i)).collect();
        let multiply_adds = graph.multiply_adds();
        let tiled: u64 = layers.iter().filter(|l| l.tiled).map(|l| l.multiply_adds).sum();
        Self {
            model: graph.name.clone(),
            inputs: graph.inputs.iter().map(port).collect(),
            outputs: graph.outputs.iter().map(port).collect(),
            multiply_adds,
            weight_bytes: graph.weights.iter().map(|w| w.bytes() as u64).sum(),
            peak_map_bytes: peak_map_bytes(graph),
            tiled_prefix: layers.iter().take_while(|l| l.tiled).count(),
            tiled_share: tiled as f64 / (multiply_adds as f64).max(1.0),
            layers,
            metadata,
        }
    }

    fn print(&self) {
        let header = ["layer", "does", "output", "mult-adds", "weights", "map", "tiled"];
        let rows = self.layers.iter().map(|layer| {
            let tiled = match layer.reason {
                None => "yes".into(),
                Some(reason) => format!("no: {reason}"),
            };
            vec![
                layer.name.clone(),
                layer.does.clone(),
                dims(&layer.dims),
                table::amount(layer.multiply_adds),
                table::bytes(layer.weight_bytes),
                table::bytes(layer.map_bytes),
                tiled,
            ]
        });
        say!("{}", table::table(&header, rows));
        for (what, ports) in [("input ", &self.inputs), ("output", &self.outputs)] {
            for port in ports {
                say!("{what}       {} {} {}", port.name, dims(&port.dims), port.element);
            }
        }
        let (layers, work) = (self.layers.len(), table::amount(self.multiply_adds));
        say!("layers       {layers}, {work} multiply-adds");
        say!("weights      {}", table::bytes(self.weight_bytes));
        say!("peak of maps {} on one device, untiled", table::bytes(self.peak_map_bytes));
        say!("tiled        {}", self.verdict());
        for (key, value) in &self.metadata {
            let short: String = value.chars().take(80).collect();
            let more = if short.len() < value.len() { " ..." } else { "" };
            say!("metadata     {key}: {short}{more}");
        }
    }

    fn verdict(&self) -> String {
        let share = 100.0 * self.tiled_share;
        let stop = self.layers.get(self.tiled_prefix);
        match (self.tiled_prefix, stop.and_then(|l| Some((&l.name, l.reason?)))) {
            (_, None) => format!("all {} layers, {share:.0} % of the work", self.layers.len()),
            (0, Some((name, reason))) => format!("nothing: the first layer, {name}, {reason}"),
            (n, Some((name, reason))) => format!(
                "the first {n} layers together, up to {name}, which {reason}; {share:.0} % of the \
                 work is in layers that can be cut"
            ),
        }
    }
}

/// Prints, or writes, what a model is made of.
///
/// *Errors*: a picture that cannot be written.
pub(crate) fn run(
    loaded: &LoadedModel,
    metadata: BTreeMap<String, String>,
    json: bool,
    svg: Option<&Path>,
) -> Result<(), Failure> {
    let inspection = Inspection::of(loaded, metadata);
    if let Some(path) = svg {
        std::fs::write(path, graph_svg::draw(&inspection))
            .with_context(|| format!("cannot write {}", path.display()))
            .map_err(Failure::bad_input)?;
        eprintln!("wrote {}", path.display());
    }
    match json {
        true => say!("{}", serde_json::to_string_pretty(&inspection)?),
        false => inspection.print(),
    }
    Ok(())
}

fn facts(graph: &Model, index: usize) -> LayerFacts {
    let id = LayerId(index as u32);
    let layer = graph.layer(id);
    let shape = graph.shape(layer.output);
    let positions = (shape.rows() * shape.cols()) as u64;
    let tiled = locality(graph, id) == Locality::Local;
    LayerFacts {
        name: layer.name.clone(),
        operator: layer.op.name().to_owned(),
        does: graph.describe(id),
        reads: layer.inputs.iter().map(|&m| graph.producer(m).map(LayerId::index)).collect(),
        dims: shape.dims(),
        multiply_adds: graph.multiply_adds_per_position(id) * positions,
        weight_bytes: (layer.op.weight_ids().into_iter())
            .map(|w| graph.weight(w).bytes() as u64)
            .sum(),
        map_bytes: (shape.rows() * shape.cols() * graph.pixel_bytes(layer.output)) as u64,
        tiled,
        reason: (!tiled).then(|| reason(&layer.op)),
    }
}

/// Why a layer cannot be cut into tiles.
fn reason(op: &Op) -> &'static str {
    match op {
        Op::GlobalAveragePool { .. } | Op::QGlobalAveragePool { .. } => {
            "averages over the whole map"
        }
        Op::Linear { .. } | Op::QLinear { .. } | Op::MatMul => {
            "multiplies all of its input at once"
        }
        Op::Reshape | Op::Transpose { .. } => "moves values between channels, rows and columns",
        Op::Softmax { .. } => "sums over more than the channels of one position",
        Op::Constant { .. } => "is no map of rows and columns",
        _ => "needs its whole input",
    }
}

/// Inputs, outputs and the maps in between, as one device holds them.
fn peak_map_bytes(graph: &Model) -> u64 {
    let whole = StageGeometry::whole(graph, Numerics::Exact);
    let schedule = Schedule::new(graph, &whole, 0, Order::depth_first(1));
    let bytes =
        |&(map, region): &(MapId, Region)| (region.positions() * graph.pixel_bytes(map)) as u64;
    let inputs: u64 = whole.tiles[0].inputs.iter().map(bytes).sum();
    inputs + (schedule.arena_bytes + schedule.output_bytes()) as u64
}

/// `64x112x112` for maps, `[1, 1000]` for other dims.
pub(crate) fn dims(dims: &[usize]) -> String {
    model::Shape::from_dims(dims).to_string()
}
