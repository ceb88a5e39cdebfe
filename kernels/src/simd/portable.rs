//! Plain Rust: vectors as arrays for any processor, and a vector of one lane for the reference.

use super::{Kernel, Simd};
use half::f16;

/// Eight lanes in an array.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// One lane: what the naive reference computes with.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Implements the vocabulary over `[f32; LANES]`.
macro_rules! array_simd {
    ($token:ty, lanes $lanes:expr, pixels $pixels:expr, vectors $vectors:expr) => {
        // Safety of every block below: pointers as the trait asks.
        impl Simd for $token {
            type V = [f32; $lanes];
            const LANES: usize = $lanes;
            const PIXELS: usize = $pixels;
            const VECTORS: usize = $vectors;

            fn enter<K: Kernel>(self, kernel: K) -> K::Output {
                kernel.run(self)
            }

            #[inline(always)]
            fn splat(self, x: f32) -> Self::V {
                [x; $lanes]
            }

            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
            }

            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }

            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] - b[i])
            }

            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i])
            }

            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] / b[i])
            }

            #[inline(always)]
            fn sqrt(self, a: Self::V) -> Self::V {
                a.map(f32::sqrt)
            }

            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }

            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }

            #[inline(always)]
            fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
            }

            #[inline(always)]
            fn pow2(self, t: Self::V) -> Self::V {
                t.map(|t| f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000)))
            }

            #[inline(always)]
            fn prefetch(self, _: *const f32) {}

            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> Self::V {
                unsafe { p.cast::<Self::V>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn widen(self, p: *const f16) -> Self::V {
                std::array::from_fn(|i| unsafe { *p.add(i) }.to_f32())
            }

            #[inline(always)]
            unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
                let mut v = [0.0; $lanes];
                unsafe { std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), n) };
                v
            }

            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: Self::V) {
                unsafe { p.cast::<Self::V>().write_unaligned(v) }
            }

            #[inline(always)]
            unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::V) {
                unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, n) };
            }
        }
    };
}

array_simd!(Portable, lanes 8, pixels 4, vectors 2);
array_simd!(Scalar, lanes 1, pixels 1, vectors 1);
