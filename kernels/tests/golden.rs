//! Bits that every processor gives: hashes of the outputs of a few layers and networks, the same
//! on x86-64 and on aarch64 (`scripts/test-neon`).
//!
//! The other suites compare with the reference on the same machine, which would not see a
//! difference that the two share. A change of a hash is a change of the arithmetic: all devices of
//! a cluster must then be updated together.

mod support;

use kernels::{PackedModel, Piece};
use model::{
    Activation, Axes, CombineKind, Element, LoadOptions, MapId, Op, PoolKind, QProduct, Quant,
    ResizeCoordinates, ResizeMode, Shape, WeightHash, Window,
};
use std::sync::Arc;
use support::{ENGINES, Network, Problem, Random, assert_same, spatial};
use tiling::{Numerics, Region};

const GOLDEN: [(&str, &str); 9] = [
    ("convolutions Exact", "3fe64a62ce586997"),
    ("transposed Exact", "31c50db8245a4e7d"),
    ("winograd Exact", "cfcb17827f814b46"),
    ("winograd Fast", "7626917f2c599b97"),
    ("others Exact", "aad81fde8823300c"),
    ("bytes Exact", "11e6e563d493ef85"),
    ("mobilenetv2 Exact", "35cb27c5ad81f55c"),
    ("unet Exact", "67e5392562ecde80"),
    ("unet Fast", "a9d27e01b0fe834d"),
];

const SILU: Activation = Activation::Silu;

fn window(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window {
    Window::square(kernel, stride, pad).dilated(dilation)
}

fn conv(net: &mut Network, x: MapId, window: Window, outputs: usize, groups: usize) -> MapId {
    let (channels, rows, cols) = net.shape(x);
    let Window { kernel, stride, dilation, pads } = window;
    let length =
        |len: usize| (len + 2 * pads.top - (kernel.rows - 1) * dilation.rows - 1) / stride.rows + 1;
    let shape = spatial(outputs, length(rows), length(cols));
    let weights = net.weight(&[outputs, channels / groups, kernel.rows, kernel.cols]);
    let bias = Some(net.weight(&[outputs]));
    net.layer(Op::Conv { window, groups, weights, bias, activation: SILU }, &[x], shape)
}

fn convolutions() -> Problem {
    let mut net = Network::new(1);
    let x = net.input(spatial(5, 19, 23));
    let dense = conv(&mut net, x, window(3, 2, 1, 1), 35, 1);
    let depthwise = conv(&mut net, dense, window(3, 1, 1, 1), 35, 35);
    let grouped = conv(&mut net, depthwise, window(2, 1, 3, 2), 30, 5);
    let pointwise = conv(&mut net, grouped, window(1, 1, 1, 0), 21, 1);
    net.finish(&[dense, depthwise, grouped, pointwise])
}

fn transposed() -> Problem {
    let mut net = Network::new(2);
    let x = net.input(spatial(6, 7, 9));
    let mut up = |groups: usize, outputs: usize, kernel: usize, dilation: usize| {
        let window = window(kernel, 2, dilation, 1);
        let weights = net.weight(&[6, outputs / groups, kernel, kernel]);
        let (bias, extra) = (Some(net.weight(&[outputs])), Axes::new(1, 0));
        let activation = Activation::Relu;
        let op = Op::ConvTranspose { window, extra, groups, weights, bias, activation };
        let length = |len: usize| (len - 1) * 2 + (kernel - 1) * dilation + 1 - 2;
        net.layer(op, &[x], spatial(outputs, length(7) + 1, length(9)))
    };
    let outputs = [up(1, 33, 4, 1), up(2, 8, 3, 2), up(6, 6, 3, 1)];
    net.finish(&outputs)
}

/// Large enough for each of the transforms in its place.
fn winograd() -> Problem {
    let mut net = Network::new(3);
    let x = net.input(spatial(32, 40, 40));
    let large = conv(&mut net, x, window(3, 1, 1, 1), 32, 1);
    let half = conv(&mut net, large, window(3, 2, 1, 1), 48, 1);
    let small = conv(&mut net, half, window(3, 1, 1, 1), 48, 1);
    let quarter = conv(&mut net, small, window(3, 3, 1, 1), 64, 1);
    let tiny = conv(&mut net, quarter, window(3, 1, 1, 1), 64, 1);
    net.finish(&[large, small, tiny])
}

/// Operators with arithmetic of their own.
fn others() -> Problem {
    let mut net = Network::new(4);
    let x = net.input(spatial(7, 12, 13));
    let activations = [
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::HardSwish,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::LeakyRelu { alpha: 0.1 },
    ];
    let shape = spatial(7, 12, 13);
    let mut at = activations.into_iter().fold(x, |sum, activation| {
        let y = net.layer(Op::Activate(activation), &[x], shape.clone());
        let op = Op::Combine { kind: CombineKind::Add, activation: Activation::None };
        net.layer(op, &[sum, y], shape.clone())
    });
    let ops = [
        Op::Lrn { size: 3, alpha: 0.3, beta: 0.75, bias: 1.0 },
        Op::Lrn { size: 5, alpha: 0.3, beta: 0.6, bias: 2.0 },
        Op::Pool { window: window(3, 1, 1, 1), kind: PoolKind::Average { count_padding: false } },
        Op::Softmax { axis: 1, flattened: false },
    ];
    at = ops.into_iter().fold(at, |at, op| net.layer(op, &[at], shape.clone()));
    let (mode, coordinates) = (ResizeMode::Bilinear, ResizeCoordinates::HalfPixel);
    let op = Op::Resize { mode, coordinates, scale: Axes::new(1.5, 1.5) };
    at = net.layer(op, &[at], spatial(7, 18, 19));
    let mean = net.layer(Op::GlobalAveragePool { positions: 18 * 19 }, &[at], spatial(7, 1, 1));
    let flat = net.layer(Op::Reshape, &[at], Shape::General(vec![1, 7 * 18 * 19]));
    let (weights, bias) = (net.weight(&[11, 7 * 18 * 19]), None);
    let op = Op::Linear { weights, bias, activation: Activation::Tanh };
    let linear = net.layer(op, &[flat], Shape::General(vec![1, 11]));
    net.finish(&[at, mean, linear])
}

fn bytes() -> Problem {
    let mut net = Network::new(5);
    let x = net.input(spatial(3, 17, 23));
    let quant = |scale, zero| Quant { element: Element::U8, scale, zero };
    let first = quant(1.0 / 128.0, 128);
    let shape = |channels| spatial(channels, 17, 23);
    let quantised = Op::Quantize { output: first };
    let mut at = net.layer_of(quantised, &[x], shape(3), Element::U8);
    let mut scale = first;
    let mut maps = Vec::new();
    for (i, (kernel, from, to, groups)) in
        [(3, 3, 40, 1), (3, 40, 40, 40), (5, 40, 24, 2), (1, 24, 40, 1)].into_iter().enumerate()
    {
        let depth = kernel * kernel * from / groups;
        let output = quant(0.02, 100 + i as i32);
        let spread = 60.0 * 80.0 * (depth as f32).sqrt() * scale.scale / output.scale;
        let scales = (0..to).map(|c| 150.0 / spread * (0.5 + c as f32 / 64.0)).collect();
        let (weights, low) = (&[to, from / groups, kernel, kernel], 0);
        let product = QProduct {
            weights: net.integers(weights, Element::I8),
            scales: net.floats(scales, &[to]),
            zeros: (i == 2).then(|| net.integers(&[to], Element::I8)),
            bias: Some(net.integers(&[to], Element::I32)),
            input: scale,
            output,
            low,
            high: 255,
        };
        let op = Op::QConv { window: window(kernel, 1, 1, kernel / 2), groups, product };
        at = net.layer_of(op, &[at], shape(to), Element::U8);
        maps.push((at, output));
        scale = output;
    }
    let (inputs, output) = ([maps[0].1, maps[3].1], quant(0.03, 77));
    let op = Op::QCombine { kind: CombineKind::Add, inputs, output, low: 77, high: 255 };
    let sum = net.layer_of(op, &[maps[0].0, maps[3].0], shape(40), Element::U8);
    let y = net.layer(Op::Dequantize { input: output }, &[sum], shape(40));
    let outputs: Vec<MapId> = maps.iter().map(|(map, _)| *map).chain([sum, y]).collect();
    net.finish(&outputs)
}

fn zoo(name: &str) -> Problem {
    let model = model::open(name, &LoadOptions::default()).unwrap();
    let graph = model.graph.clone();
    let mut random = Random::new(6);
    let input = graph.inputs[0];
    let shape = graph.shape(input);
    let (region, values) = (Region::whole(shape), random.values(shape.elements()));
    let piece = Piece::from_values(region, shape.channels(), values).unwrap();
    let packed = PackedModel::new(graph);
    packed.pack_all(&model, Numerics::Exact).unwrap();
    packed.pack_all(&model, Numerics::Fast).unwrap();
    Problem { model, packed, inputs: vec![(input, Arc::new(piece))], random }
}

/// The bits of all outputs, which every engine must agree upon.
fn hash(problem: &Problem, numerics: Numerics) -> String {
    let run = |i: usize| {
        ENGINES[i].run_whole(&problem.packed, numerics, &problem.inputs).expect("a sound model")
    };
    let first = run(0);
    for (i, engine) in ENGINES.iter().enumerate().skip(1) {
        assert_same(&first, &run(i), engine);
    }
    let mut all = Vec::new();
    for (_, piece) in &first {
        all.extend_from_slice(piece.cast(Element::F32).values());
    }
    assert!(all.iter().all(|value| value.is_finite()));
    WeightHash::of(&all).to_string()[..16].to_owned()
}

#[test]
fn every_processor_gives_these_bits() {
    type Build = fn() -> Problem;
    let both = [Numerics::Exact, Numerics::Fast];
    let exact = &both[..1];
    let problems: [(&str, Build, &[Numerics]); 7] = [
        ("convolutions", convolutions, exact),
        ("transposed", transposed, exact),
        ("winograd", winograd, &both),
        ("others", others, exact),
        ("bytes", bytes, exact),
        ("mobilenetv2", || zoo("zoo:mobilenetv2@32x32"), exact),
        ("unet", || zoo("zoo:unet@32x32"), &both),
    ];
    let mut got = Vec::new();
    for (name, build, numerics) in problems {
        let problem = build();
        got.extend(numerics.iter().map(|n| (format!("{name} {n:?}"), hash(&problem, *n))));
    }
    let golden = GOLDEN.map(|(name, hash)| (name.to_owned(), hash.to_owned()));
    assert!(got == golden.to_vec(), "expected {golden:#?}, got {got:#?}");
}
