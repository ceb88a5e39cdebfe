//! Shape rules by hand and by enumeration.

use super::*;
use crate::op::{Activation, PoolKind, ResizeCoordinates, ResizeMode};
use crate::weights::WeightHash;
use crate::window::Window;

fn spatial(channels: usize, rows: usize, cols: usize) -> Shape {
    Shape::Spatial { channels, rows, cols }
}

fn square(kernel: usize, stride: usize, dilation: usize, pad: usize) -> Window {
    Window::square(kernel, stride, pad).dilated(dilation)
}

fn max_pool(window: Window) -> Op {
    Op::Pool { window, kind: PoolKind::Max }
}

fn weight(dims: &[usize]) -> WeightInfo {
    WeightInfo::new(WeightHash([0; 32]), dims)
}

/// The output length is the number of window positions that lie in the padded map, counted.
#[test]
fn windows_by_enumeration() {
    for (length, kernel, stride, dilation, pad) in numbers() {
        let positions = |limit: usize| {
            (0..).step_by(stride).take_while(|at| at + (kernel - 1) * dilation < limit).count()
        };
        let window = square(kernel, stride, dilation, pad);
        let weights = [weight(&[1, 1, kernel, kernel])];
        let activation = Activation::None;
        let conv = Op::Conv { window, groups: 1, weights: WeightId(0), bias: None, activation };
        let got = infer(&conv, &[&spatial(1, length, length)], &weights, None);
        match positions(length + 2 * pad) {
            0 => assert!(got.is_err()),
            count => assert_eq!(got, Ok(spatial(1, count, count))),
        }
    }
}

/// The output length of a transposed convolution is what its taps reach, without the padding.
#[test]
fn transposed_windows_by_enumeration() {
    for (length, kernel, stride, dilation, pad) in numbers() {
        let taps = (0..length).flat_map(|i| (0..kernel).map(move |k| i * stride + k * dilation));
        let reached = taps.max().map_or(0, |last| last + 1);
        let window = square(kernel, stride, dilation, pad);
        let weights = [weight(&[1, 1, kernel, kernel])];
        let (weight, activation) = (WeightId(0), Activation::None);
        for extra in 0..3 {
            let (extra, groups, bias) = (Axes::new(extra, extra), 1, None);
            let op = Op::ConvTranspose { window, extra, groups, weights: weight, bias, activation };
            let got = infer(&op, &[&spatial(1, length, length)], &weights, None);
            match (reached + extra.rows).checked_sub(2 * pad) {
                None | Some(0) => assert!(got.is_err()),
                Some(length) => assert_eq!(got, Ok(spatial(1, length, length))),
            }
        }
    }
}

/// A pool is accepted only when each of its windows has a tap inside the map.
#[test]
fn pools_never_see_padding_alone() {
    for (length, kernel, stride, dilation, pad) in numbers() {
        let input = spatial(1, length, length);
        let window = square(kernel, stride, dilation, pad);
        let shapes = [None, pooled_up(&input, &window).ok()];
        for declared in shapes {
            let got = infer(&max_pool(window), &[&input], &[], declared.as_ref());
            let Ok(shape) = got else { continue };
            for output in 0..shape.rows() {
                let taps = (0..kernel).map(|k| output * stride + k * dilation);
                assert!(taps.into_iter().any(|tap| tap >= pad && tap < pad + length));
            }
        }
    }
}

fn numbers() -> impl Iterator<Item = (usize, usize, usize, usize, usize)> {
    (1..=7).flat_map(|length| {
        (1..=3).flat_map(move |kernel| {
            (1..=3).flat_map(move |stride| {
                (1..=3).flat_map(move |dilation| {
                    (0..=2).map(move |pad| (length, kernel, stride, dilation, pad))
                })
            })
        })
    })
}

#[test]
fn pools_round_up_where_declared() {
    let (input, pool) = (spatial(1, 6, 6), max_pool(square(3, 2, 1, 0)));
    assert_eq!(infer(&pool, &[&input], &[], None), Ok(spatial(1, 2, 2)));
    let up = spatial(1, 3, 2);
    assert_eq!(infer(&pool, &[&input], &[], Some(&up)), Ok(up));
    let wrong = spatial(1, 4, 4);
    assert_eq!(infer(&pool, &[&input], &[], Some(&wrong)), Ok(spatial(1, 2, 2)));
}

#[test]
fn resizes_take_sizes_near_the_scale() {
    let op = |rows, cols| Op::Resize {
        mode: ResizeMode::NearestFloor,
        coordinates: ResizeCoordinates::Asymmetric,
        scale: Axes::new(rows, cols),
    };
    let input = spatial(1, 10, 10);
    let third = 10.0 / 3.0;
    assert_eq!(infer(&op(0.5, 2.55), &[&input], &[], None), Ok(spatial(1, 5, 25)));
    let declared = spatial(1, 33, 34);
    assert_eq!(infer(&op(third, third), &[&input], &[], Some(&declared)), Ok(declared));
    assert!(infer(&op(2.0, 2.0), &[&input], &[], Some(&spatial(1, 20, 22))).is_err());
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 0.01, 1e30] {
        assert!(infer(&op(scale, 1.0), &[&input], &[], None).is_err(), "{scale}");
    }
}

#[test]
fn broadcasting() {
    assert_eq!(broadcast(&[3, 1], &[2, 1, 4]), Ok(vec![2, 3, 4]));
    assert_eq!(broadcast(&[], &[5]), Ok(vec![5]));
    assert!(broadcast(&[2], &[3]).is_err());
}

/// Numbers at the edge of the types, as a hostile graph may have them.
#[test]
fn extreme_numbers_are_errors() {
    let huge = usize::MAX;
    let window = |n| square(n, n, n, n);
    let input = spatial(2, 4, 4);
    let general = Shape::General(vec![2, 3]);
    let big = [weight(&[huge, huge, huge, huge]), weight(&[huge, huge])];
    let activation = Activation::None;
    let (weights, bias) = (WeightId(0), Some(WeightId(9)));
    let transposed = |window, extra, groups, bias| {
        let extra = Axes::new(extra, extra);
        Op::ConvTranspose { window, extra, groups, weights, bias, activation }
    };
    let ops = [
        max_pool(window(huge)),
        max_pool(window(0)),
        max_pool(square(2, 1, 1, huge)),
        Op::Conv { window: window(huge), groups: huge, weights, bias: None, activation },
        Op::Conv { window: window(huge), groups: 0, weights, bias, activation },
        transposed(window(huge), huge, huge, None),
        transposed(window(huge), 0, 0, bias),
        transposed(square(2, huge, 1, 0), 1, 1, None),
        transposed(square(1, 1, 1, huge), huge, 1, None),
        Op::Pad { pads: window(huge).pads, value: 0.0 },
        Op::DepthToSpace { block: huge, order: crate::op::DepthOrder::Dcr },
        Op::DepthToSpace { block: 0, order: crate::op::DepthOrder::Dcr },
        Op::SpaceToDepth { block: huge },
        Op::SpaceToDepth { block: 0 },
        Op::Lrn { size: huge, alpha: 0.0, beta: 0.0, bias: 0.0 },
        Op::Transpose { perm: vec![huge; 4] },
        Op::Softmax { axis: huge, flattened: false },
        Op::Linear { weights: WeightId(1), bias: None, activation },
        Op::Linear { weights: WeightId(u32::MAX), bias: None, activation },
        Op::Constant { value: weights },
        Op::ConcatGeneral { axis: huge },
        Op::MatMul,
        Op::Reshape,
    ];
    for op in ops {
        for inputs in [vec![], vec![&input], vec![&general], vec![&input, &general]] {
            let shape = Shape::General(vec![huge, huge]);
            assert!(infer(&op, &inputs, &big, Some(&shape)).is_err(), "{op:?} {inputs:?}");
            assert!(infer(&op, &inputs, &[], None).is_err(), "{op:?} {inputs:?}");
        }
    }
    let shape = Shape::General(vec![huge, huge]);
    assert!(infer(&Op::Activate(activation), &[&shape], &[], None).is_err());
    assert!(infer(&Op::Activate(activation), &[&spatial(0, 1, 1)], &[], None).is_err());
}
