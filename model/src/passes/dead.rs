//! Drops layers that no output needs, and maps and weights that no layer names.

use crate::graph::{MapId, Model};
use crate::op::Op;
use crate::weights::{WeightId, WeightStore};
use std::collections::{BTreeMap, BTreeSet};

/// Returns whether a layer was dropped. Model inputs stay, read or not: they are what the caller
/// provides. Equal weights become one.
pub(super) fn run(model: &mut Model, store: &mut WeightStore) -> bool {
    let before = model.layers.len();
    let mut needed = vec![false; model.maps.len()];
    model.outputs.iter().for_each(|map| needed[map.index()] = true);
    // Each layer comes after what it reads, so that one walk from the back sees all readers first.
    for layer in model.layers.iter().rev() {
        if needed[layer.output.index()] {
            layer.inputs.iter().for_each(|map| needed[map.index()] = true);
        }
    }
    model.layers.retain(|layer| needed[layer.output.index()]);
    model.inputs.iter().for_each(|map| needed[map.index()] = true);
    renumber_maps(model, &needed);
    renumber_weights(model);
    let hashes: BTreeSet<_> = model.weights.iter().map(|weight| weight.hash).collect();
    store.retain(|hash| hashes.contains(&hash));
    model.layers.len() != before
}

fn renumber_maps(model: &mut Model, needed: &[bool]) {
    let mut ids = vec![MapId(0); needed.len()];
    let kept = ids.iter_mut().zip(needed).filter(|(_, needed)| **needed);
    for (next, (id, _)) in kept.enumerate() {
        *id = MapId(next as u32);
    }
    let mut kept = needed.iter();
    model.maps.retain(|_| kept.next().copied().unwrap_or(false));
    let of_layers =
        model.layers.iter_mut().flat_map(|l| l.inputs.iter_mut().chain([&mut l.output]));
    for map in of_layers.chain(&mut model.inputs).chain(&mut model.outputs) {
        *map = ids[map.index()];
    }
}

/// Numbers weights by their first use.
fn renumber_weights(model: &mut Model) {
    let old = std::mem::take(&mut model.weights);
    let mut ids = BTreeMap::new();
    for layer in &mut model.layers {
        for weight in weights_mut(&mut layer.op) {
            let info = &old[weight.0 as usize];
            *weight =
                *ids.entry((info.hash, info.dims.clone(), info.element)).or_insert_with(|| {
                    model.weights.push(info.clone());
                    WeightId(model.weights.len() as u32 - 1)
                });
        }
    }
}

fn weights_mut(op: &mut Op) -> Vec<&mut WeightId> {
    match op {
        Op::Conv { weights, bias, .. }
        | Op::ConvTranspose { weights, bias, .. }
        | Op::Linear { weights, bias, .. } => [weights].into_iter().chain(bias.as_mut()).collect(),
        Op::LinearRows { slices, bias, .. } => slices.iter_mut().chain(bias.as_mut()).collect(),
        Op::ChannelAffine { scale, shift, .. } | Op::LayerNorm { scale, shift, .. } => {
            vec![scale, shift]
        }
        Op::PRelu { slope } => vec![slope],
        Op::Constant { value } => vec![value],
        Op::QConv { product, .. } | Op::QLinear { product } => product.weight_ids_mut(),
        _ => Vec::new(),
    }
}
