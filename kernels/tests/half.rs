//! Weights of half floats: on every instruction set, with every thread count and order, the bits of the
//! model with the same weights as floats.

mod support;

use kernels::{PackedModel, Piece, reference};
use model::{
    Activation, Axes, Element, LoadOptions, LoadedModel, MapId, Model, Op, Shape, WeightStore,
    Window,
};
use std::sync::Arc;
use support::{ENGINES, Network, Random, assert_same, spatial};
use tiling::{Numerics, Region};

/// The model with its half floats as floats.
fn widened(model: &LoadedModel) -> LoadedModel {
    let mut graph = Model::clone(&model.graph);
    let mut weights: WeightStore = model.weights.clone();
    for info in graph.weights.iter_mut().filter(|info| info.element == Element::F16) {
        let floats = model.weights.floats(info).unwrap();
        (info.hash, info.element) = (weights.insert_shared(floats), Element::F32);
    }
    LoadedModel { graph: Arc::new(graph), weights }
}

fn check(model: &LoadedModel, numerics: Numerics) {
    let mut random = Random::new(7);
    let of = |&map: &MapId| {
        let shape = model.graph.shape(map);
        let values = random.values(shape.elements());
        (map, Arc::new(Piece::from_values(Region::whole(shape), shape.channels(), values).unwrap()))
    };
    let inputs: Vec<_> = model.graph.inputs.iter().map(of).collect();
    let half = model.clone().with_half_weights();
    assert!(half.graph.validate().is_ok());
    let expected = reference::run(&widened(&half), numerics, &inputs).unwrap();
    let packed = PackedModel::new(half.graph.clone());
    packed.pack_all(&half, numerics).unwrap();
    for engine in ENGINES.iter() {
        let got = engine.run_whole(&packed, numerics, &inputs).unwrap();
        assert_same(&expected, &got, engine);
    }
}

fn bytes(model: &LoadedModel) -> usize {
    let packed = PackedModel::new(model.graph.clone());
    packed.pack_all(model, Numerics::Exact).unwrap();
    packed.bytes()
}

/// What a model takes to send.
fn raw_bytes(model: &LoadedModel) -> usize {
    model.graph.weights.iter().map(|info| info.bytes()).sum()
}

#[test]
fn networks_have_the_bits_of_rounded_weights_in_half_the_memory() {
    for name in ["zoo:squeezenet@64x64", "zoo:unet@32x32", "zoo:mobilenetv2@32x32"] {
        let model = model::open(name, &LoadOptions::default()).unwrap();
        check(&model, Numerics::Exact);
        check(&model, Numerics::Fast);
        let half = model.clone().with_half_weights();
        for bytes in [bytes, raw_bytes] {
            let (single, half) = (bytes(&model), bytes(&half));
            assert!((half as f64) < 0.52 * single as f64, "{name}: {half} of {single}");
        }
    }
}

/// Groups, strides, tails of panels, a transposed convolution and a fully connected layer.
fn mixed() -> LoadedModel {
    let mut net = Network::new(11);
    let x = net.input(spatial(6, 13, 11));
    let window = |kernel, stride| Window::square(kernel, stride, 1);
    let activation = Activation::Silu;
    let (weights, bias) = (net.weight(&[38, 3, 3, 3]), Some(net.weight(&[38])));
    let op = Op::Conv { window: window(3, 2), groups: 2, weights, bias, activation };
    let a = net.layer(op, &[x], spatial(38, 7, 6));
    let (weights, bias) = (net.weight(&[38, 21, 3, 3]), None);
    let (window, extra) = (window(3, 2), Axes::new(0, 1));
    let op = Op::ConvTranspose { window, groups: 1, extra, weights, bias, activation };
    let b = net.layer(op, &[a], spatial(21, 13, 12));
    let flat = net.layer(Op::Reshape, &[b], Shape::General(vec![1, 21 * 13 * 12]));
    let (weights, bias) = (net.weight(&[19, 21 * 13 * 12]), Some(net.weight(&[19])));
    let c =
        net.layer(Op::Linear { weights, bias, activation }, &[flat], Shape::General(vec![1, 19]));
    let slices = vec![net.weight(&[16, 19]), net.weight(&[3, 19])];
    let d = net.layer(Op::LinearRows { slices, bias, activation }, &[c], spatial(1, 19, 1));
    net.finish(&[b, c, d]).model
}

#[test]
fn every_kind_of_product_is_rounded() {
    check(&mixed(), Numerics::Exact);
}

#[test]
fn what_half_floats_cannot_hold_stays_as_it_is() {
    let mut model = mixed();
    let id = model.graph.layers[0].op.factors()[0];
    let mut values = model.elements(id).to_vec();
    values[5] = 1e6;
    let mut graph = Model::clone(&model.graph);
    graph.weights[id.0 as usize].hash = model.weights.insert(values);
    model.graph = Arc::new(graph);
    let half = model.clone().with_half_weights();
    assert_eq!(half.graph.weight(id), model.graph.weight(id));
    assert!(half.graph.weights.iter().any(|info| info.element == Element::F16));
}

#[test]
fn only_what_is_multiplied_with_may_be_half_floats() {
    let model = mixed().with_half_weights();
    let Op::Conv { bias: Some(bias), .. } = &model.graph.layers[0].op else { panic!("a bias") };
    let mut graph = Model::clone(&model.graph);
    graph.weights[bias.0 as usize].element = Element::F16;
    let error = graph.validate().unwrap_err().to_string();
    assert!(error.contains("a weight of f32") && error.contains("f16"), "{error}");
    let mut graph = Model::clone(&model.graph);
    graph.maps[0].element = Element::F16;
    assert!(graph.validate().is_err());
}
