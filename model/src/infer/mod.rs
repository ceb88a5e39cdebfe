//! The shape rule of every operator: one total function, for files and for graphs from the wire.

mod element;
mod join;
#[cfg(test)]
mod tests;
mod window;

pub use element::infer_element;
pub(crate) use join::broadcast;
pub(crate) use window::pooled_up;

use crate::graph::Shape;
use crate::limits;
use crate::op::{Activation, CombineKind, Op, QProduct};
use crate::quant::{Element, Quant};
use crate::weights::{WeightId, WeightInfo};
use crate::window::Axes;
use join::{combine, concat, concat_general, linear, linear_rows, matmul};
use window::{conv, conv_transpose, pool, resize};

/// How shapes, weights and an operator contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What would fit.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl Mismatch {
    pub(crate) fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }
}

type Inferred = Result<Shape, Mismatch>;

/// The shape of a layer's output.
///
/// `declared` is the shape that the graph gives the output map. Where the operator leaves a choice
/// (Reshape, Resize by sizes, Pool with rounding up) it is taken when it is one of the possible
/// shapes; without it, Resize and Pool round down. Everywhere else it is ignored: comparing is the
/// caller's work.
///
/// *Errors* when the inputs, the weights or the operator's numbers do not fit each other, or the
/// output is above [`limits::MAP_ELEMENTS_MAX`].
pub fn infer(
    op: &Op,
    inputs: &[&Shape],
    weights: &[WeightInfo],
    declared: Option<&Shape>,
) -> Inferred {
    for input in inputs {
        check_size(&input.dims())?;
    }
    let shape = infer_unbounded(op, inputs, weights, declared)?;
    check_size(&shape.dims())?;
    Ok(shape)
}

fn infer_unbounded(
    op: &Op,
    inputs: &[&Shape],
    weights: &[WeightInfo],
    declared: Option<&Shape>,
) -> Inferred {
    match op {
        Op::Conv { window, groups, weights: kernel, bias, activation } => {
            check_activation(activation)?;
            let bias = bias.map(|bias| dims_of(bias, weights)).transpose()?;
            conv(spatial(one(inputs)?)?, window, *groups, dims_of(*kernel, weights)?, bias)
        }
        Op::ConvTranspose { window, extra, groups, weights: kernel, bias, activation } => {
            check_activation(activation)?;
            let bias = bias.map(|bias| dims_of(bias, weights)).transpose()?;
            let (input, kernel) = (spatial(one(inputs)?)?, dims_of(*kernel, weights)?);
            conv_transpose(input, window, *extra, *groups, kernel, bias)
        }
        Op::Pool { window, .. } => {
            let (channels, size) = spatial(one(inputs)?)?;
            pool(channels, size, window, declared)
        }
        Op::Activate(activation) => {
            check_activation(activation)?;
            Ok(one(inputs)?.clone())
        }
        Op::ChannelAffine { scale, shift, activation } => {
            check_activation(activation)?;
            let input = one(inputs)?;
            expect_dims("a scale", dims_of(*scale, weights)?, &[input.channels()])?;
            expect_dims("a shift", dims_of(*shift, weights)?, &[input.channels()])?;
            Ok(input.clone())
        }
        Op::PRelu { slope } => {
            let input = one(inputs)?;
            let (channels, _) = spatial(input)?;
            expect_dims("a slope", dims_of(*slope, weights)?, &[channels])?;
            Ok(input.clone())
        }
        Op::Combine { kind, activation } => {
            check_activation(activation)?;
            if matches!(kind, CombineKind::Sub | CombineKind::Div) && inputs.len() != 2 {
                return Err(arity("2 inputs", inputs));
            }
            combine(inputs)
        }
        Op::Concat => concat(inputs),
        Op::ConcatGeneral { axis } => concat_general(inputs, *axis),
        Op::Pad { pads, value } => {
            finite("the value of a pad", *value)?;
            let (channels, size) = spatial(one(inputs)?)?;
            let rows = sum(&[size.rows, pads.top, pads.bottom])?;
            let cols = sum(&[size.cols, pads.left, pads.right])?;
            Ok(Shape::Spatial { channels, rows, cols })
        }
        Op::Resize { scale, .. } => resize(spatial(one(inputs)?)?, *scale, declared),
        Op::DepthToSpace { block, .. } => {
            let (channels, size) = spatial(one(inputs)?)?;
            let area = product(&[*block, *block])?;
            if area == 0 || channels % area != 0 {
                return Err(Mismatch::new(
                    format!("channels divisible by block {block} squared"),
                    format!("{channels} channels"),
                ));
            }
            let (rows, cols) = (product(&[size.rows, *block])?, product(&[size.cols, *block])?);
            Ok(Shape::Spatial { channels: channels / area, rows, cols })
        }
        Op::SpaceToDepth { block } => {
            let (channels, size) = spatial(one(inputs)?)?;
            if *block == 0 || size.rows % block != 0 || size.cols % block != 0 {
                return Err(Mismatch::new(
                    format!("rows and columns divisible by block {block}"),
                    format!("{}x{}", size.rows, size.cols),
                ));
            }
            let channels = product(&[channels, *block, *block])?;
            Ok(Shape::Spatial { channels, rows: size.rows / block, cols: size.cols / block })
        }
        Op::Lrn { size, alpha, beta, bias } => {
            let input = one(inputs)?;
            spatial(input)?;
            for number in [*alpha, *beta, *bias] {
                finite("a number of an LRN", number)?;
            }
            if *size == 0 || *size > limits::ELEMENTS_MAX {
                return Err(Mismatch::new("an LRN over 1 or more channels", size.to_string()));
            }
            Ok(input.clone())
        }
        Op::GlobalAveragePool { positions } => {
            let (channels, size) = spatial(one(inputs)?)?;
            if *positions < size.rows * size.cols {
                let expected = format!("a mean of {} values or more", size.rows * size.cols);
                return Err(Mismatch::new(expected, positions.to_string()));
            }
            Ok(Shape::Spatial { channels, rows: 1, cols: 1 })
        }
        Op::Reduce { axes, .. } => {
            let mut dims = one(inputs)?.dims();
            let ascends = axes.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascends || axes.last().is_none_or(|last| *last >= dims.len()) {
                let expected = format!("ascending axes below {}", dims.len());
                return Err(Mismatch::new(expected, format!("{axes:?}")));
            }
            axes.iter().for_each(|axis| dims[*axis] = 1);
            Ok(Shape::from_dims(&dims))
        }
        Op::LayerNorm { scale, shift, epsilon } => {
            finite("an epsilon", *epsilon)?;
            let input = one(inputs)?;
            let length = match input {
                Shape::Spatial { channels, .. } => *channels,
                Shape::General(dims) => dims.last().copied().unwrap_or(0),
            };
            expect_dims("a scale", dims_of(*scale, weights)?, &[length])?;
            expect_dims("a shift", dims_of(*shift, weights)?, &[length])?;
            Ok(input.clone())
        }
        Op::Select { axis, indices } => {
            let mut dims = one(inputs)?.dims();
            let Some(length) = dims.get_mut(*axis) else {
                let expected = format!("an axis below {}", dims.len());
                return Err(Mismatch::new(expected, axis.to_string()));
            };
            if let Some(index) = indices.iter().find(|index| **index as usize >= *length) {
                return Err(Mismatch::new(format!("places below {length}"), index.to_string()));
            }
            *length = indices.len();
            Ok(Shape::from_dims(&dims))
        }
        Op::Reshape => {
            let input = one(inputs)?;
            let declared =
                declared.ok_or_else(|| Mismatch::new("the dims to reshape to", "nothing"))?;
            check_size(&declared.dims())?;
            if declared.elements() != input.elements() {
                return Err(Mismatch::new(
                    format!("dims of {} elements", input.elements()),
                    format!("{:?}", declared.dims()),
                ));
            }
            Ok(Shape::from_dims(&declared.dims()))
        }
        Op::Transpose { perm } => {
            let dims = one(inputs)?.dims();
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if !sorted.into_iter().eq(0..dims.len()) {
                return Err(Mismatch::new(
                    format!("a permutation of {} axes", dims.len()),
                    format!("{perm:?}"),
                ));
            }
            Ok(Shape::from_dims(&perm.iter().map(|axis| dims[*axis]).collect::<Vec<_>>()))
        }
        Op::Linear { weights: matrix, bias, activation } => {
            check_activation(activation)?;
            let bias = bias.map(|bias| dims_of(bias, weights)).transpose()?;
            linear(general(one(inputs)?)?, dims_of(*matrix, weights)?, bias)
        }
        Op::LinearRows { slices, bias, activation } => {
            check_activation(activation)?;
            let slices = slices.iter().map(|&slice| dims_of(slice, weights));
            let slices = slices.collect::<Result<Vec<_>, _>>()?;
            let bias = bias.map(|bias| dims_of(bias, weights)).transpose()?;
            linear_rows(one(inputs)?, &slices, bias)
        }
        Op::MatMul => match inputs {
            [left, right] => matmul(general(left)?, general(right)?),
            _ => Err(arity("2 inputs", inputs)),
        },
        Op::Softmax { axis, .. } => {
            let input = one(inputs)?;
            let rank = input.dims().len();
            if *axis >= rank {
                return Err(Mismatch::new(format!("an axis below {rank}"), axis.to_string()));
            }
            Ok(input.clone())
        }
        Op::Constant { value } => {
            if !inputs.is_empty() {
                return Err(arity("no input", inputs));
            }
            let dims = dims_of(*value, weights)?;
            check_size(dims)?;
            Ok(Shape::from_dims(dims))
        }
        Op::Quantize { output: quant } | Op::Dequantize { input: quant } => {
            check_quant(quant)?;
            Ok(one(inputs)?.clone())
        }
        Op::Requantize { input, activation, output } => {
            check_activation(activation)?;
            check_quant(input)?;
            check_quant(output)?;
            Ok(one(inputs)?.clone())
        }
        Op::QConv { window, groups, product } => {
            let (kernel, bias) = check_product(product, weights)?;
            conv(spatial(one(inputs)?)?, window, *groups, kernel, bias)
        }
        Op::QLinear { product } => {
            let (matrix, bias) = check_product(product, weights)?;
            linear(general(one(inputs)?)?, matrix, bias)
        }
        Op::QCombine { kind, inputs: quants, output, low, high } => {
            quants.iter().chain([output]).try_for_each(check_quant)?;
            check_clamp(output, *low, *high)?;
            if inputs.len() != 2 || !matches!(kind, CombineKind::Add | CombineKind::Mul) {
                return Err(arity("a sum or a product of 2 inputs", inputs));
            }
            combine(inputs)
        }
        Op::QGlobalAveragePool { input, output } => {
            check_quant(input)?;
            check_quant(output)?;
            let (channels, _) = spatial(one(inputs)?)?;
            Ok(Shape::Spatial { channels, rows: 1, cols: 1 })
        }
    }
}

fn check_quant(quant: &Quant) -> Result<(), Mismatch> {
    if quant.is_sound() {
        return Ok(());
    }
    Err(Mismatch::new("a positive scale, and a zero point that is a byte", format!("{quant:?}")))
}

fn check_clamp(output: &Quant, low: i32, high: i32) -> Result<(), Mismatch> {
    let (min, max) = output.element.range();
    if min <= low && low <= high && high <= max {
        return Ok(());
    }
    Err(Mismatch::new(format!("bounds within {min} to {max}"), format!("{low} to {high}")))
}

/// Products of one output whose sum is sure to fit i32: each is at most 255 * 255.
const DEPTH_MAX: usize = i32::MAX as usize / (255 * 255);

/// Checks a quantised product; the dims of its weights and of its bias.
fn check_product<'a>(
    product: &QProduct,
    weights: &'a [WeightInfo],
) -> Result<(&'a [usize], Option<&'a [usize]>), Mismatch> {
    check_quant(&product.input)?;
    check_quant(&product.output)?;
    check_clamp(&product.output, product.low, product.high)?;
    let dims = dims_of(product.weights, weights)?;
    let outputs = dims.first().copied().unwrap_or(0);
    let depth = dims.iter().skip(1).try_fold(1usize, |n, dim| n.checked_mul(*dim));
    if depth.is_none_or(|depth| depth > DEPTH_MAX) {
        let expected = format!("at most {DEPTH_MAX} products for one output");
        return Err(Mismatch::new(expected, format!("{dims:?}")));
    }
    expect_dims("scales", dims_of(product.scales, weights)?, &[outputs])?;
    if let Some(zeros) = product.zeros {
        expect_dims("zero points", dims_of(zeros, weights)?, &[outputs])?;
    }
    Ok((dims, product.bias.map(|bias| dims_of(bias, weights)).transpose()?))
}

fn one<'a>(inputs: &[&'a Shape]) -> Result<&'a Shape, Mismatch> {
    match inputs {
        [input] => Ok(input),
        _ => Err(arity("1 input", inputs)),
    }
}

/// The elements that all inputs have.
fn one_element(inputs: &[Element]) -> Result<Element, Mismatch> {
    let first = inputs.first().copied().unwrap_or_default();
    if inputs.iter().all(|input| *input == first) {
        return Ok(first);
    }
    Err(Mismatch::new(format!("inputs of {first} only"), "several types"))
}

fn arity(expected: &str, inputs: &[&Shape]) -> Mismatch {
    Mismatch::new(expected, inputs.len().to_string())
}

fn spatial(shape: &Shape) -> Result<(usize, Axes<usize>), Mismatch> {
    match shape {
        Shape::Spatial { channels, rows, cols } => Ok((*channels, Axes::new(*rows, *cols))),
        Shape::General(dims) => {
            Err(Mismatch::new("a map of [1, channels, rows, cols]", format!("{dims:?}")))
        }
    }
}

fn general(shape: &Shape) -> Result<&[usize], Mismatch> {
    match shape {
        Shape::General(dims) => Ok(dims),
        Shape::Spatial { .. } => {
            Err(Mismatch::new("a map without rows and columns", format!("{:?}", shape.dims())))
        }
    }
}

fn dims_of(weight: WeightId, weights: &[WeightInfo]) -> Result<&[usize], Mismatch> {
    weights.get(weight.0 as usize).map(|info| info.dims.as_slice()).ok_or_else(|| {
        Mismatch::new(format!("a weight below {}", weights.len()), weight.0.to_string())
    })
}

fn expect_dims(what: &str, got: &[usize], expected: &[usize]) -> Result<(), Mismatch> {
    if got == expected {
        return Ok(());
    }
    Err(Mismatch::new(format!("{what} of {expected:?}"), format!("{got:?}")))
}

/// Checks that a feature map has elements, and not too many.
pub(crate) fn check_size(dims: &[usize]) -> Result<(), Mismatch> {
    if limits::map_elements(dims).is_some_and(|elements| elements > 0) {
        return Ok(());
    }
    let most = limits::MAP_ELEMENTS_MAX;
    Err(Mismatch::new(
        format!("1 to {most} elements in at most {} dims", limits::RANK_MAX),
        format!("{dims:?}"),
    ))
}

fn check_activation(activation: &Activation) -> Result<(), Mismatch> {
    let fits = match activation {
        Activation::LeakyRelu { alpha } | Activation::Elu { alpha } => alpha.is_finite(),
        Activation::Clip { min, max } => !min.is_nan() && !max.is_nan(),
        Activation::HardSigmoid { alpha, beta } => alpha.is_finite() && beta.is_finite(),
        _ => true,
    };
    if fits {
        return Ok(());
    }
    Err(Mismatch::new("an activation with finite numbers", format!("{activation:?}")))
}

fn finite(what: &str, number: f32) -> Result<(), Mismatch> {
    if number.is_finite() {
        return Ok(());
    }
    Err(Mismatch::new(format!("a finite number for {what}"), number.to_string()))
}

fn sum(terms: &[usize]) -> Result<usize, Mismatch> {
    terms.iter().try_fold(0usize, |sum, term| bounded(sum.checked_add(*term)))
}

fn product(factors: &[usize]) -> Result<usize, Mismatch> {
    factors.iter().try_fold(1usize, |product, factor| bounded(product.checked_mul(*factor)))
}

/// Keeps every length below the largest map, so that later sums of a few of them cannot overflow.
fn bounded(length: Option<usize>) -> Result<usize, Mismatch> {
    length.filter(|length| *length <= limits::ELEMENTS_MAX).ok_or_else(|| {
        Mismatch::new(format!("lengths up to {}", limits::ELEMENTS_MAX), "a larger one")
    })
}
