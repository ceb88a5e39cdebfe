//! What runs as one: a layer, or a convolution with the addition that follows it.

use super::Order;
use crate::algorithm::Algorithm;
use crate::receptive::{Locality, locality, receptive_field};
use crate::region::{Region, Span};
use crate::stage::{StageGeometry, TileGeometry};
use model::{Activation, CombineKind, LayerId, MapId, Model, Op};

/// A layer of the tile; an addition may have taken in the convolution that makes one summand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The layer whose output map this makes.
    pub layer: LayerId,
    /// The convolution that is taken in; the layer adds the second input to what it makes.
    pub conv: Option<LayerId>,
    /// The maps that are read: those of the layer, or the convolution's input and the summand.
    pub inputs: Vec<MapId>,
    /// The map that is made.
    pub output: MapId,
    /// What is computed of it.
    pub region: Region,
    /// How the convolution is computed, if there is one.
    pub algorithm: Algorithm,
    /// Whether the layer needs its whole inputs.
    locality: Locality,
}

/// Rows of a unit that are computed at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) rows: usize,
}

/// Weights of this many values are read again from the second-level cache at no great cost.
pub(crate) const CACHED_WEIGHTS: usize = 192 << 10;

/// Positions that share a reading of more weights than that, by each thread.
pub(crate) const POSITIONS_A_READING: usize = 512;
/// Blocks of a Winograd layer that do: as many as whole layers have for each time that they read
/// their weights.
pub(crate) const WINOGRAD_BLOCKS_A_READING: usize = 40;

impl Unit {
    /// The region of an input that some rows of the output need.
    pub fn field(&self, model: &Model, input: usize, rows: Span) -> Region {
        if rows.is_empty() {
            return Region::EMPTY;
        }
        let layer = match (self.conv, input) {
            (Some(conv), 0) => model.layer(conv),
            _ => model.layer(self.layer),
        };
        let region = Region::new(rows, self.region.cols);
        let (output, input) = (model.shape(layer.output), model.shape(self.inputs[input]));
        receptive_field(&layer.op, region, output, input)
    }

    /// The convolution that this computes, transposed or not, if it does.
    pub fn convolution<'m>(&self, model: &'m Model) -> Option<&'m Op> {
        let op = &model.layer(self.conv.unwrap_or(self.layer)).op;
        matches!(op, Op::Conv { .. } | Op::ConvTranspose { .. }).then_some(op)
    }

    /// As few rows as stay in the cache until they are read, but enough that reading the weights
    /// again costs little.
    pub(super) fn chunk(&self, model: &Model, order: Order) -> Chunk {
        let all = self.region.rows.len();
        let convolution = self.convolution(model);
        let block = match convolution {
            // So that there is as much to do for each residue of a row.
            Some(Op::ConvTranspose { window, .. }) => window.stride.rows.min(all.max(1)),
            _ => self.algorithm.outputs(),
        };
        let (threads, cache_bytes) = match order {
            _ if self.locality == Locality::Whole => return Chunk { rows: all },
            // Its rows are single values.
            _ if matches!(model.layer(self.layer).op, Op::LinearRows { .. }) => {
                return Chunk { rows: all };
            }
            Order::LayerByLayer => return Chunk { rows: all },
            Order::RowByRow => return Chunk { rows: self.algorithm.outputs() },
            Order::DepthFirst { threads, cache_bytes } => (threads, cache_bytes),
        };
        let cols = self.region.cols.len().max(1);
        let row_bytes = cols * model.pixel_bytes(self.output);
        let mut rows = (cache_bytes * threads).div_ceil(row_bytes.max(1));
        if let Op::QConv { .. } = model.layer(self.layer).op {
            // Byte products are so quick that the weights are the larger part of what is read.
            rows = rows.max(512 * threads / cols);
        }
        if let Some(Op::Conv { weights, .. } | Op::ConvTranspose { weights, .. }) = convolution {
            let positions = (block + 2) * (block + 2);
            let elements = model.weight(*weights).elements();
            let is_direct = self.algorithm == Algorithm::Direct;
            let weights = if is_direct { elements } else { elements / 9 * positions };
            let pixels = match (weights > CACHED_WEIGHTS, is_direct) {
                (false, true) => 56,
                (true, true) => POSITIONS_A_READING,
                (false, false) => 28 * block * block,
                (true, false) => WINOGRAD_BLOCKS_A_READING * block * block,
            };
            rows = rows.max(pixels * threads / cols);
        }
        let rows = rows.next_multiple_of(block * threads);
        // With less than a few parts there is little to gain.
        Chunk { rows: if 2 * rows > all { all } else { rows } }
    }
}

/// The layers of a tile that compute something, with additions taken into convolutions.
pub(super) fn units(model: &Model, stage: &StageGeometry, tile: &TileGeometry) -> Vec<Unit> {
    let first = stage.first_layer.index();
    let made = |(i, &needed): (usize, &Region)| {
        let layer = LayerId((first + i) as u32);
        let output = model.layer(layer).output;
        let locality = locality(model, layer);
        // A layer that sees its whole input gives its whole output, even if a part is needed.
        let region = match locality {
            Locality::Local => needed,
            Locality::Whole => Region::whole(model.shape(output)),
        };
        let inputs = model.layer(layer).inputs.clone();
        let algorithm = stage.algorithms[i];
        Unit { layer, conv: None, inputs, output, region, algorithm, locality }
    };
    let needed = tile.layers.iter().enumerate().filter(|(_, region)| !region.is_empty());
    let mut units: Vec<Unit> = needed.map(made).collect();
    let mut at = 0;
    while at < units.len() {
        if let Some(conv) = conv_to_take_in(model, &units, at, tile) {
            let other = units[at].inputs.iter().copied().find(|&map| map != units[conv].output);
            let other = other.expect("a sum of two different maps");
            let taken = units[conv].clone();
            units[at].conv = Some(taken.layer);
            units[at].inputs = vec![taken.inputs[0], other];
            units[at].algorithm = taken.algorithm;
            units.remove(conv);
        } else {
            at += 1;
        }
    }
    units
}

/// The convolution that an addition can take in: nobody else reads it, and it does nothing after
/// its bias. Of two, the later one.
fn conv_to_take_in(model: &Model, units: &[Unit], at: usize, tile: &TileGeometry) -> Option<usize> {
    let sum = &units[at];
    let &Op::Combine { kind: CombineKind::Add, .. } = &model.layer(sum.layer).op else {
        return None;
    };
    let &[a, b] = &sum.inputs[..] else { return None };
    if sum.conv.is_some() || a == b {
        return None;
    }
    (0..at).rev().find(|&i| {
        let unit = &units[i];
        let read = units.iter().flat_map(|u| &u.inputs).filter(|&&map| map == unit.output).count();
        let plain = matches!(
            &model.layer(unit.layer).op,
            Op::Conv { activation: Activation::None, window, .. }
                if window.kernel.rows > 0 && unit.conv.is_none()
        );
        let other = if unit.output == a { b } else { a };
        (unit.output == a || unit.output == b)
            && plain
            && read == 1
            && unit.region == sum.region
            && !tile.outputs.iter().any(|&(map, _)| map == unit.output)
            && model.shape(unit.output) == model.shape(sum.output)
            && model.shape(other) == model.shape(sum.output)
            && !is_depthwise(model, unit)
    })
}

/// One input and one output channel to a group: its kernel adds nothing.
fn is_depthwise(model: &Model, unit: &Unit) -> bool {
    let (inputs, outputs) = (model.shape(unit.inputs[0]), model.shape(unit.output));
    let is_one_each = |groups| groups == inputs.channels() && groups == outputs.channels();
    matches!(&model.layer(unit.layer).op, Op::Conv { groups, .. } if is_one_each(*groups))
}
