//! What each pass does and what it must leave alone.

use crate::builder::Builder;
use crate::graph::{LoadedModel, MapId, Shape};
use crate::onnx::LoadOptions;
use crate::op::{Activation, CombineKind, Op, PoolKind};
use crate::quant::Element;
use crate::window::{Axes, Pads, Window};

struct Graph {
    builder: Builder,
    input: MapId,
}

const WINDOW: Window = Window {
    kernel: Axes::new(1, 1),
    stride: Axes::new(1, 1),
    dilation: Axes::new(1, 1),
    pads: Pads { top: 0, left: 0, bottom: 0, right: 0 },
};

impl Graph {
    fn new() -> Self {
        let mut builder = Builder::new("graph", "graph");
        let shape = Shape::Spatial { channels: 2, rows: 4, cols: 4 };
        let input = builder.input("x", shape).unwrap();
        Self { builder, input }
    }

    fn add(&mut self, name: &str, op: Op, inputs: &[MapId]) -> MapId {
        self.builder.layer(name, op, inputs).unwrap()
    }

    fn conv(&mut self, name: &str, input: MapId) -> MapId {
        let weights = self.builder.weight(vec![1.0, 2.0, 3.0, 4.0], &[2, 2, 1, 1]).unwrap();
        let activation = Activation::None;
        let op = Op::Conv { window: WINDOW, groups: 1, weights, bias: None, activation };
        self.add(name, op, &[input])
    }

    fn affine(&mut self, name: &str, input: MapId, scale: [f32; 2], shift: [f32; 2]) -> MapId {
        let scale = self.builder.weight(scale.to_vec(), &[2]).unwrap();
        let shift = self.builder.weight(shift.to_vec(), &[2]).unwrap();
        let op = Op::ChannelAffine { scale, shift, activation: Activation::None };
        self.add(name, op, &[input])
    }

    fn activate(&mut self, name: &str, input: MapId, activation: Activation) -> MapId {
        self.add(name, Op::Activate(activation), &[input])
    }

    fn combine(&mut self, name: &str, kind: CombineKind, inputs: &[MapId]) -> MapId {
        self.add(name, Op::Combine { kind, activation: Activation::None }, inputs)
    }

    fn finish(mut self, outputs: &[MapId]) -> LoadedModel {
        outputs.iter().for_each(|map| self.builder.output(*map));
        self.builder.finish().unwrap()
    }
}

fn layers(model: &LoadedModel) -> Vec<&str> {
    model.graph.layers.iter().map(|layer| layer.name.as_str()).collect()
}

#[test]
fn affine_folds_into_conv_and_into_affine() {
    let mut graph = Graph::new();
    let map = graph.affine("first", graph.input, [2.0, 3.0], [1.0, 1.0]);
    let map = graph.affine("second", map, [10.0, 10.0], [5.0, 6.0]);
    let map = graph.activate("relu", map, Activation::Relu);
    let map = graph.conv("conv", map);
    let map = graph.affine("norm", map, [2.0, 0.5], [1.0, -1.0]);
    let model = graph.finish(&[map]);
    assert_eq!(layers(&model), ["first", "conv"]);
    let Op::ChannelAffine { scale, shift, activation } = model.graph.layers[0].op else { panic!() };
    assert_eq!(model.elements(scale)[..], [20.0, 30.0]);
    assert_eq!(model.elements(shift)[..], [15.0, 16.0]);
    assert_eq!(activation, Activation::Relu);
    let Op::Conv { weights, bias: Some(bias), .. } = model.graph.layers[1].op else { panic!() };
    assert_eq!(model.elements(weights)[..], [2.0, 4.0, 1.5, 2.0]);
    assert_eq!(model.elements(bias)[..], [1.0, -1.0]);
    assert_eq!(model.graph.map(model.graph.outputs[0]).name, "norm");
}

#[test]
fn affine_folds_into_the_output_channels_of_a_transposed_conv() {
    let mut graph = Graph::new();
    // Two inputs and two outputs in one group; then a group for each output.
    let weights = graph.builder.weight(vec![1.0, 2.0, 3.0, 4.0], &[2, 2, 1, 1]).unwrap();
    let op = |groups, weights| Op::ConvTranspose {
        window: WINDOW,
        extra: Axes::new(0, 0),
        groups,
        weights,
        bias: None,
        activation: Activation::None,
    };
    let map = graph.add("dense", op(1, weights), &[graph.input]);
    let map = graph.affine("norm", map, [2.0, 10.0], [1.0, -1.0]);
    let weights = graph.builder.weight(vec![5.0, 6.0], &[2, 1, 1, 1]).unwrap();
    let map = graph.add("depthwise", op(2, weights), &[map]);
    let map = graph.affine("scale", map, [3.0, 7.0], [0.0, 0.5]);
    let map = graph.activate("relu", map, Activation::Relu);
    let model = graph.finish(&[map]);
    assert_eq!(layers(&model), ["dense", "depthwise"]);
    let of = |layer: usize| match model.graph.layers[layer].op {
        Op::ConvTranspose { weights, bias: Some(bias), activation, .. } => {
            (model.elements(weights).to_vec(), model.elements(bias).to_vec(), activation)
        }
        _ => panic!("a transposed convolution with a bias"),
    };
    assert_eq!(of(0), (vec![2.0, 20.0, 6.0, 40.0], vec![1.0, -1.0], Activation::None));
    assert_eq!(of(1), (vec![15.0, 42.0], vec![0.0, 0.5], Activation::Relu));
}

#[test]
fn a_map_with_two_readers_stays() {
    let mut graph = Graph::new();
    let conv = graph.conv("conv", graph.input);
    let norm = graph.affine("norm", conv, [2.0, 0.5], [1.0, -1.0]);
    let sum = graph.combine("sum", CombineKind::Add, &[conv, norm]);
    let relu = graph.activate("relu", sum, Activation::Relu);
    // The sum is an output as well, so that it must be there without the rectifier.
    let model = graph.finish(&[sum, relu]);
    assert_eq!(layers(&model), ["conv", "norm", "sum", "relu"]);
}

#[test]
fn one_activation_only_is_fused() {
    let mut graph = Graph::new();
    let conv = graph.conv("conv", graph.input);
    let relu = graph.activate("relu", conv, Activation::Relu);
    let tanh = graph.activate("tanh", relu, Activation::Tanh);
    let norm = graph.affine("norm", tanh, [2.0, 0.5], [1.0, -1.0]);
    let model = graph.finish(&[norm]);
    assert_eq!(layers(&model), ["conv", "tanh", "norm"]);
}

#[test]
fn gates_become_activations() {
    let mut graph = Graph::new();
    let conv = graph.conv("conv", graph.input);
    let gate = graph.activate("gate", conv, Activation::Sigmoid);
    let silu = graph.combine("silu", CombineKind::Mul, &[gate, conv]);
    let hard = Activation::HardSigmoid { alpha: 0.166_666_67, beta: 0.5 };
    let gate = graph.activate("hard_gate", silu, hard);
    let swish = graph.combine("swish", CombineKind::Mul, &[silu, gate]);
    let model = graph.finish(&[swish]);
    assert_eq!(layers(&model), ["conv", "swish"]);
    assert_eq!(model.graph.layers[0].op.activation(), Some(Activation::Silu));
    assert_eq!(model.graph.layers[1].op, Op::Activate(Activation::HardSwish));
}

#[test]
fn zero_padding_goes_into_conv_but_not_into_a_pool() {
    let mut graph = Graph::new();
    let pads = Pads { top: 1, left: 2, bottom: 0, right: 3 };
    let pad = graph.add("pad", Op::Pad { pads, value: 0.0 }, &[graph.input]);
    let conv = graph.conv("conv", pad);
    let pool = graph.add("pool", Op::Pool { window: WINDOW, kind: PoolKind::Max }, &[pad]);
    let other = graph.add("other", Op::Pad { pads, value: 1.0 }, &[conv]);
    let last = graph.conv("last", other);
    let model = graph.finish(&[pool, last]);
    assert_eq!(layers(&model), ["pad", "conv", "pool", "other", "last"]);
    let Op::Conv { window, .. } = model.graph.layers[1].op else { panic!() };
    assert_eq!(window.pads, pads);
    assert_eq!(model.graph.layers[1].inputs, model.graph.inputs);
}

#[test]
fn identities_go_and_outputs_keep_their_names() {
    let mut graph = Graph::new();
    let map = graph.activate("drop", graph.input, Activation::None);
    let conv = graph.conv("conv", map);
    let named = graph.activate("named", conv, Activation::None);
    let copy = graph.activate("copy", graph.input, Activation::None);
    let dead = graph.conv("dead", copy);
    let _ = dead;
    let model = graph.finish(&[named, copy]);
    // The copy stays: an output is a map of its own.
    assert_eq!(layers(&model), ["conv", "copy"]);
    assert_eq!(model.graph.map(model.graph.outputs[0]).name, "named");
}

#[test]
fn chains_of_reshapes_become_one() {
    let mut graph = Graph::new();
    let mut map = graph.input;
    for (name, dims) in [("a", vec![32]), ("b", vec![4, 8]), ("c", vec![1, 2, 4, 4])] {
        let shape = Some(Shape::from_dims(&dims));
        map = graph.builder.layer_to(name, Op::Reshape, &[map], name, shape).unwrap();
    }
    let conv = graph.conv("conv", map);
    assert_eq!(layers(&graph.finish(&[conv])), ["conv"]);
}

/// The only layer of a graph in which one activation is spelt out.
fn recognised(build: impl FnOnce(&mut Graph) -> MapId) -> Op {
    let mut graph = Graph::new();
    let output = build(&mut graph);
    let model = graph.finish(&[output]);
    assert_eq!(layers(&model).len(), 1, "{}", model.graph.summary());
    model.graph.layers[0].op.clone()
}

#[test]
fn gelu_in_both_orders() {
    let erf = |graph: &mut Graph| {
        let x = graph.input;
        let scaled = graph.affine("scaled", x, [std::f32::consts::FRAC_1_SQRT_2; 2], [0.0; 2]);
        let erf = graph.activate("erf", scaled, Activation::Erf);
        graph.affine("plus", erf, [1.0; 2], [1.0; 2])
    };
    let last = recognised(|graph| {
        let gate = erf(graph);
        let product = graph.combine("product", CombineKind::Mul, &[graph.input, gate]);
        graph.affine("half", product, [0.5; 2], [0.0; 2])
    });
    assert_eq!(last, Op::Activate(Activation::Gelu));
    let first = recognised(|graph| {
        let gate = erf(graph);
        let half = graph.affine("half", graph.input, [0.5; 2], [0.0; 2]);
        graph.combine("product", CombineKind::Mul, &[gate, half])
    });
    assert_eq!(first, Op::Activate(Activation::Gelu));
}

#[test]
fn hard_swish_and_mish_spelt_out() {
    let clipped = |graph: &mut Graph| {
        let plus = graph.affine("plus", graph.input, [1.0; 2], [3.0; 2]);
        graph.activate("clip", plus, Activation::Clip { min: 0.0, max: 6.0 })
    };
    let last = recognised(|graph| {
        let gate = clipped(graph);
        let product = graph.combine("product", CombineKind::Mul, &[graph.input, gate]);
        graph.affine("sixth", product, [1.0 / 6.0; 2], [0.0; 2])
    });
    assert_eq!(last, Op::Activate(Activation::HardSwish));
    let first = recognised(|graph| {
        let gate = clipped(graph);
        let sixth = graph.affine("sixth", gate, [1.0 / 6.0; 2], [0.0; 2]);
        graph.combine("product", CombineKind::Mul, &[graph.input, sixth])
    });
    assert_eq!(first, Op::Activate(Activation::HardSwish));
    let mish = recognised(|graph| {
        let softplus = graph.activate("softplus", graph.input, Activation::Softplus);
        let tanh = graph.activate("tanh", softplus, Activation::Tanh);
        graph.combine("product", CombineKind::Mul, &[graph.input, tanh])
    });
    assert_eq!(mish, Op::Activate(Activation::Mish));
}

#[test]
fn another_constant_is_another_function() {
    let mut graph = Graph::new();
    let plus = graph.affine("plus", graph.input, [1.0; 2], [2.0; 2]);
    let clip = graph.activate("clip", plus, Activation::Clip { min: 0.0, max: 6.0 });
    let product = graph.combine("product", CombineKind::Mul, &[graph.input, clip]);
    let output = graph.affine("sixth", product, [1.0 / 6.0; 2], [0.0; 2]);
    assert!(layers(&graph.finish(&[output])).contains(&"product"));
}

#[test]
fn a_mean_over_a_large_map_goes_by_way_of_partial_sums() {
    let model = |side: usize| {
        let mut builder = Builder::new("mean", "mean");
        let shape = Shape::Spatial { channels: 2, rows: side, cols: side + 3 };
        let input = builder.input("x", shape.clone()).unwrap();
        let mean = builder.layer("mean", Op::global_average_pool(&shape), &[input]).unwrap();
        builder.output(mean);
        builder.finish().unwrap()
    };
    assert_eq!(layers(&model(13)), ["mean"]);
    let large = model(40);
    assert_eq!(layers(&large), ["mean/sums", "mean"]);
    // Blocks of 4: at most 16 along the longer axis.
    let sums = large.graph.shape(large.graph.layers[0].output);
    assert_eq!(*sums, Shape::Spatial { channels: 2, rows: 10, cols: 11 });
    assert_eq!(large.graph.layers[1].op, Op::GlobalAveragePool { positions: 40 * 43 });
}

#[test]
fn half_floats_of_a_file_stay_so() {
    let open = |reference: &str| crate::open(reference, &LoadOptions::default()).unwrap();
    let whole = open("zoo:squeezenet@64x64");
    let half = whole.clone().with_half_weights();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.onnx");
    // Written as floats that are half floats all the same.
    crate::write_onnx(&half, &path).unwrap();
    let read = open(path.to_str().unwrap());
    let elements = |model: &LoadedModel| -> Vec<_> {
        let factors = model.graph.layers.iter().flat_map(|layer| layer.op.factors());
        factors.map(|id| (model.graph.weight(id).element, model.elements(id))).collect()
    };
    assert_eq!(elements(&read), elements(&half));
    assert!(elements(&read).iter().all(|(element, _)| *element == Element::F16));
    assert!(elements(&whole).iter().all(|(element, _)| *element == Element::F32));
}
