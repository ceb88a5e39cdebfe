//! Recognises activations that files write as two layers.

use super::Links;
use crate::graph::Model;
use crate::op::{Activation, CombineKind, Op};

/// Turns `x * sigmoid(x)` into SiLU and `x * hard_sigmoid(x)` into HardSwish. The gate itself is
/// left for the dead pass, since others may read it. Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let links = Links::of(model);
    let mut changed = false;
    for index in 0..model.layers.len() {
        let layer = &model.layers[index];
        let Op::Combine { kind: CombineKind::Mul, activation } = layer.op else {
            continue;
        };
        let [first, second] = layer.inputs[..] else {
            continue;
        };
        let gate = |gate, value| {
            let gate = model.layer(links.producer(gate)?);
            match gate.op {
                Op::Activate(gated) if gate.inputs == [value] => gating(gated),
                _ => None,
            }
        };
        let found = gate(second, first)
            .map(|found| (first, found))
            .or_else(|| gate(first, second).map(|found| (second, found)));
        if let Some((value, found)) = found.filter(|_| activation == Activation::None) {
            let layer = &mut model.layers[index];
            layer.op = Op::Activate(found);
            layer.inputs = vec![value];
            changed = true;
        }
    }
    changed
}

/// What a value times its gate is.
fn gating(gate: Activation) -> Option<Activation> {
    match gate {
        Activation::Sigmoid => Some(Activation::Silu),
        // Files write 1/6 with more or fewer digits.
        Activation::HardSigmoid { alpha, beta }
            if (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5 =>
        {
            Some(Activation::HardSwish)
        }
        _ => None,
    }
}
