//! A model that is written and read again is the same model.

use super::*;
use crate::builder::Builder;
use crate::graph::Shape;
use crate::onnx::{LoadOptions, from_bytes};
use crate::op::{
    Activation, CombineKind, DepthOrder, Op, PoolKind, ReduceKind, ResizeCoordinates, ResizeMode,
};
use crate::window::{Axes, Pads, Window};

fn assert_round_trip(model: &LoadedModel) {
    let bytes = to_bytes(model).unwrap();
    let again = from_bytes(&bytes, &model.graph.name, &LoadOptions::default()).unwrap();
    assert_eq!(again.graph.summary(), model.graph.summary());
    assert_eq!(again.graph, model.graph);
    assert!(again.weights.hashes().eq(model.weights.hashes()));
}

#[test]
fn architectures() {
    let small =
        ["zoo:squeezenet@64x64", "zoo:mobilenetv2@32x64", "zoo:unet@32x32", "zoo:resnet50@32x32"];
    for reference in small {
        assert_round_trip(&crate::open(reference, &LoadOptions::default()).unwrap());
    }
}

#[test]
fn every_spatial_operator() {
    let mut builder = Builder::new("every", "every");
    let mut map = builder.input("x", Shape::Spatial { channels: 4, rows: 6, cols: 7 }).unwrap();
    let window = Window {
        kernel: Axes::new(3, 2),
        stride: Axes::new(2, 1),
        dilation: Axes::new(1, 2),
        pads: Pads { top: 1, left: 0, bottom: 1, right: 1 },
    };
    let weights = builder.weight(vec![0.25; 4 * 2 * 6], &[4, 2, 3, 2]).unwrap();
    let scale = builder.weight(vec![1.5, -0.5, 2.0, 0.0], &[4]).unwrap();
    let shift = builder.weight(vec![0.0, -0.0, 1.0, 2.0], &[4]).unwrap();
    let resize = |mode, coordinates| Op::Resize { mode, coordinates, scale: Axes::new(2.0, 1.5) };
    let activations = [
        Activation::Relu,
        Activation::Clip { min: 0.0, max: 6.0 },
        Activation::Clip { min: f32::NEG_INFINITY, max: 1.0 },
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::HardSwish,
        Activation::Silu,
        Activation::Tanh,
        Activation::LeakyRelu { alpha: 0.1 },
        Activation::Sigmoid,
        Activation::Elu { alpha: 0.5 },
        Activation::Softplus,
        Activation::Softsign,
        Activation::Mish,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Erf,
        Activation::Exp,
        Activation::Sqrt,
        Activation::Abs,
    ];
    let mut ops = vec![
        Op::Lrn { size: 3, alpha: 1e-3, beta: 0.5, bias: 2.0 },
        Op::ChannelAffine { scale, shift, activation: Activation::Tanh },
        Op::Pad { pads: window.pads, value: 1.5 },
        Op::PRelu { slope: scale },
        Op::Conv { window, groups: 2, weights, bias: Some(shift), activation: Activation::Silu },
        Op::ConvTranspose {
            window,
            extra: Axes::new(1, 0),
            groups: 2,
            weights,
            bias: Some(shift),
            activation: Activation::HardSwish,
        },
        Op::Pool { window, kind: PoolKind::Max },
        resize(ResizeMode::NearestCeil, ResizeCoordinates::AlignCorners),
        Op::Pool { window, kind: PoolKind::Average { count_padding: true } },
        resize(ResizeMode::Bilinear, ResizeCoordinates::PytorchHalfPixel),
        resize(ResizeMode::NearestRoundPreferCeil, ResizeCoordinates::HalfPixel),
        resize(ResizeMode::NearestFloor, ResizeCoordinates::Asymmetric),
        Op::DepthToSpace { block: 2, order: DepthOrder::Crd },
        Op::SpaceToDepth { block: 2 },
        Op::Transpose { perm: vec![0, 2, 1, 3] },
        Op::Softmax { axis: 2, flattened: false },
        Op::Select { axis: 1, indices: vec![2, 0] },
        Op::Select { axis: 2, indices: vec![1, 2] },
        Op::Reduce { kind: ReduceKind::Mean, axes: vec![1] },
        Op::Reduce { kind: ReduceKind::Max, axes: vec![2] },
    ];
    ops.extend(activations.map(Op::Activate));
    for (index, op) in ops.into_iter().enumerate() {
        map = builder.layer(&format!("layer{index}"), op, &[map]).unwrap();
    }
    builder.output(map);
    assert_round_trip(&builder.finish().unwrap());
}

#[test]
fn general_operators_and_joins() {
    let mut builder = Builder::new("joins", "joins");
    let spatial = Shape::Spatial { channels: 2, rows: 3, cols: 3 };
    let a = builder.input("a", spatial.clone()).unwrap();
    let b = builder.input("b", Shape::General(vec![2, 9])).unwrap();
    let combine = |kind, activation| Op::Combine { kind, activation };
    let value =
        builder.weight((0..9).map(|i| i as f32).collect::<Vec<_>>(), &[1, 1, 3, 3]).unwrap();
    let constant = builder.layer("constant", Op::Constant { value }, &[]).unwrap();
    let sum = combine(CombineKind::Add, Activation::Relu);
    let sum = builder.layer("sum", sum, &[a, constant, a]).unwrap();
    let ratio = combine(CombineKind::Div, Activation::None);
    let ratio = builder.layer("ratio", ratio, &[sum, constant]).unwrap();
    let joined = builder.layer("joined", Op::Concat, &[ratio, sum, a]).unwrap();
    let flat = Some(Shape::General(vec![6, 9]));
    let flat = builder.layer_to("flat", Op::Reshape, &[joined], "flat", flat).unwrap();
    let stacked = builder.layer("stacked", Op::ConcatGeneral { axis: 0 }, &[flat, b]).unwrap();
    let turned = builder.layer("turned", Op::Transpose { perm: vec![1, 0] }, &[stacked]).unwrap();
    let product = builder.layer("product", Op::MatMul, &[turned, stacked]).unwrap();
    let weights = builder.weight((0..18).map(|i| i as f32).collect::<Vec<_>>(), &[2, 9]).unwrap();
    let bias = Some(builder.weight(vec![1.0, 2.0], &[2]).unwrap());
    let linear = Op::Linear { weights, bias, activation: Activation::Sigmoid };
    let linear = builder.layer("linear", linear, &[product]).unwrap();
    let constants = builder.weight(vec![0.5, 3.0], &[2]).unwrap();
    let (scale, shift) = (constants, constants);
    let norm = Op::LayerNorm { scale, shift, epsilon: 1e-4 };
    let linear = builder.layer("norm", norm, &[linear]).unwrap();
    let cube = Some(Shape::General(vec![3, 3, 2]));
    let cube = builder.layer_to("cube", Op::Reshape, &[linear], "cube", cube).unwrap();
    let weights = builder.weight(vec![1.0, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
    let last = Op::Linear { weights, bias: None, activation: Activation::Relu };
    let last = builder.layer("last", last, &[cube]).unwrap();
    builder.output(last);
    builder.output(product);
    assert_round_trip(&builder.finish().unwrap());
}

#[test]
fn two_maps_of_one_name() {
    let mut builder = Builder::new("names", "names");
    let shape = Shape::Spatial { channels: 1, rows: 2, cols: 2 };
    let map = builder.input("same", shape).unwrap();
    let map = builder.layer("same", Op::GlobalAveragePool { positions: 4 }, &[map]).unwrap();
    builder.output(map);
    let bytes = to_bytes(&builder.finish().unwrap()).unwrap();
    let again = from_bytes(&bytes, "names", &LoadOptions::default()).unwrap();
    assert_eq!(again.graph.map(again.graph.outputs[0]).name, "same_2");
}
