//! Lets layers apply the activation that follows them.

use super::{Links, redirect_output, remove_layers};
use crate::graph::Model;
use crate::op::{Activation, Op};
use std::collections::BTreeSet;

/// Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let links = Links::of(model);
    let mut removed = BTreeSet::new();
    for index in 0..model.layers.len() {
        let layer = &model.layers[index];
        let (Op::Activate(activation), [input]) = (&layer.op, &layer.inputs[..]) else {
            continue;
        };
        let (activation, input, output) = (*activation, *input, layer.output);
        let Some(producer) = links.sole_producer(input) else {
            continue;
        };
        // A second activation after a fused one stays a layer. The links of a map that was
        // redirected are out of date, but name a layer whose activation is taken.
        match model.layers[producer.index()].op.activation_mut() {
            Some(slot @ Activation::None) => *slot = activation,
            _ => continue,
        }
        model.layers[index].output = input;
        redirect_output(model, producer, input, output);
        removed.insert(index);
    }
    remove_layers(model, &removed);
    !removed.is_empty()
}
