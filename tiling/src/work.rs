//! How much work a layer is over a region, in multiply-adds of a direct convolution that take as
//! long: what a device's measured rate is divided into.
//!
//! A convolution that reads each weight for many positions is bound by arithmetic; a fully connected
//! layer, a depthwise one or a pool by memory. The constants were fitted to single layers on x86-64
//! (AVX-512, AVX2).

use crate::algorithm::Algorithm;
use crate::receptive::receptive_field;
use crate::region::Region;
use model::{LayerId, Model, Op, QProduct};

/// Reading a weight of a fully connected or a direct layer from memory: 25 on x86-64 with AVX-512,
/// about 8 on a Raspberry Pi 4.
const WEIGHT: u64 = 16;
/// In the choice between Winograd's transforms, reading a weight from far while it is multiplied:
/// the reading is mostly hidden behind the products...
const WEIGHT_BESIDE: u64 = 2;
/// ... unless a weight serves so few blocks that the reading takes longer than they do: 14 where a
/// layer's weights are still in the third-level cache, more in a network, where they are not.
const BLOCKS_MIN: u64 = 23;
/// A multiply-add of a depthwise convolution, of which each takes an input of its own.
const DEPTHWISE: u64 = 3;
/// Reading or writing one value of a map in a layer that does little else.
const VALUE: u64 = 6;
/// Of bytes a vector holds more.
const BYTES_A_TIME: u64 = 2;

/// The work of a layer over a region of its output map.
pub fn layer_work(model: &Model, id: LayerId, algorithm: Algorithm, region: Region) -> u64 {
    let layer = model.layer(id);
    let positions = region.positions() as u64;
    if positions == 0 {
        return 0;
    }
    let output = model.shape(layer.output);
    let channels = output.channels() as u64;
    let multiply_adds = model.multiply_adds_per_position(id) * positions;
    let weights = |id| model.weight(id).elements() as u64;
    match &layer.op {
        Op::Conv { groups, .. } if is_depthwise(model, id, *groups) => multiply_adds * DEPTHWISE,
        Op::Conv { .. } if algorithm != Algorithm::Direct => {
            let inputs = model.shape(layer.inputs[0]).channels() as u64;
            algorithm.work(inputs, channels, region, 1)
        }
        Op::Conv { weights: w, .. } | Op::ConvTranspose { weights: w, .. } => {
            multiply_adds + weights(*w) * WEIGHT
        }
        Op::Linear { weights: w, .. } => multiply_adds + weights(*w) * WEIGHT,
        Op::QConv { groups, .. } if is_depthwise(model, id, *groups) => multiply_adds,
        Op::QConv { product: QProduct { weights: w, .. }, .. }
        | Op::QLinear { product: QProduct { weights: w, .. } } => {
            multiply_adds / BYTES_A_TIME + weights(*w) * WEIGHT / 4
        }
        Op::MatMul => multiply_adds * 2,
        Op::Pool { window, .. } => {
            let taps = (window.kernel.rows * window.kernel.cols) as u64;
            positions * channels * (taps + VALUE)
        }
        Op::Constant { .. } => 0,
        _ => {
            // Where less comes out than goes in, all of what goes in is read.
            let read = layer.inputs.iter().map(|&map| {
                let field = receptive_field(&layer.op, region, output, model.shape(map));
                (field.positions() * model.shape(map).channels()) as u64
            });
            (read.sum::<u64>() + positions * channels) * VALUE
        }
    }
}

/// One input and one output channel to a group.
fn is_depthwise(model: &Model, id: LayerId, groups: usize) -> bool {
    let layer = model.layer(id);
    let (inputs, outputs) = (model.shape(layer.inputs[0]), model.shape(layer.output));
    groups > 1 && groups == inputs.channels() && groups == outputs.channels()
}

impl Algorithm {
    /// The work of a 3x3 convolution of stride 1 over a region, or over so many at once.
    pub(crate) fn work(self, inputs: u64, outputs: u64, region: Region, together: usize) -> u64 {
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
            Algorithm::Winograd4 => 26,
            Algorithm::Winograd5 => 33,
            Algorithm::Winograd6 => 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Numerics, StageGeometry};
    use model::{LoadOptions, open};

    #[test]
    fn small_tiles_of_heavy_weights_are_more_work() {
        let region = |rows| Region::new(crate::Span::whole(rows), crate::Span::whole(14));
        let whole = Algorithm::Winograd4.work(512, 512, region(14), 1);
        let half = Algorithm::Winograd4.work(512, 512, region(7), 1);
        assert!(2 * half > whole && half < whole);
    }

    #[test]
    fn a_classifier_is_bound_by_its_weights() {
        let model = open("zoo:vgg16@224x224", &LoadOptions::default()).unwrap().graph;
        let stage = StageGeometry::whole(&model, Numerics::Fast);
        let layer = |name: &str| {
            let i = model.layers.iter().position(|layer| layer.name == name).unwrap();
            let region = stage.tiles[0].layers[i];
            layer_work(&model, LayerId(i as u32), stage.algorithms[i], region)
        };
        // A tenth of a convolution's multiply-adds, and more work.
        assert!(layer("fc6") > layer("conv1_2"));
    }
}
