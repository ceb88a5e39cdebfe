//! Fully connected layers and matrix products.
//!
//! An output element of a fully connected layer is 16 partial sums: the one of lane `j` takes the
//! products `j, j + 16, ..` in order, the last group filled up with zeros. They are added as a
//! tree: lanes 8 apart, then 4, 2 and 1. Then the bias (`0.0` where there is none), then the
//! activation. An element of a matrix product is one chain over the inner axis from `0.0`.

use crate::error::KernelError;
use crate::math;
use crate::simd::{Kernel, Simd};
use crate::threads::{Threads, split};
use half::f16;
use model::Activation;
use std::sync::{Arc, Mutex, OnceLock};
use tiling::Span;

/// Partial sums of an element, the same on every instruction set.
pub(crate) const SUMS: usize = 16;

/// How a weight is stored.
pub(crate) trait Weight: Copy + Sync {
    /// Reads up to a vector from the front of a slice, zeros above.
    fn read<S: Simd>(s: S, values: &[Self]) -> S::V;
}

impl Weight for f32 {
    #[inline(always)]
    fn read<S: Simd>(s: S, values: &[f32]) -> S::V {
        s.read(values)
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn read<S: Simd>(s: S, values: &[f16]) -> S::V {
        let mut padded = [f16::ZERO; SUMS];
        let from = if values.len() >= S::LANES {
            values.as_ptr()
        } else {
            padded[..values.len()].copy_from_slice(values);
            padded.as_ptr()
        };
        // Safety: there are so many.
        #[allow(unsafe_code)]
        unsafe {
            s.widen(from)
        }
    }
}

/// The weights of a fully connected layer, `(outputs, inputs)`.
pub(crate) enum LinearWeights {
    Single(Arc<Vec<f32>>),
    Half(Vec<f16>),
}

impl LinearWeights {
    /// Memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            LinearWeights::Single(weights) => weights.len() * size_of::<f32>(),
            LinearWeights::Half(weights) => weights.len() * size_of::<f16>(),
        }
    }

    /// Computes `(rows, outputs)` for a range of the outputs; the bias is theirs.
    pub(crate) fn run(&self, threads: &Threads, input: Input<'_>, outputs: Span, to: &mut [f32]) {
        let range = outputs.start * input.inputs..outputs.end * input.inputs;
        let outputs = outputs.len();
        match self {
            LinearWeights::Single(weights) => {
                Linear { input, weights: &weights[range], outputs }.run(threads, to);
            }
            LinearWeights::Half(weights) => {
                Linear { input, weights: &weights[range], outputs }.run(threads, to);
            }
        }
    }
}

/// What a fully connected layer reads beside its weights, and does after them.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// `(rows, inputs)`
    pub(crate) values: &'a [f32],
    pub(crate) inputs: usize,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
}

/// Some outputs of a layer whose weights lie in slices.
pub(crate) struct Rows<'a> {
    pub(crate) input: Input<'a>,
    pub(crate) slices: &'a [OnceLock<LinearWeights>],
    /// Outputs of each slice but the last.
    pub(crate) of_slice: usize,
}

impl Rows<'_> {
    /// Computes a range of the outputs; false where a slice is not there.
    pub(crate) fn run(&self, threads: &Threads, outputs: Span, to: &mut [f32]) -> bool {
        let of_slice = self.of_slice.max(1);
        let mut at = outputs.start;
        while at < outputs.end {
            let (slice, first) = (at / of_slice, at / of_slice * of_slice);
            let end = (first + of_slice).min(outputs.end);
            let Some(weights) = self.slices.get(slice).and_then(OnceLock::get) else {
                return false;
            };
            let bias = self.input.bias.map(|bias| &bias[at..end]);
            let here = &mut to[at - outputs.start..end - outputs.start];
            let input = Input { bias, ..self.input };
            weights.run(threads, input, Span::new(at - first, end - first), here);
            at = end;
        }
        true
    }
}

/// A fully connected layer on the last axis.
#[derive(Clone, Copy)]
struct Linear<'a, W> {
    input: Input<'a>,
    /// `(outputs, inputs)`
    weights: &'a [W],
    outputs: usize,
}

/// Multiply-adds below which one thread is faster.
const MULTIPLY_ADDS_MIN: usize = 1 << 17;

impl<W: Weight> Linear<'_, W> {
    /// Computes `(rows, outputs)`.
    fn run(self, threads: &Threads, output: &mut [f32]) {
        assert_eq!(self.weights.len(), self.input.inputs * self.outputs);
        let rows = output.len() / self.outputs.max(1);
        let small = rows * self.weights.len() < MULTIPLY_ADDS_MIN;
        let parts = if small { 1 } else { threads.count.min(self.outputs).max(1) };
        if parts == 1 {
            threads.cpu.run(LinearPart { linear: self, outs: Span::whole(self.outputs), output });
            return;
        }
        // Each thread has its own columns of the output, gathered afterwards: they are short.
        let results: Vec<_> = (0..parts).map(|_| Mutex::new(Vec::new())).collect();
        let shares = split(Span::whole(self.outputs), parts);
        threads.for_each_part(parts, |part| {
            let outs = shares[part];
            let mut values = vec![0.0; rows * outs.len()];
            threads.cpu.run(LinearPart { linear: self, outs, output: &mut values });
            *results[part].lock().expect("no part panics with its lock held") = values;
        });
        for (outs, values) in shares.iter().zip(results) {
            let values = values.into_inner().expect("no part panics with its lock held");
            let to = output.chunks_mut(self.outputs);
            for (to, from) in to.zip(values.chunks(outs.len().max(1))) {
                to[outs.indices()].copy_from_slice(from);
            }
        }
    }
}

/// Some outputs of every row.
struct LinearPart<'a, W> {
    linear: Linear<'a, W>,
    outs: Span,
    /// `(rows, outs)`
    output: &'a mut [f32],
}

/// Outputs whose sums run side by side, to hide the latency of the multiply-add.
const SIDE_BY_SIDE: usize = 4;

impl<W: Weight> Kernel for LinearPart<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { linear: Linear { input, weights, .. }, outs, output } = self;
        let width = outs.len().max(1);
        for first in outs.indices().step_by(SIDE_BY_SIDE) {
            let n = SIDE_BY_SIDE.min(outs.end - first);
            let rows = input.values.chunks(input.inputs.max(1));
            for (x, to) in rows.zip(output.chunks_mut(width)) {
                // The last rows are taken again where fewer than four are left.
                let row = |i: usize| {
                    let out = first + i.min(n - 1);
                    &weights[out * input.inputs..][..input.inputs]
                };
                let rows = [row(0), row(1), row(2), row(3)];
                let sums = dots(s, x, rows);
                for i in 0..n {
                    let bias = input.bias.map_or(0.0, |bias| bias[first + i]);
                    to[first - outs.start + i] = sums[i] + bias;
                }
            }
        }
        math::activate_slice(s, input.activation, output);
    }
}

/// How many weights ahead of those in use a row's are fetched: rows are read once, and what follows them
/// by itself stops where a page ends.
const AHEAD: usize = 512;

/// The products of one row with four rows of weights, after which come the next four.
#[inline(always)]
fn dots<S: Simd, W: Weight>(s: S, x: &[f32], rows: [&[W]; SIDE_BY_SIDE]) -> [f32; SIDE_BY_SIDE] {
    // Enough for the narrowest vectors; a wider one uses the first few.
    let zero = [s.splat(0.0); SUMS];
    let mut sums = [zero; SIDE_BY_SIDE];
    let vectors = SUMS / S::LANES;
    let whole = x.len() / SUMS * SUMS;
    for at in (0..whole).step_by(SUMS) {
        let soon = match at + AHEAD {
            soon if soon < x.len() => soon,
            soon => soon + (SIDE_BY_SIDE - 1) * x.len(),
        };
        rows.iter().for_each(|row| s.prefetch(row.as_ptr().wrapping_add(soon).cast()));
        for v in 0..vectors {
            let from = at + v * S::LANES;
            let x = s.read(&x[from..from + S::LANES]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                sums[v] = s.fma(x, W::read(s, &row[from..from + S::LANES]), sums[v]);
            }
        }
    }
    if whole < x.len() {
        for v in 0..vectors {
            let from = (whole + v * S::LANES).min(x.len());
            let end = (from + S::LANES).min(x.len());
            let x = s.read(&x[from..end]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                sums[v] = s.fma(x, W::read(s, &row[from..end]), sums[v]);
            }
        }
    }
    let mut out = [0.0; SIDE_BY_SIDE];
    for (out, sums) in out.iter_mut().zip(&sums) {
        let mut lanes = [0.0; SUMS];
        for v in 0..vectors {
            s.write(&mut lanes[v * S::LANES..(v + 1) * S::LANES], sums[v]);
        }
        *out = tree(lanes);
    }
    out
}

/// Adds partial sums 8 apart, then 4, 2 and 1.
pub(crate) fn tree(mut lanes: [f32; SUMS]) -> f32 {
    let mut half = SUMS / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The products that make up a matrix product, after ONNX broadcasting.
pub(crate) struct MatMulShape {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) cols: usize,
    /// For each product, where the matrices of the two inputs start.
    pub(crate) starts: Vec<(usize, usize)>,
}

impl MatMulShape {
    /// *Errors*: the dims do not fit; named after the layer.
    pub(crate) fn new(layer: &str, a: &[usize], b: &[usize]) -> Result<Self, KernelError> {
        // A vector is a row on the left and a column on the right.
        let a = if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() };
        let b = if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() };
        let shape = |what, expected, got| {
            Err(KernelError::LayerShape { layer: layer.to_owned(), what, expected, got })
        };
        if a.len() < 2 || b.len() < 2 {
            return shape("axes of a matrix", 2, a.len().min(b.len()));
        }
        let (a_lead, a_dims) = a.split_at(a.len() - 2);
        let (b_lead, b_dims) = b.split_at(b.len() - 2);
        if a_dims[1] != b_dims[0] {
            return shape("inner axis", a_dims[1], b_dims[0]);
        }
        let axes = a_lead.len().max(b_lead.len());
        let along = |lead: &[usize], axis: usize| {
            (axis + lead.len()).checked_sub(axes).map_or(1, |i| lead[i])
        };
        let mut starts = vec![(0, 0)];
        for axis in 0..axes {
            let (na, nb) = (along(a_lead, axis), along(b_lead, axis));
            if na != nb && na != 1 && nb != 1 {
                return shape("leading axis", na, nb);
            }
            let of = |i: usize, n: usize, so_far: usize| so_far * n + if n == 1 { 0 } else { i };
            starts = starts
                .iter()
                .flat_map(|&(x, y)| (0..na.max(nb)).map(move |i| (of(i, na, x), of(i, nb, y))))
                .collect();
        }
        let (a_size, b_size) = (a_dims[0] * a_dims[1], b_dims[0] * b_dims[1]);
        starts.iter_mut().for_each(|(x, y)| (*x, *y) = (*x * a_size, *y * b_size));
        Ok(Self { rows: a_dims[0], inner: a_dims[1], cols: b_dims[1], starts })
    }
}

/// A matrix product.
pub(crate) struct MatMul<'a> {
    pub(crate) shape: &'a MatMulShape,
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) output: &'a mut [f32],
}

impl Kernel for MatMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let MatMulShape { rows, inner, cols, ref starts } = *self.shape;
        let size = (rows * cols).max(1);
        for (&(a_start, b_start), output) in starts.iter().zip(self.output.chunks_mut(size)) {
            for (row, to) in output.chunks_mut(cols).enumerate() {
                to.fill(0.0);
                for k in 0..inner {
                    let x = s.splat(self.a[a_start + row * inner + k]);
                    let from = &self.b[b_start + k * cols..][..cols];
                    for (to, from) in to.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
                        let y = s.fma(x, s.read(from), s.read(to));
                        s.write(to, y);
                    }
                }
            }
        }
    }
}
