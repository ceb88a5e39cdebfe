//! The transforms of Winograd's minimal filtering, one axis at a time.
//!
//! *Source*: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). With the
//! matrices named there, `m` outputs of a 3-tap filter `g` over `m + 2` inputs `d` are
//! `A^T [(G g) * (B^T d)]`; over both axes each matrix is applied from the left, then from the
//! right. The points are 0, 1, -1, 2, -2, (1/2, -1/2) and infinity.
//!
//! Each function is one fixed sequence of rounded operations per lane, so that its bits are the
//! same on every instruction set.

use crate::simd::Simd;

/// The most values that a transform takes or gives along an axis.
pub(crate) const WIDTH_MAX: usize = 8;

/// A loop of known length, at most [`WIDTH_MAX`], that is always written out: where the compiler
/// left one of a large transform as a loop, its values went through memory, which was cleared and
/// copied for each vector of channels.
macro_rules! unrolled {
    ($i:ident < $end:expr => $body:block) => {
        unrolled!(@ $i $end, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $end:expr, $body:block, $($at:literal)*) => {
        const { assert!($end <= WIDTH_MAX) };
        $({
            let $i = $at;
            if $i < $end $body
        })*
    };
}

pub(crate) use unrolled;

/// Values along one axis; only the first few count.
pub(crate) type Line<S> = [<S as Simd>::V; WIDTH_MAX];

/// `F(m, 3)` along one axis.
pub(crate) trait Transform {
    /// `m`: outputs of a block along an axis.
    const OUTPUTS: usize;
    /// `m + 2`: inputs of a block, and products.
    const WIDTH: usize;

    /// `B^T d`: from inputs to factors.
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S>;
    /// `G g`: from the three taps to factors.
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S>;
    /// `A^T p`: from products to outputs.
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S>;
}

/// The taps as a polynomial `g0 + g1 x + g2 x^2` at a point and at its negative, for those of 1, 2 and
/// 1/2; the last times 4.
struct Taps<V> {
    at_1: [V; 2],
    at_2: [V; 2],
    at_half: [V; 2],
}

impl<V: Copy> Taps<V> {
    /// What a transform does not use costs nothing.
    #[inline(always)]
    fn new<S: Simd<V = V>>(s: S, g: [V; 3]) -> Self {
        let four = s.splat(4.0);
        let ends = s.add(g[0], g[2]);
        let wide = s.fma(four, g[2], g[0]);
        let narrow = s.fma(four, g[0], g[2]);
        let double = s.add(g[1], g[1]);
        let both = |even, odd| [s.add(even, odd), s.sub(even, odd)];
        Self { at_1: both(ends, g[1]), at_2: both(wide, double), at_half: both(narrow, double) }
    }
}

/// `F(2, 3)`: 2.25 times fewer products over both axes.
pub(crate) struct Two;

impl Transform for Two {
    const OUTPUTS: usize = 2;
    const WIDTH: usize = 4;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S> {
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.sub(d[0], d[2]);
        y[1] = s.add(d[1], d[2]);
        y[2] = s.sub(d[2], d[1]);
        y[3] = s.sub(d[3], d[1]);
        y
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S> {
        let half = s.splat(0.5);
        let taps = Taps::new(s, g);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = g[0];
        y[1] = s.mul(half, taps.at_1[0]);
        y[2] = s.mul(half, taps.at_1[1]);
        y[3] = g[2];
        y
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S> {
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.add(s.add(p[0], p[1]), p[2]);
        y[1] = s.add(s.sub(p[1], p[2]), p[3]);
        y
    }
}

/// `F(3, 3)`: 3.24 times fewer products. Its points are 0, 1, -1, 2 and infinity.
pub(crate) struct Three;

impl Transform for Three {
    const OUTPUTS: usize = 3;
    const WIDTH: usize = 5;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        // `x^2 - 1`, at the places where the products below want it.
        let by_1 = [s.sub(d[2], d[0]), s.sub(d[3], d[1]), s.sub(d[4], d[2])];
        // `x - 2`
        let less_2 = |low, high| s.fma(c(-2.0), low, high);
        let (near_1, near_2) = (less_2(d[1], d[2]), less_2(d[2], d[3]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = less_2(by_1[0], by_1[1]);
        y[1] = s.add(near_2, near_1);
        y[2] = s.sub(near_2, near_1);
        y[3] = by_1[1];
        y[4] = less_2(by_1[1], by_1[2]);
        y
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let taps = Taps::new(s, g);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.mul(c(0.5), g[0]);
        y[1] = s.mul(c(-0.5), taps.at_1[0]);
        y[2] = s.mul(c(-1.0 / 6.0), taps.at_1[1]);
        y[3] = s.mul(c(1.0 / 6.0), taps.at_2[0]);
        y[4] = g[2];
        y
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let (even, odd) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.add(s.add(p[0], even), p[3]);
        y[1] = s.fma(c(2.0), p[3], odd);
        y[2] = s.add(p[4], s.fma(c(4.0), p[3], even));
        y
    }
}

/// `F(4, 3)`: 4 times fewer products.
pub(crate) struct Four;

impl Transform for Four {
    const OUTPUTS: usize = 4;
    const WIDTH: usize = 6;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        // Rows with opposite signs share their even and their odd part.
        let (even, odd) = (s.fma(c(-4.0), d[2], d[4]), s.fma(c(-4.0), d[1], d[3]));
        let (even_2, odd_2) = (s.sub(d[4], d[2]), s.sub(d[3], d[1]));
        y[0] = s.fma(c(4.0), d[0], s.fma(c(-5.0), d[2], d[4]));
        y[1] = s.add(even, odd);
        y[2] = s.sub(even, odd);
        y[3] = s.fma(c(2.0), odd_2, even_2);
        y[4] = s.fma(c(-2.0), odd_2, even_2);
        y[5] = s.fma(c(4.0), d[1], s.fma(c(-5.0), d[3], d[5]));
        y
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let taps = Taps::new(s, g);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.mul(c(1.0 / 4.0), g[0]);
        y[1] = s.mul(c(-1.0 / 6.0), taps.at_1[0]);
        y[2] = s.mul(c(-1.0 / 6.0), taps.at_1[1]);
        y[3] = s.mul(c(1.0 / 24.0), taps.at_2[0]);
        y[4] = s.mul(c(1.0 / 24.0), taps.at_2[1]);
        y[5] = g[2];
        y
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let (even, odd) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        let (even_2, odd_2) = (s.add(p[3], p[4]), s.sub(p[3], p[4]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.add(s.add(p[0], even), even_2);
        y[1] = s.fma(c(2.0), odd_2, odd);
        y[2] = s.fma(c(4.0), even_2, even);
        y[3] = s.add(s.fma(c(8.0), odd_2, odd), p[5]);
        y
    }
}

/// `F(5, 3)`: 4.59 times fewer products. Its points are 0, 1, -1, 2, -2, 1/2 and infinity.
pub(crate) struct Five;

impl Transform for Five {
    const OUTPUTS: usize = 5;
    const WIDTH: usize = 7;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        // `x^2 - 4`, at the places where the products below want it, and `x^2 - 1`.
        let by_4 = |i: usize| s.fma(c(-4.0), d[i], d[i + 2]);
        let by_4 = [by_4(0), by_4(1), by_4(2), by_4(3), by_4(4)];
        let by_1 = [s.sub(d[3], d[1]), s.sub(d[4], d[2]), s.sub(d[5], d[3])];
        // `(x^2 - 1) (x^2 - 4)`
        let both = [0, 1, 2].map(|i| s.sub(by_4[i + 2], by_4[i]));
        // `x - 1/2`
        let less_half = |low, high| s.fma(c(-0.5), low, high);
        let (near_1, near_2) = (less_half(by_4[1], by_4[2]), less_half(by_4[2], by_4[3]));
        let (far_1, far_2) = (less_half(by_1[0], by_1[1]), less_half(by_1[1], by_1[2]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = less_half(both[0], both[1]);
        y[1] = s.add(near_2, near_1);
        y[2] = s.sub(near_2, near_1);
        y[3] = s.fma(c(2.0), far_1, far_2);
        y[4] = s.fma(c(-2.0), far_1, far_2);
        y[5] = both[1];
        y[6] = less_half(both[1], both[2]);
        y
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let taps = Taps::new(s, g);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.mul(c(-0.5), g[0]);
        y[1] = s.mul(c(-1.0 / 3.0), taps.at_1[0]);
        y[2] = s.mul(c(1.0 / 9.0), taps.at_1[1]);
        y[3] = s.mul(c(1.0 / 36.0), taps.at_2[0]);
        y[4] = s.mul(c(-1.0 / 60.0), taps.at_2[1]);
        y[5] = s.mul(c(8.0 / 45.0), taps.at_half[0]);
        y[6] = g[2];
        y
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let (even_1, odd_1) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        let (even_2, odd_2) = (s.add(p[3], p[4]), s.sub(p[3], p[4]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.add(s.add(p[0], even_1), s.add(even_2, p[5]));
        y[1] = s.fma(c(0.5), p[5], s.fma(c(2.0), odd_2, odd_1));
        y[2] = s.fma(c(0.25), p[5], s.fma(c(4.0), even_2, even_1));
        y[3] = s.fma(c(0.125), p[5], s.fma(c(8.0), odd_2, odd_1));
        y[4] = s.add(p[6], s.fma(c(0.0625), p[5], s.fma(c(16.0), even_2, even_1)));
        y
    }
}

/// `F(6, 3)`: 5.06 times fewer products, with a few more rounding errors.
pub(crate) struct Six;

impl Transform for Six {
    const OUTPUTS: usize = 6;
    const WIDTH: usize = 8;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let even_1 = s.fma(c(-4.25), d[4], s.add(d[2], d[6]));
        let odd_1 = s.fma(c(-4.25), d[3], s.add(d[1], d[5]));
        let even_2 = s.fma(c(0.25), d[2], s.fma(c(-1.25), d[4], d[6]));
        let odd_2 = s.fma(c(0.5), d[1], s.fma(c(-2.5), d[3], s.add(d[5], d[5])));
        let even_half = s.fma(c(4.0), d[2], s.fma(c(-5.0), d[4], d[6]));
        let odd_half = s.fma(c(2.0), d[1], s.fma(c(-2.5), d[3], s.mul(c(0.5), d[5])));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.fma(c(5.25), s.sub(d[4], d[2]), s.sub(d[0], d[6]));
        y[1] = s.add(even_1, odd_1);
        y[2] = s.sub(even_1, odd_1);
        y[3] = s.add(even_2, odd_2);
        y[4] = s.sub(even_2, odd_2);
        y[5] = s.add(even_half, odd_half);
        y[6] = s.sub(even_half, odd_half);
        y[7] = s.fma(c(5.25), s.sub(d[3], d[5]), s.sub(d[7], d[1]));
        y
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let taps = Taps::new(s, g);
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = g[0];
        y[1] = s.mul(c(-2.0 / 9.0), taps.at_1[0]);
        y[2] = s.mul(c(-2.0 / 9.0), taps.at_1[1]);
        y[3] = s.mul(c(1.0 / 90.0), taps.at_2[0]);
        y[4] = s.mul(c(1.0 / 90.0), taps.at_2[1]);
        y[5] = s.mul(c(8.0 / 45.0), taps.at_half[0]);
        y[6] = s.mul(c(8.0 / 45.0), taps.at_half[1]);
        y[7] = g[2];
        y
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, p: Line<S>) -> Line<S> {
        let c = |x: f32| s.splat(x);
        let (even_1, odd_1) = (s.add(p[1], p[2]), s.sub(p[1], p[2]));
        let (even_2, odd_2) = (s.add(p[3], p[4]), s.sub(p[3], p[4]));
        let (even_h, odd_h) = (s.add(p[5], p[6]), s.sub(p[5], p[6]));
        let mut y = [s.splat(0.0); WIDTH_MAX];
        y[0] = s.add(s.add(p[0], even_1), s.add(even_2, even_h));
        y[1] = s.fma(c(0.5), odd_h, s.fma(c(2.0), odd_2, odd_1));
        y[2] = s.fma(c(0.25), even_h, s.fma(c(4.0), even_2, even_1));
        y[3] = s.fma(c(0.125), odd_h, s.fma(c(8.0), odd_2, odd_1));
        y[4] = s.fma(c(0.0625), even_h, s.fma(c(16.0), even_2, even_1));
        y[5] = s.add(p[7], s.fma(c(0.03125), odd_h, s.fma(c(32.0), odd_2, odd_1)));
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Scalar;

    fn line(values: &[f32]) -> Line<Scalar> {
        std::array::from_fn(|i| [values.get(i).copied().unwrap_or(0.0)])
    }

    /// One axis against the sum that it stands for, on small integers.
    fn is_a_filter<T: Transform>() {
        let s = Scalar;
        for seed in 0..50usize {
            let value = |i: usize| ((seed * 31 + i * 17 + seed * i) % 13) as f32 - 6.0;
            let d: Vec<f32> = (0..T::WIDTH).map(value).collect();
            let g = [value(20), value(21), value(22)];
            let (factors, weights) = (T::input(s, line(&d)), T::filter(s, g.map(|g| [g])));
            let products = std::array::from_fn(|i| s.mul(factors[i], weights[i]));
            let outputs = T::output(s, products);
            for (i, [y]) in outputs.into_iter().take(T::OUTPUTS).enumerate() {
                let expected = d[i] * g[0] + d[i + 1] * g[1] + d[i + 2] * g[2];
                assert!((y - expected).abs() < 2e-3, "m {}: {y} {expected}", T::OUTPUTS);
            }
        }
    }

    #[test]
    fn transforms_make_a_filter() {
        is_a_filter::<Two>();
        is_a_filter::<Three>();
        is_a_filter::<Four>();
        is_a_filter::<Five>();
        is_a_filter::<Six>();
    }
}
