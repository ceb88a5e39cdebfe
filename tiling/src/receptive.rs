//! Receptive fields: the input region that an output region of a layer needs.
//!
//! Regions are clamped to the map: what lies outside is padding, which is never sent and which
//! every layer of a fused group applies for itself at the map's real border.

use crate::region::{Region, Span};
use model::{Axes, Model, Op, ResizeCoordinates, ResizeMode, Shape, Window};

/// Whether a layer can be computed tile by tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// An output region needs only a region of each input.
    Local,
    /// Any output element may need the whole input.
    Whole,
}

/// Whether a layer can be cut into tiles.
pub fn locality(model: &Model, layer: model::LayerId) -> Locality {
    let layer = model.layer(layer);
    if let Op::LinearRows { .. } = layer.op {
        // Each output sees its whole input, of whatever shape, and no other output.
        return Locality::Local;
    }
    let spatial = model.shape(layer.output).is_spatial()
        && layer.inputs.iter().all(|&map| model.shape(map).is_spatial());
    let local = match &layer.op {
        Op::Conv { .. }
        | Op::ConvTranspose { .. }
        | Op::QConv { .. }
        | Op::QCombine { .. }
        | Op::Quantize { .. }
        | Op::Dequantize { .. }
        | Op::Requantize { .. }
        | Op::Pool { .. }
        | Op::Activate(_)
        | Op::ChannelAffine { .. }
        | Op::PRelu { .. }
        | Op::Combine { .. }
        | Op::Concat
        | Op::Pad { .. }
        | Op::Resize { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. }
        | Op::Lrn { .. }
        | Op::Constant { .. } => true,
        Op::Softmax { axis, flattened } => *axis == 1 && !*flattened,
        Op::LayerNorm { .. } | Op::Select { .. } => true,
        Op::Reduce { axes, .. } => axes == &[1],
        Op::ConcatGeneral { .. }
        | Op::GlobalAveragePool { .. }
        | Op::QGlobalAveragePool { .. }
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Linear { .. }
        | Op::LinearRows { .. }
        | Op::QLinear { .. }
        | Op::MatMul => false,
    };
    if local && spatial { Locality::Local } else { Locality::Whole }
}

/// The region of one input that an output region of a layer needs, clamped to that input.
///
/// *Shapes*: `output` in the coordinates of the layer's output map, the result in those of
/// `input`. An empty output needs nothing. A layer that is not local needs all of it.
pub fn receptive_field(op: &Op, output: Region, output_shape: &Shape, input: &Shape) -> Region {
    if output.is_empty() {
        return Region::EMPTY;
    }
    let whole = Region::whole(input);
    match op {
        Op::Conv { window, .. } | Op::QConv { window, .. } | Op::Pool { window, .. } => {
            windowed(window, output, whole)
        }
        Op::ConvTranspose { window, .. } => transposed(window, output, whole),
        Op::Activate(_)
        | Op::ChannelAffine { .. }
        | Op::PRelu { .. }
        | Op::Lrn { .. }
        | Op::Quantize { .. }
        | Op::Dequantize { .. }
        | Op::Requantize { .. } => output.intersect(whole),
        Op::Concat => output.intersect(whole),
        Op::Softmax { .. } if input.is_spatial() => output.intersect(whole),
        Op::Combine { .. } | Op::QCombine { .. } => Region::new(
            broadcast(output.rows, input.rows(), output_shape.rows()),
            broadcast(output.cols, input.cols(), output_shape.cols()),
        ),
        Op::Pad { pads, .. } => Region::new(
            shift_back(output.rows, pads.top).intersect(whole.rows),
            shift_back(output.cols, pads.left).intersect(whole.cols),
        ),
        Op::Resize { mode, coordinates, scale } => {
            let span = |out: Span, scale: f32, in_len: usize, out_len: usize| {
                let axis = ResizeAxis { coordinates: *coordinates, scale, in_len, out_len };
                let (first, _) = axis.samples(*mode, out.start);
                let (_, last) = axis.samples(*mode, out.end - 1);
                Span::new(first, last + 1)
            };
            Region::new(
                span(output.rows, scale.rows, input.rows(), output_shape.rows()),
                span(output.cols, scale.cols, input.cols(), output_shape.cols()),
            )
        }
        Op::DepthToSpace { block, .. } => {
            let shrink = |s: Span| Span::new(s.start / block, s.end.div_ceil(*block));
            Region::new(shrink(output.rows), shrink(output.cols))
        }
        Op::SpaceToDepth { block } => {
            let grow = |s: Span| Span::new(s.start * block, s.end * block);
            Region::new(grow(output.rows), grow(output.cols))
        }
        Op::Constant { .. } => Region::EMPTY,
        Op::LayerNorm { .. } if input.is_spatial() => output.intersect(whole),
        Op::Reduce { axes, .. } if input.is_spatial() && axes == &[1] => output.intersect(whole),
        Op::Select { axis, indices } if input.is_spatial() && output_shape.is_spatial() => {
            let hull = |out: Span| {
                let places = &indices[out.indices()];
                let (first, last) = (places.iter().min(), places.iter().max());
                let [first, last] = [first, last].map(|i| i.map_or(0, |&i| i as usize));
                Span::new(first, last + 1)
            };
            match axis {
                2 => Region::new(hull(output.rows), output.cols),
                3 => Region::new(output.rows, hull(output.cols)),
                // The leading axis has length 1.
                _ => output.intersect(whole),
            }
        }
        Op::LayerNorm { .. }
        | Op::Reduce { .. }
        | Op::Select { .. }
        | Op::GlobalAveragePool { .. }
        | Op::QGlobalAveragePool { .. }
        | Op::QLinear { .. }
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Linear { .. }
        | Op::LinearRows { .. }
        | Op::MatMul
        | Op::ConcatGeneral { .. }
        | Op::Softmax { .. } => whole,
    }
}

fn windowed(window: &Window, output: Region, whole: Region) -> Region {
    let Window { kernel, stride, dilation, pads } = window;
    let axis = |out: Span, kernel: usize, stride: usize, dilation: usize, pad: usize| {
        let start = (out.start * stride).saturating_sub(pad);
        let end = ((out.end - 1) * stride + (kernel - 1) * dilation + 1).saturating_sub(pad);
        Span::new(start, end)
    };
    Region::new(
        axis(output.rows, kernel.rows, stride.rows, dilation.rows, pads.top).intersect(whole.rows),
        axis(output.cols, kernel.cols, stride.cols, dilation.cols, pads.left).intersect(whole.cols),
    )
}

/// What an output region of a transposed convolution adds up: the hull of what its taps touch.
///
/// With gaps in what they touch (a stride above the kernel, dilation) this can be less than what
/// lies between the first and the last tap, and nothing at all.
fn transposed(window: &Window, output: Region, whole: Region) -> Region {
    let Window { kernel, stride, dilation, pads } = window;
    let axis = |out: Span, map: Span, pad: usize, kernel: usize, stride: usize, dilation: usize| {
        let (first, last) = (out.start + pad, out.end - 1 + pad);
        // Of a kernel longer than the map, the taps that touch it.
        let first_tap = first.saturating_sub((map.len() - 1) * stride).div_ceil(dilation);
        let end_tap = kernel.min(last / dilation + 1);
        let touched = (first_tap..end_tap).map(|tap| {
            let at = tap * dilation;
            Span::new(first.saturating_sub(at).div_ceil(stride), (last - at) / stride + 1)
        });
        touched.fold(Span::EMPTY, |hull, inputs| hull.hull(inputs.intersect(map)))
    };
    Region::new(
        axis(output.rows, whole.rows, pads.top, kernel.rows, stride.rows, dilation.rows),
        axis(output.cols, whole.cols, pads.left, kernel.cols, stride.cols, dilation.cols),
    )
}

fn shift_back(span: Span, by: usize) -> Span {
    Span::new(span.start.saturating_sub(by), span.end.saturating_sub(by))
}

fn broadcast(output: Span, in_len: usize, out_len: usize) -> Span {
    if in_len == 1 && out_len != 1 { Span::whole(1) } else { output.intersect(Span::whole(in_len)) }
}

/// One axis of a resize: where an output coordinate falls in the input.
///
/// The kernels use the very same functions, so geometry and arithmetic cannot disagree.
#[derive(Clone, Copy, Debug)]
pub struct ResizeAxis {
    /// How coordinates map.
    pub coordinates: ResizeCoordinates,
    /// Output length / input length.
    pub scale: f32,
    /// Input length.
    pub in_len: usize,
    /// Output length.
    pub out_len: usize,
}

impl ResizeAxis {
    /// The axes of a resize, rows and cols.
    pub fn of(
        coordinates: ResizeCoordinates,
        scale: Axes<f32>,
        input: &Shape,
        output: &Shape,
    ) -> Axes<Self> {
        let axis = |scale, in_len, out_len| Self { coordinates, scale, in_len, out_len };
        Axes::new(
            axis(scale.rows, input.rows(), output.rows()),
            axis(scale.cols, input.cols(), output.cols()),
        )
    }

    /// The real-valued input coordinate of an output index, not clamped.
    pub fn coordinate(&self, out: usize) -> f32 {
        let x = out as f32;
        match self.coordinates {
            ResizeCoordinates::PytorchHalfPixel if self.out_len == 1 => 0.0,
            ResizeCoordinates::HalfPixel | ResizeCoordinates::PytorchHalfPixel => {
                (x + 0.5) / self.scale - 0.5
            }
            ResizeCoordinates::Asymmetric => x / self.scale,
            ResizeCoordinates::AlignCorners if self.out_len == 1 => 0.0,
            ResizeCoordinates::AlignCorners => {
                x * (self.in_len - 1) as f32 / (self.out_len - 1) as f32
            }
        }
    }

    /// The first and last input index that an output index reads.
    pub fn samples(&self, mode: ResizeMode, out: usize) -> (usize, usize) {
        let x = self.coordinate(out);
        let clamp = |i: f32| (i.max(0.0) as usize).min(self.in_len - 1);
        let nearest = |i: f32| (clamp(i), clamp(i));
        match mode {
            ResizeMode::NearestFloor => nearest(x.floor()),
            ResizeMode::NearestCeil => nearest(x.ceil()),
            ResizeMode::NearestRoundPreferFloor => nearest((x - 0.5).ceil()),
            ResizeMode::NearestRoundPreferCeil => nearest((x + 0.5).floor()),
            ResizeMode::Bilinear => (clamp(x.floor()), clamp(x.floor() + 1.0)),
        }
    }

    /// The weight of the last sample of a bilinear resize, in `0.0..=1.0`; the first has the rest.
    pub fn fraction(&self, out: usize) -> f32 {
        let x = self.coordinate(out).clamp(0.0, (self.in_len - 1) as f32);
        x - x.floor()
    }
}
