//! Convolutions: every instruction set, thread count and tile gives the bits of the reference.

mod support;

use model::{Activation, Axes, Op, Pads, Window};
use proptest::prelude::*;
use support::{Network, spatial};

/// One convolution.
#[derive(Clone, Debug)]
struct ConvProblem {
    kernel: (usize, usize),
    stride: (usize, usize),
    dilation: (usize, usize),
    pads: [usize; 4],
    groups: usize,
    inputs_per_group: usize,
    outputs_per_group: usize,
    rows: usize,
    cols: usize,
    has_bias: bool,
    activation: Activation,
    seed: u64,
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::LeakyRelu { alpha: 0.1 }),
        Just(Activation::Clip { min: -0.5, max: 0.5 }),
        Just(Activation::Sigmoid),
        Just(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }),
        Just(Activation::HardSwish),
        Just(Activation::Silu),
        Just(Activation::Tanh),
    ]
}

fn problem() -> impl Strategy<Value = ConvProblem> {
    let window = (
        (1usize..4, 1usize..4),
        (1usize..4, 1usize..3),
        (1usize..3, 1usize..3),
        prop::array::uniform4(0usize..4),
    );
    let groups = prop_oneof![
        // Dense with vector tails, grouped, depthwise.
        (Just(1usize), 1usize..8, 1usize..40),
        (2usize..4, 1usize..5, 1usize..20),
        (1usize..40, Just(1usize), Just(1usize)),
    ];
    let size = (1usize..12, 1usize..34);
    (window, groups, size, any::<bool>(), activation(), any::<u64>()).prop_map(
        |(window, groups, size, has_bias, activation, seed)| ConvProblem {
            kernel: window.0,
            stride: window.1,
            dilation: window.2,
            pads: window.3,
            groups: groups.0,
            inputs_per_group: groups.1,
            outputs_per_group: groups.2,
            rows: size.0,
            cols: size.1,
            has_bias,
            activation,
            seed,
        },
    )
}

impl ConvProblem {
    /// Does nothing where the kernel is larger than the padded map.
    fn run(&self) {
        let [top, left, bottom, right] = self.pads;
        let length = |len: usize, pads: usize, k: usize, s: usize, d: usize| {
            (len + pads).checked_sub((k - 1) * d + 1).map(|room| room / s + 1)
        };
        let (kernel, stride, dilation) = (self.kernel, self.stride, self.dilation);
        let rows = length(self.rows, top + bottom, kernel.0, stride.0, dilation.0);
        let cols = length(self.cols, left + right, kernel.1, stride.1, dilation.1);
        let (Some(rows), Some(cols)) = (rows, cols) else { return };
        let mut network = Network::new(self.seed);
        let (groups, per_group) = (self.groups, self.inputs_per_group);
        let outputs = groups * self.outputs_per_group;
        let input = network.input(spatial(groups * per_group, self.rows, self.cols));
        let op = Op::Conv {
            window: Window {
                kernel: Axes::new(kernel.0, kernel.1),
                stride: Axes::new(stride.0, stride.1),
                dilation: Axes::new(dilation.0, dilation.1),
                pads: Pads { top, left, bottom, right },
            },
            groups,
            weights: network.weight(&[outputs, per_group, kernel.0, kernel.1]),
            bias: self.has_bias.then(|| network.weight(&[outputs])),
            activation: self.activation,
        };
        let output = network.layer(op, &[input], spatial(outputs, rows, cols));
        network.finish(&[output]).run_one_layer();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fast_is_reference(problem in problem()) {
        problem.run();
    }
}

const PLAIN: ConvProblem = ConvProblem {
    kernel: (3, 3),
    stride: (1, 1),
    dilation: (1, 1),
    pads: [1, 1, 1, 1],
    groups: 1,
    inputs_per_group: 16,
    outputs_per_group: 32,
    rows: 13,
    cols: 29,
    has_bias: true,
    activation: Activation::Relu,
    seed: 1,
};

#[test]
fn enough_work_for_all_threads_by_rows() {
    PLAIN.run();
}

#[test]
fn enough_work_for_all_threads_by_output_channels() {
    let outputs_per_group = 192;
    ConvProblem { inputs_per_group: 64, outputs_per_group, rows: 3, cols: 3, ..PLAIN }.run();
}

#[test]
fn enough_work_for_all_threads_by_columns() {
    let (kernel, pads) = ((1, 1), [0; 4]);
    ConvProblem { kernel, pads, inputs_per_group: 24, outputs_per_group: 72, ..PLAIN }.run();
}

#[test]
fn depthwise_over_several_threads() {
    let (groups, inputs_per_group, outputs_per_group) = (100, 1, 1);
    ConvProblem { groups, inputs_per_group, outputs_per_group, rows: 30, ..PLAIN }.run();
}

#[test]
fn windows_wholly_in_the_padding() {
    let (kernel, pads) = ((1, 1), [2, 3, 3, 2]);
    ConvProblem { kernel, pads, rows: 2, cols: 3, ..PLAIN }.run();
}

#[test]
fn a_dilated_kernel_wider_than_the_map() {
    let (dilation, pads) = ((6, 6), [6; 4]);
    ConvProblem { dilation, pads, rows: 5, cols: 5, ..PLAIN }.run();
}

#[test]
fn a_pointwise_kernel_with_padding_below_and_right() {
    // Once taken for a convolution without padding.
    let (kernel, pads) = ((1, 1), [0, 0, 2, 2]);
    ConvProblem { kernel, pads, rows: 5, cols: 18, ..PLAIN }.run();
}
