//! Quantised weights as the kernels want them.
//!
//! A dense layer's weights lie in panels of 16 output channels, each run of input bytes in groups
//! of four and filled up with zeros to 64:
//! `[group][panel][run][64 / 4 ...][16 outputs][4 inputs]`.
//!
//! A run is what one pixel reads from side to side: a whole kernel row where the taps touch, else
//! one tap. The zeros at its end make it harmless to read on into what comes after it.

use super::Requantize;
use crate::piece::AlignedBuffer;
use model::{Axes, Element, QProduct, Window};

/// Output channels of a panel.
pub(crate) const PANEL: usize = 16;

/// Inputs that are multiplied and added in one lane.
pub(crate) const QUAD: usize = 4;

/// Bytes that a run is filled up to.
pub(crate) const STRIDE: usize = 64;

/// A quantised product's weights.
pub(crate) struct PackedQuant {
    pub(crate) groups: usize,
    pub(crate) group_inputs: usize,
    pub(crate) group_outputs: usize,
    pub(crate) kernel: Axes<usize>,
    /// Runs of a pixel, and the bytes of each.
    pub(super) runs: usize,
    pub(super) run_len: usize,
    /// Panels, or the depthwise order (see `depthwise`).
    pub(super) values: AlignedBuffer,
    /// Panels of ones, where a weight's zero point is not 0: they give the sum of the inputs.
    pub(super) ones: Option<AlignedBuffer>,
    /// Zero points, as the output channels of the panels lie; empty where all are 0.
    pub(super) zeros: Vec<i32>,
    /// Depthwise: weights less their zero points, `[tap][channel]`.
    pub(super) taps: Vec<i16>,
    /// Depthwise: `offsets` and `scales` in the order of the lanes.
    pub(super) lane_offsets: Vec<i32>,
    pub(super) lane_scales: Vec<f32>,
    /// What is added to each sum: the bias, and what the input's zero point amounts to.
    pub(super) offsets: Vec<i32>,
    /// `input scale * weight scale / output scale`
    pub(super) scales: Vec<f32>,
    pub(super) numbers: Requantize,
    /// The byte that padding is.
    pub(super) padding: u8,
}

/// What a product is made of, each list as long as its layer needs.
pub(crate) struct Parts<'a> {
    pub(crate) window: &'a Window,
    pub(crate) groups: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) weights: &'a [u8],
    pub(crate) scales: &'a [f32],
    pub(crate) zeros: Option<&'a [u8]>,
    pub(crate) bias: Option<&'a [u8]>,
}

impl PackedQuant {
    pub(crate) fn new(product: &QProduct, parts: &Parts<'_>) -> Self {
        let Parts { window, groups, inputs, outputs, weights, scales, zeros, bias } = *parts;
        let kernel = window.kernel;
        let (group_inputs, group_outputs) = (inputs / groups, outputs / groups);
        let taps = kernel.rows * kernel.cols;
        let touching = window.dilation.cols == 1 && groups == 1;
        let (runs, run_len) = match touching {
            true => (kernel.rows, kernel.cols * group_inputs),
            false => (taps, group_inputs),
        };
        let flip = if product.input.element == Element::I8 { 128 } else { 0 };
        let zero = product.input.zero + flip;
        let mut packed = Self {
            groups,
            group_inputs,
            group_outputs,
            kernel,
            runs,
            run_len,
            values: AlignedBuffer::default(),
            ones: None,
            zeros: Vec::new(),
            taps: Vec::new(),
            lane_offsets: Vec::new(),
            lane_scales: Vec::new(),
            offsets: Vec::new(),
            scales: Vec::new(),
            numbers: Requantize::new(&product.output, product.low, product.high),
            padding: zero as u8,
        };
        let zero_of = |out: usize| zeros.map_or(0, |zeros| i32::from(zeros[out] as i8));
        let weight = |out: usize, tap: usize, c: usize| {
            i32::from(weights[(out * group_inputs + c) * taps + tap] as i8)
        };
        let (lanes, padded) = match packed.is_depthwise() {
            true => (0, outputs),
            false => (PANEL, groups * packed.panels_per_group() * PANEL),
        };
        packed.offsets = vec![0; padded];
        packed.scales = vec![0.0; padded];
        for out in 0..outputs {
            let at = match lanes {
                0 => out,
                _ => packed.place(out),
            };
            let sum: i32 = (0..taps)
                .flat_map(|tap| (0..group_inputs).map(move |c| (tap, c)))
                .fold(0, |sum, (tap, c)| sum + weight(out, tap, c) - zero_of(out));
            let bias = bias.map_or(0, |bias| {
                let bytes = &bias[out * 4..out * 4 + 4];
                i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            });
            packed.offsets[at] = bias.wrapping_sub(zero.wrapping_mul(sum));
            packed.scales[at] = product.input.scale * scales[out] / product.output.scale;
        }
        packed.numbers = packed.numbers.for_scales(&packed.scales);
        if packed.is_depthwise() {
            packed.taps = vec![0; taps * outputs];
            for (i, to) in packed.taps.iter_mut().enumerate() {
                let (tap, out) = (i / outputs, i % outputs);
                *to = (weight(out, tap, 0) - zero_of(out)) as i16;
            }
            if zeros.is_none() {
                packed.values = super::depthwise::pack(kernel, outputs, |out, row, col| {
                    weight(out, row * kernel.cols + col, 0) as i8
                });
            }
            packed.lane_offsets = super::depthwise::by_lane(&packed.offsets);
            packed.lane_scales = super::depthwise::by_lane(&packed.scales);
            return packed;
        }
        packed.values = packed.panels(groups * packed.panels_per_group(), |panel, lane, tap, c| {
            let per_group = group_outputs.div_ceil(PANEL);
            let in_group = panel % per_group * PANEL + lane;
            let out = panel / per_group * group_outputs + in_group;
            if in_group < group_outputs { weight(out, tap, c) as i8 } else { 0 }
        });
        if zeros.is_some() {
            packed.ones = Some(packed.panels(1, |_, lane, _, _| i8::from(lane == 0)));
            packed.zeros = vec![0; padded];
            for out in 0..outputs {
                let at = packed.place(out);
                packed.zeros[at] = zero_of(out);
            }
        }
        packed
    }

    /// Panels of `weight(panel, lane, tap, input)`.
    fn panels(
        &self,
        count: usize,
        weight: impl Fn(usize, usize, usize, usize) -> i8,
    ) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::zeroed_bytes(count * self.panel_bytes());
        let taps_of_run = self.run_len / self.group_inputs.max(1);
        let bytes = buffer.bytes_mut();
        for (panel, to) in bytes.chunks_exact_mut(self.panel_bytes().max(1)).enumerate() {
            for (run, to) in to.chunks_exact_mut(self.run_bytes()).enumerate() {
                for k in 0..self.run_len {
                    let (tap, c) = (k / self.group_inputs, k % self.group_inputs);
                    for lane in 0..PANEL {
                        let at = (k / QUAD * PANEL + lane) * QUAD + k % QUAD;
                        to[at] = weight(panel, lane, run * taps_of_run + tap, c) as u8;
                    }
                }
            }
        }
        buffer
    }

    /// Where an output channel lies among the panels' lanes.
    fn place(&self, out: usize) -> usize {
        let (group, in_group) = (out / self.group_outputs, out % self.group_outputs);
        group * self.panels_per_group() * PANEL + in_group
    }

    /// One input and one output channel for each group.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.group_inputs == 1 && self.group_outputs == 1 && self.groups > 1
    }

    /// Depthwise: whether weights have zero points, so that they are not bytes.
    pub(super) fn zeros_exist(&self) -> bool {
        self.values.bytes().is_empty()
    }

    pub(super) fn panels_per_group(&self) -> usize {
        self.group_outputs.div_ceil(PANEL)
    }

    /// Bytes of weights of one run of one panel.
    pub(super) fn run_bytes(&self) -> usize {
        self.run_len.next_multiple_of(STRIDE) * PANEL
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.runs * self.run_bytes()
    }

    /// Products of one output.
    pub(super) fn depth(&self) -> usize {
        self.runs * self.run_len
    }

    /// Memory taken.
    pub(crate) fn bytes(&self) -> usize {
        let buffers = [Some(&self.values), self.ones.as_ref()].into_iter().flatten();
        buffers.map(|buffer| buffer.capacity() * size_of::<f32>()).sum::<usize>()
            + self.taps.len() * size_of::<i16>()
            + (self.zeros.len() + self.offsets.len() + self.scales.len()) * size_of::<f32>()
    }
}
