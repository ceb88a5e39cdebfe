//! Transposed convolutions: every instruction set, thread count and tile gives the bits of the
//! reference.

mod support;

use model::{Activation, Axes, Op, Pads, Window};
use proptest::prelude::*;
use support::{Network, spatial};

/// One transposed convolution.
#[derive(Clone, Debug)]
struct TransposedProblem {
    kernel: (usize, usize),
    stride: (usize, usize),
    dilation: (usize, usize),
    pads: [usize; 4],
    extra: (usize, usize),
    groups: usize,
    inputs_per_group: usize,
    outputs_per_group: usize,
    rows: usize,
    cols: usize,
    has_bias: bool,
    activation: Activation,
    seed: u64,
}

fn problem() -> impl Strategy<Value = TransposedProblem> {
    let window = (
        (1usize..6, 1usize..6),
        (1usize..5, 1usize..5),
        (1usize..4, 1usize..4),
        prop::array::uniform4(0usize..4),
        (0usize..4, 0usize..4),
    );
    let groups = prop_oneof![
        // Dense with vector tails, grouped, depthwise.
        (Just(1usize), 1usize..8, 1usize..40),
        (2usize..4, 1usize..5, 1usize..20),
        (1usize..40, Just(1usize), Just(1usize)),
    ];
    let activation = prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::Clip { min: -0.5, max: 0.5 }),
        Just(Activation::Silu),
    ];
    let size = (1usize..8, 1usize..20);
    (window, groups, size, any::<bool>(), activation, any::<u64>()).prop_map(
        |(window, groups, size, has_bias, activation, seed)| TransposedProblem {
            kernel: window.0,
            stride: window.1,
            dilation: window.2,
            pads: window.3,
            extra: window.4,
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

impl TransposedProblem {
    /// Does nothing where the padding cuts off the whole map.
    fn run(&self) {
        let [top, left, bottom, right] = self.pads;
        let (kernel, stride, dilation) = (self.kernel, self.stride, self.dilation);
        let length = |len: usize, cut: usize, k: usize, s: usize, d: usize, extra: usize| {
            ((len - 1) * s + (k - 1) * d + 1 + extra).checked_sub(cut).filter(|&len| len > 0)
        };
        let (rows, cols) = (self.rows, self.cols);
        let rows = length(rows, top + bottom, kernel.0, stride.0, dilation.0, self.extra.0);
        let cols = length(cols, left + right, kernel.1, stride.1, dilation.1, self.extra.1);
        let (Some(rows), Some(cols)) = (rows, cols) else { return };
        let mut network = Network::new(self.seed);
        let (groups, per_group) = (self.groups, self.outputs_per_group);
        let (inputs, outputs) = (groups * self.inputs_per_group, groups * per_group);
        let input = network.input(spatial(inputs, self.rows, self.cols));
        let op = Op::ConvTranspose {
            window: Window {
                kernel: Axes::new(kernel.0, kernel.1),
                stride: Axes::new(stride.0, stride.1),
                dilation: Axes::new(dilation.0, dilation.1),
                pads: Pads { top, left, bottom, right },
            },
            extra: Axes::new(self.extra.0, self.extra.1),
            groups,
            weights: network.weight(&[inputs, per_group, kernel.0, kernel.1]),
            bias: self.has_bias.then(|| network.weight(&[outputs])),
            activation: self.activation,
        };
        let output = network.layer(op, &[input], spatial(outputs, rows, cols));
        network.finish(&[output]).run_one_layer();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn fast_is_reference(problem in problem()) {
        problem.run();
    }
}

const PLAIN: TransposedProblem = TransposedProblem {
    kernel: (4, 4),
    stride: (2, 2),
    dilation: (1, 1),
    pads: [1; 4],
    extra: (0, 0),
    groups: 1,
    inputs_per_group: 24,
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
    TransposedProblem { inputs_per_group: 128, outputs_per_group, rows: 4, cols: 3, ..PLAIN }.run();
}

#[test]
fn the_upsampling_of_a_unet() {
    TransposedProblem { kernel: (2, 2), pads: [0; 4], ..PLAIN }.run();
}

#[test]
fn depthwise_over_several_threads() {
    let (groups, inputs_per_group, outputs_per_group) = (96, 1, 1);
    TransposedProblem { groups, inputs_per_group, outputs_per_group, ..PLAIN }.run();
}

#[test]
fn a_stride_above_the_kernel_leaves_the_bias_between() {
    let (kernel, stride, pads) = ((1, 2), (3, 5), [1, 2, 0, 3]);
    TransposedProblem { kernel, stride, pads, extra: (2, 4), ..PLAIN }.run();
}

#[test]
fn a_stride_and_a_dilation_with_a_common_factor_leave_gaps() {
    let (stride, dilation) = ((2, 4), (4, 6));
    TransposedProblem { stride, dilation, rows: 5, cols: 6, ..PLAIN }.run();
}

#[test]
fn taps_that_jump_over_the_map() {
    let (kernel, stride, dilation) = ((2, 3), (1, 1), (9, 7));
    TransposedProblem { kernel, stride, dilation, pads: [4; 4], rows: 2, cols: 3, ..PLAIN }.run();
}

#[test]
fn far_more_rows_and_columns_than_it_reaches() {
    TransposedProblem { extra: (9, 40), rows: 2, cols: 3, ..PLAIN }.run();
}
