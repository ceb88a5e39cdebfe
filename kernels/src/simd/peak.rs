//! How many multiply-adds the processor can do: what the convolution is compared with.

use super::{Cpu, Kernel, Simd};
use std::hint::black_box;
use std::time::Instant;

/// Independent chains: more than the latency times the units of any processor we know.
const CHAINS: usize = 12;
const ROUNDS: usize = 4_000_000;

struct Peak;

impl Kernel for Peak {
    /// GFLOP per second.
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut sums = [s.splat(black_box(1.0)); CHAINS];
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut out = [0.0f32; 16];
        for sum in sums {
            s.write(&mut out, sum);
            black_box(&out);
        }
        (2 * ROUNDS * CHAINS * S::LANES) as f64 / seconds / 1e9
    }
}

/// The peak rate of fused multiply-adds of one thread, in GFLOP per second, measured now.
pub(crate) fn gflop_per_s(cpu: Cpu) -> f64 {
    cpu.run(Peak)
}
