//! Turns layers between a Dequantize and a Quantize into layers over bytes.
//!
//! ```text
//!  bytes ─ Dequantize ─▶ floats ─ Conv ─▶ floats ─ Relu ─▶ floats ─ Quantize ─▶ bytes
//!  bytes ─────────────────────────── QConv ───────────────────────────────────▶ bytes
//! ```
//!
//! What is left of Quantize and Dequantize runs as layers of its own.

use super::Links;
use crate::graph::{FeatureMap, Layer, LayerId, MapId, Model};
use crate::op::{Activation, CombineKind, Op, PoolKind, QProduct, ResizeMode};
use crate::quant::{Element, Quant};
use crate::weights::{WeightHash, WeightId, WeightInfo, WeightStore};
use std::collections::{BTreeMap, BTreeSet};

/// What a float constant was in the file.
pub(crate) enum Origin {
    Weights(QuantWeights),
    Bias(Vec<i32>),
}

/// Weights as the quantised operators want them.
#[derive(Clone)]
pub(crate) struct QuantWeights {
    /// i8, as bytes.
    pub(crate) values: Vec<u8>,
    /// One for each output.
    pub(crate) scales: Vec<f32>,
    /// i8, as bytes; none where all are 0.
    pub(crate) zeros: Option<Vec<u8>>,
}

impl QuantWeights {
    /// Weights of u8 or i8 as i8, with a scale and a zero point for each output; none when the
    /// numbers of these do not fit.
    pub(crate) fn new(
        element: Element,
        bytes: &[u8],
        scales: &[f32],
        zeros: &[i64],
        outputs: usize,
    ) -> Option<Self> {
        let each = |count: usize| count == 1 || count == outputs;
        if !each(scales.len()) || !(zeros.is_empty() || each(zeros.len())) {
            return None;
        }
        // u8 becomes i8 by turning the highest bit, which takes 128 from both terms of `w - zero`.
        let (flip, shift) = if element == Element::U8 { (0x80, 128) } else { (0, 0) };
        let of = |list: &[i64], i: usize| list.get(i % list.len().max(1)).copied().unwrap_or(0);
        let zeros: Vec<u8> = (0..outputs).map(|i| (of(zeros, i) - shift) as i8 as u8).collect();
        Some(Self {
            values: bytes.iter().map(|byte| byte ^ flip).collect(),
            scales: (0..outputs).map(|i| scales[i % scales.len()]).collect(),
            zeros: Some(zeros).filter(|zeros| zeros.iter().any(|zero| *zero != 0)),
        })
    }
}

/// Runs once, before all other passes: only then the float weights are those of the file.
pub(crate) fn run(
    model: &mut Model,
    store: &mut WeightStore,
    origins: &BTreeMap<WeightHash, Origin>,
) {
    if !model.layers.iter().any(|layer| matches!(layer.op, Op::Dequantize { .. })) {
        return;
    }
    let mut pass = Pass { links: Links::of(model), model, store, origins };
    let mut removed = BTreeSet::new();
    let mut before: BTreeMap<usize, Vec<Layer>> = BTreeMap::new();
    for index in 0..pass.model.layers.len() {
        if let Some(found) = pass.layer(index) {
            removed.insert(found.end);
            let layer = &mut pass.model.layers[index];
            layer.op = found.op;
            layer.inputs = found.inputs;
            layer.output = found.output;
            before.insert(index, found.before);
        }
    }
    let layers = std::mem::take(&mut model.layers);
    for (index, layer) in layers.into_iter().enumerate() {
        model.layers.extend(before.remove(&index).unwrap_or_default());
        if !removed.contains(&index) {
            model.layers.push(layer);
        }
    }
}

struct Pass<'a> {
    model: &'a mut Model,
    store: &'a mut WeightStore,
    origins: &'a BTreeMap<WeightHash, Origin>,
    links: Links,
}

/// What a layer becomes.
struct Found {
    op: Op,
    inputs: Vec<MapId>,
    output: MapId,
    /// The Quantize that it takes in.
    end: usize,
    /// Layers that come before it.
    before: Vec<Layer>,
}

/// Where the floats of a layer end.
struct End {
    index: usize,
    quant: Quant,
    /// What an activation on the way leaves.
    low: i32,
    high: i32,
}

impl Pass<'_> {
    fn layer(&mut self, index: usize) -> Option<Found> {
        let layer = self.model.layers[index].clone();
        if matches!(layer.op, Op::Quantize { .. }) {
            return self.bytes_to_bytes(index, &layer);
        }
        let sources: Option<Vec<(MapId, Quant)>> =
            layer.inputs.iter().map(|map| self.source(*map)).collect();
        let sources = sources.filter(|sources| !sources.is_empty())?;
        let end = self.end(&layer)?;
        let inputs: Vec<MapId> = sources.iter().map(|(map, _)| *map).collect();
        let (_, input) = sources[0];
        let is_plain = (end.low, end.high) == end.quant.element.range();
        let mut before = Vec::new();
        let mut quantised = inputs;
        let op = match layer.op {
            Op::Conv { window, groups, weights, bias, .. } => {
                let product = self.product(weights, bias, input, &end)?;
                Op::QConv { window, groups, product }
            }
            Op::Linear { weights, bias, .. } => {
                Op::QLinear { product: self.product(weights, bias, input, &end)? }
            }
            Op::Combine { kind: kind @ (CombineKind::Add | CombineKind::Mul), .. } => {
                let [(_, a), (_, b)] = sources[..] else { return None };
                let End { quant: output, low, high, .. } = end;
                Op::QCombine { kind, inputs: [a, b], output, low, high }
            }
            _ if !is_plain => return None,
            Op::GlobalAveragePool { .. } => Op::QGlobalAveragePool { input, output: end.quant },
            Op::Activate(activation) if activation != Activation::None => {
                Op::Requantize { input, activation, output: end.quant }
            }
            Op::Concat | Op::ConcatGeneral { .. } => {
                for (map, (_, input)) in quantised.iter_mut().zip(&sources) {
                    if *input != end.quant {
                        let (layer, output) = self.requantize(&layer, *map, *input, end.quant);
                        before.push(layer);
                        *map = output;
                    }
                }
                layer.op
            }
            _ if input != end.quant => return None,
            Op::Pad { pads, value } => Op::Pad { pads, value: end.quant.quantize(value) as f32 },
            Op::Resize { mode: ResizeMode::Bilinear, .. } => return None,
            Op::Pool { kind: PoolKind::Max, .. }
            | Op::Resize { .. }
            | Op::DepthToSpace { .. }
            | Op::SpaceToDepth { .. }
            | Op::Reshape
            | Op::Select { .. }
            | Op::Transpose { .. } => layer.op,
            _ => return None,
        };
        let output = self.model.layers[end.index].output;
        Some(Found { op, inputs: quantised, output, end: end.index, before })
    }

    /// A Quantize right after a Dequantize; it keeps its place.
    fn bytes_to_bytes(&mut self, index: usize, layer: &Layer) -> Option<Found> {
        let Op::Quantize { output } = layer.op else { return None };
        let (map, input) = self.source(layer.inputs[0])?;
        let op = match input == output {
            true => Op::Activate(Activation::None),
            false => Op::Requantize { input, activation: Activation::None, output },
        };
        self.model.layers[index].op = op;
        self.model.layers[index].inputs = vec![map];
        None
    }

    /// The bytes of which a map has the numbers.
    fn source(&self, map: MapId) -> Option<(MapId, Quant)> {
        let producer = self.model.layer(self.links.producer(map)?);
        match producer.op {
            Op::Dequantize { input } => Some((producer.inputs[0], input)),
            _ => None,
        }
    }

    /// The Quantize that alone reads what a layer gives, perhaps after an activation.
    fn end(&self, layer: &Layer) -> Option<End> {
        let (mut min, mut max) = bounds(layer.op.activation().unwrap_or_default())?;
        let mut map = layer.output;
        loop {
            let [reader] = self.links.readers[map.index()][..] else { return None };
            if self.links.is_output[map.index()] {
                return None;
            }
            let next = self.model.layer(reader);
            match next.op {
                Op::Quantize { output } => {
                    let (low, high) = output.element.range();
                    let of = |bound: f32, open: i32| match bound.is_finite() {
                        true => output.quantize(bound),
                        false => open,
                    };
                    let (low, high) = (of(min, low), of(max, high));
                    let LayerId(index) = reader;
                    return Some(End { index: index as usize, quant: output, low, high });
                }
                Op::Activate(activation) => {
                    let (low, high) = bounds(activation)?;
                    (min, max) = (min.max(low).min(high), max.max(low).min(high));
                    map = next.output;
                }
                _ => return None,
            }
        }
    }

    fn product(
        &mut self,
        weights: WeightId,
        bias: Option<WeightId>,
        input: Quant,
        end: &End,
    ) -> Option<QProduct> {
        let info = self.model.weight(weights).clone();
        let Some(Origin::Weights(quantised)) = self.origins.get(&info.hash) else { return None };
        let quantised = quantised.clone();
        let outputs = info.dims[0];
        (quantised.scales.len() == outputs).then_some(())?;
        let bias = match bias {
            None => None,
            Some(bias) => {
                let hash = self.model.weight(bias).hash;
                let ints = match self.origins.get(&hash) {
                    Some(Origin::Bias(ints)) => ints.clone(),
                    // The file has it as floats.
                    _ => {
                        let floats = self.store.find(hash)?;
                        let scales = &quantised.scales;
                        let units = |(b, s): (&f32, &f32)| {
                            (f64::from(*b) / (f64::from(input.scale) * f64::from(*s)))
                                .round_ties_even() as i32
                        };
                        floats.iter().zip(scales).map(units).collect()
                    }
                };
                Some(ints.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
        };
        let scales = quantised.scales.clone();
        let hash = self.store.insert(scales);
        let scales = self.weight(WeightInfo::new(hash, &[outputs]));
        let bias = bias.map(|bytes| self.bytes(bytes, &[outputs], Element::I32));
        let zeros = quantised.zeros.map(|bytes| self.bytes(bytes, &[outputs], Element::I8));
        let weights = self.bytes(quantised.values, &info.dims, Element::I8);
        let (output, low, high) = (end.quant, end.low, end.high);
        Some(QProduct { weights, scales, zeros, bias, input, output, low, high })
    }

    fn bytes(&mut self, bytes: Vec<u8>, dims: &[usize], element: Element) -> WeightId {
        let hash = self.store.insert_bytes(bytes);
        self.weight(WeightInfo { hash, dims: dims.to_vec(), element })
    }

    fn weight(&mut self, info: WeightInfo) -> WeightId {
        self.model.weights.push(info);
        WeightId(self.model.weights.len() as u32 - 1)
    }

    /// A layer that brings an input of another to its output's scale.
    fn requantize(
        &mut self,
        layer: &Layer,
        map: MapId,
        input: Quant,
        output: Quant,
    ) -> (Layer, MapId) {
        let id = MapId(self.model.maps.len() as u32);
        let name = format!("{}/requantize_{}", layer.name, id.0);
        let shape = self.model.shape(map).clone();
        self.model.maps.push(FeatureMap::of(name.clone(), shape, output.element));
        let op = Op::Requantize { input, activation: Activation::None, output };
        (Layer { name, op, inputs: vec![map], output: id }, id)
    }
}

/// Between which numbers an activation keeps its input, where it does nothing else.
fn bounds(activation: Activation) -> Option<(f32, f32)> {
    match activation {
        Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
        Activation::Relu => Some((0.0, f32::INFINITY)),
        Activation::Clip { min, max } if min <= max => Some((min, max)),
        _ => None,
    }
}
