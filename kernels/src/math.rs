//! The functions of one element: only `+ - * /`, fused multiply-add and comparisons, in one
//! order, so every instruction set and the naive reference give the same bits.
//!
//! Zeros and NaN: `max(x, 0)` is written `if 0 > x { 0 } else { x }`, so it keeps `-0.0` and NaN;
//! Clip does likewise. The bits of a NaN are not promised, only that it is one.

use crate::simd::{Kernel, Scalar, Simd};
use model::Activation;

/// `e^x`, relative error below 2e-7. Saturates at 2^-126 and 2.4e38 instead of zero and infinity.
///
/// *Source*: Cephes `expf` (Moshier): split off `n ln 2`, then a polynomial of degree 7.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-87.336_54), x);
    let x = s.min(s.splat(88.376_25), x);
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    let magic = s.splat(12_582_912.0);
    let t = s.fma(x, s.splat(std::f32::consts::LOG2_E), magic);
    let n = s.sub(t, magic);
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let p = s.splat(1.987_569_1e-4);
    let p = s.fma(p, r, s.splat(1.398_199_9e-3));
    let p = s.fma(p, r, s.splat(8.333_452e-3));
    let p = s.fma(p, r, s.splat(4.166_579_6e-2));
    let p = s.fma(p, r, s.splat(1.666_666_5e-1));
    let p = s.fma(p, r, s.splat(0.5));
    let p = s.fma(p, s.mul(r, r), r);
    let p = s.add(p, s.splat(1.0));
    s.mul(p, s.pow2(t))
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(s.splat(1.0), one_plus_exp_minus(s, x))
}

#[inline(always)]
fn one_plus_exp_minus<S: Simd>(s: S, x: S::V) -> S::V {
    s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x)))
}

/// Hyperbolic tangent, relative error below 5e-7.
///
/// *Source*: Cephes `tanhf`: a polynomial near zero, `1 - 2 / (e^2|x| + 1)` elsewhere.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let minus = s.sub(zero, x);
    let magnitude = s.max(minus, x);
    let z = s.mul(x, x);
    let p = s.splat(-5.704_988_7e-3);
    let p = s.fma(p, z, s.splat(2.063_909e-2));
    let p = s.fma(p, z, s.splat(-5.373_971_5e-2));
    let p = s.fma(p, z, s.splat(1.333_144_2e-1));
    let p = s.fma(p, z, s.splat(-3.333_328e-1));
    let near = s.fma(s.mul(p, z), x, x);
    let e = exp(s, s.add(magnitude, magnitude));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    let far = s.select_less(x, zero, s.sub(zero, far), far);
    s.select_less(magnitude, s.splat(0.625), near, far)
}

/// `ln(1 + e^x)`, absolute error below 2e-7 where `x < 1`, relative elsewhere.
///
/// With `t = e^-|x|` in 0..=1 it is `max(x, 0) + ln(1 + t)`, and `ln(1 + t) = 2 atanh(z)` with
/// `z = t / (t + 2)` up to a third, so that nine terms of its series suffice.
#[inline(always)]
fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let minus = s.sub(zero, x);
    let t = exp(s, s.sub(zero, s.max(minus, x)));
    let z = s.div(t, s.add(t, s.splat(2.0)));
    let square = s.mul(z, z);
    let mut p = s.splat(2.0 / 17.0);
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = s.fma(p, square, s.splat(2.0 / odd));
    }
    s.fma(p, z, s.max(zero, x))
}

/// `x * tanh(ln(1 + e^x))`, without a logarithm: with `n = e^x (e^x + 2)` it is `x n / (n + 2)`.
#[inline(always)]
fn mish<S: Simd>(s: S, x: S::V) -> S::V {
    // From 20 on the fraction is 1 in f32, and beyond 40 its parts would overflow.
    let e = exp(s, s.min(s.splat(20.0), x));
    let n = s.mul(e, s.add(e, s.splat(2.0)));
    s.mul(x, s.div(n, s.add(n, s.splat(2.0))))
}

/// The error function, absolute error below 2e-7.
///
/// *Source*: Cephes `erff` and `erfcf` (Moshier): a polynomial in `x^2` below 1, elsewhere
/// `1 - e^(-x^2) P(1 / x^2) / x`.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let polynomial = |z: S::V, coefficients: &[f32]| {
        let mut p = s.splat(coefficients[0]);
        for c in &coefficients[1..] {
            p = s.fma(p, z, s.splat(*c));
        }
        p
    };
    let zero = s.splat(0.0);
    let minus = s.sub(zero, x);
    // Beyond 6 the result is 1 in f32.
    let magnitude = s.min(s.splat(6.0), s.max(minus, x));
    let square = s.mul(magnitude, magnitude);
    let near = [
        7.853_861e-5,
        -8.010_194e-4,
        5.188_327_6e-3,
        -2.685_381_3e-2,
        1.128_358_5e-1,
        -3.761_262_7e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    let near = s.mul(x, polynomial(square, &near));
    let to_two = [
        2.326_82e-2,
        -1.387_039_4e-1,
        3.687_424_7e-1,
        -5.824_733e-1,
        6.210_004_7e-1,
        -4.944_515e-1,
        3.404_88e-1,
        -2.741_127e-1,
        5.638_259e-1,
    ];
    let from_two = [
        -1.047_766_4e1,
        1.297_72e1,
        -7.495_518_7,
        2.921_019,
        -1.015_265_2,
        4.218_463_4e-1,
        -2.820_767_5e-1,
        5.641_895e-1,
    ];
    let one = s.splat(1.0);
    let inverse = s.div(one, s.max(one, magnitude));
    let y = s.mul(inverse, inverse);
    let far =
        s.select_less(magnitude, s.splat(2.0), polynomial(y, &to_two), polynomial(y, &from_two));
    let rest = s.mul(s.mul(exp(s, s.sub(zero, square)), inverse), far);
    let far = s.sub(one, rest);
    let far = s.select_less(x, zero, s.sub(zero, far), far);
    s.select_less(magnitude, one, near, far)
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    let erf = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    s.fma(half, erf, half)
}

#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(s.fma(cube, s.splat(0.044_715), x), s.splat(0.797_884_6));
    s.fma(half, tanh(s, inner), half)
}

/// `min(max(x, low), high)`
#[inline(always)]
pub(crate) fn clamp<S: Simd>(s: S, x: S::V, low: f32, high: f32) -> S::V {
    s.min(s.splat(high), s.max(s.splat(low), x))
}

/// An activation of one vector.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::None => x,
        Activation::Relu => s.max(s.splat(0.0), x),
        Activation::LeakyRelu { alpha } => {
            s.select_less(x, s.splat(0.0), s.mul(s.splat(alpha), x), x)
        }
        Activation::Clip { min, max } => clamp(s, x, min, max),
        Activation::Sigmoid => sigmoid(s, x),
        Activation::HardSigmoid { alpha, beta } => {
            clamp(s, s.fma(s.splat(alpha), x, s.splat(beta)), 0.0, 1.0)
        }
        Activation::HardSwish => {
            s.mul(x, clamp(s, s.fma(s.splat(1.0 / 6.0), x, s.splat(0.5)), 0.0, 1.0))
        }
        Activation::Silu => s.div(x, one_plus_exp_minus(s, x)),
        Activation::Tanh => tanh(s, x),
        Activation::Elu { alpha } => {
            let below = s.mul(s.splat(alpha), s.sub(exp(s, x), s.splat(1.0)));
            s.select_less(x, s.splat(0.0), below, x)
        }
        Activation::Softplus => softplus(s, x),
        Activation::Softsign => {
            let magnitude = s.max(s.sub(s.splat(0.0), x), x);
            s.div(x, s.add(s.splat(1.0), magnitude))
        }
        Activation::Mish => mish(s, x),
        Activation::Gelu => gelu(s, x),
        Activation::GeluTanh => gelu_tanh(s, x),
        Activation::Erf => erf(s, x),
        Activation::Exp => exp(s, x),
        Activation::Sqrt => s.sqrt(x),
        Activation::Abs => s.max(s.sub(s.splat(0.0), x), x),
    }
}

/// An activation of a slice in place. A kernel of its own, so that the many that end with an
/// activation hold a call each, not the code of all of them.
#[inline(always)]
pub(crate) fn activate_slice<S: Simd>(s: S, activation: Activation, values: &mut [f32]) {
    if activation != Activation::None {
        s.enter(ActivateSlice { activation, values });
    }
}

struct ActivateSlice<'a> {
    activation: Activation,
    values: &'a mut [f32],
}

impl Kernel for ActivateSlice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each_vector(s, self.activation, self.values);
    }
}

/// One short loop for each kind.
#[inline(always)]
fn each_vector<S: Simd>(s: S, activation: Activation, values: &mut [f32]) {
    /// A loop of its own, since a `match` inside the loop would be taken for each vector.
    macro_rules! each {
        ($which:expr) => {
            for chunk in values.chunks_mut(S::LANES) {
                let y = activate(s, $which, s.read(chunk));
                s.write(chunk, y);
            }
        };
    }
    match activation {
        Activation::None => {}
        Activation::Relu => each!(Activation::Relu),
        Activation::LeakyRelu { alpha } => each!(Activation::LeakyRelu { alpha }),
        Activation::Clip { min, max } => each!(Activation::Clip { min, max }),
        Activation::Sigmoid => each!(Activation::Sigmoid),
        Activation::HardSigmoid { alpha, beta } => each!(Activation::HardSigmoid { alpha, beta }),
        Activation::HardSwish => each!(Activation::HardSwish),
        Activation::Silu => each!(Activation::Silu),
        Activation::Tanh => each!(Activation::Tanh),
        Activation::Elu { alpha } => each!(Activation::Elu { alpha }),
        Activation::Softplus => each!(Activation::Softplus),
        Activation::Softsign => each!(Activation::Softsign),
        Activation::Mish => each!(Activation::Mish),
        Activation::Gelu => each!(Activation::Gelu),
        Activation::GeluTanh => each!(Activation::GeluTanh),
        Activation::Erf => each!(Activation::Erf),
        Activation::Exp => each!(Activation::Exp),
        Activation::Sqrt => each!(Activation::Sqrt),
        Activation::Abs => each!(Activation::Abs),
    }
}

/// An activation as a clamp, where it is one, so that it costs two instructions everywhere:
/// `clamp(x, -inf, inf)` is `x` bit for bit.
pub(crate) fn as_clamp(activation: Activation) -> Option<(f32, f32)> {
    match activation {
        Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
        Activation::Relu => Some((0.0, f32::INFINITY)),
        Activation::Clip { min, max } => Some((min, max)),
        _ => None,
    }
}

/// An activation of one element.
pub(crate) fn activate_one(activation: Activation, x: f32) -> f32 {
    activate(Scalar, activation, [x])[0]
}

/// `e^x` of one element.
pub(crate) fn exp_one(x: f32) -> f32 {
    exp(Scalar, [x])[0]
}

/// `x^beta` for positive `x`; `beta = 0.75`, that of every published network, needs only roots.
pub(crate) fn power(x: f32, beta: f32) -> f32 {
    if beta == 0.75 {
        let root = x.sqrt();
        root * root.sqrt()
    } else if beta == 0.5 {
        x.sqrt()
    } else {
        exp_one(beta * ln(x))
    }
}

/// Natural logarithm of a positive normal number, absolute error below 1e-7 near 1.
///
/// *Source*: Cephes `logf`.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 126) as f32;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m += m;
    }
    let r = m - 1.0;
    let z = r * r;
    let coefficients = [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let mut p = 7.037_683_6e-2f32;
    for c in coefficients {
        p = p.mul_add(r, c);
    }
    let mut y = r * (z * p);
    y = exponent.mul_add(-2.121_944_4e-4, y);
    y = z.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_4, r + y)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error over a range.
    fn worst(range: (f32, f32), ours: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        let steps = 20_000;
        let x = |i: usize| range.0 + (range.1 - range.0) * i as f32 / steps as f32;
        let error = |x: f32| {
            let (ours, exact) = (ours(x) as f64, exact(x as f64));
            if exact == 0.0 { ours.abs() } else { ((ours - exact) / exact).abs() }
        };
        (0..=steps).map(|i| error(x(i))).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_accurate() {
        assert!(worst((-87.0, 88.0), exp_one, f64::exp) < 3e-7);
        assert!(worst((-15.0, 15.0), |x| activate_one(Activation::Tanh, x), f64::tanh) < 6e-7);
        let sigmoid = |x: f32| activate_one(Activation::Sigmoid, x);
        assert!(worst((-80.0, 80.0), sigmoid, |x| 1.0 / (1.0 + (-x).exp())) < 5e-7);
        assert!(worst((2.0, 5000.0), ln, f64::ln) < 3e-7);
        assert!(worst((0.5, 300.0), |x| power(x, 0.75), |x| x.powf(0.75)) < 3e-7);
        assert!(worst((0.5, 300.0), |x| power(x, 1.3), |x| x.powf(1.3f32 as f64)) < 2e-6);
    }

    /// By its Maclaurin series, which converges for the numbers asked here.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..400 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn later_functions_are_accurate() {
        let of = |activation: Activation| move |x: f32| activate_one(activation, x);
        assert!(worst((-4.0, 4.0), of(Activation::Erf), erf_series) < 1e-6);
        assert!(worst((-10.0, 30.0), of(Activation::Softplus), |x| x.exp().ln_1p()) < 1e-6);
        let mish = |x: f64| x * x.exp().ln_1p().tanh();
        assert!(worst((-10.0, 30.0), of(Activation::Mish), mish) < 1e-6);
        // Far below zero little is left of a GELU but the error of its error function.
        let gelu = |x: f64| x / 2.0 * (1.0 + erf_series(x / 2f64.sqrt()));
        assert!(worst((-1.0, 5.0), of(Activation::Gelu), gelu) < 2e-6);
        assert!(worst((0.1, 8.0), of(Activation::Sqrt), f64::sqrt) < 1e-7);
    }

    #[test]
    fn relu_keeps_minus_zero_and_nan() {
        assert_eq!(activate_one(Activation::Relu, -0.0).to_bits(), (-0.0f32).to_bits());
        assert!(activate_one(Activation::Relu, f32::NAN).is_nan());
        assert_eq!(activate_one(Activation::Relu, -3.0).to_bits(), 0);
    }

    #[test]
    fn extremes_stay_finite() {
        for x in [f32::MIN, -1e4, 1e4, f32::MAX] {
            for activation in
                [Activation::Sigmoid, Activation::Silu, Activation::Tanh, Activation::Mish]
            {
                assert!(activate_one(activation, x).is_finite(), "{activation:?} of {x}");
            }
        }
    }
}
