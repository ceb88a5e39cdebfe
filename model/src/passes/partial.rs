//! Lets a mean over all positions be computed from tiles.
//!
//! The sum over a large map becomes two layers: sums over square blocks, counted from the map's
//! first position, and the mean of these. A tile can compute the blocks of its share without
//! seeing the rest, what is gathered is small, and the order of the additions is the same however
//! the map was cut.

use crate::graph::{FeatureMap, Layer, MapId, Model, Shape};
use crate::op::{Op, PoolKind};
use crate::quant::Element;
use crate::window::{Axes, Pads, Window};

/// Rows and columns from which on a map is worth cutting.
const LENGTH_MIN: usize = 14;
/// Blocks along the longer axis at most: enough for a fair cut, few to gather.
const BLOCKS_MAX: usize = 16;

/// Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let mut changed = false;
    let mut index = 0;
    while index < model.layers.len() {
        if let Some((pool, shape)) = sums(model, index) {
            let layer = &mut model.layers[index];
            let map = MapId(model.maps.len() as u32);
            let name = format!("{}/sums", layer.name);
            let inputs = std::mem::replace(&mut layer.inputs, vec![map]);
            model.maps.push(FeatureMap::new(name.clone(), shape));
            model.layers.insert(index, Layer { name, op: pool, inputs, output: map });
            changed = true;
            index += 1;
        }
        index += 1;
    }
    changed
}

/// The layer that makes the partial sums of a mean that has none yet.
fn sums(model: &Model, index: usize) -> Option<(Op, Shape)> {
    let layer = &model.layers[index];
    let Op::GlobalAveragePool { positions } = layer.op else { return None };
    let input = layer.inputs[0];
    let Shape::Spatial { channels, rows, cols } = *model.shape(input) else { return None };
    let is_whole = positions == rows * cols && model.element(input) == Element::F32;
    if !is_whole || rows.min(cols) < LENGTH_MIN {
        return None;
    }
    let block = rows.max(cols).div_ceil(BLOCKS_MAX).next_power_of_two().max(2);
    let window = Window {
        kernel: Axes::new(block, block),
        stride: Axes::new(block, block),
        dilation: Axes::new(1, 1),
        pads: Pads::default(),
    };
    let (rows, cols) = (rows.div_ceil(block), cols.div_ceil(block));
    Some((Op::Pool { window, kind: PoolKind::Sum }, Shape::Spatial { channels, rows, cols }))
}
