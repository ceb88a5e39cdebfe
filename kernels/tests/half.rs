//! Weights stored as half floats: on every instruction set, with every thread count and order, the
//! bits of the model whose weights were rounded first.

mod support;

use half::f16;
use kernels::{PackedModel, Piece, WeightStorage, reference};
use model::{
    Activation, Axes, LoadOptions, LoadedModel, MapId, Model, Op, Shape, WeightId, WeightStore,
    Window,
};
use std::sync::Arc;
use support::{ENGINES, Network, Random, assert_same, spatial};
use tiling::{Numerics, Region};

/// The weights of convolutions and fully connected layers.
fn products(model: &Model) -> Vec<WeightId> {
    let weights = model.layers.iter().flat_map(|layer| match &layer.op {
        Op::Conv { weights, .. } | Op::ConvTranspose { weights, .. } => vec![*weights],
        Op::Linear { weights, .. } => vec![*weights],
        Op::LinearRows { slices, .. } => slices.clone(),
        _ => vec![],
    });
    weights.collect()
}

/// The model with these weights rounded, all of them small enough.
fn rounded(model: &LoadedModel) -> LoadedModel {
    let mut graph = Model::clone(&model.graph);
    let mut weights: WeightStore = model.weights.clone();
    for id in products(&model.graph) {
        let round = |value: &f32| f16::from_f32(*value).to_f32();
        let hash = weights.insert(model.elements(id).iter().map(round).collect());
        graph.weights[id.0 as usize].hash = hash;
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
    let expected = reference::run(&rounded(model), numerics, &inputs).unwrap();
    let packed = PackedModel::with_storage(model.graph.clone(), WeightStorage::Half);
    packed.pack_all(model, numerics).unwrap();
    for engine in ENGINES.iter() {
        let got = engine.run_whole(&packed, numerics, &inputs).unwrap();
        assert_same(&expected, &got, engine);
    }
}

fn bytes(model: &LoadedModel, storage: WeightStorage) -> usize {
    let packed = PackedModel::with_storage(model.graph.clone(), storage);
    packed.pack_all(model, Numerics::Exact).unwrap();
    packed.bytes()
}

#[test]
fn networks_have_the_bits_of_rounded_weights_in_half_the_memory() {
    for name in ["zoo:squeezenet@64x64", "zoo:unet@32x32", "zoo:mobilenetv2@32x32"] {
        let model = model::open(name, &LoadOptions::default()).unwrap();
        check(&model, Numerics::Exact);
        check(&model, Numerics::Fast);
        let [single, half] = [WeightStorage::Single, WeightStorage::Half].map(|s| bytes(&model, s));
        assert!((half as f64) < 0.52 * single as f64, "{name}: {half} of {single}");
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
    let id = products(&model.graph)[0];
    let mut values = model.elements(id).to_vec();
    values[5] = 1e6;
    let mut graph = Model::clone(&model.graph);
    graph.weights[id.0 as usize].hash = model.weights.insert(values);
    model.graph = Arc::new(graph);
    let packed = |storage| {
        let packed = PackedModel::with_storage(model.graph.clone(), storage);
        packed.pack(model::LayerId(0), tiling::Algorithm::Direct, &model.weights).unwrap();
        packed.bytes()
    };
    assert_eq!(packed(WeightStorage::Half), packed(WeightStorage::Single));
}
