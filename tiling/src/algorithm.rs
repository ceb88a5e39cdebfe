//! Which way a layer's sums are computed: part of a plan, since it changes the last bits.

use crate::region::Region;
use model::{Axes, Op, Shape};
use serde::{Deserialize, Serialize};

/// How exact the answer of a plan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Numerics {
    /// One order of accumulation for every plan: any tiling gives the bits of one device.
    Exact,
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
    /// `F(4x4, 3x3)`: 36 products for 16 outputs instead of 144.
    Winograd4,
    /// `F(6x6, 3x3)`: 64 products for 36 outputs instead of 324.
    Winograd6,
}

/// Reading a weight, in the choice between transforms, in multiply-adds that take as long.
const WEIGHT: u64 = 40;
/// Making or reading one value of a transform, likewise.
const TRANSFORMED: u64 = 12;

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4, Algorithm::Winograd6];

    /// Outputs along an axis that are computed together.
    pub const fn outputs(self) -> usize {
        match self {
            Algorithm::Direct => 1,
            Algorithm::Winograd2 => 2,
            Algorithm::Winograd4 => 4,
            Algorithm::Winograd6 => 6,
        }
    }

    /// Products for each input and output channel over a region.
    pub(crate) fn products(self, region: Region) -> usize {
        let m = self.outputs();
        let positions = (m + 2) * (m + 2);
        region.rows.len().div_ceil(m) * region.cols.len().div_ceil(m) * positions
    }

    /// What pays for a layer over a region of its output map.
    ///
    /// *Source*: the weights are read once for a few tiles, so a small region wants small
    /// transforms; the constants were fitted to single layers of VGG16 and YOLOv2.
    pub fn choose(
        numerics: Numerics,
        op: &Op,
        input: &Shape,
        output: &Shape,
        region: Region,
    ) -> Self {
        if numerics == Numerics::Exact || !applies(op) || region.is_empty() {
            return Algorithm::Direct;
        }
        let (inputs, outputs) = (input.channels(), output.channels());
        if inputs < 16 || outputs < 16 {
            return Algorithm::Direct;
        }
        let cost = |algorithm: Algorithm| algorithm.cost(inputs as u64, outputs as u64, region);
        let by_cost = Algorithm::ALL.into_iter().min_by_key(|&algorithm| cost(algorithm));
        by_cost.unwrap_or_default()
    }

    /// What a 3x3 convolution of stride 1 is taken to cost. Not the planner's cost, which is
    /// measured: the choice is part of the answer's bits and so the same on every device.
    fn cost(self, inputs: u64, outputs: u64, region: Region) -> u64 {
        let edge = self.outputs() + 2;
        let (products, weights) = match self {
            Algorithm::Direct => (9 * region.positions() as u64, 9),
            _ => (self.products(region) as u64, (edge * edge) as u64),
        };
        let transforms = match self {
            Algorithm::Direct => 0,
            _ => products * (inputs + outputs) * TRANSFORMED,
        };
        products * inputs * outputs + weights * inputs * outputs * WEIGHT + transforms
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
    fn small_tiles_of_heavy_weights_cost_more() {
        let region = |rows| Region::new(Span::whole(rows), Span::whole(14));
        let whole = Algorithm::Winograd4.cost(512, 512, region(14));
        let half = Algorithm::Winograd4.cost(512, 512, region(7));
        assert!(2 * half > whole && half < whole);
    }
}
