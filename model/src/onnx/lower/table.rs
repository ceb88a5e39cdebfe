//! The operators that a file may use: the one list that reading, advice and documentation share.

use super::{activation, arithmetic, join, linear, quant, reduce, resize, select, shape, window};
use crate::MapId;
use crate::error::ModelError;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;

/// How a layer of an operator is shared between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// In tiles: an output region needs a region of the input.
    Tiles,
    /// In tiles on the usual maps, whole on others.
    Depends(&'static str),
    /// On one device: any output may need the whole input.
    Whole,
    /// Not at all: computed when the file is read.
    Constants,
}

/// What lowers a node.
#[derive(Clone, Copy)]
pub(super) enum Lowering {
    One(fn(&mut Importer<'_>, &Node<'_>) -> Result<MapId, ModelError>),
    Many(fn(&mut Importer<'_>, &Node<'_>) -> Result<Vec<Value>, ModelError>),
    /// Of constants only.
    Fold,
}

/// An operator of ONNX, or of ONNX Runtime's own domain.
#[derive(Clone, Copy)]
pub struct Operator {
    /// Its name in files.
    pub name: &'static str,
    /// Whether it belongs to `com.microsoft`.
    pub is_contributed: bool,
    /// How its layers are shared.
    pub sharing: Sharing,
    /// What is not supported of it; empty where that is nothing.
    pub restrictions: &'static str,
    pub(super) lowering: Lowering,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operator({})", self.name)
    }
}

const fn one(
    name: &'static str,
    sharing: Sharing,
    restrictions: &'static str,
    lower: fn(&mut Importer<'_>, &Node<'_>) -> Result<MapId, ModelError>,
) -> Operator {
    Operator { name, is_contributed: false, sharing, restrictions, lowering: Lowering::One(lower) }
}

const fn contributed(
    name: &'static str,
    sharing: Sharing,
    restrictions: &'static str,
    lower: fn(&mut Importer<'_>, &Node<'_>) -> Result<MapId, ModelError>,
) -> Operator {
    Operator { is_contributed: true, ..one(name, sharing, restrictions, lower) }
}

const fn constants(name: &'static str) -> Operator {
    let (is_contributed, sharing, restrictions) = (false, Sharing::Constants, "");
    Operator { name, is_contributed, sharing, restrictions, lowering: Lowering::Fold }
}

use Sharing::{Depends, Tiles, Whole};

const MAPS: &str = "maps [1, channels, rows, cols] or [1, channels, cols]";
const CHANNELS: Sharing = Depends("along channels; other axes whole");
const PICKS: Sharing = Depends("of [1, channels, rows, cols]; other maps whole");
const QUANT: &str = "constant scales and zero points, bytes";

/// All of them, by name.
pub const OPERATORS: &[Operator] = &[
    one("Abs", Tiles, "", activation::activate),
    one("Add", Tiles, "", arithmetic::arithmetic),
    constants("And"),
    one("AveragePool", Tiles, MAPS, window::pool),
    one("BatchNormalization", Tiles, "constants, no training", arithmetic::batch_normalization),
    one("Cast", Tiles, "of maps, between float types", activation::activate),
    constants("Ceil"),
    one("Celu", Tiles, "", activation::scaled_elu),
    one("Clip", Tiles, "constant bounds", activation::activate),
    one("Concat", CHANNELS, "", join::concat),
    constants("Constant"),
    constants("ConstantOfShape"),
    one(
        "Conv",
        Tiles,
        "constant weights; maps [1, channels, rows, cols] or one axis less",
        window::conv,
    ),
    one("ConvTranspose", Tiles, "constant weights; 2-D", window::conv_transpose),
    one("DepthToSpace", Tiles, "", resize::blocks),
    one("DequantizeLinear", Tiles, QUANT, quant::dequantize),
    one("Div", Tiles, "", arithmetic::arithmetic),
    one("Dropout", Tiles, "no training", activation::activate),
    one("Elu", Tiles, "", activation::activate),
    constants("Equal"),
    one("Erf", Tiles, "", activation::activate),
    one("Exp", Tiles, "", activation::activate),
    one("Expand", PICKS, "constant shape", select::expand),
    one("Flatten", Whole, "", shape::reshape),
    constants("Floor"),
    one("Gather", PICKS, "constant indices", select::gather),
    one("Gelu", Tiles, "", activation::activate),
    one("Gemm", Whole, "alpha 1 where both factors are maps", linear::gemm),
    one(
        "GlobalAveragePool",
        Depends("partial sums in tiles, the mean whole"),
        "",
        window::global_average_pool,
    ),
    one("GlobalMaxPool", Tiles, "", window::global_max_pool),
    constants("Greater"),
    one("HardSigmoid", Tiles, "", activation::activate),
    one("HardSwish", Tiles, "", activation::activate),
    one("Identity", Tiles, "", activation::activate),
    one("InstanceNormalization", Whole, "constants", reduce::instance_norm),
    one("LRN", Tiles, "", resize::lrn),
    one(
        "LayerNormalization",
        Depends("over channels kept last; else whole"),
        "over the last axis",
        reduce::layer_norm,
    ),
    one("LeakyRelu", Tiles, "", activation::activate),
    constants("Less"),
    constants("Log"),
    one(
        "MatMul",
        Depends("of channels kept last with a constant; else whole"),
        "2 dims or more",
        linear::matmul,
    ),
    one("Max", Tiles, "", activation::bound),
    one("MaxPool", Tiles, "one output; maps of 1-D or 2-D", window::pool),
    one("Min", Tiles, "", activation::bound),
    one("Mish", Tiles, "", activation::activate),
    constants("Mod"),
    one("Mul", Tiles, "", arithmetic::arithmetic),
    one("Neg", Tiles, "", arithmetic::negative),
    constants("Not"),
    constants("Or"),
    one("PRelu", Tiles, "constant slopes, one for each channel or one", activation::prelu),
    one("Pad", Tiles, "constant pads of rows and columns", resize::pad),
    one("Pow", Tiles, "constant exponents 0.5, 1, 2, 3", arithmetic::power),
    contributed("QGemm", Whole, QUANT, quant::gemm),
    contributed("QLinearAdd", Tiles, QUANT, quant::combine),
    contributed("QLinearAveragePool", Tiles, QUANT, quant::average_pool),
    contributed("QLinearConcat", CHANNELS, QUANT, quant::concat),
    one("QLinearConv", Tiles, QUANT, window::qlinear_conv),
    contributed("QLinearGlobalAveragePool", Whole, QUANT, quant::global_average_pool),
    contributed("QLinearLeakyRelu", Tiles, QUANT, quant::activate),
    one("QLinearMatMul", Whole, QUANT, quant::matmul),
    contributed("QLinearMul", Tiles, QUANT, quant::combine),
    contributed("QLinearSigmoid", Tiles, QUANT, quant::activate),
    contributed("QLinearSoftmax", CHANNELS, QUANT, quant::softmax),
    one("QuantizeLinear", Tiles, QUANT, quant::quantize),
    constants("Range"),
    one("Reciprocal", Tiles, "", arithmetic::reciprocal),
    one("ReduceMax", CHANNELS, "constant axes", reduce::reduce),
    one(
        "ReduceMean",
        Depends("over rows and columns as GlobalAveragePool; along channels; other axes whole"),
        "constant axes",
        reduce::reduce,
    ),
    one("ReduceMin", CHANNELS, "constant axes", reduce::reduce),
    one("ReduceSum", CHANNELS, "constant axes", reduce::reduce),
    one("Relu", Tiles, "", activation::activate),
    one(
        "Reshape",
        Depends("where it is part of a shuffle of channels or blocks; else whole"),
        "constant shape",
        shape::reshape,
    ),
    one("Resize", Tiles, "nearest and linear; rows and columns", resize::resize),
    one("Selu", Tiles, "", activation::scaled_elu),
    constants("Shape"),
    one("Sigmoid", Tiles, "", activation::activate),
    constants("Size"),
    one("Slice", PICKS, "constant bounds", select::slice),
    one("Softmax", CHANNELS, "", shape::softmax),
    one("Softplus", Tiles, "", activation::activate),
    one("Softsign", Tiles, "", activation::activate),
    one("SpaceToDepth", Tiles, "", resize::blocks),
    Operator {
        lowering: Lowering::Many(select::split),
        ..one("Split", PICKS, "constant lengths", select::slice)
    },
    one("Sqrt", Tiles, "", activation::activate),
    one("Squeeze", Whole, "", shape::reshape),
    one("Sub", Tiles, "", arithmetic::arithmetic),
    one("Sum", Tiles, "", arithmetic::arithmetic),
    one("Swish", Tiles, "alpha 1", activation::activate),
    one("Tanh", Tiles, "", activation::activate),
    one("Tile", PICKS, "constant repeats", select::tile),
    one(
        "Transpose",
        Depends("between channels second and last it costs nothing; else whole"),
        "",
        shape::transpose,
    ),
    one("Unsqueeze", Whole, "", shape::reshape),
    one("Upsample", Tiles, "nearest and linear; rows and columns", resize::resize),
    constants("Where"),
];

/// The entry of an operator.
pub(super) fn find(node: &Node<'_>) -> Option<&'static Operator> {
    let place = OPERATORS.binary_search_by(|operator| operator.name.cmp(node.operator)).ok()?;
    let operator = &OPERATORS[place];
    let fits = match node.proto.domain.as_deref() {
        None | Some("" | "ai.onnx") => !operator.is_contributed,
        // ONNX Runtime's quantiser writes these under its own domain too.
        Some("com.microsoft") => {
            operator.is_contributed
                || matches!(node.operator, "QuantizeLinear" | "DequantizeLinear" | "QLinearConv")
        }
        Some(_) => false,
    };
    fits.then_some(operator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order() {
        assert!(OPERATORS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
