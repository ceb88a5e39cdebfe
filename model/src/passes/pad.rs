//! Merges zero padding into the convolutions that read it.

use super::Links;
use crate::graph::Model;
use crate::op::Op;
use crate::window::Pads;

/// Convolutions only: a pool treats its own padding otherwise. Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let links = Links::of(model);
    let mut changed = false;
    for index in 0..model.layers.len() {
        let layer = &model.layers[index];
        let Op::Conv { window, .. } = &layer.op else {
            continue;
        };
        let Some(before) = links.producer(layer.inputs[0]).map(|id| model.layer(id)) else {
            continue;
        };
        let Op::Pad { pads, value: 0.0 } = before.op else {
            continue;
        };
        let source = before.inputs[0];
        let merged = Pads {
            top: window.pads.top + pads.top,
            left: window.pads.left + pads.left,
            bottom: window.pads.bottom + pads.bottom,
            right: window.pads.right + pads.right,
        };
        let layer = &mut model.layers[index];
        layer.inputs[0] = source;
        if let Op::Conv { window, .. } = &mut layer.op {
            window.pads = merged;
        }
        changed = true;
    }
    changed
}
