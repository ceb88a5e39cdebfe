//! Layers over bytes: every instruction set, thread count and tile gives what the naive reference
//! gives.

mod support;

use model::{
    Activation, Axes, CombineKind, DepthOrder, Element, MapId, Op, Pads, PoolKind, QProduct, Quant,
    ResizeCoordinates, ResizeMode, Window,
};
use proptest::prelude::*;
use support::{Network, Random, spatial};
use tiling::{Grid, Numerics};

fn quant(random: &mut Random, element: Element) -> Quant {
    let (low, high) = element.range();
    let zero = match random.below(4) {
        0 => low,
        1 => high,
        _ => low + random.below(256) as i32,
    };
    Quant { element, scale: 0.01 + random.below(100) as f32 / 999.0, zero }
}

fn element(random: &mut Random) -> Element {
    random.pick(&[Element::U8, Element::I8])
}

/// The numbers of a product whose outputs spread over the whole range.
fn product(net: &mut Network, dims: &[usize], input: Quant) -> QProduct {
    let outputs = dims[0];
    let depth: usize = dims[1..].iter().product();
    let element = element(&mut net.random);
    let output = quant(&mut net.random, element);
    let (low, high) = output.element.range();
    let low = if net.random.below(3) == 0 { output.zero } else { low };
    // About what a sum of random products spreads over.
    let spread = 100.0 * 80.0 * (depth as f32).sqrt();
    let scale = output.scale * 200.0 / (spread * input.scale);
    let scales: Vec<f32> =
        (0..outputs).map(|_| scale * (0.5 + net.random.below(100) as f32 / 100.0)).collect();
    let zeros = net.random.below(4) == 0;
    QProduct {
        weights: net.integers(dims, Element::I8),
        scales: net.floats(scales, &[outputs]),
        zeros: zeros.then(|| net.integers(&[outputs], Element::I8)),
        bias: (net.random.below(3) > 0).then(|| net.integers(&[outputs], Element::I32)),
        input,
        output,
        low,
        high,
    }
}

fn windows() -> impl Strategy<Value = Window> {
    let pads = (0usize..3, 0usize..3, 0usize..3, 0usize..3);
    (1usize..6, 1usize..6, 1usize..3, 1usize..3, 1usize..3, pads).prop_map(
        |(rows, cols, down, right, dilation, (top, left, bottom, end))| Window {
            kernel: Axes::new(rows, cols),
            stride: Axes::new(down, right),
            dilation: Axes::new(dilation, dilation),
            pads: Pads { top, left, bottom, right: end },
        },
    )
}

fn outputs(window: &Window, rows: usize, cols: usize) -> Option<(usize, usize)> {
    let Window { kernel, stride, dilation, pads } = window;
    let axis = |len: usize, pads: usize, kernel: usize, stride: usize, dilation: usize| {
        (len + pads).checked_sub((kernel - 1) * dilation + 1).map(|room| room / stride + 1)
    };
    let rows = axis(rows, pads.top + pads.bottom, kernel.rows, stride.rows, dilation.rows)?;
    Some((rows, axis(cols, pads.left + pads.right, kernel.cols, stride.cols, dilation.cols)?))
}

/// One convolution, whole and in tiles.
fn conv(
    seed: u64,
    window: Window,
    groups: usize,
    (inputs, out): (usize, usize),
    size: (usize, usize),
) {
    let Some((rows, cols)) = outputs(&window, size.0, size.1) else { return };
    let mut net = Network::new(seed);
    let element = element(&mut net.random);
    let input = quant(&mut net.random, element);
    let x = net.input_of(spatial(groups * inputs, size.0, size.1), element);
    let dims = [groups * out, inputs, window.kernel.rows, window.kernel.cols];
    let product = product(&mut net, &dims, input);
    let element = product.output.element;
    let op = Op::QConv { window, groups, product };
    let y = net.layer_of(op, &[x], spatial(groups * out, rows, cols), element);
    net.finish(&[y]).run_one_layer();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn dense(
        seed: u64,
        window in windows(),
        groups in 1usize..4,
        channels in (1usize..70, 1usize..70),
        size in (1usize..12, 1usize..40),
    ) {
        let groups = if groups == 3 { 1 } else { groups };
        conv(seed, window, groups, channels, size);
    }

    #[test]
    fn depthwise(
        seed: u64,
        window in windows(),
        channels in 2usize..150,
        size in (1usize..12, 1usize..20),
    ) {
        conv(seed, window, channels, (1, 1), size);
    }

    #[test]
    fn depthwise_as_networks_have_it(
        seed: u64,
        kernel in prop_oneof![Just(3usize), Just(5)],
        stride in 1usize..3,
        channels in 2usize..200,
        size in (3usize..16, 3usize..24),
    ) {
        let pad = kernel / 2;
        let window = Window::square(kernel, stride, pad);
        conv(seed, window, channels, (1, 1), size);
    }

    #[test]
    fn linear(seed: u64, rows in 1usize..5, inputs in 1usize..200, out in 1usize..90) {
        let mut net = Network::new(seed);
        let element = element(&mut net.random);
        let input = quant(&mut net.random, element);
        let x = net.input_of(model::Shape::General(vec![rows, inputs]), element);
        let product = product(&mut net, &[out, inputs], input);
        let element = product.output.element;
        let shape = model::Shape::General(vec![rows, out]);
        let y = net.layer_of(Op::QLinear { product }, &[x], shape, element);
        net.finish(&[y]).run_one_layer();
    }

    #[test]
    fn combined(
        seed: u64,
        channels in 1usize..40,
        size in (1usize..9, 1usize..9),
        broadcast in 0usize..4,
        product: bool,
    ) {
        let mut net = Network::new(seed);
        let (ea, eb) = (element(&mut net.random), element(&mut net.random));
        let inputs = [quant(&mut net.random, ea), quant(&mut net.random, eb)];
        let shape = spatial(channels, size.0, size.1);
        let a = net.input_of(shape.clone(), ea);
        let b = match broadcast {
            0 => spatial(channels, 1, 1),
            1 => spatial(1, size.0, size.1),
            _ => shape.clone(),
        };
        let b = net.input_of(b, eb);
        let element = element(&mut net.random);
        let mut output = quant(&mut net.random, element);
        let kind = if product { CombineKind::Mul } else { CombineKind::Add };
        if product {
            output.scale = inputs[0].scale * inputs[1].scale * 50.0;
        }
        let (low, high) = element.range();
        let op = Op::QCombine { kind, inputs, output, low, high };
        let y = net.layer_of(op, &[a, b], shape, element);
        net.finish(&[y]).run_one_layer();
    }

    #[test]
    fn one_map(seed: u64, which in 0usize..12, channels in 1usize..40, size in (2usize..12, 2usize..12)) {
        let mut net = Network::new(seed);
        let (rows, cols) = size;
        let (ea, eb) = (element(&mut net.random), element(&mut net.random));
        let (input, output) = (quant(&mut net.random, ea), quant(&mut net.random, eb));
        let shape = spatial(channels, rows, cols);
        let window = Window {
            kernel: Axes::new(3, 2),
            stride: Axes::new(2, 1),
            dilation: Axes::new(1, 1),
            pads: Pads { top: 1, left: 0, bottom: 1, right: 1 },
        };
        let pads = Pads { top: 1, left: 2, bottom: 0, right: 1 };
        let bytes = |net: &mut Network, shape| net.input_of(shape, ea);
        let (x, op, to, element) = match which {
            0 => (net.input(shape.clone()), Op::Quantize { output }, shape, eb),
            1 => (bytes(&mut net, shape.clone()), Op::Dequantize { input }, shape, Element::F32),
            2 | 3 => {
                let activation = if which == 2 { Activation::None } else { Activation::Sigmoid };
                let op = Op::Requantize { input, activation, output };
                (bytes(&mut net, shape.clone()), op, shape, eb)
            }
            4 => {
                let to = spatial(channels, 1, 1);
                (bytes(&mut net, shape), Op::QGlobalAveragePool { input, output }, to, eb)
            }
            5 | 6 => {
                let (r, c) = outputs(&window, rows, cols).unwrap();
                let op = Op::Pool { window, kind: PoolKind::Max };
                (bytes(&mut net, shape), op, spatial(channels, r, c), ea)
            }
            7 => {
                let to = spatial(channels, rows + 1, cols + 3);
                let value = ea.range().1 as f32;
                (bytes(&mut net, shape), Op::Pad { pads, value }, to, ea)
            }
            8 => {
                let op = Op::Resize {
                    mode: ResizeMode::NearestFloor,
                    coordinates: ResizeCoordinates::Asymmetric,
                    scale: Axes::new(2.0, 2.0),
                };
                (bytes(&mut net, shape), op, spatial(channels, 2 * rows, 2 * cols), ea)
            }
            9 => {
                let from = spatial(4 * channels, rows, cols);
                let op = Op::DepthToSpace { block: 2, order: DepthOrder::Crd };
                (bytes(&mut net, from), op, spatial(channels, 2 * rows, 2 * cols), ea)
            }
            10 => {
                let from = spatial(channels, 2 * rows, 2 * cols);
                let op = Op::SpaceToDepth { block: 2 };
                (bytes(&mut net, from), op, spatial(4 * channels, rows, cols), ea)
            }
            _ => {
                let to = model::Shape::General(vec![1, channels * rows * cols]);
                (bytes(&mut net, shape), Op::Reshape, to, ea)
            }
        };
        let y = net.layer_of(op, &[x], to, element);
        net.finish(&[y]).run_one_layer();
    }
}

/// A small residual network of bytes over grids: padding is padding at every layer of the group.
#[test]
fn groups_of_layers_tile() {
    for seed in 0..6 {
        let mut net = Network::new(seed);
        let x = net.input(spatial(3, 17, 23));
        let mut random = Random::new(seed + 100);
        let first = quant(&mut random, Element::U8);
        let mut at =
            net.layer_of(Op::Quantize { output: first }, &[x], spatial(3, 17, 23), Element::U8);
        let mut scale = first;
        let mut channels = 3;
        let conv = |net: &mut Network,
                    at: MapId,
                    scale: &mut Quant,
                    channels: &mut usize,
                    (kernel, out, groups): (usize, usize, usize)| {
            let pad = kernel / 2;
            let window = Window::square(kernel, 1, pad);
            let product = product(net, &[out, *channels / groups, kernel, kernel], *scale);
            (*scale, *channels) = (product.output, out);
            let element = product.output.element;
            let op = Op::QConv { window, groups, product };
            net.layer_of(op, &[at], spatial(out, 17, 23), element)
        };
        at = conv(&mut net, at, &mut scale, &mut channels, (3, 40, 1));
        let (skip, skip_scale) = (at, scale);
        at = conv(&mut net, at, &mut scale, &mut channels, (3, 40, 40));
        at = conv(&mut net, at, &mut scale, &mut channels, (1, 40, 1));
        let output = quant(&mut random, Element::U8);
        let op = Op::QCombine {
            kind: CombineKind::Add,
            inputs: [skip_scale, scale],
            output,
            low: output.zero,
            high: 255,
        };
        at = net.layer_of(op, &[skip, at], spatial(40, 17, 23), Element::U8);
        let y = net.layer(Op::Dequantize { input: output }, &[at], spatial(40, 17, 23));
        let problem = net.finish(&[y]);
        let expected = problem.reference();
        for engine in support::ENGINES.iter() {
            let whole =
                engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
            support::assert_same(&expected, &whole, engine);
            for (rows, cols) in [(2, 2), (1, 3), (4, 1)] {
                let tiled = problem.tiled(engine, Numerics::Exact, Grid::even(rows, cols)).unwrap();
                support::assert_same(&expected, &tiled, engine);
            }
        }
    }
}
