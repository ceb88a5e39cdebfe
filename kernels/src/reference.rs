//! The naive reference: one obvious loop for each operator, whole maps, no vectors, no threads.
//!
//! It accumulates in the order that the kernels promise, so their bits must be equal to its own.

// A square is indexed by row and col alike; iterators over one of them hide that.
#![allow(clippy::needless_range_loop)]

mod quant;

use crate::conv::transform::{Five, Four, Line, Six, Three, Transform, Two, WIDTH_MAX};
use crate::error::KernelError;
use crate::general::{self, arithmetic};
use crate::linear::{MatMulShape, SUMS, tree};
use crate::math;
use crate::piece::Piece;
use crate::simd::Scalar;
use crate::spatial::Lrn;
use model::{
    Activation, Axes, CombineKind, DepthOrder, Layer, LayerId, LoadedModel, MapId, Op, Pads,
    PoolKind, ReduceKind, ResizeMode, Shape, WeightId, Window,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::receptive::ResizeAxis;
use tiling::{Algorithm, Numerics, Region, StageGeometry};

/// Runs a whole model; the result is in the order of its outputs.
///
/// *Errors*: an input map is not given whole, or the graph contradicts itself.
///
/// *Panics* when a weight tensor is shorter than its layer needs: a loaded model is sound.
pub fn run(
    model: &LoadedModel,
    numerics: Numerics,
    inputs: &[(MapId, Arc<Piece>)],
) -> Result<Vec<(MapId, Piece)>, KernelError> {
    run_by(model, &StageGeometry::whole(&model.graph, numerics).algorithms, inputs)
}

/// As [`run`], with an algorithm for each layer.
///
/// *Errors*, *Panics*: as [`run`].
pub fn run_by(
    model: &LoadedModel,
    algorithms: &[Algorithm],
    inputs: &[(MapId, Arc<Piece>)],
) -> Result<Vec<(MapId, Piece)>, KernelError> {
    let graph = &model.graph;
    let mut maps: Vec<Option<Arc<Piece>>> = vec![None; graph.maps.len()];
    let memory = crate::arena::Pool::default();
    for &map in &graph.inputs {
        let whole = Region::whole(graph.shape(map));
        maps[map.index()] = Some(crate::gather::gather(graph, map, whole, inputs, &memory)?);
    }
    for (i, layer) in graph.layers.iter().enumerate() {
        crate::check::layer(graph, LayerId(i as u32))?;
        let input = |map: &MapId| {
            let piece = maps[map.index()].clone().expect("layers are in topological order");
            Map { piece, shape: graph.shape(*map) }
        };
        let inputs: Vec<Map<'_>> = layer.inputs.iter().map(input).collect();
        let shape = graph.shape(layer.output);
        let algorithm = algorithms[i];
        let floats = |id: WeightId| Some((id, model.weights.floats(graph.weight(id))?));
        let weights = layer.op.weight_ids().into_iter().filter_map(floats).collect();
        let computed = One { model, layer, algorithm, inputs, weights, shape }.run()?;
        maps[layer.output.index()] = Some(Arc::new(computed));
    }
    let output = |map: &MapId| {
        let piece = maps[map.index()].as_ref().expect("every output has a producer");
        (*map, Piece::clone(piece))
    };
    Ok(graph.outputs.iter().map(output).collect())
}

/// A whole map.
struct Map<'a> {
    piece: Arc<Piece>,
    shape: &'a Shape,
}

impl Map<'_> {
    fn at(&self, channel: usize, row: usize, col: usize) -> f32 {
        let position = row * self.shape.cols() + col;
        self.piece.values()[position * self.piece.channels + channel]
    }

    /// The value at a position that may lie outside; none there.
    fn inside(&self, channel: usize, row: isize, col: isize) -> Option<f32> {
        let rows = 0..self.shape.rows() as isize;
        let cols = 0..self.shape.cols() as isize;
        let inside = rows.contains(&row) && cols.contains(&col);
        inside.then(|| self.at(channel, row as usize, col as usize))
    }

    fn all(&self) -> &[f32] {
        self.piece.values()
    }
}

/// The input positions of a window, row by row; they may lie outside the map.
fn taps(window: &Window, row: usize, col: usize) -> impl Iterator<Item = (isize, isize)> + Clone {
    let Window { kernel, stride, dilation, pads } = *window;
    let at = |out: usize, stride: usize, k: usize, dilation: usize, pad: usize| {
        (out * stride + k * dilation) as isize - pad as isize
    };
    (0..kernel.rows).flat_map(move |y| {
        (0..kernel.cols).map(move |x| {
            let row = at(row, stride.rows, y, dilation.rows, pads.top);
            (row, at(col, stride.cols, x, dilation.cols, pads.left))
        })
    })
}

/// One layer.
struct One<'a> {
    model: &'a LoadedModel,
    layer: &'a Layer,
    algorithm: Algorithm,
    inputs: Vec<Map<'a>>,
    /// Those of its weights that are floats.
    weights: BTreeMap<WeightId, Arc<Vec<f32>>>,
    shape: &'a Shape,
}

impl One<'_> {
    fn run(&self) -> Result<Piece, KernelError> {
        if self.is_quantised() {
            return Ok(self.quantised());
        }
        let elements = |weight: WeightId| &self.weights[&weight][..];
        let per_channel =
            |weight: Option<WeightId>, c: usize| weight.map_or(0.0, |weight| elements(weight)[c]);
        let input = || &self.inputs[0];
        Ok(match &self.layer.op {
            Op::Conv { window, weights, bias, activation, .. }
                if self.algorithm != Algorithm::Direct =>
            {
                let sums = match self.algorithm {
                    Algorithm::Winograd2 => self.winograd::<Two>(window, elements(*weights)),
                    Algorithm::Winograd3 => self.winograd::<Three>(window, elements(*weights)),
                    Algorithm::Winograd4 => self.winograd::<Four>(window, elements(*weights)),
                    Algorithm::Winograd5 => self.winograd::<Five>(window, elements(*weights)),
                    _ => self.winograd::<Six>(window, elements(*weights)),
                };
                let (channels, cols) = (self.shape.channels(), self.shape.cols());
                self.each(|c, row, col| {
                    let sum = sums[(row * cols + col) * channels + c];
                    math::activate_one(*activation, sum + per_channel(*bias, c))
                })
            }
            Op::Conv { window, groups, weights, bias, activation } => self.each(|c, row, col| {
                let sum = self.conv(window, *groups, elements(*weights), (c, row, col));
                math::activate_one(*activation, sum + per_channel(*bias, c))
            }),
            Op::ConvTranspose { window, groups, weights, bias, activation, .. } => {
                self.each(|c, row, col| {
                    let at = (c, row, col);
                    let sum = self.conv_transpose(window, *groups, elements(*weights), at);
                    math::activate_one(*activation, sum + per_channel(*bias, c))
                })
            }
            Op::Pool { window, kind } => {
                self.each(|c, row, col| self.pool(window, *kind, c, row, col))
            }
            Op::Activate(a) => {
                self.each(|c, row, col| math::activate_one(*a, input().at(c, row, col)))
            }
            Op::ChannelAffine { scale, shift, activation } => self.each(|c, row, col| {
                let (scale, shift) = (elements(*scale)[c], elements(*shift)[c]);
                math::activate_one(*activation, input().at(c, row, col).mul_add(scale, shift))
            }),
            Op::PRelu { slope } => self.each(|c, row, col| {
                let x = input().at(c, row, col);
                if x < 0.0 { elements(*slope)[c] * x } else { x }
            }),
            Op::Combine { kind, activation } if self.shape.is_spatial() => {
                self.each(|c, row, col| self.combine(*kind, *activation, c, row, col))
            }
            Op::Concat => self.each(|c, row, col| {
                let mut c = c;
                for input in &self.inputs {
                    match c.checked_sub(input.shape.channels()) {
                        Some(rest) => c = rest,
                        None => return input.at(c, row, col),
                    }
                }
                unreachable!("the channels of the inputs make up those of the output")
            }),
            Op::Pad { pads: Pads { top, left, .. }, value } => self.each(|c, row, col| {
                let (row, col) = (row as isize - *top as isize, col as isize - *left as isize);
                input().inside(c, row, col).unwrap_or(*value)
            }),
            Op::Resize { mode, coordinates, scale } => {
                let axes = ResizeAxis::of(*coordinates, *scale, input().shape, self.shape);
                self.each(|c, row, col| self.resize(*mode, axes, c, row, col))
            }
            op @ (Op::DepthToSpace { .. } | Op::SpaceToDepth { .. }) => self.each(|c, row, col| {
                let (c, row, col) = self.shuffled(op, (c, row, col));
                input().at(c, row, col)
            }),
            &Op::Lrn { size, alpha, beta, bias } => self.each(|c, row, col| {
                let lrn = Lrn { size, alpha, beta, bias };
                let squares = lrn.window(c, self.shape.channels()).indices().map(|i| {
                    let x = input().at(i, row, col);
                    x * x
                });
                lrn.scaled(input().at(c, row, col), squares.fold(0.0, |sum, x| sum + x))
            }),
            Op::GlobalAveragePool { positions: count } => self.each(|c, _, _| {
                let Shape::Spatial { rows, cols, .. } = *input().shape else { unreachable!() };
                let positions = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
                let sum = positions.fold(0.0, |sum, (row, col)| sum + input().at(c, row, col));
                sum / *count as f32
            }),
            Op::Select { axis, indices }
                if self.shape.is_spatial() && input().shape.is_spatial() =>
            {
                let place = |at: usize, of: usize| match *axis == of {
                    true => indices[at] as usize,
                    false => at,
                };
                self.each(|c, row, col| input().at(place(c, 1), place(row, 2), place(col, 3)))
            }
            Op::LayerNorm { scale, shift, epsilon } => {
                let (scale, shift) = (elements(*scale), elements(*shift));
                let count = scale.len();
                self.flat(|i| {
                    let run = &input().all()[i / count * count..][..count];
                    let mean = run.iter().fold(0.0, |sum, x| sum + x) / count as f32;
                    let square = |x: &f32| (x - mean) * (x - mean);
                    let squares = run.iter().fold(0.0, |sum, x| sum + square(x));
                    let divisor = (squares / count as f32 + epsilon).sqrt();
                    let at = i % count;
                    (run[at] - mean) / divisor * scale[at] + shift[at]
                })
            }
            Op::Reduce { kind, axes } => self.reduce(*kind, axes),
            Op::Linear { weights, bias, activation } => {
                let inputs = input().shape.dims().last().copied().unwrap_or(0);
                let outputs = self.shape.dims().last().copied().unwrap_or(0);
                self.flat(|i| {
                    let x = &input().all()[i / outputs * inputs..][..inputs];
                    let w = &elements(*weights)[i % outputs * inputs..][..inputs];
                    let bias = per_channel(*bias, i % outputs);
                    math::activate_one(*activation, dot(x, w) + bias)
                })
            }
            Op::LinearRows { slices, bias, activation } => {
                let x = input();
                let logical = general::logical(x.all(), x.shape);
                let x: Vec<f32> = logical.iter().copied().collect();
                let rows = slices.iter().flat_map(|&slice| elements(slice).chunks(x.len()));
                let rows: Vec<&[f32]> = rows.collect();
                self.flat(|i| {
                    let sum = dot(&x, rows[i]) + per_channel(*bias, i);
                    math::activate_one(*activation, sum)
                })
            }
            Op::MatMul => self.mat_mul()?,
            Op::Softmax { axis, flattened } => self.softmax(*axis, *flattened),
            Op::Constant { value } => general::from_logical(self.shape, elements(*value)),
            _ => self.shared(),
        })
    }

    /// Where an output of DepthToSpace or SpaceToDepth comes from; the same place for others.
    fn shuffled(&self, op: &Op, (c, row, col): (usize, usize, usize)) -> (usize, usize, usize) {
        match op {
            Op::DepthToSpace { block, order } => {
                let (in_row, in_col) = (row % block, col % block);
                let from = match order {
                    DepthOrder::Dcr => (in_row * block + in_col) * self.shape.channels() + c,
                    DepthOrder::Crd => (c * block + in_row) * block + in_col,
                };
                (from, row / block, col / block)
            }
            Op::SpaceToDepth { block } => {
                let channels = self.inputs[0].shape.channels();
                let (in_block, c) = (c / channels, c % channels);
                (c, row * block + in_block / block, col * block + in_block % block)
            }
            _ => (c, row, col),
        }
    }

    /// Operators that only move values under their logical axes: the kernels are plain already.
    fn shared(&self) -> Piece {
        let mut output = Piece::zeroed(Region::whole(self.shape), self.shape.channels());
        let to = output.values_mut();
        let inputs: Vec<_> = self.inputs.iter().map(|map| (map.all(), map.shape)).collect();
        let (from, from_shape) = inputs[0];
        match &self.layer.op {
            Op::Select { axis, indices } => {
                general::select(from, from_shape, *axis, indices, self.shape, to);
            }
            Op::Reshape => general::reshape(from, from_shape, self.shape, to),
            Op::Transpose { perm } => general::transpose(from, from_shape, perm, self.shape, to),
            Op::ConcatGeneral { axis } => general::concat(&inputs, *axis, self.shape, to),
            Op::Combine { kind, activation } => {
                general::combine(&inputs, *kind, *activation, self.shape, to);
            }
            _ => unreachable!("every other operator has its loop"),
        }
        output
    }

    /// Fills the output, element by element.
    fn each(&self, value: impl Fn(usize, usize, usize) -> f32) -> Piece {
        let (channels, cols) = (self.shape.channels(), self.shape.cols());
        self.flat(|i| value(i % channels, i / channels / cols, i / channels % cols))
    }

    /// Fills the output in the order of its memory.
    fn flat(&self, value: impl Fn(usize) -> f32) -> Piece {
        let mut output = Piece::zeroed(Region::whole(self.shape), self.shape.channels());
        output.values_mut().iter_mut().enumerate().for_each(|(i, to)| *to = value(i));
        output
    }

    /// From the last tap to the first, which is from the first input position to the last.
    fn conv_transpose(
        &self,
        window: &Window,
        groups: usize,
        weights: &[f32],
        (c, row, col): (usize, usize, usize),
    ) -> f32 {
        let Window { kernel, stride, dilation, pads } = *window;
        let input = &self.inputs[0];
        let (group_inputs, group_outputs) =
            (input.shape.channels() / groups, self.shape.channels() / groups);
        let group = c / group_outputs;
        // The input position from which a tap hits the output position, if it does from any.
        let source = |hit: usize, tap: usize, stride: usize| {
            let steps = hit as isize - tap as isize;
            (steps % stride as isize == 0).then_some(steps / stride as isize)
        };
        let mut sum = 0.0f32;
        for y in (0..kernel.rows).rev() {
            let Some(row) = source(row + pads.top, y * dilation.rows, stride.rows) else {
                continue;
            };
            for x in (0..kernel.cols).rev() {
                let from = source(col + pads.left, x * dilation.cols, stride.cols);
                let Some(col) = from else { continue };
                for i in 0..group_inputs {
                    let of = group * group_inputs + i;
                    let filter = of * group_outputs + c % group_outputs;
                    let weight = weights[(filter * kernel.rows + y) * kernel.cols + x];
                    sum = input.inside(of, row, col).unwrap_or(0.0).mul_add(weight, sum);
                }
            }
        }
        sum
    }

    /// One chain in order of kernel row, kernel col, input channel; padding is multiplied as zero.
    fn conv(
        &self,
        window: &Window,
        groups: usize,
        weights: &[f32],
        (c, row, col): (usize, usize, usize),
    ) -> f32 {
        let input = &self.inputs[0];
        let per_group = input.shape.channels() / groups;
        let first = c / (self.shape.channels() / groups) * per_group;
        let count = window.kernel.rows * window.kernel.cols;
        let mut sum = 0.0f32;
        for (tap, (row, col)) in taps(window, row, col).enumerate() {
            for i in 0..per_group {
                let x = input.inside(first + i, row, col).unwrap_or(0.0);
                sum = x.mul_add(weights[(c * per_group + i) * count + tap], sum);
            }
        }
        sum
    }

    /// The sums of a 3x3 convolution, block by block: each product a chain over the channels.
    fn winograd<T: Transform>(&self, window: &Window, weights: &[f32]) -> Vec<f32> {
        let input = &self.inputs[0];
        let (inputs, outputs) = (input.shape.channels(), self.shape.channels());
        let (rows, cols) = (self.shape.rows(), self.shape.cols());
        let mut sums = vec![0.0; rows * cols * outputs];
        let filters: Vec<Block> = weights.chunks(9).map(|g| filter::<T>(g)).collect();
        for row in (0..rows).step_by(T::OUTPUTS) {
            for col in (0..cols).step_by(T::OUTPUTS) {
                let top = row as isize - window.pads.top as isize;
                let left = col as isize - window.pads.left as isize;
                // Beyond the field of the map's own rows and cols nothing is read.
                let end_row = (rows + 2) as isize - window.pads.top as isize;
                let end_col = (cols + 2) as isize - window.pads.left as isize;
                let factors: Vec<Block> = (0..inputs)
                    .map(|c| {
                        let d = |i: usize, j: usize| {
                            let (y, x) = (top + i as isize, left + j as isize);
                            let inside = y < end_row && x < end_col;
                            input.inside(c, y, x).filter(|_| inside).unwrap_or(0.0)
                        };
                        both_axes(T::WIDTH, T::WIDTH, d, |line| T::input(Scalar, line))
                    })
                    .collect();
                for c in 0..outputs {
                    let product = |i: usize, j: usize| {
                        let chain = |sum: f32, k: usize| {
                            factors[k][i][j].mul_add(filters[c * inputs + k][i][j], sum)
                        };
                        (0..inputs).fold(0.0, chain)
                    };
                    let y = both_axes(T::WIDTH, T::OUTPUTS, product, |l| T::output(Scalar, l));
                    for (i, y) in y.iter().enumerate().take(T::OUTPUTS.min(rows - row)) {
                        for (j, y) in y.iter().enumerate().take(T::OUTPUTS.min(cols - col)) {
                            sums[((row + i) * cols + col + j) * outputs + c] = *y;
                        }
                    }
                }
            }
        }
        sums
    }

    fn pool(&self, window: &Window, kind: PoolKind, c: usize, row: usize, col: usize) -> f32 {
        let input = &self.inputs[0];
        let values = taps(window, row, col).filter_map(|(row, col)| input.inside(c, row, col));
        match kind {
            PoolKind::Max => values.fold(f32::NEG_INFINITY, |max, x| if max > x { max } else { x }),
            PoolKind::Sum => values.fold(0.0, |sum, x| sum + x),
            PoolKind::Average { count_padding } => {
                let Pads { bottom, right, .. } = window.pads;
                let end_row = (input.shape.rows() + bottom) as isize;
                let end_col = (input.shape.cols() + right) as isize;
                let declared = |&(row, col): &(isize, isize)| row < end_row && col < end_col;
                let count = match count_padding {
                    true => taps(window, row, col).filter(declared).count(),
                    false => values.clone().count(),
                };
                values.fold(0.0, |sum, x| sum + x) / count.max(1) as f32
            }
        }
    }

    fn combine(&self, kind: CombineKind, a: Activation, c: usize, row: usize, col: usize) -> f32 {
        let value = |input: &Map<'_>| {
            let Shape::Spatial { channels, rows, cols } = *input.shape else { unreachable!() };
            let along = |at: usize, len: usize| if len == 1 { 0 } else { at };
            input.at(along(c, channels), along(row, rows), along(col, cols))
        };
        let values = self.inputs.iter().map(value);
        let folded = values.reduce(|x, y| arithmetic(kind, x, y));
        math::activate_one(a, folded.expect("a layer has inputs"))
    }

    fn resize(
        &self,
        mode: ResizeMode,
        axes: Axes<ResizeAxis>,
        c: usize,
        row: usize,
        col: usize,
    ) -> f32 {
        let (top, bottom) = axes.rows.samples(mode, row);
        let (left, right) = axes.cols.samples(mode, col);
        let at = |row, col| self.inputs[0].at(c, row, col);
        if mode != ResizeMode::Bilinear {
            return at(top, left);
        }
        let between = |a: f32, b: f32, fraction: f32| a + (b - a) * fraction;
        let fraction = axes.cols.fraction(col);
        let above = between(at(top, left), at(top, right), fraction);
        let below = between(at(bottom, left), at(bottom, right), fraction);
        between(above, below, axes.rows.fraction(row))
    }

    fn mat_mul(&self) -> Result<Piece, KernelError> {
        let (a, b) = (&self.inputs[0], &self.inputs[1]);
        let shape = MatMulShape::new(&self.layer.name, &a.shape.dims(), &b.shape.dims())?;
        let MatMulShape { rows, inner, cols, starts } = shape;
        Ok(self.flat(|i| {
            let (a_start, b_start) = starts[i / (rows * cols)];
            let (row, col) = (i / cols % rows, i % cols);
            let product = |sum: f32, k: usize| {
                let x = a.all()[a_start + row * inner + k];
                x.mul_add(b.all()[b_start + k * cols + col], sum)
            };
            (0..inner).fold(0.0, product)
        }))
    }

    /// Each output element folds the input elements whose indices differ from its own in the axes.
    fn reduce(&self, kind: ReduceKind, axes: &[usize]) -> Piece {
        let input = general::logical(self.inputs[0].all(), self.inputs[0].shape);
        let dims = self.shape.dims();
        let count = input.len() / self.shape.elements();
        let mut folded: Vec<Option<f32>> = vec![None; self.shape.elements()];
        for (index, &x) in input.indexed_iter() {
            let flat = (0..dims.len()).fold(0, |flat, axis| {
                flat * dims[axis] + if axes.contains(&axis) { 0 } else { index[axis] }
            });
            let so_far = folded[flat].unwrap_or(match kind {
                ReduceKind::Sum | ReduceKind::Mean => 0.0,
                _ => x,
            });
            folded[flat] = Some(match kind {
                ReduceKind::Sum | ReduceKind::Mean => so_far + x,
                ReduceKind::Max => so_far.max(x),
                ReduceKind::Min => so_far.min(x),
            });
        }
        let divisor = if kind == ReduceKind::Mean { count as f32 } else { 1.0 };
        let values: Vec<f32> = folded.iter().map(|x| x.unwrap_or(0.0) / divisor).collect();
        general::from_logical(self.shape, &values)
    }

    /// Over logical elements `(outer, run, inner)`: the runs are what is normalised.
    fn softmax(&self, axis: usize, flattened: bool) -> Piece {
        let dims = self.shape.dims();
        let input = general::logical(self.inputs[0].all(), self.shape);
        let values: Vec<f32> = input.iter().copied().collect();
        let after = if flattened { dims.len() } else { axis + 1 };
        let len: usize = dims[axis..after].iter().product();
        let inner: usize = dims[after..].iter().product();
        let mut result = values.clone();
        for first in 0..values.len() {
            if !(first / inner).is_multiple_of(len) {
                continue;
            }
            let run = || (0..len).map(|i| first + i * inner);
            let max = run().map(|i| values[i]);
            let max = max.fold(f32::NEG_INFINITY, |max, x| if max > x { max } else { x });
            run().for_each(|i| result[i] = math::exp_one(values[i] - max));
            let sum = run().fold(0.0, |sum, i| sum + result[i]);
            run().for_each(|i| result[i] /= sum);
        }
        general::from_logical(self.shape, &result)
    }
}

/// Values of one Winograd block.
type Block = [[f32; WIDTH_MAX]; WIDTH_MAX];

/// Applies a transform to the columns of a square, then to the rows of what came out.
fn both_axes(
    width: usize,
    results: usize,
    from: impl Fn(usize, usize) -> f32,
    transform: impl Fn(Line<Scalar>) -> Line<Scalar>,
) -> Block {
    let of = |i: usize, value: &dyn Fn(usize) -> f32| if i < width { [value(i)] } else { [0.0] };
    let mut half = [[[0.0]; WIDTH_MAX]; WIDTH_MAX];
    for j in 0..width {
        let column = std::array::from_fn(|i| of(i, &|i| from(i, j)));
        let y = transform(column);
        (0..results).for_each(|i| half[i][j] = y[i]);
    }
    half.map(|row| transform(row).map(|[y]| y))
}

/// A 3x3 filter as factors.
fn filter<T: Transform>(g: &[f32]) -> Block {
    let mut half = [[[0.0]; 3]; WIDTH_MAX];
    for col in 0..3 {
        let y = T::filter(Scalar, [[g[col]], [g[3 + col]], [g[6 + col]]]);
        (0..T::WIDTH).for_each(|row| half[row][col] = y[row]);
    }
    half.map(|row| T::filter(Scalar, row).map(|[y]| y))
}

/// 16 partial sums, the last group filled up with zeros, added as a tree.
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    for k in 0..x.len().next_multiple_of(SUMS) {
        let at = |values: &[f32]| values.get(k).copied().unwrap_or(0.0);
        sums[k % SUMS] = at(x).mul_add(at(w), sums[k % SUMS]);
    }
    tree(sums)
}
