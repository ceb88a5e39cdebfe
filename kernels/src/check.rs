//! Whether a layer's attributes and maps fit together, so that the kernels may rely on it.
//!
//! A graph can come from a file or from another device; a contradiction is an error, not a panic.

use crate::error::KernelError;
use crate::linear::MatMulShape;
use model::{Axes, Layer, LayerId, MapId, Model, Op, Shape, Window};
use std::collections::BTreeMap;
use tiling::{Locality, Region, TileGeometry, locality, receptive_field};

/// *Errors*: the first contradiction found, with the layer's name.
pub(crate) fn layer(model: &Model, id: LayerId) -> Result<(), KernelError> {
    let layer = model.layer(id);
    let output = model.shape(layer.output);
    let inputs: Vec<&Shape> = layer.inputs.iter().map(|&map| model.shape(map)).collect();
    Check { layer, output, inputs }.run()
}

/// Whether the regions of a tile hang together: each layer finds what it reads.
///
/// *Errors*: the first contradiction found.
pub(crate) fn tile(
    model: &Model,
    first_layer: LayerId,
    tile: &TileGeometry,
) -> Result<(), KernelError> {
    let layers = model.layers.len();
    let first = first_layer.index();
    let end = first.saturating_add(tile.layers.len());
    if end > layers {
        return Err(KernelError::LayerRange { first, end, layers });
    }
    let mut there: BTreeMap<MapId, Region> = tile.inputs.iter().copied().collect();
    for (i, &region) in tile.layers.iter().enumerate() {
        if region.is_empty() {
            continue;
        }
        let id = LayerId((first + i) as u32);
        self::layer(model, id)?;
        let layer = model.layer(id);
        let shape = model.shape(layer.output);
        let whole = Region::whole(shape);
        let region = if locality(model, id) == Locality::Local { region } else { whole };
        if !whole.contains(region) {
            let map = model.map(layer.output).name.clone();
            return Err(KernelError::PieceOutside { map, expected: whole, got: region });
        }
        for &map in &layer.inputs {
            let expected = receptive_field(&layer.op, region, shape, model.shape(map));
            let got = there.get(&map).copied().unwrap_or_default();
            if !got.contains(expected) {
                let (layer, map) = (layer.name.clone(), model.map(map).name.clone());
                return Err(KernelError::TileRegion { layer, map, expected, got });
            }
        }
        there.insert(layer.output, region);
    }
    for &(map, expected) in &tile.outputs {
        let got = there.get(&map).copied().unwrap_or_default();
        if !got.contains(expected) {
            let map = model.map(map).name.clone();
            return Err(KernelError::MissingOutput { map, expected, got });
        }
    }
    Ok(())
}

/// More padding than any network has.
const PADDING_END: usize = 1 << 16;

struct Check<'a> {
    layer: &'a Layer,
    output: &'a Shape,
    inputs: Vec<&'a Shape>,
}

impl Check<'_> {
    fn same(&self, what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
        if expected == got {
            return Ok(());
        }
        Err(KernelError::LayerShape { layer: self.layer.name.clone(), what, expected, got })
    }

    fn holds(&self, what: &'static str, holds: bool) -> Result<(), KernelError> {
        self.same(what, 1, holds as usize)
    }

    /// All maps have rows, cols and channels.
    fn spatial(&self) -> Result<(), KernelError> {
        let spatial = self.inputs.iter().all(|s| s.is_spatial()) && self.output.is_spatial();
        self.holds("only spatial maps", spatial)
    }

    fn same_shape(&self) -> Result<(), KernelError> {
        self.holds("input as large as output", self.inputs[0].dims() == self.output.dims())
    }

    fn window(&self, window: &Window) -> Result<(), KernelError> {
        let axes = [window.kernel, window.stride, window.dilation];
        let steps = axes.iter().all(|a| a.rows > 0 && a.cols > 0);
        self.holds("positive kernel, stride and dilation", steps)
    }

    /// The window is no larger than the padded map, and the padding is sane: memory is taken for
    /// both.
    fn fits(&self, window: &Window, input: &Shape) -> Result<(), KernelError> {
        let Window { kernel, dilation, pads, .. } = window;
        let axis = |len: usize, (before, after): (usize, usize), kernel: usize, step: usize| {
            let reach = (kernel - 1).checked_mul(step);
            let inside = reach.is_some_and(|reach| reach < len + before + after);
            before < PADDING_END && after < PADDING_END && inside
        };
        let rows = axis(input.rows(), (pads.top, pads.bottom), kernel.rows, dilation.rows);
        let cols = axis(input.cols(), (pads.left, pads.right), kernel.cols, dilation.cols);
        self.holds("a window that fits the padded map", rows && cols)
    }

    /// The output is what a transposed convolution spreads to, and the padding is sane.
    fn spreads(
        &self,
        window: &Window,
        extra: Axes<usize>,
        input: &Shape,
    ) -> Result<(), KernelError> {
        let Window { kernel, stride, dilation, pads } = window;
        let spread = |len: usize, kernel: usize, stride: usize, dilation: usize, extra: usize| {
            let steps = (len - 1).checked_mul(stride)?;
            let reach = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
            steps.checked_add(reach)?.checked_add(extra)
        };
        let rows = spread(input.rows(), kernel.rows, stride.rows, dilation.rows, extra.rows);
        let cols = spread(input.cols(), kernel.cols, stride.cols, dilation.cols, extra.cols);
        let sides = [pads.top, pads.bottom, pads.left, pads.right];
        self.holds("sane padding", sides.iter().all(|&side| side < PADDING_END))?;
        let (cut_rows, cut_cols) = (pads.top + pads.bottom, pads.left + pads.right);
        self.holds("rows spread over", rows == Some(self.output.rows() + cut_rows))?;
        self.holds("cols spread over", cols == Some(self.output.cols() + cut_cols))
    }

    fn run(&self) -> Result<(), KernelError> {
        let (op, output) = (&self.layer.op, self.output);
        let expected = match op {
            Op::Constant { .. } => 0..=0,
            Op::MatMul | Op::QCombine { .. } => 2..=2,
            Op::Combine { .. } => 2..=usize::MAX,
            Op::Concat | Op::ConcatGeneral { .. } => 1..=usize::MAX,
            _ => 1..=1,
        };
        if !expected.contains(&self.inputs.len()) {
            return self.same("inputs", *expected.start(), self.inputs.len());
        }
        let maps = self.inputs.iter().chain([&output]);
        self.holds("maps with elements", maps.into_iter().all(|s| s.elements() > 0))?;
        let Some(&input) = self.inputs.first() else { return Ok(()) };
        match op {
            Op::Constant { .. } => Ok(()),
            Op::Conv { window, .. } | Op::QConv { window, .. } => {
                self.spatial()?;
                self.window(window)?;
                self.fits(window, input)
            }
            Op::ConvTranspose { window, extra, .. } => {
                self.spatial()?;
                self.window(window)?;
                self.spreads(window, *extra, input)
            }
            Op::Pool { window, .. } => {
                self.spatial()?;
                self.window(window)?;
                self.same("channels", input.channels(), output.channels())
            }
            // To both a general map is one position with a channel for each element.
            Op::Activate(_)
            | Op::ChannelAffine { .. }
            | Op::Quantize { .. }
            | Op::Dequantize { .. }
            | Op::Requantize { .. } => self.same_shape(),
            Op::Lrn { size, .. } => {
                self.spatial()?;
                self.holds("a positive size", *size > 0)?;
                self.same_shape()
            }
            Op::PRelu { .. } => {
                self.spatial()?;
                self.same_shape()
            }
            Op::Combine { .. } | Op::QCombine { .. } => {
                if !self.inputs.iter().all(|s| s.is_spatial() == output.is_spatial()) {
                    return self.spatial();
                }
                let fits = |s: &&Shape| broadcasts(&s.dims(), &output.dims());
                self.holds("inputs broadcast to the output", self.inputs.iter().all(fits))
            }
            Op::Concat => {
                self.spatial()?;
                let positions = |s: &Shape| (s.rows(), s.cols());
                let aligned = self.inputs.iter().all(|s| positions(s) == positions(output));
                self.holds("inputs with the rows and cols of the output", aligned)?;
                let channels = self.inputs.iter().map(|s| s.channels()).sum();
                self.same("channels", channels, output.channels())
            }
            Op::ConcatGeneral { axis } => {
                let general = self.inputs.iter().all(|s| !s.is_spatial()) && !output.is_spatial();
                self.holds("only general maps", general)?;
                let dims = output.dims();
                self.holds("an axis of the output", *axis < dims.len())?;
                let joins = |s: &&Shape| {
                    let mut other = s.dims();
                    other.len() == dims.len() && {
                        other[*axis] = dims[*axis];
                        other == dims
                    }
                };
                self.holds("inputs that differ in the axis alone", self.inputs.iter().all(joins))?;
                let length = self.inputs.iter().map(|s| s.dims()[*axis]).sum();
                self.same("length of the axis", length, dims[*axis])
            }
            Op::Pad { pads, .. } => {
                self.spatial()?;
                self.same("channels", input.channels(), output.channels())?;
                self.same("rows", input.rows() + pads.top + pads.bottom, output.rows())?;
                self.same("cols", input.cols() + pads.left + pads.right, output.cols())
            }
            Op::Resize { scale, .. } => {
                self.spatial()?;
                self.holds("a positive scale", scale.rows > 0.0 && scale.cols > 0.0)?;
                self.same("channels", input.channels(), output.channels())
            }
            Op::DepthToSpace { block, .. } => {
                self.spatial()?;
                self.same("channels", input.channels(), output.channels() * block * block)?;
                self.same("rows", input.rows() * block, output.rows())?;
                self.same("cols", input.cols() * block, output.cols())
            }
            Op::SpaceToDepth { block } => {
                self.spatial()?;
                self.same("channels", output.channels(), input.channels() * block * block)?;
                self.same("rows", output.rows() * block, input.rows())?;
                self.same("cols", output.cols() * block, input.cols())
            }
            Op::GlobalAveragePool { .. } | Op::QGlobalAveragePool { .. } => {
                self.spatial()?;
                self.same("positions", 1, output.rows() * output.cols())?;
                self.same("channels", input.channels(), output.channels())
            }
            Op::Reduce { axes, .. } => {
                let (from, mut to) = (input.dims(), output.dims());
                self.holds("the axes of the input", from.len() == to.len())?;
                self.holds("axes", axes.iter().all(|&axis| axis < from.len()))?;
                self.holds("a length of 1", axes.iter().all(|&axis| to[axis] == 1))?;
                axes.iter().for_each(|&axis| to[axis] = from[axis]);
                self.holds("the other lengths of the input", from == to)
            }
            Op::LayerNorm { .. } => self.same_shape(),
            Op::Select { axis, indices } => {
                let (from, mut to) = (input.dims(), output.dims());
                self.holds("an axis", *axis < from.len() && from.len() == to.len())?;
                self.same("places", indices.len(), to[*axis])?;
                let inside = indices.iter().all(|&index| (index as usize) < from[*axis]);
                self.holds("places of the input", inside)?;
                to[*axis] = from[*axis];
                self.holds("the other lengths of the input", from == to)
            }
            Op::Reshape => self.same("elements", input.elements(), output.elements()),
            Op::Transpose { perm } => {
                let (from, to) = (input.dims(), output.dims());
                let mut axes = perm.clone();
                axes.sort_unstable();
                self.holds("a permutation", axes.iter().copied().eq(0..from.len()))?;
                let permuted = perm.iter().map(|&axis| from[axis]);
                self.holds("the output's dims", permuted.eq(to.iter().copied()))
            }
            Op::Linear { .. } | Op::QLinear { .. } => {
                let (from, to) = (input.dims(), output.dims());
                self.holds("an axis", !from.is_empty() && from.len() == to.len())?;
                self.holds("general maps", !input.is_spatial() && !output.is_spatial())?;
                let last = from.len() - 1;
                self.holds("the same leading axes", from[..last] == to[..last])
            }
            Op::LinearRows { slices, .. } => {
                self.holds("slices", !slices.is_empty())?;
                self.same("positions of one value", output.rows(), output.elements())
            }
            Op::MatMul => {
                let general = self.inputs.iter().all(|s| !s.is_spatial()) && !output.is_spatial();
                self.holds("only general maps", general)?;
                let (a, b) = (self.inputs[0].dims(), self.inputs[1].dims());
                let shape = MatMulShape::new(&self.layer.name, &a, &b)?;
                let elements = shape.starts.len() * shape.rows * shape.cols;
                self.same("elements", elements, output.elements())
            }
            Op::Softmax { axis, .. } => {
                self.holds("an axis", *axis < output.dims().len())?;
                self.same_shape()
            }
        }
    }
}

/// Whether dims broadcast to others, counted from the last axis.
fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len()
        && from.iter().rev().zip(to.iter().rev()).all(|(from, to)| from == to || *from == 1)
}
