//! Drops layers that compute nothing, and joins chains of reshapes.

use super::{Links, redirect_output, remove_layers};
use crate::graph::{Layer, Model};
use crate::op::{Activation, Op};
use crate::window::Pads;
use std::collections::BTreeSet;

/// Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let joined = join_reshapes(model);
    let mut removed = BTreeSet::new();
    let mut changed = false;
    for index in 0..model.layers.len() {
        if !is_identity(model, &model.layers[index]) {
            continue;
        }
        let links = Links::of(model);
        let (input, output) = (model.layers[index].inputs[0], model.layers[index].output);
        if !links.is_output[output.index()] {
            for layer in &mut model.layers {
                layer.inputs.iter_mut().filter(|m| **m == output).for_each(|m| *m = input);
            }
        } else if let Some(producer) =
            links.producer(input).filter(|_| !links.is_output[input.index()])
        {
            // The caller knows the map by this layer's output.
            model.layers[index].output = input;
            redirect_output(model, producer, input, output);
        } else {
            // It stays: an output must be a map of its own.
            continue;
        }
        removed.insert(index);
        changed = true;
    }
    remove_layers(model, &removed);
    changed || joined
}

fn is_identity(model: &Model, layer: &Layer) -> bool {
    let [input] = layer.inputs[..] else {
        return false;
    };
    match &layer.op {
        Op::Activate(Activation::None) | Op::Concat | Op::ConcatGeneral { .. } => true,
        Op::Reshape => model.shape(input) == model.shape(layer.output),
        Op::Transpose { perm } => perm.iter().copied().eq(0..perm.len()),
        Op::Pad { pads, .. } => *pads == Pads::default(),
        _ => false,
    }
}

/// A reshape of a reshape is a reshape of the first one's input.
fn join_reshapes(model: &mut Model) -> bool {
    let links = Links::of(model);
    let mut changed = false;
    for index in 0..model.layers.len() {
        let layer = &model.layers[index];
        let ([input], Op::Reshape) = (&layer.inputs[..], &layer.op) else {
            continue;
        };
        let Some(before) = links.producer(*input).map(|id| model.layer(id)) else {
            continue;
        };
        if before.op == Op::Reshape {
            let source = before.inputs[0];
            model.layers[index].inputs[0] = source;
            changed = true;
        }
    }
    changed
}
