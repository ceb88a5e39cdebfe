//! One layer over one region: which kernel an operator means.

use crate::conv::transposed::{self, ConvTranspose};
use crate::error::KernelError;
use crate::linear::{Input, MatMul, MatMulShape, Rows};
use crate::pack::Packed;
use crate::spatial::Lrn;
use crate::threads::Threads;
use crate::view::{Erased, Target, View};
use crate::{general, pointwise, pool, reduce, spatial};
use model::{Layer, Op, Shape};
use tiling::Span;
use tiling::receptive::ResizeAxis;

/// A layer with what it reads; [`crate::run`] does convolutions by itself.
pub(crate) struct LayerRun<'a> {
    pub(crate) threads: &'a Threads,
    pub(crate) layer: &'a Layer,
    pub(crate) packed: &'a Packed,
    pub(crate) inputs: &'a [(View<'a>, &'a Shape)],
    /// Of the output map.
    pub(crate) shape: &'a Shape,
}

impl LayerRun<'_> {
    /// Fills the output piece, every value of it.
    pub(crate) fn run(&self, output: &mut Target<'_>) -> Result<(), KernelError> {
        let Self { threads, layer, packed, inputs, shape } = *self;
        if let Packed::Constant(value) = packed {
            output.copy(Erased::new(value, shape));
            return Ok(());
        }
        let views = || inputs.iter().map(|(view, _)| *view).collect::<Vec<View<'_>>>();
        let whole = || inputs.iter().map(|(view, s)| (view.values(), *s)).collect::<Vec<_>>();
        let (input, input_shape) = inputs[0];
        match (&layer.op, packed) {
            (Op::ConvTranspose { window, activation, .. }, Packed::ConvTranspose(packed)) => {
                let conv = ConvTranspose { input, window, packed, activation: *activation };
                transposed::run(threads, conv, output);
            }
            (Op::Pool { window, kind }, _) => pool::run(threads, input, window, *kind, output),
            (Op::Activate(activation), _) => {
                pointwise::activate(threads, input, *activation, output);
            }
            (Op::ChannelAffine { activation, .. }, Packed::Channels(constants)) => {
                let constants = (&constants[0][..], &constants[1][..]);
                pointwise::channel_affine(threads, input, constants, *activation, output);
            }
            (Op::PRelu { .. }, Packed::Channels(slopes)) => {
                pointwise::prelu(threads, input, &slopes[0], output);
            }
            (Op::Combine { kind, activation }, _) if shape.is_spatial() => {
                let size = (shape.rows(), shape.cols());
                pointwise::combine(threads, &views(), *kind, *activation, size, output);
            }
            (Op::Combine { kind, activation }, _) => {
                general::combine(&whole(), *kind, *activation, shape, output.values_mut());
            }
            (Op::ConcatGeneral { axis }, _) => {
                general::concat(&whole(), *axis, shape, output.values_mut());
            }
            (Op::Pad { pads, value }, _) => spatial::pad(threads, input, *pads, *value, output),
            (Op::Resize { mode, coordinates, scale }, _) => {
                let axes = ResizeAxis::of(*coordinates, *scale, input_shape, shape);
                spatial::resize(threads, input, *mode, axes, output);
            }
            (Op::DepthToSpace { block, order }, _) => {
                spatial::depth_to_space(threads, input, *block, *order, output);
            }
            (Op::SpaceToDepth { block }, _) => {
                spatial::space_to_depth(threads, input, *block, output);
            }
            (&Op::Lrn { size, alpha, beta, bias }, _) => {
                spatial::lrn(threads, input, Lrn { size, alpha, beta, bias }, output);
            }
            (&Op::GlobalAveragePool { positions }, _) => {
                spatial::global_average_pool(input, positions, output);
            }
            (Op::Reduce { kind, axes }, _) if shape.is_spatial() && axes == &[1] => {
                reduce::channels(threads, input, *kind, output);
            }
            (Op::Reduce { kind, axes }, _) => {
                reduce::axes(input.values(), input_shape, *kind, axes, shape, output.values_mut());
            }
            (Op::LayerNorm { epsilon, .. }, Packed::Channels(constants)) => {
                let norm =
                    reduce::Norm { scale: &constants[0], shift: &constants[1], epsilon: *epsilon };
                if shape.is_spatial() {
                    reduce::norm_channels(threads, input, norm, output);
                } else {
                    norm.run(input.values(), output.values_mut());
                }
            }
            (Op::Select { axis, indices }, _) if spatial_select(input_shape, shape) => {
                spatial::select(threads, input, *axis, indices, output);
            }
            (Op::Select { axis, indices }, _) => {
                let to = output.values_mut();
                general::select(input.values(), input_shape, *axis, indices, shape, to);
            }
            (Op::Reshape, _) => {
                general::reshape(input.values(), input_shape, shape, output.values_mut());
            }
            (Op::Transpose { perm }, _) => {
                general::transpose(input.values(), input_shape, perm, shape, output.values_mut());
            }
            (Op::Linear { activation, .. }, Packed::Linear { weights, bias }) => {
                let last = |s: &Shape| s.dims().last().copied().unwrap_or(0);
                let (inputs, outputs) = (last(input_shape), last(shape));
                let bias = bias.as_ref().map(|bias| &bias[..]);
                let (values, activation) = (input.values(), *activation);
                let input = Input { values, inputs, bias, activation };
                weights.run(threads, input, Span::whole(outputs), output.values_mut());
            }
            (Op::LinearRows { activation, .. }, Packed::Rows { slices, bias, of_slice }) => {
                let values = general::logical(input.values(), input_shape);
                let values = values.as_standard_layout();
                let values = values.as_slice().expect("in standard layout");
                let (inputs, activation) = (values.len(), *activation);
                let bias = bias.as_ref().map(|bias| &bias[..]);
                let input = Input { values, inputs, bias, activation };
                let rows = Rows { input, slices, of_slice: *of_slice };
                let region = output.region;
                if !rows.run(threads, region.rows, output.values_mut()) {
                    return Err(KernelError::NotPacked { layer: layer.name.clone() });
                }
            }
            (Op::MatMul, _) => {
                let (a, b) = (inputs[0], inputs[1]);
                let product = &MatMulShape::new(&layer.name, &a.1.dims(), &b.1.dims())?;
                let (a, b) = (a.0.values(), b.0.values());
                let output = output.values_mut();
                threads.cpu.run(MatMul { shape: product, a, b, output });
            }
            (Op::Softmax { axis: 1, flattened: false }, _) if shape.is_spatial() => {
                general::softmax_channels(threads, input, output);
            }
            (&Op::Softmax { axis, flattened }, _) => {
                let axes = (axis, flattened);
                general::softmax(threads, input.values(), shape, axes, output.values_mut());
            }
            _ => return Err(KernelError::NotPacked { layer: layer.name.clone() }),
        }
        Ok(())
    }
}

/// Whether a selection is among the positions or channels of spatial maps, and not of the batch.
pub(crate) fn spatial_select(input: &Shape, output: &Shape) -> bool {
    input.is_spatial() && output.is_spatial()
}
