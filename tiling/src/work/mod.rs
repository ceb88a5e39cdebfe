//! What a piece of a network asks of a device, by operator class, in multiply-adds and bytes.
//!
//! A device is a vector of [`Rates`], one for each class; a tile is a vector of [`Work`]; the time of
//! the tile is what each class takes, added up. Workers measure their rates on small layers, the
//! planner predicts with them, the scheduler corrects them by what real tasks took, and the
//! simulator's device files are such rates too. *Source*: over the published times of 22 networks on
//! 11 boards (`ncnn/benchmark/README.md`), sums by class miss by 6 to 27 %, one rate for all
//! operators by 34 to 75 %, and a roofline of two by 20 to 48 %.

mod fit;
mod rates;

pub use fit::{Sample, fit};
pub use rates::{Pace, Rates};

use crate::algorithm::Algorithm;
use crate::receptive::receptive_field;
use crate::region::Region;
use crate::schedule::{CACHED_WEIGHTS, POSITIONS_A_READING, WINOGRAD_BLOCKS_A_READING};
use model::{LayerId, MapId, Model, Op, QProduct};
use serde::{Deserialize, Serialize};
use std::ops::{Add, AddAssign, Index, IndexMut, SubAssign};

/// Output channels whose weights lie together on every device: what is computed for fewer is
/// computed for so many.
const PANEL: u64 = 16;

/// What kind of work takes time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorClass {
    /// Products of a Winograd convolution, after its transforms.
    Winograd,
    /// Multiply-adds of direct 3x3 convolutions of stride 1.
    Conv3x3,
    /// Multiply-adds of 1x1 convolutions.
    Conv1x1,
    /// Multiply-adds of other dense convolutions, of transposed ones, and of matrix products.
    Conv,
    /// Multiply-adds of depthwise convolutions, of which each takes an input of its own.
    Depthwise,
    /// Multiply-adds of bytes, in quantised layers.
    Quantised,
    /// Multiply-adds of fully connected layers, which read a weight from memory for each.
    Linear,
    /// Bytes read and written by layers that do little else: pools, additions, resizing.
    ElementWise,
    /// Bytes of the blocks that Winograd transforms make and read.
    Transforms,
    /// Bytes of maps that convolutions write; what they read, another layer has written.
    Maps,
    /// Bytes of weights that convolutions read.
    Weights,
    /// Layers: what each takes however small it is.
    Layers,
}

/// How many classes there are.
pub const CLASSES: usize = OperatorClass::ALL.len();

impl OperatorClass {
    /// All of them.
    pub const ALL: [OperatorClass; 12] = [
        OperatorClass::Winograd,
        OperatorClass::Conv3x3,
        OperatorClass::Conv1x1,
        OperatorClass::Conv,
        OperatorClass::Depthwise,
        OperatorClass::Quantised,
        OperatorClass::Linear,
        OperatorClass::ElementWise,
        OperatorClass::Transforms,
        OperatorClass::Maps,
        OperatorClass::Weights,
        OperatorClass::Layers,
    ];

    /// What it is called in tables, and the key of its rate in files: thousands of millions a second.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            OperatorClass::Winograd => ("winograd", "winograd_gmac_per_s"),
            OperatorClass::Conv3x3 => ("conv3x3", "conv3x3_gmac_per_s"),
            OperatorClass::Conv1x1 => ("conv1x1", "conv1x1_gmac_per_s"),
            OperatorClass::Conv => ("conv", "conv_gmac_per_s"),
            OperatorClass::Depthwise => ("depthwise", "depthwise_gmac_per_s"),
            OperatorClass::Quantised => ("quantised", "quantised_gmac_per_s"),
            OperatorClass::Linear => ("linear", "linear_gmac_per_s"),
            OperatorClass::ElementWise => ("element-wise", "element_wise_gb_per_s"),
            OperatorClass::Transforms => ("transforms", "transforms_gb_per_s"),
            OperatorClass::Maps => ("maps", "maps_gb_per_s"),
            OperatorClass::Weights => ("weights", "weights_gb_per_s"),
            OperatorClass::Layers => ("layers", "layers_g_per_s"),
        }
    }

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The key of its rate in files: thousands of millions of its units a second.
    pub fn rate_key(self) -> &'static str {
        self.names().1
    }

    /// What its work is counted in.
    pub fn unit(self) -> Unit {
        use OperatorClass as Class;
        match self {
            Class::ElementWise | Class::Transforms | Class::Maps | Class::Weights => Unit::Bytes,
            Class::Layers => Unit::Layers,
            _ => Unit::MultiplyAdds,
        }
    }

    /// Whether memory bounds it: then a lower clock or fewer threads change little.
    pub fn is_memory(self) -> bool {
        matches!(
            self,
            OperatorClass::Linear
                | OperatorClass::ElementWise
                | OperatorClass::Maps
                | OperatorClass::Weights
        )
    }
}

/// What the work of a class is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A product and its addition.
    MultiplyAdds,
    /// Bytes through memory or a cache.
    Bytes,
    /// Layers of a group.
    Layers,
}

/// Amounts by class: what a layer, a tile or a model asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work([u64; CLASSES]);

impl Work {
    /// So much of one class.
    pub fn of(class: OperatorClass, amount: u64) -> Self {
        let mut work = Self::default();
        work[class] = amount;
        work
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Products of all classes that count them.
    pub fn multiply_adds(&self) -> u64 {
        let counted = OperatorClass::ALL.into_iter().filter(|c| c.unit() == Unit::MultiplyAdds);
        counted.map(|class| self[class]).sum()
    }

    fn amounts(&self) -> &[u64; CLASSES] {
        &self.0
    }
}

impl Index<OperatorClass> for Work {
    type Output = u64;

    fn index(&self, class: OperatorClass) -> &u64 {
        &self.0[class as usize]
    }
}

impl IndexMut<OperatorClass> for Work {
    fn index_mut(&mut self, class: OperatorClass) -> &mut u64 {
        &mut self.0[class as usize]
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl Add for Work {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl SubAssign for Work {
    fn sub_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(rest, less)| *rest -= less);
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(works: I) -> Self {
        works.fold(Self::default(), Self::add)
    }
}

/// The work of a layer over a region of its output map.
pub fn layer_work(model: &Model, id: LayerId, algorithm: Algorithm, region: Region) -> Work {
    use OperatorClass as Class;
    let layer = model.layer(id);
    let positions = region.positions() as u64;
    if positions == 0 || matches!(layer.op, Op::Constant { .. } | Op::Reshape) {
        return Work::default();
    }
    let output = model.shape(layer.output);
    let channels = output.channels() as u64;
    let written = positions * model.pixel_bytes(layer.output) as u64;
    let multiply_adds = model.multiply_adds_per_position(id) * positions;
    let bytes = |weights| model.weight(weights).bytes() as u64;
    let mut work = Work::of(Class::Layers, 1);
    match &layer.op {
        Op::Conv { groups, .. } | Op::QConv { groups, .. } if is_depthwise(model, id, *groups) => {
            work[Class::Depthwise] = multiply_adds;
            work[Class::Maps] = written;
        }
        Op::Conv { weights, .. } if algorithm != Algorithm::Direct => {
            let inputs = model.shape(layer.inputs[0]).channels() as u64;
            let products = (algorithm.positions() * algorithm.blocks(region)) as u64;
            let edge = (algorithm.outputs() + 2) as u64;
            work[Class::Winograd] = products * inputs * channels.next_multiple_of(PANEL);
            work[Class::Transforms] = products * (inputs + channels) * 4;
            let elements = inputs * channels * edge * edge;
            let together = WINOGRAD_BLOCKS_A_READING * algorithm.outputs() * algorithm.outputs();
            let readings = readings(elements, positions, together);
            work[Class::Weights] = elements * 4 * readings;
            work[Class::Maps] = written;
        }
        Op::Conv { window, groups, weights, .. } => {
            let (kernel, stride) = (window.kernel, window.stride);
            let class = match (kernel.rows, kernel.cols, stride.rows, stride.cols) {
                (1, 1, ..) => Class::Conv1x1,
                (3, 3, 1, 1) => Class::Conv3x3,
                _ => Class::Conv,
            };
            let of_group = (channels / *groups as u64).max(1);
            work[class] = multiply_adds / of_group * of_group.next_multiple_of(PANEL);
            let elements = model.weight(*weights).elements() as u64;
            let readings = readings(elements, positions, POSITIONS_A_READING);
            work[Class::Weights] = bytes(*weights) * readings;
            work[Class::Maps] = written;
        }
        Op::ConvTranspose { weights, .. } => {
            work[Class::Conv] = multiply_adds;
            work[Class::Weights] = bytes(*weights);
            work[Class::Maps] = written;
        }
        Op::Linear { .. } | Op::LinearRows { .. } => work[Class::Linear] = multiply_adds,
        Op::MatMul => {
            work[Class::Conv] = multiply_adds;
            work[Class::Maps] = written;
        }
        Op::QConv { product: QProduct { weights, .. }, .. }
        | Op::QLinear { product: QProduct { weights, .. } } => {
            work[Class::Quantised] = multiply_adds;
            work[Class::Weights] = bytes(*weights);
            work[Class::Maps] = written;
        }
        Op::Combine { .. } | Op::Concat => {
            // A convolution adds, or writes into the joined map, as it computes.
            let made = |&&map: &&MapId| !is_convolved(model, id, map);
            let bytes = |map: &MapId| positions * model.pixel_bytes(*map) as u64;
            let others: u64 = layer.inputs.iter().filter(made).map(bytes).sum();
            let absorbed = layer.inputs.iter().filter(made).count() < layer.inputs.len();
            work[Class::ElementWise] = others + if absorbed { others } else { written };
        }
        _ => {
            // Where less comes out than goes in, all of what goes in is read.
            let read = layer.inputs.iter().map(|&map| {
                let field = receptive_field(&layer.op, region, output, model.shape(map));
                (field.positions() * model.pixel_bytes(map)) as u64
            });
            work[Class::ElementWise] = read.sum::<u64>() + written;
        }
    }
    work
}

/// How often the weights of a convolution come from beyond the near cache: a schedule takes so many
/// positions at a time, depth first, and where the weights fill the cache it then reads them again.
fn readings(elements: u64, positions: u64, at_a_time: usize) -> u64 {
    match elements > CACHED_WEIGHTS as u64 {
        true => positions.div_ceil(at_a_time as u64),
        false => 1,
    }
}

/// Layers between a convolution and what takes its map in, at most: one further off is a skip
/// connection, whose map others read, too.
const NEAR: usize = 8;

/// Whether a convolution makes a map, soon before a layer reads it.
fn is_convolved(model: &Model, reader: LayerId, map: MapId) -> bool {
    let mut before = model.layers[..reader.index()].iter().rev().take(NEAR);
    before.any(|l| l.output == map && matches!(l.op, Op::Conv { .. }))
}

/// One input and one output channel to a group.
fn is_depthwise(model: &Model, id: LayerId, groups: usize) -> bool {
    let layer = model.layer(id);
    let (inputs, outputs) = (model.shape(layer.inputs[0]), model.shape(layer.output));
    groups > 1 && groups == inputs.channels() && groups == outputs.channels()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Numerics, StageGeometry};
    use model::{LoadOptions, open};
    use std::sync::Arc;

    fn graph(reference: &str) -> Arc<Model> {
        open(reference, &LoadOptions::default()).unwrap().graph
    }

    #[test]
    fn the_classes_of_a_network_add_up_to_its_multiply_adds() {
        let model = graph("zoo:mobilenetv2");
        let work = StageGeometry::whole(&model, Numerics::Exact).tile_work(&model, 0);
        // A few more: layers of 24 channels are computed as if they had 32.
        let (all, known) = (work.multiply_adds(), model.multiply_adds());
        assert!((known..known + known / 5).contains(&all), "{all} of {known}");
        assert!(work[OperatorClass::Conv1x1] > 5 * work[OperatorClass::Depthwise]);
    }

    #[test]
    fn tiles_share_the_products_and_each_reads_all_weights() {
        let model = graph("zoo:vgg16@224x224");
        let layer = model.layers.iter().position(|layer| layer.name == "conv4_2").unwrap();
        let id = LayerId(layer as u32);
        let work = |rows| {
            let region = Region::new(crate::Span::whole(rows), crate::Span::whole(24));
            layer_work(&model, id, Algorithm::Winograd4, region)
        };
        let (whole, half) = (work(24), work(12));
        assert_eq!(2 * half[OperatorClass::Winograd], whole[OperatorClass::Winograd]);
        assert_eq!(half[OperatorClass::Weights], whole[OperatorClass::Weights]);
    }

    #[test]
    fn a_classifier_is_bound_by_its_weights() {
        let model = graph("zoo:vgg16@224x224");
        let stage = StageGeometry::whole(&model, Numerics::Fast);
        let layer = |name: &str| {
            let i = model.layers.iter().position(|layer| layer.name == name).unwrap();
            let region = stage.tiles[0].layers[i];
            let work = layer_work(&model, LayerId(i as u32), stage.algorithms[i], region);
            Rates::typical(10_000_000_000).pace().ns(&work)
        };
        // A tenth of a convolution's multiply-adds, and more time.
        assert!(layer("fc6") > layer("conv1_2"));
    }
}
