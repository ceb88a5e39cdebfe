//! The operators a layer can have, as plain data.

use crate::graph::Shape;
use crate::quant::Quant;
use crate::weights::WeightId;
use crate::window::{Axes, Pads, Window};
use serde::{Deserialize, Serialize};

/// A function applied to each element on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// `x`
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `x` if `x >= 0`, else `alpha * x`
    LeakyRelu {
        /// Slope on the negative side.
        alpha: f32,
    },
    /// `min(max(x, min), max)`
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `min(max(alpha * x + beta, 0), 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// `x * min(max(x / 6 + 0.5, 0), 1)`
    HardSwish,
    /// `x * sigmoid(x)`
    Silu,
    /// `tanh(x)`
    Tanh,
    /// `x` if `x >= 0`, else `alpha * (exp(x) - 1)`
    Elu {
        /// Slope far on the negative side.
        alpha: f32,
    },
    /// `ln(1 + exp(x))`
    Softplus,
    /// `x / (1 + |x|)`
    Softsign,
    /// `x * tanh(ln(1 + exp(x)))`
    Mish,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`
    GeluTanh,
    /// The error function.
    Erf,
    /// `exp(x)`
    Exp,
    /// `sqrt(x)`
    Sqrt,
    /// `|x|`
    Abs,
}

/// What a pool does with the values in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// The largest value; padding is ignored.
    Max,
    /// The mean over the window.
    Average {
        /// Whether padding counts in the divisor (only the declared padding, as ONNX has it:
        /// taps beyond `pads` that a ceil-mode window reaches never count).
        count_padding: bool,
    },
    /// The sum over the window, row by row; padding adds nothing.
    Sum,
}

/// An element-wise operation over two or more maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CombineKind {
    /// Sum, folded from the first input to the last.
    Add,
    /// Product, folded likewise.
    Mul,
    /// First minus second.
    Sub,
    /// First divided by second.
    Div,
    /// The larger, folded from the first input to the last.
    Max,
    /// The smaller, folded likewise.
    Min,
}

/// What a reduction makes of the elements along its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReduceKind {
    /// Their sum.
    Sum,
    /// Their sum divided by their number.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// How a resize finds the value between samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResizeMode {
    /// `floor(x)`: ONNX `nearest_mode = floor`, and `asymmetric` nearest in general.
    NearestFloor,
    /// Halves round down: ONNX `nearest_mode = round_prefer_floor`.
    NearestRoundPreferFloor,
    /// Halves round up: ONNX `nearest_mode = round_prefer_ceil`.
    NearestRoundPreferCeil,
    /// `ceil(x)`: ONNX `nearest_mode = ceil`.
    NearestCeil,
    /// Two samples along each axis, weighted by distance.
    Bilinear,
}

/// How a resize maps an output coordinate to an input coordinate (ONNX
/// `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResizeCoordinates {
    /// `(out + 0.5) / scale - 0.5`
    HalfPixel,
    /// As `HalfPixel`, but 0 where the output has length 1.
    PytorchHalfPixel,
    /// `out / scale`
    Asymmetric,
    /// `out * (in_len - 1) / (out_len - 1)`, and 0 where the output has length 1.
    AlignCorners,
}

/// The order in which DepthToSpace splits its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DepthOrder {
    /// Block row, block column, channel (ONNX default).
    Dcr,
    /// Channel, block row, block column (pixel shuffle).
    Crd,
}

/// The products of a quantised layer, and how the sums become bytes again.
///
/// The sum of `(x - input.zero) * (w - zeros[out])` and the bias is exact in i32; the output is
/// `sum as f32 * (input.scale * scales[out] / output.scale)`, rounded with halves to even, plus
/// `output.zero`, kept within `low..=high`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QProduct {
    /// i8, dims as those of the float layer.
    pub weights: WeightId,
    /// f32 `(out)`.
    pub scales: WeightId,
    /// i8 `(out)`; none where all are 0.
    pub zeros: Option<WeightId>,
    /// i32 `(out)`, in units of `input.scale * scales[out]`.
    pub bias: Option<WeightId>,
    /// How the input's bytes are read. Padding is its zero.
    pub input: Quant,
    /// How the output's bytes are written.
    pub output: Quant,
    /// The least integer written: the output's zero where a ReLU follows.
    pub low: i32,
    /// The largest integer written.
    pub high: i32,
}

impl QProduct {
    /// The weight tensors that it reads.
    pub fn weight_ids(&self) -> Vec<WeightId> {
        let ids = [Some(self.weights), Some(self.scales), self.zeros, self.bias];
        ids.into_iter().flatten().collect()
    }

    /// The weight tensors that it reads, to renumber them.
    pub(crate) fn weight_ids_mut(&mut self) -> Vec<&mut WeightId> {
        let ids = [
            Some(&mut self.weights),
            Some(&mut self.scales),
            self.zeros.as_mut(),
            self.bias.as_mut(),
        ];
        ids.into_iter().flatten().collect()
    }
}

/// What a layer computes. Maps are f32, except where an operator says otherwise; operators that
/// only move values or compare them take maps of bytes as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Cross-correlation of one spatial map.
    Conv {
        /// The sliding window.
        window: Window,
        /// Channel groups; equal to the input channels for a depthwise convolution.
        groups: usize,
        /// `(out_channels, in_channels / groups, kernel rows, kernel cols)`.
        weights: WeightId,
        /// `(out_channels)`; added after the sum.
        bias: Option<WeightId>,
        /// Applied last.
        activation: Activation,
    },
    /// The transpose of a convolution, which spreads each input position over a window of the
    /// output: output row `r` adds up the input rows `i` and the kernel rows `k` for which
    /// `r + top = i * stride + k * dilation`.
    ///
    /// ```text
    ///   input        0     1     2          kernel 3, stride 2, top 1, bottom 1, extra 1
    ///   spreads to  0 1 2
    ///                   2 3 4
    ///                       4 5 6
    ///   output        0 1 2 3 4 5           (2 * 2 + 3) - (1 + 1) + 1 = 6
    /// ```
    ConvTranspose {
        /// The window over the output; its padding is cut off from the output.
        window: Window,
        /// Rows and columns added below and right of the output (ONNX `output_padding`).
        extra: Axes<usize>,
        /// Channel groups.
        groups: usize,
        /// `(in_channels, out_channels / groups, kernel rows, kernel cols)`.
        weights: WeightId,
        /// `(out_channels)`; added after the sum.
        bias: Option<WeightId>,
        /// Applied last.
        activation: Activation,
    },
    /// Pooling of one spatial map.
    Pool {
        /// The sliding window.
        window: Window,
        /// Maximum or mean.
        kind: PoolKind,
    },
    /// An element-wise function of one map of any shape.
    Activate(Activation),
    /// `x * scale[c] + shift[c]` with a fused multiply-add, then the activation: a batch
    /// normalisation that no convolution took in, or arithmetic with per-channel constants.
    ChannelAffine {
        /// `(channels)`.
        scale: WeightId,
        /// `(channels)`.
        shift: WeightId,
        /// Applied last.
        activation: Activation,
    },
    /// `x` if `x >= 0`, else `slope[c] * x`, on one spatial map.
    PRelu {
        /// `(channels)`.
        slope: WeightId,
    },
    /// Element-wise over two or more maps: all spatial or all general. An axis of length 1 is
    /// broadcast (spatial: channels, rows, cols each; general: as ONNX).
    Combine {
        /// Which arithmetic.
        kind: CombineKind,
        /// Applied last.
        activation: Activation,
    },
    /// Joins spatial maps along the channels, first input first.
    Concat,
    /// Joins general maps along one axis of their dims.
    ConcatGeneral {
        /// The axis, counted from the front.
        axis: usize,
    },
    /// Surrounds a spatial map with a constant.
    Pad {
        /// How many values on each side.
        pads: Pads,
        /// The constant.
        value: f32,
    },
    /// Rescales the rows and columns of a spatial map; the output shape is that of the output map.
    Resize {
        /// Nearest or bilinear.
        mode: ResizeMode,
        /// How coordinates map.
        coordinates: ResizeCoordinates,
        /// Output length / input length, as the file gives it: it may differ from the ratio of
        /// the shapes by rounding, and ONNX uses it for the coordinates.
        scale: Axes<f32>,
    },
    /// Moves channels into blocks of `block x block` positions.
    DepthToSpace {
        /// Side of a block.
        block: usize,
        /// Channel order.
        order: DepthOrder,
    },
    /// Moves blocks of `block x block` positions into channels: block row, block column, channel
    /// (ONNX order).
    SpaceToDepth {
        /// Side of a block.
        block: usize,
    },
    /// Local response normalisation across channels.
    Lrn {
        /// Channels in the window.
        size: usize,
        /// Scale.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Offset.
        bias: f32,
    },
    /// The mean over all positions of each channel; output `(channels, 1, 1)`.
    GlobalAveragePool {
        /// How many values the sum is divided by: the map's positions, or more where the map
        /// holds partial sums.
        positions: usize,
    },
    /// One number for all elements along some axes, which keep the length 1. Elements are taken
    /// in logical order.
    Reduce {
        /// What becomes of them.
        kind: ReduceKind,
        /// Logical axes, ascending.
        axes: Vec<usize>,
    },
    /// Normalises the channels of each position of a spatial map, or the last axis of a general
    /// one: `(x - mean) / sqrt(variance + epsilon) * scale + shift`.
    LayerNorm {
        /// As long as what is normalised.
        scale: WeightId,
        /// Likewise.
        shift: WeightId,
        /// Keeps the divisor from 0.
        epsilon: f32,
    },
    /// Takes some places along one logical axis, in any order: slices, splits, gathers with
    /// constant indices, channel shuffles.
    Select {
        /// The axis, counted from the front.
        axis: usize,
        /// Output place `i` is input place `indices[i]`.
        indices: Vec<u32>,
    },
    /// The same elements in the logical (ONNX row-major) order under the dims of the output map:
    /// Reshape, Flatten, Squeeze, Unsqueeze. Converts between spatial and general maps.
    Reshape,
    /// Permutes the logical axes of a general or spatial map.
    Transpose {
        /// Output axis `i` is input axis `perm[i]`; as long as the logical dims.
        perm: Vec<usize>,
    },
    /// A fully connected layer on the last logical axis: `y = x * weights^T + bias`.
    /// The input is general with dims `[.., in]`, the output `[.., out]`.
    Linear {
        /// `(out, in)`.
        weights: WeightId,
        /// `(out)`.
        bias: Option<WeightId>,
        /// Applied last.
        activation: Activation,
    },
    /// As `Linear` of one row, with the outputs as the rows of a map `(1, out, 1)`: a tile is some of
    /// the outputs, and needs their weights alone. The input is one map of any shape, whose
    /// elements count in logical order.
    LinearRows {
        /// `(rows, in)` each, from the first output on; as many rows in all but the last.
        slices: Vec<WeightId>,
        /// `(out)`.
        bias: Option<WeightId>,
        /// Applied last.
        activation: Activation,
    },
    /// Matrix product of two general maps, with ONNX broadcasting of the leading axes.
    MatMul,
    /// `exp(x - max) / sum` along one logical axis, or, flattened, along all axes from it on
    /// (opset below 13).
    Softmax {
        /// The axis, counted from the front of the logical dims.
        axis: usize,
        /// Whether all later axes belong to it.
        flattened: bool,
    },
    /// A map that is part of the model; no inputs.
    Constant {
        /// Logical row-major elements; dims as the output map's.
        value: WeightId,
    },
    /// Numbers to bytes.
    Quantize {
        /// How the bytes stand for numbers.
        output: Quant,
    },
    /// Bytes to numbers.
    Dequantize {
        /// How the bytes stand for numbers.
        input: Quant,
    },
    /// Bytes to bytes, by way of the numbers they stand for.
    Requantize {
        /// How the input's bytes stand for numbers.
        input: Quant,
        /// Applied to the numbers.
        activation: Activation,
        /// How the output's bytes stand for numbers.
        output: Quant,
    },
    /// As `Conv`, over bytes.
    QConv {
        /// The sliding window.
        window: Window,
        /// Channel groups.
        groups: usize,
        /// Weights `(out_channels, in_channels / groups, kernel rows, kernel cols)`.
        product: QProduct,
    },
    /// As `Linear`, over bytes.
    QLinear {
        /// Weights `(out, in)`.
        product: QProduct,
    },
    /// As `Combine` of two maps, over bytes; a sum or a product.
    QCombine {
        /// Add or Mul.
        kind: CombineKind,
        /// How the inputs' bytes stand for numbers.
        inputs: [Quant; 2],
        /// How the output's bytes stand for numbers.
        output: Quant,
        /// The least integer written.
        low: i32,
        /// The largest integer written.
        high: i32,
    },
    /// As `GlobalAveragePool`, over bytes.
    QGlobalAveragePool {
        /// How the input's bytes stand for numbers.
        input: Quant,
        /// How the output's bytes stand for numbers.
        output: Quant,
    },
}

impl Op {
    /// The mean over all positions of a map of this shape.
    pub fn global_average_pool(shape: &Shape) -> Self {
        Op::GlobalAveragePool { positions: shape.rows() * shape.cols() }
    }

    /// The weight tensors of floats that inputs are multiplied with, sum by sum; these may be half floats.
    pub fn factors(&self) -> Vec<WeightId> {
        match self {
            Op::Conv { weights, .. }
            | Op::ConvTranspose { weights, .. }
            | Op::Linear { weights, .. } => vec![*weights],
            Op::LinearRows { slices, .. } => slices.clone(),
            _ => Vec::new(),
        }
    }

    /// The weight tensors that the operator reads.
    pub fn weight_ids(&self) -> Vec<WeightId> {
        let ids = match self {
            Op::Conv { weights, bias, .. }
            | Op::ConvTranspose { weights, bias, .. }
            | Op::Linear { weights, bias, .. } => [Some(*weights), *bias],
            Op::ChannelAffine { scale, shift, .. } | Op::LayerNorm { scale, shift, .. } => {
                [Some(*scale), Some(*shift)]
            }
            Op::PRelu { slope } => [Some(*slope), None],
            Op::Constant { value } => [Some(*value), None],
            Op::LinearRows { slices, bias, .. } => {
                return slices.iter().copied().chain(*bias).collect();
            }
            Op::QConv { product, .. } | Op::QLinear { product } => return product.weight_ids(),
            _ => [None, None],
        };
        ids.into_iter().flatten().collect()
    }
}
