//! Every other operator: the bits of the reference, whole and in tiles.

mod support;

use model::{
    Activation, Axes, CombineKind, DepthOrder, Op, Pads, PoolKind, ReduceKind, ResizeCoordinates,
    ResizeMode, Shape, Window,
};
use proptest::prelude::*;
use support::{Network, spatial};

/// One layer with its input shapes, output shape and constants per channel.
struct LayerProblem {
    op: Op,
    inputs: Vec<Shape>,
    output: Shape,
}

impl LayerProblem {
    fn run(self) {
        let mut network = Network::new(self.output.elements() as u64 + 7);
        let inputs: Vec<_> = self.inputs.into_iter().map(|shape| network.input(shape)).collect();
        let output = network.layer(self.op, &inputs, self.output);
        network.finish(&[output]).run_one_layer();
    }
}

fn general(dims: &[usize]) -> Shape {
    Shape::General(dims.to_vec())
}

/// A pool, its output perhaps one longer than the padding allows, as in ceil mode.
#[derive(Clone, Debug)]
struct PoolProblem {
    channels: usize,
    size: (usize, usize),
    kernel: (usize, usize),
    stride: (usize, usize),
    dilation: (usize, usize),
    pads: [usize; 4],
    is_ceil: bool,
    kind: PoolKind,
}

impl PoolProblem {
    fn run(&self) {
        let [top, left, bottom, right] = self.pads;
        let length = |len: usize, pads: usize, kernel: usize, stride: usize, dilation: usize| {
            let room = (len + pads).checked_sub((kernel - 1) * dilation + 1)?;
            Some(if self.is_ceil { room.div_ceil(stride) + 1 } else { room / stride + 1 })
        };
        let PoolProblem { channels, size, kernel, stride, dilation, .. } = *self;
        let rows = length(size.0, top + bottom, kernel.0, stride.0, dilation.0);
        let cols = length(size.1, left + right, kernel.1, stride.1, dilation.1);
        let (Some(rows), Some(cols)) = (rows, cols) else { return };
        let window = Window {
            kernel: Axes::new(kernel.0, kernel.1),
            stride: Axes::new(stride.0, stride.1),
            dilation: Axes::new(dilation.0, dilation.1),
            pads: Pads { top, left, bottom, right },
        };
        LayerProblem {
            op: Op::Pool { window, kind: self.kind },
            inputs: vec![spatial(channels, size.0, size.1)],
            output: spatial(channels, rows, cols),
        }
        .run();
    }
}

fn pool() -> impl Strategy<Value = PoolProblem> {
    let kind = prop_oneof![
        Just(PoolKind::Max),
        Just(PoolKind::Average { count_padding: true }),
        Just(PoolKind::Average { count_padding: false }),
        Just(PoolKind::Sum),
    ];
    let pair = |low: usize, high: usize| (low..high, low..high);
    let pads = prop::array::uniform4(0usize..3);
    (1usize..70, pair(1, 12), pair(1, 4), pair(1, 4), pair(1, 3), pads, any::<bool>(), kind)
        .prop_map(|(channels, size, kernel, stride, dilation, pads, is_ceil, kind)| PoolProblem {
            channels,
            size,
            kernel,
            stride,
            dilation,
            pads,
            is_ceil,
            kind,
        })
}

fn resize() -> impl Strategy<Value = (usize, (usize, usize), (usize, usize), Op)> {
    let mode = prop_oneof![
        Just(ResizeMode::NearestFloor),
        Just(ResizeMode::NearestCeil),
        Just(ResizeMode::NearestRoundPreferFloor),
        Just(ResizeMode::NearestRoundPreferCeil),
        Just(ResizeMode::Bilinear),
    ];
    let coordinates = prop_oneof![
        Just(ResizeCoordinates::HalfPixel),
        Just(ResizeCoordinates::PytorchHalfPixel),
        Just(ResizeCoordinates::Asymmetric),
        Just(ResizeCoordinates::AlignCorners),
    ];
    let pair = || (1usize..12, 1usize..12);
    (1usize..20, pair(), pair(), mode, coordinates).prop_map(
        |(channels, from, to, mode, coordinates)| {
            let scale = |from: usize, to: usize| to as f32 / from as f32;
            let scale = Axes::new(scale(from.0, to.0), scale(from.1, to.1));
            (channels, from, to, Op::Resize { mode, coordinates, scale })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn pools(problem in pool()) {
        problem.run();
    }

    #[test]
    fn resizes((channels, from, to, op) in resize()) {
        let inputs = vec![spatial(channels, from.0, from.1)];
        LayerProblem { op, inputs, output: spatial(channels, to.0, to.1) }.run();
    }

    #[test]
    fn combinations(
        channels in 1usize..40,
        rows in 1usize..9,
        cols in 1usize..9,
        broadcast in prop::collection::vec(0u8..8, 2..4),
        kind in prop_oneof![
            Just(CombineKind::Add), Just(CombineKind::Mul),
            Just(CombineKind::Sub), Just(CombineKind::Div),
            Just(CombineKind::Max), Just(CombineKind::Min),
        ],
    ) {
        // The first keeps the size; the others have some axes of length 1.
        let inputs = broadcast.iter().enumerate().map(|(i, bits)| {
            let len = |bit: u8, len: usize| if i > 0 && bits & bit != 0 { 1 } else { len };
            spatial(len(1, channels), len(2, rows), len(4, cols))
        });
        let op = Op::Combine { kind, activation: Activation::Relu };
        let inputs: Vec<Shape> = inputs.collect();
        LayerProblem { op, inputs, output: spatial(channels, rows, cols) }.run();
    }

    #[test]
    fn activations(channels in 1usize..70, rows in 1usize..5, cols in 1usize..5) {
        for activation in [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu { alpha: 0.3 },
            Activation::Clip { min: -0.25, max: 0.75 },
            Activation::Sigmoid,
            Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Activation::HardSwish,
            Activation::Silu,
            Activation::Tanh,
            Activation::Elu { alpha: 0.7 },
            Activation::Softplus,
            Activation::Softsign,
            Activation::Mish,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Erf,
            Activation::Exp,
            Activation::Abs,
        ] {
            let shape = spatial(channels, rows, cols);
            let inputs = vec![shape.clone()];
            LayerProblem { op: Op::Activate(activation), inputs, output: shape }.run();
        }
    }

    #[test]
    fn linear(rows in 1usize..4, inputs in 1usize..70, outputs in 1usize..20, has_bias: bool) {
        let mut network = Network::new(3);
        let input = network.input(general(&[rows, inputs]));
        let op = Op::Linear {
            weights: network.weight(&[outputs, inputs]),
            bias: has_bias.then(|| network.weight(&[outputs])),
            activation: Activation::LeakyRelu { alpha: 0.1 },
        };
        let output = network.layer(op, &[input], general(&[rows, outputs]));
        network.finish(&[output]).run_one_layer();
    }

    #[test]
    fn linear_rows(
        sizes in (1usize..5, 1usize..4, 1usize..4),
        outputs in 1usize..40,
        of_slice in 1usize..20,
        (is_general, has_bias) in (any::<bool>(), any::<bool>()),
    ) {
        let (channels, rows, cols) = sizes;
        let inputs = channels * rows * cols;
        let mut network = Network::new(4);
        let shape = if is_general { general(&[1, inputs]) } else { spatial(channels, rows, cols) };
        let input = network.input(shape);
        let starts = (0..outputs).step_by(of_slice);
        let slices = starts.map(|at| network.weight(&[of_slice.min(outputs - at), inputs]));
        let op = Op::LinearRows {
            slices: slices.collect(),
            bias: has_bias.then(|| network.weight(&[outputs])),
            activation: Activation::Relu,
        };
        let output = network.layer(op, &[input], spatial(1, outputs, 1));
        network.finish(&[output]).run_one_layer();
    }

    #[test]
    fn per_channel(channels in 1usize..70, rows in 1usize..7, cols in 1usize..7) {
        let shape = spatial(channels, rows, cols);
        for is_affine in [true, false] {
            let mut network = Network::new(5);
            let input = network.input(shape.clone());
            let first = network.weight(&[channels]);
            let op = if is_affine {
                let shift = network.weight(&[channels]);
                Op::ChannelAffine { scale: first, shift, activation: Activation::Relu }
            } else {
                Op::PRelu { slope: first }
            };
            let output = network.layer(op, &[input], shape.clone());
            network.finish(&[output]).run_one_layer();
        }
    }

    #[test]
    fn selections(
        sizes in (1usize..40, 1usize..7, 1usize..7),
        axis in 1usize..4,
        picks in prop::collection::vec(any::<u32>(), 1..12),
        run: bool,
    ) {
        let mut dims = [sizes.0, sizes.1, sizes.2];
        let length = dims[axis - 1] as u32;
        let indices: Vec<u32> = match run {
            true => (picks[0] % length..length).collect(),
            false => picks.iter().map(|pick| pick % length).collect(),
        };
        let input = spatial(dims[0], dims[1], dims[2]);
        dims[axis - 1] = indices.len();
        let op = Op::Select { axis, indices: indices.clone() };
        let output = spatial(dims[0], dims[1], dims[2]);
        LayerProblem { op, inputs: vec![input], output }.run();
        // The same axis of a general map.
        let mut from = vec![sizes.0, sizes.1, sizes.2];
        from[axis - 1] = length as usize;
        let op = Op::Select { axis: axis - 1, indices };
        LayerProblem { op, inputs: vec![general(&from)], output: general(&dims) }.run();
    }

    #[test]
    fn reductions(
        dims in prop::array::uniform3(1usize..6),
        which in 1u8..8,
        kind in prop_oneof![
            Just(ReduceKind::Sum), Just(ReduceKind::Mean), Just(ReduceKind::Max), Just(ReduceKind::Min),
        ],
    ) {
        let axes: Vec<usize> = (0..3).filter(|axis| which & (1 << axis) != 0).collect();
        let mut to = dims;
        axes.iter().for_each(|&axis| to[axis] = 1);
        let op = Op::Reduce { kind, axes: axes.clone() };
        LayerProblem { op, inputs: vec![general(&dims)], output: general(&to) }.run();
        let op = Op::Reduce { kind, axes: axes.iter().map(|axis| axis + 1).collect() };
        let inputs = vec![spatial(dims[0], dims[1], dims[2])];
        LayerProblem { op, inputs, output: spatial(to[0], to[1], to[2]) }.run();
    }

    #[test]
    fn layer_norms(channels in 1usize..70, rows in 1usize..5, cols in 1usize..5) {
        for shape in [spatial(channels, rows, cols), general(&[rows, cols, channels])] {
            let mut network = Network::new(8);
            let input = network.input(shape.clone());
            let (scale, shift) = (network.weight(&[channels]), network.weight(&[channels]));
            let op = Op::LayerNorm { scale, shift, epsilon: 1e-5 };
            let output = network.layer(op, &[input], shape);
            network.finish(&[output]).run_one_layer();
        }
    }

    #[test]
    fn blocks(channels in 1usize..20, rows in 1usize..5, cols in 1usize..5, block in 1usize..4) {
        let deep = spatial(channels * block * block, rows, cols);
        let wide = spatial(channels, rows * block, cols * block);
        for order in [DepthOrder::Dcr, DepthOrder::Crd] {
            let (op, inputs) = (Op::DepthToSpace { block, order }, vec![deep.clone()]);
            LayerProblem { op, inputs, output: wide.clone() }.run();
        }
        LayerProblem { op: Op::SpaceToDepth { block }, inputs: vec![wide], output: deep }.run();
    }

    #[test]
    fn lrn(channels in 1usize..12, size in 1usize..7, beta in prop_oneof![Just(0.75f32), Just(0.6)]) {
        let shape = spatial(channels, 4, 3);
        let op = Op::Lrn { size, alpha: 0.5, beta, bias: 1.5 };
        LayerProblem { op, inputs: vec![shape.clone()], output: shape }.run();
    }

    #[test]
    fn softmax(dims in prop::collection::vec(1usize..6, 1..5), at in 0usize..4, flattened: bool) {
        let axis = at % dims.len();
        let op = Op::Softmax { axis, flattened };
        let mut shapes = vec![general(&dims)];
        if dims.len() == 4 {
            shapes.push(spatial(dims[1] * 7, dims[2], dims[3]));
        }
        for shape in shapes {
            LayerProblem { op: op.clone(), inputs: vec![shape.clone()], output: shape }.run();
        }
    }
}

#[test]
fn concat_and_pad() {
    LayerProblem {
        op: Op::Concat,
        inputs: vec![spatial(3, 5, 7), spatial(16, 5, 7), spatial(1, 5, 7)],
        output: spatial(20, 5, 7),
    }
    .run();
    LayerProblem {
        op: Op::Pad { pads: Pads { top: 2, left: 1, bottom: 0, right: 3 }, value: 0.5 },
        inputs: vec![spatial(5, 4, 3)],
        output: spatial(5, 6, 7),
    }
    .run();
}

#[test]
fn large_enough_for_bands_on_every_thread() {
    let shape = spatial(64, 31, 33);
    let inputs = vec![shape.clone(), shape.clone()];
    let op = Op::Combine { kind: CombineKind::Add, activation: Activation::Silu };
    LayerProblem { op, inputs, output: shape.clone() }.run();
    let inputs = vec![shape.clone()];
    let op = Op::global_average_pool(&shape);
    LayerProblem { op, inputs, output: spatial(64, 1, 1) }.run();
    let inputs = vec![shape.clone()];
    let op = Op::Softmax { axis: 1, flattened: false };
    LayerProblem { op, inputs, output: shape }.run();
    let mut network = Network::new(11);
    let input = network.input(general(&[2, 500]));
    let weights = network.weight(&[301, 500]);
    let op = Op::Linear { weights, bias: None, activation: Activation::Tanh };
    let output = network.layer(op, &[input], general(&[2, 301]));
    network.finish(&[output]).run_one_layer();
}

/// As after a fully connected layer: each element has a scale and a shift of its own.
#[test]
fn arithmetic_with_constants_on_general_maps() {
    for dims in [&[1, 40][..], &[3, 4, 5], &[7]] {
        let shape = general(dims);
        let mut network = Network::new(6);
        let input = network.input(shape.clone());
        let constants = [shape.elements()];
        let (scale, shift) = (network.weight(&constants), network.weight(&constants));
        let op = Op::ChannelAffine { scale, shift, activation: Activation::Relu };
        let output = network.layer(op, &[input], shape);
        network.finish(&[output]).run_one_layer();
    }
}

#[test]
fn general_maps() {
    let reshape = |from: Shape, to: Shape| {
        LayerProblem { op: Op::Reshape, inputs: vec![from], output: to }.run()
    };
    reshape(spatial(3, 4, 5), general(&[1, 60]));
    reshape(general(&[1, 60]), spatial(5, 3, 4));
    reshape(spatial(6, 2, 5), spatial(4, 3, 5));
    reshape(spatial(6, 1, 1), general(&[6]));
    let transpose = |from: Shape, perm: &[usize], to: Shape| {
        LayerProblem { op: Op::Transpose { perm: perm.to_vec() }, inputs: vec![from], output: to }
            .run();
    };
    transpose(spatial(3, 4, 5), &[0, 2, 3, 1], spatial(4, 5, 3));
    transpose(general(&[2, 3, 4]), &[2, 0, 1], general(&[4, 2, 3]));
    transpose(spatial(3, 4, 5), &[0, 2, 3, 1], general(&[1, 4, 5, 3]));
    let inputs = vec![general(&[2, 3, 4]), general(&[2, 1, 4])];
    let op = Op::ConcatGeneral { axis: 1 };
    LayerProblem { op, inputs, output: general(&[2, 4, 4]) }.run();
    let op = Op::Combine { kind: CombineKind::Sub, activation: Activation::Sigmoid };
    let inputs = vec![general(&[3, 1]), general(&[2, 1, 5])];
    LayerProblem { op, inputs, output: general(&[2, 3, 5]) }.run();
}

#[test]
fn matrix_products_broadcast_their_leading_axes() {
    let product = |a: &[usize], b: &[usize], output: &[usize]| {
        let inputs = vec![general(a), general(b)];
        LayerProblem { op: Op::MatMul, inputs, output: general(output) }.run();
    };
    product(&[3, 4], &[4, 19], &[3, 19]);
    product(&[2, 1, 3, 4], &[5, 4, 2], &[2, 5, 3, 2]);
    product(&[4], &[4, 3], &[3]);
    product(&[2, 3, 4], &[4], &[2, 3]);
    product(&[4], &[4], &[]);
}

#[test]
fn matrix_product_is_the_textbook_one() {
    use kernels::Piece;
    let mut network = Network::new(1);
    let a = network.input(general(&[2, 1, 2, 2]));
    let b = network.input(general(&[2, 2, 1]));
    let output = network.layer(Op::MatMul, &[a, b], general(&[2, 2, 2, 1]));
    let mut problem = network.finish(&[output]);
    let set = |piece: &mut std::sync::Arc<Piece>, values: &[f32]| {
        std::sync::Arc::make_mut(piece).values_mut().copy_from_slice(values);
    };
    set(&mut problem.inputs[0].1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    set(&mut problem.inputs[1].1, &[1.0, 0.0, 0.0, 1.0]);
    let got = problem.reference();
    assert_eq!(got[0].1.values(), [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
}

#[test]
fn constants_are_cut_like_any_map() {
    let mut network = Network::new(2);
    let value = network.weight(&[1, 3, 4, 5]);
    let output = network.layer(Op::Constant { value }, &[], spatial(3, 4, 5));
    network.finish(&[output]).run_one_layer();
}
