//! Whole graphs: run_whole is the reference, tiled is whole, and errors name what is wrong.

mod support;

use kernels::{Engine, KernelError, PackedModel};
use model::{
    Activation, Axes, CombineKind, DepthOrder, LayerId, MapId, Op, Pads, PoolKind,
    ResizeCoordinates, ResizeMode, WeightStore, Window,
};
use proptest::prelude::*;
use std::sync::Arc;
use support::{ENGINES, Network, Problem, assert_same, one_tile, spatial};
use tiling::{Algorithm, Grid, Numerics, Region, Span, TileGeometry};

/// A random graph of local layers: chains, residuals, concats, changes of resolution.
#[derive(Clone, Debug)]
struct GraphProblem {
    seed: u64,
    layers: usize,
    channels: usize,
    rows: usize,
    cols: usize,
}

impl GraphProblem {
    fn build(&self) -> Problem {
        let mut net = Network::new(self.seed);
        let mut at = net.input(spatial(self.channels, self.rows, self.cols));
        // Maps that a later layer may join with, by shape.
        let mut earlier: Vec<MapId> = vec![at];
        for _ in 0..self.layers {
            at = self.layer(&mut net, at, &earlier);
            earlier.push(at);
        }
        let mut outputs = vec![at];
        if net.random.below(3) == 0 && earlier.len() > 3 {
            outputs.insert(0, earlier[earlier.len() - 2]);
        }
        net.finish(&outputs)
    }

    fn layer(&self, net: &mut Network, at: MapId, earlier: &[MapId]) -> MapId {
        let (channels, rows, cols) = net.shape(at);
        let activations = [
            Activation::None,
            Activation::Relu,
            Activation::LeakyRelu { alpha: 0.1 },
            Activation::HardSwish,
            Activation::Silu,
        ];
        let activation = net.random.pick(&activations);
        match net.random.below(11) {
            0..=3 => {
                let kernel = net.random.pick(&[(1, 1), (3, 3), (3, 1), (1, 3)]);
                let stride = if rows > 6 && cols > 6 { 1 + net.random.below(2) } else { 1 };
                let depthwise = net.random.below(3) == 0;
                let outputs = if depthwise { channels } else { 1 + net.random.below(24) };
                let groups = if depthwise { channels } else { 1 };
                let pads = (kernel.0 / 2, kernel.1 / 2);
                let window = window(kernel, stride, pads);
                let weights = net.weight(&[outputs, channels / groups, kernel.0, kernel.1]);
                let bias = Some(net.weight(&[outputs]));
                let op = Op::Conv { window, groups, weights, bias, activation };
                let length = |len: usize| (len - 1) / stride + 1;
                net.layer(op, &[at], spatial(outputs, length(rows), length(cols)))
            }
            4 => {
                let count_padding = net.random.below(2) == 0;
                let kind = net.random.pick(&[PoolKind::Max, PoolKind::Average { count_padding }]);
                let op = Op::Pool { window: window((3, 3), 1, (1, 1)), kind };
                net.layer(op, &[at], spatial(channels, rows, cols))
            }
            5 => {
                // Ceil mode: the last window reaches past the map.
                let op = Op::Pool { window: window((2, 2), 2, (0, 0)), kind: PoolKind::Max };
                net.layer(op, &[at], spatial(channels, rows.div_ceil(2), cols.div_ceil(2)))
            }
            6 if rows * cols < 400 => {
                let modes = [ResizeMode::NearestFloor, ResizeMode::Bilinear];
                let mode = net.random.pick(&modes);
                let coordinates = ResizeCoordinates::HalfPixel;
                let op = Op::Resize { mode, coordinates, scale: Axes::new(2.0, 2.0) };
                net.layer(op, &[at], spatial(channels, rows * 2, cols * 2))
            }
            // Before a join as well, whose map it may write right into.
            8 if rows * cols < 300 => {
                let (kernel, stride) =
                    net.random.pick(&[((2, 2), 2), ((4, 4), 2), ((3, 3), 2), ((3, 2), 1)]);
                let pads = ((kernel.0 - stride) / 2, (kernel.1 - stride.min(kernel.1)) / 2);
                let window = window(kernel, stride, pads);
                let outputs = 1 + net.random.below(24);
                let length =
                    |len: usize, kernel: usize, pad: usize| (len - 1) * stride + kernel - 2 * pad;
                let shape = spatial(
                    outputs,
                    length(rows, kernel.0, pads.0),
                    length(cols, kernel.1, pads.1),
                );
                let weights = net.weight(&[channels, outputs, kernel.0, kernel.1]);
                let bias = Some(net.weight(&[outputs]));
                let (groups, extra) = (1, Axes::new(0, 0));
                let op = Op::ConvTranspose { window, extra, groups, weights, bias, activation };
                net.layer(op, &[at], shape)
            }
            7 if rows % 2 == 0 && cols % 2 == 0 => {
                let op = Op::SpaceToDepth { block: 2 };
                let deep = net.layer(op, &[at], spatial(channels * 4, rows / 2, cols / 2));
                let op = Op::DepthToSpace { block: 2, order: DepthOrder::Crd };
                net.layer(op, &[deep], spatial(channels, rows, cols))
            }
            _ => {
                let same = |net: &Network, map: MapId| {
                    let shape = net.shape(map);
                    (shape.1, shape.2) == (rows, cols)
                };
                let aligned: Vec<MapId> =
                    earlier.iter().copied().filter(|&map| same(net, map)).collect();
                let other = net.random.pick(&aligned);
                let others = net.shape(other).0;
                if others == channels {
                    let op = Op::Combine { kind: CombineKind::Add, activation };
                    net.layer(op, &[at, other], spatial(channels, rows, cols))
                } else {
                    net.layer(Op::Concat, &[other, at], spatial(channels + others, rows, cols))
                }
            }
        }
    }

    fn run(&self) {
        let problem = self.build();
        let mut expected = problem.reference();
        expected.sort_by_key(|(map, _)| *map);
        for engine in ENGINES.iter() {
            let got = engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
            assert_same(&expected, &got, engine);
        }
        let grids = [Grid::even(2, 2), Grid::even(3, 1), Grid::even(1, 4)];
        let uneven = Grid { row_shares: vec![1, 3], col_shares: vec![2, 1, 2] };
        for grid in grids.into_iter().chain([uneven]) {
            for engine in ENGINES.iter() {
                if let Some(mut got) = problem.tiled(engine, Numerics::Exact, grid.clone()) {
                    got.sort_by_key(|(map, _)| *map);
                    assert_same(&expected, &got, engine);
                }
            }
        }
    }
}

fn window(kernel: (usize, usize), stride: usize, (rows, cols): (usize, usize)) -> Window {
    Window {
        kernel: Axes::new(kernel.0, kernel.1),
        stride: Axes::new(stride, stride),
        dilation: Axes::new(1, 1),
        pads: Pads { top: rows, left: cols, bottom: rows, right: cols },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tiled_is_whole_is_reference(
        seed: u64,
        layers in 1usize..9,
        channels in 1usize..9,
        rows in 4usize..17,
        cols in 4usize..17,
    ) {
        GraphProblem { seed, layers, channels, rows, cols }.run();
    }
}

#[test]
fn one_channel_convolved_and_added_to() {
    // Once taken for a dense convolution that adds, and computed as a depthwise one that does not.
    let mut net = Network::new(1);
    let x = net.input(spatial(1, 4, 4));
    let (weights, activation) = (net.weight(&[1, 1, 3, 1]), Activation::None);
    let window = window((3, 1), 1, (1, 0));
    let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
    let y = net.layer(op, &[x], spatial(1, 4, 4));
    let op = Op::Combine { kind: CombineKind::Add, activation: Activation::Relu };
    let sum = net.layer(op, &[y, x], spatial(1, 4, 4));
    let problem = net.finish(&[sum]);
    let expected = problem.reference();
    for engine in ENGINES.iter() {
        let got = engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
        assert_same(&expected, &got, engine);
    }
}

fn chain() -> Problem {
    let build = |seed| GraphProblem { seed, layers: 5, channels: 4, rows: 12, cols: 12 }.build();
    let fits = |p: &Problem| {
        let graph = &p.model.graph;
        let keeps_size = graph.shape(MapId(1)).rows() == 12 && graph.shape(MapId(1)).cols() == 12;
        keeps_size && matches!(graph.layers[1].op, Op::Conv { .. })
    };
    (0..).map(build).find(fits).unwrap()
}

#[test]
fn an_input_in_several_pieces_is_pasted_together() {
    let problem = chain();
    let (map, whole) = problem.inputs[0].clone();
    let Region { rows, cols } = whole.region;
    // The pieces overlap, and lie in no particular order.
    let cuts = [(Span::new(7, 12), cols), (Span::new(0, 5), cols), (Span::new(4, 8), cols)];
    let pieces: Vec<_> =
        cuts.iter().map(|&(r, c)| (map, Arc::new(whole.crop(Region::new(r, c))))).collect();
    assert_eq!(rows, Span::whole(12));
    let engine = &ENGINES[0];
    let expected = engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
    let got = engine.run_whole(&problem.packed, Numerics::Exact, &pieces).unwrap();
    assert_same(&expected, &got, engine);
    let error = engine.run_whole(&problem.packed, Numerics::Exact, &pieces[..2]).unwrap_err();
    let uncovered = Region::new(Span::new(5, 7), cols);
    let name = problem.model.graph.map(map).name.clone();
    assert_eq!(error, KernelError::MissingInput { map: name, expected: whole.region, uncovered });
}

#[test]
fn missing_weights_name_the_layer() {
    let problem = chain();
    let packed = PackedModel::new(problem.model.graph.clone());
    let convs = problem.model.graph.layers.iter();
    let first = convs.clone().position(|l| matches!(l.op, Op::Conv { .. })).unwrap();
    let id = LayerId(first as u32);
    let error = packed.pack(id, Algorithm::Direct, &WeightStore::default()).unwrap_err();
    let name = &problem.model.graph.layers[first].name;
    assert!(matches!(&error, KernelError::MissingWeights { layer, .. } if layer == name));
    assert!(
        !packed.is_packed(id, Algorithm::Direct) && problem.packed.is_packed(id, Algorithm::Direct)
    );
    assert!(problem.packed.bytes() > 0 && packed.bytes() == 0);
    let error = ENGINES[0].run_whole(&packed, Numerics::Exact, &problem.inputs).unwrap_err();
    assert_eq!(error, KernelError::NotPacked { layer: name.clone() });
}

#[test]
fn what_was_unpacked_can_be_packed_again() {
    let problem = chain();
    let (graph, packed) = (&problem.model.graph, PackedModel::new(problem.model.graph.clone()));
    packed.pack_all(&problem.model, Numerics::Exact).unwrap();
    let answer = ENGINES[0].run_whole(&packed, Numerics::Exact, &problem.inputs).unwrap();
    let all = packed.bytes();
    let conv = graph.layers.iter().position(|l| matches!(l.op, Op::Conv { .. })).unwrap();
    let (layer, name) = (LayerId(conv as u32), graph.layers[conv].name.clone());
    packed.unpack(layer, Algorithm::Direct);
    assert!(!packed.is_packed(layer, Algorithm::Direct) && packed.bytes() < all);
    let error = ENGINES[0].run_whole(&packed, Numerics::Exact, &problem.inputs).unwrap_err();
    assert_eq!(error, KernelError::NotPacked { layer: name });
    packed.pack(layer, Algorithm::Direct, &problem.model.weights).unwrap();
    assert_eq!(packed.bytes(), all);
    let again = ENGINES[0].run_whole(&packed, Numerics::Exact, &problem.inputs).unwrap();
    assert_same(&answer, &again, &ENGINES[0]);
}

#[test]
fn a_tile_that_contradicts_the_model_is_an_error() {
    let problem = chain();
    let engine = Engine::new(1).unwrap();
    let whole = problem.inputs[0].1.region;
    let tile = TileGeometry { inputs: vec![], layers: vec![whole; 99], outputs: vec![] };
    let error = engine.run_tile(&problem.packed, &one_tile(tile), 0, &[]).unwrap_err();
    assert!(matches!(error, KernelError::LayerRange { .. }), "{error}");
    let tile = TileGeometry { inputs: vec![], layers: vec![whole], outputs: vec![] };
    let error = engine.run_tile(&problem.packed, &one_tile(tile), 0, &[]).unwrap_err();
    assert!(matches!(error, KernelError::TileRegion { .. }), "{error}");
    let far = Region::new(Span::new(0, 4000), Span::new(0, 4000));
    let tile = TileGeometry { inputs: vec![], layers: vec![far], outputs: vec![] };
    let error = engine.run_tile(&problem.packed, &one_tile(tile), 0, &[]).unwrap_err();
    assert!(matches!(error, KernelError::PieceOutside { .. }), "{error}");
    let tile = TileGeometry {
        inputs: vec![],
        layers: vec![Region::EMPTY],
        outputs: vec![(MapId(1), whole)],
    };
    let error = engine.run_tile(&problem.packed, &one_tile(tile), 0, &[]).unwrap_err();
    assert!(matches!(error, KernelError::MissingOutput { .. }), "{error}");
}

#[test]
fn memory_is_reused_from_run_to_run() {
    let problem = chain();
    let engine = Engine::new(1).unwrap();
    engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
    let bytes = engine.idle_bytes();
    for _ in 0..5 {
        engine.run_whole(&problem.packed, Numerics::Exact, &problem.inputs).unwrap();
    }
    assert!(engine.idle_bytes() <= bytes.max(1));
    engine.trim();
    assert_eq!(engine.idle_bytes(), 0);
}
