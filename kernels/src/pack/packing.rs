//! From the tensors of one layer to what the kernels want.

use super::{PANEL, Packed, PackedConv, Steps};
use crate::conv;
use crate::conv::transposed::{AxisPhase, PackedTranspose};
use crate::error::KernelError;
use crate::linear::LinearWeights;
use crate::piece::AlignedBuffer;
use crate::quant::PackedQuant;
use half::f16;
use model::{
    Axes, Element, LayerId, Model, Op, Pads, QProduct, Shape, WeightId, WeightStore, Window,
};
use std::sync::{Arc, OnceLock};
use tiling::Algorithm;

/// The window of a fully connected layer.
const ONE_TAP: Window = Window {
    kernel: Axes::new(1, 1),
    stride: Axes::new(1, 1),
    dilation: Axes::new(1, 1),
    pads: Pads { top: 0, left: 0, bottom: 0, right: 0 },
};

/// One layer on its way to be packed.
pub(super) struct Packing<'a> {
    pub(super) graph: &'a Model,
    pub(super) layer: LayerId,
    pub(super) algorithm: Algorithm,
    pub(super) weights: &'a WeightStore,
}

impl Packing<'_> {
    pub(super) fn run(&self, steps: &mut Steps<'_>) -> Result<Packed, KernelError> {
        let layer = self.graph.layer(self.layer);
        let output = self.graph.shape(layer.output);
        let input = layer.inputs.first().map(|&map| self.graph.shape(map));
        let channels = input.map_or(0, Shape::channels);
        Ok(match &layer.op {
            Op::Conv { window, groups, weights, bias, .. } => {
                let kernel = window.kernel;
                let tensors = (*weights, *bias);
                Packed::Conv(self.conv(*groups, kernel, tensors, channels, output, steps)?)
            }
            Op::ConvTranspose { window, groups, weights, bias, .. } => {
                let (tensors, outputs) = ((*weights, *bias), output.channels());
                Packed::ConvTranspose(
                    self.transposed(window, *groups, tensors, channels, outputs, steps)?,
                )
            }
            Op::ChannelAffine { scale, shift, .. } => Packed::Channels(vec![
                self.vector(*scale, channels)?,
                self.vector(*shift, channels)?,
            ]),
            Op::LayerNorm { scale, shift, .. } => {
                let last = input.filter(|s| !s.is_spatial()).and_then(|s| s.dims().last().copied());
                let length = last.unwrap_or(channels);
                Packed::Channels(vec![self.vector(*scale, length)?, self.vector(*shift, length)?])
            }
            Op::PRelu { slope } => Packed::Channels(vec![self.vector(*slope, channels)?]),
            Op::Linear { weights, bias, .. } => {
                let inputs = input.and_then(|s| s.dims().last().copied()).unwrap_or(0);
                let outputs = output.dims().last().copied().unwrap_or(0);
                let bias = bias.map(|b| self.vector(b, outputs)).transpose()?;
                Packed::Linear { weights: self.linear(*weights, inputs * outputs)?, bias }
            }
            Op::LinearRows { slices, bias, .. } => {
                let bias = bias.map(|b| self.vector(b, output.rows())).transpose()?;
                let of_slice = self.graph.weight(slices[0]).dims[0];
                let slices = slices.iter().map(|_| OnceLock::new()).collect();
                Packed::Rows { slices, of_slice, bias }
            }
            Op::QConv { window, groups, product } => {
                self.product(window, *groups, product, channels, output.channels())?
            }
            Op::QLinear { product } => {
                let last = |s: &Shape| s.dims().last().copied().unwrap_or(0);
                self.product(&ONE_TAP, 1, product, input.map_or(0, last), last(output))?
            }
            Op::Constant { value } if self.graph.weight(*value).element.is_byte() => {
                let values = self.bytes(*value, output.elements())?;
                let element = self.graph.weight(*value).element;
                Packed::Constant(crate::general::bytes_from_logical(output, element, values))
            }
            Op::Constant { value } => {
                let values = self.vector(*value, output.elements())?;
                Packed::Constant(crate::general::from_logical(output, &values))
            }
            _ => Packed::Nothing,
        })
    }

    /// The elements of a tensor, of which there must be so many.
    fn vector(&self, weight: WeightId, expected: usize) -> Result<Arc<Vec<f32>>, KernelError> {
        let info = self.graph.weight(weight);
        let Some(values) = self.weights.floats(info) else {
            let layer = self.graph.layer(self.layer).name.clone();
            return Err(KernelError::MissingWeights { layer, hash: info.hash });
        };
        self.check("weight elements", expected, values.len())?;
        Ok(values)
    }

    /// Whether a tensor is of half floats.
    fn is_half(&self, weight: WeightId) -> bool {
        self.graph.weight(weight).element == Element::F16
    }

    /// The weights of a fully connected layer, of which there must be so many.
    fn linear(&self, weights: WeightId, expected: usize) -> Result<LinearWeights, KernelError> {
        let values = self.vector(weights, expected)?;
        Ok(match self.is_half(weights) {
            true => LinearWeights::Half(values.iter().map(|&w| f16::from_f32(w)).collect()),
            false => LinearWeights::Single(values),
        })
    }

    /// Packs the slices that are in the store.
    pub(super) fn slices(&self, packed: &[OnceLock<LinearWeights>]) -> Result<(), KernelError> {
        let layer = self.graph.layer(self.layer);
        let Op::LinearRows { slices, .. } = &layer.op else { return Ok(()) };
        let inputs = self.graph.shape(layer.inputs[0]).elements();
        for (&id, slot) in slices.iter().zip(packed) {
            let info = self.graph.weight(id);
            if slot.get().is_none() && self.weights.has(info) {
                // Two threads may both come here; the second result is dropped.
                let _ = slot.set(self.linear(id, info.dims[0] * inputs)?);
            }
        }
        Ok(())
    }

    /// The bytes of a tensor of integers, of which there must be so many elements.
    fn bytes(&self, weight: WeightId, expected: usize) -> Result<&[u8], KernelError> {
        let info = self.graph.weight(weight);
        let Some(bytes) = self.weights.find_bytes(info.hash) else {
            let layer = self.graph.layer(self.layer).name.clone();
            return Err(KernelError::MissingWeights { layer, hash: info.hash });
        };
        self.check("weight elements", expected, bytes.len() / info.element.bytes())?;
        Ok(bytes)
    }

    fn product(
        &self,
        window: &Window,
        groups: usize,
        product: &QProduct,
        inputs: usize,
        outputs: usize,
    ) -> Result<Packed, KernelError> {
        let (group_inputs, group_outputs) = (inputs / groups.max(1), outputs / groups.max(1));
        self.check("input channels in whole groups", inputs, group_inputs * groups)?;
        self.check("output channels in whole groups", outputs, group_outputs * groups)?;
        let elements = elements(outputs, group_inputs, window.kernel);
        let scales = self.vector(product.scales, outputs)?;
        let parts = crate::quant::Parts {
            window,
            groups,
            inputs,
            outputs,
            weights: self.bytes(product.weights, elements)?,
            scales: &scales,
            zeros: product.zeros.map(|zeros| self.bytes(zeros, outputs)).transpose()?,
            bias: product.bias.map(|bias| self.bytes(bias, outputs)).transpose()?,
        };
        Ok(Packed::Quant(Box::new(PackedQuant::new(product, &parts))))
    }

    fn check(&self, what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
        if expected == got {
            return Ok(());
        }
        let layer = self.graph.layer(self.layer).name.clone();
        Err(KernelError::LayerShape { layer, what, expected, got })
    }

    fn conv(
        &self,
        groups: usize,
        kernel: Axes<usize>,
        (weights, bias): (WeightId, Option<WeightId>),
        channels: usize,
        output: &Shape,
        steps: &mut Steps<'_>,
    ) -> Result<PackedConv, KernelError> {
        let outputs = output.channels();
        let mut packed = self.unpacked(groups, kernel, channels, outputs)?;
        let PackedConv { group_inputs, .. } = packed;
        let from = self.vector(weights, elements(outputs, group_inputs, kernel))?;
        let taps = kernel.rows * kernel.cols;
        let bias = bias.map(|b| self.vector(b, outputs)).transpose()?;
        let bias = bias.map_or_else(|| vec![0.0; outputs], |b| b.to_vec());
        if self.algorithm == Algorithm::Direct {
            let depth = packed.depth();
            packed.fill(&bias, steps, |out, c, tap| from[out * depth + c * taps + tap]);
            if self.is_half(weights) {
                packed.narrow();
            }
            return Ok(packed);
        }
        self.check("groups of a Winograd convolution", 1, groups)?;
        self.check("taps of a Winograd convolution", 9, taps)?;
        packed.bias = bias;
        packed.bias.resize(packed.panels_per_group() * PANEL, 0.0);
        packed.values = conv::transformed(self.algorithm, &from, group_inputs, outputs, steps);
        Ok(packed)
    }

    fn transposed(
        &self,
        window: &Window,
        groups: usize,
        (weights, bias): (WeightId, Option<WeightId>),
        channels: usize,
        outputs: usize,
        steps: &mut Steps<'_>,
    ) -> Result<PackedTranspose, KernelError> {
        let Window { kernel, stride, dilation, .. } = *window;
        let (group_inputs, group_outputs) = (channels / groups.max(1), outputs / groups.max(1));
        let from = self.vector(weights, elements(channels, group_outputs, kernel))?;
        let bias = bias.map(|b| self.vector(b, outputs)).transpose()?;
        let bias = bias.map_or_else(|| vec![0.0; outputs], |b| b.to_vec());
        let taps = kernel.rows * kernel.cols;
        let mut phases = Vec::new();
        for rows in AxisPhase::all(kernel.rows, stride.rows, dilation.rows) {
            for cols in AxisPhase::all(kernel.cols, stride.cols, dilation.cols) {
                let kernel_here = Axes::new(rows.taps, cols.taps);
                let mut packed = self.unpacked(groups, kernel_here, channels, outputs)?;
                packed.fill(&bias, steps, |out, c, tap| {
                    let (row, col) = (rows.tap(tap / cols.taps), cols.tap(tap % cols.taps));
                    let input = out / group_outputs * group_inputs + c;
                    let filter = input * group_outputs + out % group_outputs;
                    from[filter * taps + row * kernel.cols + col]
                });
                if self.is_half(weights) {
                    packed.narrow();
                }
                phases.push((Axes::new(rows, cols), packed));
            }
        }
        Ok(PackedTranspose { phases, bias })
    }

    /// A convolution without its weights.
    fn unpacked(
        &self,
        groups: usize,
        kernel: Axes<usize>,
        channels: usize,
        outputs: usize,
    ) -> Result<PackedConv, KernelError> {
        let (group_inputs, group_outputs) = (channels / groups.max(1), outputs / groups.max(1));
        self.check("input channels in whole groups", channels, group_inputs * groups)?;
        self.check("output channels in whole groups", outputs, group_outputs * groups)?;
        Ok(PackedConv {
            groups,
            group_inputs,
            group_outputs,
            kernel,
            algorithm: self.algorithm,
            values: AlignedBuffer::default(),
            halves: Vec::new(),
            bias: Vec::new(),
        })
    }
}

/// Elements of the filters of a convolution. A product that overflows is longer than any tensor.
fn elements(outer: usize, inner: usize, kernel: Axes<usize>) -> usize {
    let factors = [outer, inner, kernel.rows, kernel.cols];
    let product = factors.iter().try_fold(1usize, |n, &factor| n.checked_mul(factor));
    product.unwrap_or(usize::MAX)
}
