//! Every way to multiply bytes that this processor has gives what plain code gives.

use super::dot::Dot;
use super::pack::{PackedQuant, Parts};
use super::{conv, depthwise};
use crate::piece::Piece;
use crate::simd::{Cpu, Isa};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{Element, QProduct, Quant, Shape, WeightId, Window};
use tiling::{Region, Span};

/// Bytes that are spread, and extremes among them.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state >> 40 & 15 {
            0 => 0,
            1 => 255,
            2 => 0x80,
            3 => 0x7f,
            _ => (state >> 20) as u8,
        }
    };
    (0..count).map(|_| next()).collect()
}

struct Case {
    kernel: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
    inputs: usize,
    outputs: usize,
    size: (usize, usize),
}

impl Case {
    fn run(&self, threads: &Threads) -> Vec<u8> {
        let Case { kernel, stride, dilation, groups, inputs, outputs, size: (rows, cols) } = *self;
        let pad = kernel / 2 * dilation;
        let window = Window::square(kernel, stride, pad).dilated(dilation);
        let quant = |scale, zero| Quant { element: Element::U8, scale, zero };
        let product = QProduct {
            weights: WeightId(0),
            scales: WeightId(0),
            zeros: None,
            bias: None,
            input: quant(0.02, 117),
            output: quant(1.0, 100),
            low: 0,
            high: 255,
        };
        let per_group = inputs / groups;
        let depth = per_group * kernel * kernel;
        let weights = bytes(7, outputs * depth);
        // With a stride some are so large that a sum might leave i32.
        let factor = if stride == 2 { 1000.0 } else { 1.0 };
        let scale = factor * 50.0 / (100.0 * 0.02 * 80.0 * (depth as f32).sqrt());
        let scales = vec![scale; outputs];
        let (zeros, bias) = (None, None);
        let weights = &weights;
        let parts = Parts {
            window: &window,
            groups,
            inputs,
            outputs,
            weights,
            scales: &scales,
            zeros,
            bias,
        };
        let packed = PackedQuant::new(&product, &parts);
        let shape = Shape::Spatial { channels: inputs, rows, cols };
        let whole = Region::whole(&shape);
        let values = bytes(3, shape.elements());
        let input = Piece::from_bytes(whole, inputs, Element::U8, &values).unwrap();
        let out = |len: usize| (len - 1) / stride + 1;
        let region = Region::new(Span::whole(out(rows)), Span::whole(out(cols)));
        let mut output = Piece::zeroed_of(region, outputs, Element::U8);
        let view = View::new(&input, &shape);
        if packed.is_depthwise() {
            depthwise::run(threads, view, &window, &packed, &mut Target::of(&mut output));
        } else {
            conv::run(threads, view, &window, &packed, &mut Target::of(&mut output));
        }
        output.as_bytes().to_vec()
    }
}

#[test]
fn all_ways_agree() {
    let plain = Threads::new(Cpu::new(Isa::Portable).unwrap(), 1).unwrap();
    let sizes = [(1, 1), (3, 5), (5, 33), (7, 14), (9, 40)];
    let mut cases = Vec::new();
    for size in sizes {
        for (kernel, stride, dilation) in [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)] {
            for (groups, inputs, outputs) in [(1, 3, 20), (1, 70, 33), (2, 36, 90), (1, 64, 16)] {
                cases.push(Case { kernel, stride, dilation, groups, inputs, outputs, size });
            }
        }
        for (kernel, stride, channels) in [(3, 1, 16), (3, 2, 96), (5, 1, 40), (5, 2, 144)] {
            let (groups, inputs, outputs, dilation) = (channels, channels, channels, 1);
            cases.push(Case { kernel, stride, dilation, groups, inputs, outputs, size });
        }
    }
    let mut ways = Vec::new();
    for isa in Isa::available() {
        ways.extend(
            Dot::available(isa).into_iter().map(|dot| Cpu::new(isa).unwrap().with_dot(dot)),
        );
    }
    for case in &cases {
        let expected = case.run(&plain);
        for cpu in &ways {
            let threads = Threads::new(*cpu, 1).unwrap();
            let Case { kernel, stride, groups, inputs, outputs, size, .. } = case;
            assert!(
                case.run(&threads) == expected,
                "{cpu:?}: {kernel}x{kernel} /{stride} {inputs}->{outputs} in {groups} of {size:?}"
            );
        }
    }
}
