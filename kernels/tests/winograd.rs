//! Winograd: every instruction set, thread count and order of work gives the bits of the naive
//! reference, which is close to the exact one; and a plan has one answer.

mod support;

use kernels::{Piece, reference};
use model::{Activation, Axes, CombineKind, MapId, Op, Pads, Window};
use proptest::prelude::*;
use support::{ENGINES, Network, Problem, assert_same, spatial};
use tiling::{Algorithm, Grid, Numerics, StageGeometry};

/// A 3x3 convolution, perhaps with a residual.
#[derive(Clone, Debug)]
struct WinogradProblem {
    inputs: usize,
    outputs: usize,
    rows: usize,
    cols: usize,
    pads: [usize; 4],
    residual: bool,
    activation: Activation,
    algorithm: Algorithm,
    seed: u64,
}

fn problem() -> impl Strategy<Value = WinogradProblem> {
    let activation = prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::LeakyRelu { alpha: 0.1 }),
        Just(Activation::Silu),
    ];
    let size = (5usize..40, 5usize..40);
    let channels = (1usize..50, 1usize..70);
    let pads = prop::array::uniform4(0usize..3);
    let algorithm = prop::sample::select(&Algorithm::ALL[1..]);
    ((channels, size, pads), any::<bool>(), activation, algorithm, any::<u64>()).prop_map(
        |((channels, size, pads), residual, activation, algorithm, seed)| WinogradProblem {
            inputs: channels.0,
            outputs: channels.1,
            rows: size.0,
            cols: size.1,
            pads,
            residual,
            activation,
            algorithm,
            seed,
        },
    )
}

impl WinogradProblem {
    fn build(&self) -> Problem {
        let Self { inputs, outputs, rows, cols, pads: [top, left, bottom, right], .. } = *self;
        let mut net = Network::new(self.seed);
        let from = net.input(spatial(inputs, rows, cols));
        let shape = spatial(outputs, rows + top + bottom - 2, cols + left + right - 2);
        let op = Op::Conv {
            window: Window {
                kernel: Axes::new(3, 3),
                stride: Axes::new(1, 1),
                dilation: Axes::new(1, 1),
                pads: Pads { top, left, bottom, right },
            },
            groups: 1,
            weights: net.weight(&[outputs, inputs, 3, 3]),
            bias: Some(net.weight(&[outputs])),
            activation: if self.residual { Activation::None } else { self.activation },
        };
        let other = self.residual.then(|| net.input(shape.clone()));
        let mut map = net.layer(op, &[from], shape.clone());
        if let Some(other) = other {
            let op = Op::Combine { kind: CombineKind::Add, activation: self.activation };
            map = net.layer(op, &[other, map], shape);
        }
        net.finish(&[map])
    }

    fn run(&self) {
        let problem = self.build();
        let mut stage = StageGeometry::whole(&problem.model.graph, Numerics::Exact);
        stage.algorithms[0] = self.algorithm;
        problem.packed.pack_stage(&stage, &problem.model.weights).unwrap();
        let exact = problem.reference();
        let expected =
            reference::run_by(&problem.model, &stage.algorithms, &problem.inputs).unwrap();
        assert_close(&exact, &expected);
        for engine in ENGINES.iter() {
            let got = engine.run_tile(&problem.packed, &stage, 0, &problem.inputs).unwrap();
            assert_same(&expected, &got, engine);
        }
        let grid = Grid { row_shares: vec![1, 2], col_shares: vec![2, 1] };
        let tiled = |engine| problem.tiled(engine, Numerics::Fast, grid.clone());
        let Some(first) = tiled(&ENGINES[0]) else { return };
        assert_close(&exact, &first);
        for engine in ENGINES.iter() {
            assert_same(&first, &tiled(engine).unwrap(), engine);
        }
    }
}

/// Within a few rounding errors of the largest value; F(6x6) makes the most.
const DIFFERENCE_MAX: f32 = 3e-5;

/// Close, relative to the largest value.
fn assert_close(exact: &[(MapId, Piece)], fast: &[(MapId, Piece)]) {
    for ((_, exact), (_, fast)) in exact.iter().zip(fast) {
        let largest = exact.values().iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for (a, b) in exact.values().iter().zip(fast.values()) {
            assert!((a - b).abs() <= DIFFERENCE_MAX * largest, "{a} {b}, largest {largest}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn engines_give_the_bits_of_the_reference(problem in problem()) {
        problem.run();
    }
}

/// One channel to one channel is a group of its own too, but not for Winograd.
#[test]
fn one_channel_to_one() {
    for algorithm in Algorithm::ALL.into_iter().skip(1) {
        let problem = WinogradProblem {
            inputs: 1,
            outputs: 1,
            rows: 5,
            cols: 5,
            pads: [0; 4],
            residual: false,
            activation: Activation::None,
            algorithm,
            seed: 0,
        };
        problem.run();
    }
}

#[test]
fn each_transform_is_chosen_somewhere() {
    let mut seen = std::collections::BTreeSet::new();
    for (side, channels) in [(5, 48), (8, 64), (13, 64), (20, 64), (30, 32), (36, 256)] {
        let problem = WinogradProblem {
            inputs: channels,
            outputs: channels,
            rows: side,
            cols: side,
            pads: [1; 4],
            residual: false,
            activation: Activation::Relu,
            algorithm: Algorithm::Direct,
            seed: 1,
        };
        seen.extend(StageGeometry::whole(&problem.build().model.graph, Numerics::Fast).algorithms);
    }
    assert_eq!(seen, Algorithm::ALL.into_iter().collect());
}
