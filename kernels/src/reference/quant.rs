//! Layers over bytes, by the arithmetic of the integers they are.

use super::{One, taps};
use crate::general;
use crate::math;
use crate::piece::Piece;
use crate::quant::{Addends, Requantize, mean_scale};
use model::{Element, Op, Pads, PoolKind, QProduct, Quant, ResizeMode, Shape};
use tiling::Region;
use tiling::receptive::ResizeAxis;

impl One<'_> {
    /// Whether the layer reads or writes bytes.
    pub(super) fn is_quantised(&self) -> bool {
        crate::quant::handles(&self.model.graph, self.layer)
    }

    /// The output of such a layer.
    pub(super) fn quantised(&self) -> Piece {
        let whole = Region::whole(self.shape);
        let element = self.model.graph.element(self.layer.output);
        let mut output = Piece::zeroed_of(whole, self.shape.channels(), element);
        match &self.layer.op {
            Op::Dequantize { input } => {
                return self.each(|c, row, col| input.dequantize(self.integer(0, c, row, col)));
            }
            Op::Quantize { output: quant } => {
                self.fill(&mut output, |c, row, col| quant.quantize(self.inputs[0].at(c, row, col)))
            }
            Op::Requantize { input, activation, output: quant } => {
                self.fill(&mut output, |c, row, col| {
                    let x = input.dequantize(self.integer(0, c, row, col));
                    quant.quantize(math::activate_one(*activation, x))
                });
            }
            Op::QConv { window, groups, product } => self.fill(&mut output, |c, row, col| {
                let sum = self.product_sum(product, c, |k| {
                    let count = window.kernel.rows * window.kernel.cols;
                    let per_group = self.inputs[0].shape.channels() / groups;
                    let group = c / (self.shape.channels() / groups);
                    let (row, col) = taps(window, row, col).nth(k % count)?;
                    self.inside(group * per_group + k / count, row, col)
                });
                requantized(product, sum, self.model.elements(product.scales)[c])
            }),
            Op::QLinear { product } => {
                let depth = self.model.graph.weight(product.weights).dims[1];
                let outputs = self.model.graph.weight(product.weights).dims[0];
                let input = &self.inputs[0].piece;
                for (i, to) in output.as_bytes_mut().iter_mut().enumerate() {
                    let (row, c) = (i / outputs, i % outputs);
                    let sum = self.product_sum(product, c, |k| {
                        Some(integer(input.element(), input.as_bytes()[row * depth + k]))
                    });
                    *to = requantized(product, sum, self.model.elements(product.scales)[c]) as u8;
                }
            }
            Op::QCombine { kind, inputs, output: quant, low, high } => {
                let addends = Addends::new(*kind, inputs, quant, (*low, *high));
                if self.shape.is_spatial() {
                    self.fill(&mut output, |c, row, col| {
                        let byte = |i: usize| {
                            let shape = self.inputs[i].shape;
                            let along = |at: usize, len: usize| if len == 1 { 0 } else { at };
                            let (row, col) = (along(row, shape.rows()), along(col, shape.cols()));
                            self.byte(i, along(c, shape.channels()), row, col)
                        };
                        i32::from(addends.one(byte(0), byte(1)))
                    });
                } else {
                    let inputs =
                        [0, 1].map(|i| (self.inputs[i].piece.as_bytes(), self.inputs[i].shape));
                    let combined = general_combine(inputs, &addends, self.shape);
                    output.as_bytes_mut().copy_from_slice(&combined);
                }
            }
            Op::QGlobalAveragePool { input, output: quant } => {
                let Shape::Spatial { rows, cols, .. } = *self.inputs[0].shape else {
                    unreachable!("checked on load")
                };
                let (low, high) = quant.element.range();
                let numbers = Requantize::new(quant, low, high);
                self.fill(&mut output, |c, _, _| {
                    let positions = (0..rows * cols).map(|i| (i / cols, i % cols));
                    let integers = positions.map(|(row, col)| self.integer(0, c, row, col));
                    let sum: i32 = integers.map(|q| q - input.zero).sum();
                    i32::from(numbers.one(sum, mean_scale(input, quant, rows * cols)))
                });
            }
            op => self.moved(op, &mut output),
        }
        output
    }

    /// Operators that move bytes, or take the largest.
    fn moved(&self, op: &Op, output: &mut Piece) {
        let bytes = |i: usize| (self.inputs[i].piece.as_bytes(), self.inputs[i].shape);
        match op {
            Op::Reshape => {
                let (from, shape) = bytes(0);
                general::reshape(from, shape, self.shape, output.as_bytes_mut());
            }
            Op::Transpose { perm } => {
                let (from, shape) = bytes(0);
                general::transpose(from, shape, perm, self.shape, output.as_bytes_mut());
            }
            Op::ConcatGeneral { axis } => {
                let all: Vec<_> = (0..self.inputs.len()).map(bytes).collect();
                general::concat(&all, *axis, self.shape, output.as_bytes_mut());
            }
            Op::Constant { value } => {
                let hash = self.model.graph.weight(*value).hash;
                let bytes = self.model.weights.find_bytes(hash).expect("a loaded model");
                *output = general::bytes_from_logical(self.shape, output.element(), bytes);
            }
            Op::Pool { window, kind: PoolKind::Max } => self.fill(output, |c, row, col| {
                let inside = taps(window, row, col).filter_map(|(r, x)| self.inside(c, r, x));
                inside.max().unwrap_or(self.inputs[0].piece.element().range().0)
            }),
            Op::Concat => self.fill(output, |c, row, col| {
                let mut c = c;
                for (i, input) in self.inputs.iter().enumerate() {
                    match c.checked_sub(input.shape.channels()) {
                        Some(rest) => c = rest,
                        None => return self.integer(i, c, row, col),
                    }
                }
                unreachable!("the channels of the inputs make up those of the output")
            }),
            Op::Pad { pads: Pads { top, left, .. }, value } => self.fill(output, |c, row, col| {
                let (row, col) = (row as isize - *top as isize, col as isize - *left as isize);
                self.inside(c, row, col).unwrap_or(*value as i32)
            }),
            Op::Resize { mode, coordinates, scale } if *mode != ResizeMode::Bilinear => {
                let axes = ResizeAxis::of(*coordinates, *scale, self.inputs[0].shape, self.shape);
                self.fill(output, |c, row, col| {
                    let (row, _) = axes.rows.samples(*mode, row);
                    self.integer(0, c, row, axes.cols.samples(*mode, col).0)
                });
            }
            _ => self.fill(output, |c, row, col| {
                let (c, row, col) = self.shuffled(op, (c, row, col));
                self.integer(0, c, row, col)
            }),
        }
    }

    /// Fills the output, element by element.
    fn fill(&self, output: &mut Piece, value: impl Fn(usize, usize, usize) -> i32) {
        let (channels, cols) = (self.shape.channels(), self.shape.cols());
        for (i, to) in output.as_bytes_mut().iter_mut().enumerate() {
            *to = value(i % channels, i / channels / cols, i / channels % cols) as u8;
        }
    }

    fn byte(&self, input: usize, channel: usize, row: usize, col: usize) -> u8 {
        let map = &self.inputs[input];
        map.piece.as_bytes()[(row * map.shape.cols() + col) * map.piece.channels + channel]
    }

    pub(super) fn integer(&self, input: usize, channel: usize, row: usize, col: usize) -> i32 {
        integer(self.inputs[input].piece.element(), self.byte(input, channel, row, col))
    }

    /// The integer at a position that may lie outside; none there.
    fn inside(&self, channel: usize, row: isize, col: isize) -> Option<i32> {
        let shape = self.inputs[0].shape;
        let inside =
            (0..shape.rows() as isize).contains(&row) && (0..shape.cols() as isize).contains(&col);
        inside.then(|| self.integer(0, channel, row as usize, col as usize))
    }

    /// The sum of one output; `input` gives the integers, none where they are padding.
    fn product_sum(
        &self,
        product: &QProduct,
        c: usize,
        input: impl Fn(usize) -> Option<i32>,
    ) -> i32 {
        let graph = &self.model.graph;
        let bytes = |id| {
            let found = self.model.weights.find_bytes(graph.weight(id).hash);
            &found.expect("a loaded model has all its weights")[..]
        };
        let depth: usize = graph.weight(product.weights).dims[1..].iter().product();
        let weights = &bytes(product.weights)[c * depth..][..depth];
        let zero = product.zeros.map_or(0, |zeros| i32::from(bytes(zeros)[c] as i8));
        let bias = product.bias.map_or(0, |bias| {
            let bytes = &bytes(bias)[4 * c..4 * c + 4];
            i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        });
        weights.iter().enumerate().fold(bias, |sum, (k, w)| {
            // Padding stands for 0.
            let x = input(k).map_or(0, |x| x - product.input.zero);
            sum.wrapping_add(x * (i32::from(*w as i8) - zero))
        })
    }
}

fn integer(element: Element, byte: u8) -> i32 {
    if element == Element::I8 { i32::from(byte as i8) } else { i32::from(byte) }
}

fn requantized(product: &QProduct, sum: i32, scale: f32) -> i32 {
    let Quant { scale: output, .. } = product.output;
    let q = product.output.round(sum as f32 * (product.input.scale * scale / output));
    q.clamp(product.low, product.high)
}

fn general_combine(inputs: [(&[u8], &Shape); 2], addends: &Addends, shape: &Shape) -> Vec<u8> {
    let dims = ndarray::IxDyn(&shape.dims());
    let [a, b] = inputs.map(|(values, shape)| {
        let view = general::logical(values, shape);
        view.broadcast(dims.clone()).expect("checked on load").to_owned()
    });
    a.iter().zip(b.iter()).map(|(a, b)| addends.one(*a, *b)).collect()
}
