//! Folds a scale and shift of each channel into the layer before it.

use super::{Links, add_weight, elements, redirect_output, remove_layers};
use crate::graph::{LayerId, Model};
use crate::op::{Activation, Op};
use crate::weights::{WeightId, WeightStore};
use std::collections::BTreeSet;

/// A batch normalisation after a convolution or a fully connected layer becomes other weights;
/// after another scale and shift, the two become one. Returns whether anything changed.
pub(super) fn run(model: &mut Model, store: &mut WeightStore) -> bool {
    let mut removed = BTreeSet::new();
    // In order, so that of three affine layers in a row the last finds the first two joined.
    for index in 0..model.layers.len() {
        let layer = &model.layers[index];
        let Op::ChannelAffine { scale, shift, activation } = layer.op else {
            continue;
        };
        let (input, output) = (layer.inputs[0], layer.output);
        let links = Links::of(model);
        let Some(producer) = links.sole_producer(input) else {
            continue;
        };
        let Some(op) = folded(model, store, producer, (scale, shift), activation) else {
            continue;
        };
        model.layers[producer.index()].op = op;
        model.layers[index].output = input;
        // A removed layer must not count as a reader.
        model.layers[index].inputs.clear();
        redirect_output(model, producer, input, output);
        removed.insert(index);
    }
    remove_layers(model, &removed);
    !removed.is_empty()
}

/// The producer with the affine map in it; none where it cannot take one in.
fn folded(
    model: &mut Model,
    store: &mut WeightStore,
    producer: LayerId,
    (scale, shift): (WeightId, WeightId),
    last: Activation,
) -> Option<Op> {
    let mut op = model.layer(producer).op.clone();
    let scale = elements(model, store, scale).to_vec();
    let shift = elements(model, store, shift).to_vec();
    match &mut op {
        Op::Conv { weights, bias, activation: activation @ Activation::None, .. }
        | Op::Linear { weights, bias, activation: activation @ Activation::None } => {
            let out = model.weight(*weights).dims[0];
            // A general map has each element scaled on its own; rows must agree to be outputs.
            let (scale, shift) = (one_period(&scale, out)?, one_period(&shift, out)?);
            *bias = Some(scaled_bias(model, store, *bias, scale, shift));
            *weights = scaled_rows(model, store, *weights, scale);
            *activation = last;
        }
        Op::ConvTranspose {
            groups,
            weights,
            bias,
            activation: activation @ Activation::None,
            ..
        } => {
            *bias = Some(scaled_bias(model, store, *bias, &scale, &shift));
            *weights = scaled_transposed(model, store, *weights, *groups, &scale);
            *activation = last;
        }
        Op::ChannelAffine {
            scale: first,
            shift: offset,
            activation: activation @ Activation::None,
        } => {
            let (first_scale, first_shift) =
                (elements(model, store, *first), elements(model, store, *offset));
            let product = first_scale.iter().zip(&scale).map(|(a, b)| a * b).collect();
            let sum = affine(first_shift, &scale, &shift);
            *first = add_weight(model, store, product, &[scale.len()]);
            *offset = add_weight(model, store, sum, &[scale.len()]);
            *activation = last;
        }
        _ => return None,
    }
    Some(op)
}

/// The first `period` values, where all later ones repeat them.
fn one_period(values: &[f32], period: usize) -> Option<&[f32]> {
    let first = values.get(..period)?;
    values.chunks(period).all(|chunk| chunk == first).then_some(first)
}

/// `value * scale + shift`, rounded once.
fn affine(values: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
    let terms = values.iter().zip(scale).zip(shift);
    terms.map(|((value, scale), shift)| value.mul_add(*scale, *shift)).collect()
}

fn scaled_bias(
    model: &mut Model,
    store: &mut WeightStore,
    bias: Option<WeightId>,
    scale: &[f32],
    shift: &[f32],
) -> WeightId {
    let values = match bias {
        Some(bias) => affine(elements(model, store, bias), scale, shift),
        None => shift.to_vec(),
    };
    add_weight(model, store, values, &[scale.len()])
}

/// Weights whose outermost axis is scaled.
fn scaled_rows(
    model: &mut Model,
    store: &mut WeightStore,
    weights: WeightId,
    scale: &[f32],
) -> WeightId {
    // An addition alone leaves the weights as they are, which need not be copied.
    if scale.iter().all(|scale| *scale == 1.0) {
        return weights;
    }
    let dims = model.weight(weights).dims.clone();
    let row: usize = dims[1..].iter().product();
    let values = elements(model, store, weights);
    let rows = values.chunks(row).zip(scale);
    let scaled = rows.flat_map(|(row, scale)| row.iter().map(move |value| value * scale)).collect();
    add_weight(model, store, scaled, &dims)
}

/// Weights `(in, out / groups, ..)` whose output channels are scaled.
fn scaled_transposed(
    model: &mut Model,
    store: &mut WeightStore,
    weights: WeightId,
    groups: usize,
    scale: &[f32],
) -> WeightId {
    if scale.iter().all(|scale| *scale == 1.0) {
        return weights;
    }
    let dims = model.weight(weights).dims.clone();
    let taps: usize = dims[2..].iter().product();
    let group_inputs = dims[0] / groups;
    let values = elements(model, store, weights).chunks(taps).enumerate();
    let scaled = values.flat_map(|(i, values)| {
        let (input, output) = (i / dims[1], i % dims[1]);
        let scale = scale[input / group_inputs * dims[1] + output];
        values.iter().map(move |value| value * scale)
    });
    let scaled = scaled.collect();
    add_weight(model, store, scaled, &dims)
}
