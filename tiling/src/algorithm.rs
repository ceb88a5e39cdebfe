//! Which way a layer's sums are computed: part of a plan, since it changes the last bits.

use crate::region::Region;
use model::{Axes, Op, Shape};
use serde::{Deserialize, Serialize};

/// How exact the answer of a plan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Numerics {
    /// One order of accumulation for every plan: any tiling gives the bits of one device.
    Exact,
    /// As [`Numerics::Fast`], without `F(3x3, 3x3)`, which workers of Tilehive 0.1 do not have: the
    /// choice is part of the bits, so they and others have to make the same one.
    Fast01,
    /// Winograd where it pays: the bits depend on the plan, by about 1e-6 of the largest value,
    /// and on nothing else.
    #[default]
    Fast,
}

/// How a layer's sums are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// Every product of the definition, in its order.
    #[default]
    Direct,
    /// Winograd's `F(2x2, 3x3)`: 16 products for 4 outputs instead of 36.
    Winograd2,
    /// `F(3x3, 3x3)`: 25 products for 9 outputs instead of 81.
    Winograd3,
    /// `F(4x4, 3x3)`: 36 products for 16 outputs instead of 144.
    Winograd4,
    /// `F(5x5, 3x3)`: 49 products for 25 outputs instead of 225.
    Winograd5,
    /// `F(6x6, 3x3)`: 64 products for 36 outputs instead of 324.
    Winograd6,
}

/// In the choice between transforms, reading a weight from far while it is multiplied, in
/// multiply-adds: the reading is mostly hidden behind the products...
const WEIGHT_BESIDE: u64 = 2;
/// ... unless a weight serves so few blocks that the reading takes longer than they do: 14 where a
/// layer's weights are still in the third-level cache, more in a network, where they are not.
const BLOCKS_MIN: u64 = 23;

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 6] = [
        Algorithm::Direct,
        Algorithm::Winograd2,
        Algorithm::Winograd3,
        Algorithm::Winograd4,
        Algorithm::Winograd5,
        Algorithm::Winograd6,
    ];

    /// Outputs along an axis that are computed together.
    pub const fn outputs(self) -> usize {
        match self {
            Algorithm::Direct => 1,
            Algorithm::Winograd2 => 2,
            Algorithm::Winograd3 => 3,
            Algorithm::Winograd4 => 4,
            Algorithm::Winograd5 => 5,
            Algorithm::Winograd6 => 6,
        }
    }

    /// Products of a block for each input and output channel, and weights for them.
    pub const fn positions(self) -> usize {
        match self {
            Algorithm::Direct => 9,
            _ => (self.outputs() + 2) * (self.outputs() + 2),
        }
    }

    /// Blocks that cover a region.
    pub(crate) fn blocks(self, region: Region) -> usize {
        let m = self.outputs();
        region.rows.len().div_ceil(m) * region.cols.len().div_ceil(m)
    }

    /// What pays for a layer over a region of its output map, of which `together` are computed at
    /// a time.
    ///
    /// *Source*: the weights are read once for a few blocks, so a small region wants small
    /// transforms, and one whose blocks overhang little; the constants were fitted to single
    /// layers of VGG16 and YOLOv2.
    pub fn choose(
        numerics: Numerics,
        op: &Op,
        (input, output): (&Shape, &Shape),
        region: Region,
        together: usize,
    ) -> Self {
        if numerics == Numerics::Exact || !applies(op) || region.is_empty() {
            return Algorithm::Direct;
        }
        let (inputs, outputs) = (input.channels() as u64, output.channels() as u64);
        if inputs < 16 || outputs < 16 {
            return Algorithm::Direct;
        }
        let cost = |algorithm: &Algorithm| algorithm.cost(inputs, outputs, region, together);
        let known = |algorithm: &Algorithm| {
            numerics != Numerics::Fast01 || *algorithm != Algorithm::Winograd3
        };
        Algorithm::ALL.into_iter().filter(known).min_by_key(cost).unwrap_or_default()
    }

    /// What a 3x3 convolution of stride 1 over a region, or over so many at once, is taken to cost.
    /// Not the planner's cost, which is measured: the choice is part of the answer's bits and so the
    /// same on every device.
    fn cost(self, inputs: u64, outputs: u64, region: Region, together: usize) -> u64 {
        let positions = self.positions() as u64;
        let blocks = (self.blocks(region) * together) as u64;
        let products = positions * inputs * outputs * (blocks + WEIGHT_BESIDE).max(BLOCKS_MIN);
        products + positions * blocks * (inputs + outputs) * self.transformed()
    }

    /// Making or reading one value of a transform: the larger ones have more terms, and reach
    /// further in memory.
    const fn transformed(self) -> u64 {
        match self {
            Algorithm::Direct => 0,
            Algorithm::Winograd2 => 16,
            Algorithm::Winograd3 => 21,
            Algorithm::Winograd4 => 26,
            Algorithm::Winograd5 => 33,
            Algorithm::Winograd6 => 50,
        }
    }
}

/// Whether Winograd computes a layer at all.
pub fn applies(op: &Op) -> bool {
    let one = Axes::new(1, 1);
    matches!(op, Op::Conv { window, groups: 1, .. } if window.kernel == Axes::new(3, 3)
        && window.stride == one && window.dilation == one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Span;

    #[test]
    fn who_does_not_know_it_is_spared_f3() {
        let op = Op::Conv {
            window: model::Window::square(3, 1, 1),
            groups: 1,
            weights: model::WeightId(0),
            bias: None,
            activation: model::Activation::None,
        };
        let map = Shape::Spatial { channels: 512, rows: 13, cols: 13 };
        let region = Region::new(Span::whole(13), Span::whole(13));
        let choose = |numerics| Algorithm::choose(numerics, &op, (&map, &map), region, 1);
        assert_eq!(choose(Numerics::Fast), Algorithm::Winograd3);
        assert_eq!(choose(Numerics::Fast01), Algorithm::Winograd2);
        assert_eq!(choose(Numerics::Exact), Algorithm::Direct);
    }

    #[test]
    fn small_tiles_of_heavy_weights_cost_more() {
        let region = |rows| Region::new(Span::whole(rows), Span::whole(14));
        let whole = Algorithm::Winograd4.cost(512, 512, region(14), 1);
        let half = Algorithm::Winograd4.cost(512, 512, region(7), 1);
        assert!(2 * half > whole && half < whole);
    }
}
