//! Layers over maps of bytes.
//!
//! Products are summed in i32, which is exact, so that every order of accumulation gives the same
//! bits. A sum becomes a byte by one conversion to f32, one multiplication and one rounding to
//! nearest (halves to even), as ONNX Runtime has it; a sum of two maps by two fused multiply-adds.
//! The same operations on every instruction set give the same bytes.
//!
//! Maps of i8 are read as u8 with the highest bit turned, so that one kernel (u8 times i8) does
//! for both.
// Some numbers are there for the kernels of x86 alone.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod conv;
mod depthwise;
pub(crate) mod dot;
mod pack;
mod pointwise;
mod pool;
mod requantize;
#[cfg(test)]
mod tests;

pub(crate) use pack::{PackedQuant, Parts};
pub(crate) use pointwise::{Addends, mean_scale};
pub(crate) use requantize::Requantize;

use crate::error::KernelError;
use crate::layer::spatial_select;
use crate::pack::Packed;
use crate::piece::{Piece, Value};
use crate::threads::Threads;
use crate::view::{Erased, Target, View};
use crate::{general, spatial};
use model::{Activation, Element, Layer, Model, Op, PoolKind, Shape, Window};
use tiling::receptive::ResizeAxis;
use tiling::{Region, Span};

/// Whether a layer reads or writes bytes.
pub(crate) fn handles(graph: &Model, layer: &Layer) -> bool {
    layer.inputs.iter().chain([&layer.output]).any(|map| graph.element(*map).is_byte())
}

/// A layer with what it reads.
pub(crate) struct QuantRun<'a> {
    pub(crate) threads: &'a Threads,
    pub(crate) layer: &'a Layer,
    pub(crate) packed: &'a Packed,
    pub(crate) inputs: &'a [(Erased<'a>, &'a Shape)],
    /// Of the output map.
    pub(crate) shape: &'a Shape,
}

impl QuantRun<'_> {
    /// Fills the output piece, every value of it.
    pub(crate) fn run(&self, output: &mut Target<'_>) -> Result<(), KernelError> {
        if let Packed::Constant(value) = self.packed {
            output.copy(Erased::new(value, self.shape));
            return Ok(());
        }
        let threads = self.threads;
        let (input, _) = self.inputs[0];
        match (&self.layer.op, self.packed) {
            (Op::Quantize { output: quant }, _) => {
                pointwise::quantize(threads, input.typed(), quant, output);
            }
            (Op::Dequantize { input: quant }, _) => {
                pointwise::dequantize(threads, input.typed(), quant, output);
            }
            (Op::Requantize { input: from, activation, output: to }, _) => {
                let table = pointwise::table(from, *activation, to);
                pointwise::look_up(threads, input.typed(), &table, output);
            }
            (Op::QConv { window, .. }, Packed::Quant(packed)) => {
                let flipped = flipped(input);
                let view = flipped.as_ref().map_or(input.typed(), |f| View::like(f, &input));
                if packed.is_depthwise() {
                    depthwise::run(threads, view, window, packed, output);
                } else {
                    conv::run(threads, view, window, packed, output);
                }
            }
            (Op::QLinear { .. }, Packed::Quant(packed)) => self.linear(packed, output),
            (Op::QCombine { kind, inputs, output: quant, low, high }, _) => {
                let views = [0, 1].map(|i| self.inputs[i].0.typed());
                let addends = Addends::new(*kind, inputs, quant, (*low, *high));
                if self.shape.is_spatial() {
                    let size = (self.shape.rows(), self.shape.cols());
                    pointwise::combine(threads, views, &addends, size, output);
                } else {
                    let whole = [0, 1].map(|i| (views[i].values(), self.inputs[i].1));
                    pointwise::combine_general(whole, &addends, self.shape, output);
                }
            }
            (Op::QGlobalAveragePool { input: from, output: to }, _) => {
                pointwise::global_average_pool(threads, input.typed(), (from, to), output);
            }
            // The others move bytes; only the largest of some depends on their sign.
            (Op::Pool { window, kind: PoolKind::Max }, _) => match input.element {
                Element::I8 => {
                    pool::max::<i8>(threads, input.typed(), window, output);
                }
                _ => pool::max::<u8>(threads, input.typed(), window, output),
            },
            _ => return self.moved::<u8>(output),
        }
        Ok(())
    }

    /// A fully connected layer is a convolution of one tap over a column of positions.
    fn linear(&self, packed: &PackedQuant, output: &mut Target<'_>) {
        let (input, _) = self.inputs[0];
        let flipped = flipped(input);
        let view: View<'_, u8> = flipped.as_ref().map_or(input.typed(), |f| View::like(f, &input));
        let view = view.as_positions(packed.group_inputs);
        conv::run_positions(self.threads, view, packed, output.typed_mut());
    }

    /// Operators that move values.
    fn moved<T: Value + From<u8>>(&self, output: &mut Target<'_>) -> Result<(), KernelError> {
        let Self { threads, layer, inputs, shape, .. } = *self;
        let views: Vec<View<'_, T>> = inputs.iter().map(|(input, _)| input.typed()).collect();
        let whole: Vec<_> = views.iter().zip(inputs).map(|(v, (_, s))| (v.values(), *s)).collect();
        let (input, (_, input_shape)) = (views[0], inputs[0]);
        match &layer.op {
            Op::Activate(Activation::None) => {
                let none = model::Pads::default();
                spatial::pad(threads, input, none, T::from(0), output);
            }
            Op::Pad { pads, value } => {
                let value = T::from(*value as i32 as u8);
                spatial::pad(threads, input, *pads, value, output);
            }
            Op::Resize { mode, coordinates, scale } => {
                let axes = ResizeAxis::of(*coordinates, *scale, input_shape, shape);
                spatial::resize_nearest(threads, input, *mode, axes, output);
            }
            Op::DepthToSpace { block, order } => {
                spatial::depth_to_space(threads, input, *block, *order, output);
            }
            Op::SpaceToDepth { block } => {
                spatial::space_to_depth(threads, input, *block, output);
            }
            Op::Select { axis, indices } if spatial_select(input_shape, shape) => {
                spatial::select(threads, input, *axis, indices, output);
            }
            Op::Select { axis, indices } => {
                let to = output.typed_mut();
                general::select(input.values(), input_shape, *axis, indices, shape, to);
            }
            Op::ConcatGeneral { axis } => {
                general::concat(&whole, *axis, shape, output.typed_mut());
            }
            Op::Reshape => {
                general::reshape(input.values(), input_shape, shape, output.typed_mut());
            }
            Op::Transpose { perm } => {
                let to = output.typed_mut();
                general::transpose(input.values(), input_shape, perm, shape, to);
            }
            _ => return Err(KernelError::NotPacked { layer: layer.name.clone() }),
        }
        Ok(())
    }
}

/// A piece of i8 as one of u8, 128 higher; none for one that is u8 already.
fn flipped(input: Erased<'_>) -> Option<Piece> {
    if input.element == Element::U8 {
        return None;
    }
    let mut flipped = Piece::zeroed_of(input.region, input.channels, Element::U8);
    let from = input.typed::<u8>().values().iter();
    flipped.as_bytes_mut().iter_mut().zip(from).for_each(|(to, from)| *to = from ^ 0x80);
    Some(flipped)
}

/// First input index of a window along one axis, and the one after the last; padding included.
fn touched(out: Span, kernel: usize, stride: usize, dilation: usize, pad: usize) -> (isize, isize) {
    let first = (out.start * stride) as isize - pad as isize;
    let last = ((out.end - 1) * stride + (kernel - 1) * dilation) as isize - pad as isize;
    (first, last + 1)
}

/// The input rows and columns that an output region reads, padding included.
fn reach(window: &Window, output: Region) -> [(isize, isize); 2] {
    let Window { kernel, stride, dilation, pads } = *window;
    [
        touched(output.rows, kernel.rows, stride.rows, dilation.rows, pads.top),
        touched(output.cols, kernel.cols, stride.cols, dilation.cols, pads.left),
    ]
}
