//! One small vector vocabulary over the instruction sets, chosen at run time.
//!
//! Every operation is one correctly rounded IEEE operation per lane, so a kernel written with it
//! gives the same bits on every instruction set and every vector width.
//!
//! Safety of the module: the instruction-set tokens ([`Simd`] implementors) are made only by
//! [`Cpu::run`], after [`Cpu::new`] has asked the processor, so holding a token proves that its
//! instructions exist. The pointer operations say what they ask of the caller.
// The argument above is that of every instruction below.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod caches;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod peak;
mod portable;

pub(crate) use portable::Scalar;

use crate::error::KernelError;
use crate::quant::dot::Dot;
use half::f16;
use std::fmt;

/// An instruction set that the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// x86-64 with AVX-512F: 16 lanes.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C, which came together: 8 lanes.
    Avx2,
    /// aarch64: 4 lanes.
    Neon,
    /// Any processor; slow where the compiler's target has no fused multiply-add. 32-bit ARM has
    /// only this: its NEON takes subnormals for zero, which would change bits, and Rust 1.95 has
    /// no stable intrinsics for it (`scripts/test-armv7`).
    Portable,
}

impl Isa {
    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Isa::Portable => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// All that this processor has, fastest first.
    pub fn available() -> Vec<Isa> {
        let all = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest that this processor has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        })
    }
}

/// An instruction set that this processor was seen to have, and what multiplies bytes beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu(Isa, Dot);

impl Cpu {
    /// *Errors*: the processor lacks it.
    pub(crate) fn new(isa: Isa) -> Result<Self, KernelError> {
        match isa.is_available() {
            true => Ok(Self(isa, Dot::available(isa)[0])),
            false => Err(KernelError::IsaUnavailable { isa }),
        }
    }

    /// The same with another way to multiply bytes, one of [`Dot::available`].
    #[cfg(test)]
    pub(crate) fn with_dot(self, dot: Dot) -> Self {
        assert!(Dot::available(self.0).contains(&dot));
        Self(self.0, dot)
    }

    pub(crate) fn dot(self) -> Dot {
        self.1
    }

    /// The fastest that this processor has.
    pub(crate) fn detect() -> Self {
        let isa = Isa::detect();
        Self(isa, Dot::available(isa)[0])
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // Safety: `Cpu::new` has seen the features.
            Isa::Avx512 => unsafe { avx512::Avx512::new() }.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            // Safety: `Cpu::new` has seen the features.
            Isa::Avx2 => unsafe { avx2::Avx2::new() }.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            // Safety: `Cpu::new` has seen the feature.
            Isa::Neon => unsafe { neon::Neon::new() }.enter(kernel),
            _ => portable::Portable.enter(kernel),
        }
    }
}

/// A function generic over the instruction set; `run` and all it calls per element must be
/// `#[inline(always)]`, so that they are compiled with the features of [`Simd::enter`].
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// A token for an instruction set, with its vector operations.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector register.
    type V: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Pixels of the convolution micro-kernel: accumulators fill the register file.
    const PIXELS: usize;
    /// Vectors of output channels of the convolution micro-kernel.
    const VECTORS: usize;
    /// Whether [`Simd::fma_lane`] is one instruction, and a vector has four lanes.
    const BY_LANE: bool = false;

    /// Calls a kernel through a function compiled for this instruction set, never inlined.
    fn enter<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a[LANE] * b + c` in each lane, rounded once. Only where [`Simd::BY_LANE`].
    #[inline(always)]
    fn fma_lane<const LANE: i32>(self, _a: Self::V, _b: Self::V, _c: Self::V) -> Self::V {
        unreachable!("this instruction set splats")
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: the second where either is NaN or both are zero.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { yes } else { no }`
    fn select_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `2^n` for `t = 12582912 + n`, `n` an integer in `-126..=127`: the low bits of `t` are `n`.
    fn pow2(self, t: Self::V) -> Self::V;

    /// Asks for the cache line at `p`, which need not be readable, in the second-level cache.
    fn prefetch(self, p: *const f32);
    /// Reads a vector. *Safety*: `LANES` values are readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Reads a vector of half floats, exactly. *Safety*: `LANES` of them are readable at `p`.
    unsafe fn widen(self, p: *const f16) -> Self::V;
    /// Reads `n` values, zeros above. *Safety*: `n <= LANES` values are readable at `p`.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// Writes a vector. *Safety*: `LANES` values are writable at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Writes the first `n` values. *Safety*: `n <= LANES` values are writable at `p`.
    unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::V);

    /// Reads up to a vector from the front of a slice, zeros above.
    #[inline(always)]
    fn read(self, values: &[f32]) -> Self::V {
        // Safety: the lengths are checked right here.
        unsafe {
            if values.len() >= Self::LANES {
                self.load(values.as_ptr())
            } else {
                self.load_first(values.as_ptr(), values.len())
            }
        }
    }

    /// Writes up to a vector to the front of a slice.
    #[inline(always)]
    fn write(self, values: &mut [f32], v: Self::V) {
        // Safety: the lengths are checked right here.
        unsafe {
            if values.len() >= Self::LANES {
                self.store(values.as_mut_ptr(), v);
            } else {
                self.store_first(values.as_mut_ptr(), values.len(), v);
            }
        }
    }
}
