//! Lets a large fully connected layer be cut by its outputs.
//!
//! Its weights are the larger part of the work and of the memory. As the rows of a map, outputs can
//! be shared out like the rows of any other, and with the weights in slices a device fetches and
//! keeps those of its own rows alone. The sums are those of the layer that it was.

use super::add_weight;
use crate::graph::{FeatureMap, Layer, MapId, Model, Shape};
use crate::op::Op;
use crate::quant::Element;
use crate::weights::WeightStore;

/// Weights from which on it pays: reading 16 MB takes a small board longer than a word there and
/// back.
const WEIGHTS_MIN: usize = 4_000_000;

/// Slices of a layer at most...
const SLICES_MAX: usize = 32;

/// ...and the weights of one at least.
const SLICE_WEIGHTS_MIN: usize = 1 << 18;

/// What the kernels compute side by side.
const PANEL: usize = 16;

/// Returns whether anything changed.
pub(super) fn run(model: &mut Model, store: &mut WeightStore) -> bool {
    let mut changed = false;
    let mut index = 0;
    while index < model.layers.len() {
        if let Some((outputs, inputs)) = large(model, index) {
            slice(model, store, index, outputs, inputs);
            changed = true;
            index += 1;
        }
        index += 1;
    }
    changed
}

/// The outputs and inputs of a large fully connected layer of one row.
fn large(model: &Model, index: usize) -> Option<(usize, usize)> {
    let layer = &model.layers[index];
    let Op::Linear { weights, .. } = layer.op else { return None };
    let weights = model.weight(weights);
    let &[outputs, inputs] = &weights.dims[..] else { return None };
    let is_one_row = model.shape(layer.inputs[0]).elements() == inputs;
    let is_large = weights.element == Element::F32 && weights.elements() >= WEIGHTS_MIN;
    (is_one_row && is_large).then_some((outputs, inputs))
}

/// Puts a layer of rows, and one that gives these the old shape, in place of a layer.
fn slice(model: &mut Model, store: &mut WeightStore, index: usize, outputs: usize, inputs: usize) {
    let Op::Linear { weights, bias, activation } = model.layers[index].op else { return };
    let Some(all) = store.find(model.weight(weights).hash).cloned() else { return };
    let rows = outputs.div_ceil(SLICES_MAX).max(SLICE_WEIGHTS_MIN.div_ceil(inputs));
    let rows = rows.next_multiple_of(PANEL).min(outputs);
    let slices = all.chunks(rows * inputs);
    let slices = slices
        .map(|slice| add_weight(model, store, slice.to_vec(), &[slice.len() / inputs, inputs]));
    let op = Op::LinearRows { slices: slices.collect(), bias, activation };
    let from = flattened(model, index);
    let name = model.layers[index].name.clone();
    let map = MapId(model.maps.len() as u32);
    let shape = Shape::Spatial { channels: 1, rows: outputs, cols: 1 };
    model.maps.push(FeatureMap::new(format!("{name}/rows"), shape));
    let layer = &mut model.layers[index];
    let output = std::mem::replace(&mut layer.output, map);
    (layer.op, layer.inputs) = (op, vec![from]);
    let name = format!("{name}/shape");
    model.layers.insert(index + 1, Layer { name, op: Op::Reshape, inputs: vec![map], output });
}

/// The map that a layer reads, from before it was given another shape.
fn flattened(model: &Model, index: usize) -> MapId {
    let mut map = model.layers[index].inputs[0];
    while let Some(layer) = model.producer(map).map(|id| model.layer(id))
        && matches!(layer.op, Op::Reshape)
    {
        map = layer.inputs[0];
    }
    map
}
