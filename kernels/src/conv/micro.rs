//! The micro-kernel of dense products: some pixels times some vectors of output channels, all
//! accumulators in registers.
//!
//! For each product index, one load for each vector of weights and one broadcast for each pixel
//! feed `pixels * vectors` fused multiply-adds. For dilation 1 a kernel row is one contiguous run
//! of `kernel cols * channels` values, so no patch matrix is ever made.

use crate::pack::PANEL;
use crate::simd::{Kernel, Simd};

/// The runs of values that one pixel reads from a kernel row.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    pub(super) count: usize,
    /// Values of a run.
    pub(super) len: usize,
    /// Values from one run to the next.
    pub(super) step: usize,
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// They are written as they are.
    Raw,
    /// `clamp(sum + bias)`
    Bias(Clamp),
    /// `clamp((sum + bias) + residual)`: the sum of two maps that follows the convolution.
    Residual {
        clamp: Clamp,
        values: *const f32,
        /// Values from one pixel to the next.
        step: usize,
    },
}

/// Bias, and the activation as far as it is a clamp.
#[derive(Clone, Copy)]
pub(super) struct Clamp {
    pub(super) bias: *const f32,
    pub(super) low: f32,
    pub(super) high: f32,
}

/// The arguments of a micro-kernel.
pub(super) struct Micro<'a> {
    /// Where the first pixel's first tap lies, for each kernel row.
    pub(super) rows: &'a [*const f32],
    pub(super) runs: Runs,
    /// Values from one pixel's window to the next.
    pub(super) pixel_step: usize,
    pub(super) weights: *const f32,
    /// Values from one panel of weights to the next.
    pub(super) panel_step: usize,
    /// What a later call reads, fetched meanwhile.
    pub(super) ahead: Ahead,
    pub(super) finish: Finish,
    pub(super) out: *mut f32,
    /// Values from one output pixel to the next.
    pub(super) out_step: usize,
    /// Lanes of the last vector that are written.
    pub(super) last_lanes: usize,
}

/// Memory to fetch into the second-level cache while a block is computed.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) from: *const f32,
    /// Cache lines for each turn of the inner loop; none may be right.
    pub(super) lines: usize,
}

impl Ahead {
    /// Nothing is fetched.
    pub(super) const NOTHING: Self = Self { from: std::ptr::null(), lines: 0 };
}

/// Products of one turn of the inner loop.
pub(super) const TURN: usize = 4;

impl Micro<'_> {
    /// One product for each pixel and output channel.
    ///
    /// *Safety*: the pixels' values at `input` and the units' weights at `weights` are readable.
    #[inline(always)]
    unsafe fn step<S: Simd, const PIXELS: usize, const VECTORS: usize>(
        &self,
        s: S,
        input: *const f32,
        weights: *const f32,
        sums: &mut [[S::V; VECTORS]; PIXELS],
    ) {
        let vectors_per_panel = (PANEL / S::LANES).max(1);
        let mut w = [s.splat(0.0); VECTORS];
        for (v, w) in w.iter_mut().enumerate() {
            let panel = v / vectors_per_panel * self.panel_step;
            // Safety: as asked.
            *w = unsafe { s.load(weights.add(panel + v % vectors_per_panel * S::LANES)) };
        }
        for (pixel, sums) in sums.iter_mut().enumerate() {
            // Safety: as asked.
            let x = s.splat(unsafe { *input.add(pixel * self.pixel_step) });
            for v in 0..VECTORS {
                sums[v] = s.fma(x, w[v], sums[v]);
            }
        }
    }

    /// As four times [`Micro::step`]: a pixel's four values are one load, where a splat from
    /// memory would be a load and an address each.
    ///
    /// *Safety*: as there.
    #[inline(always)]
    unsafe fn turn_by_lane<S: Simd, const PIXELS: usize, const VECTORS: usize>(
        &self,
        s: S,
        input: *const f32,
        weights: *const f32,
        sums: &mut [[S::V; VECTORS]; PIXELS],
    ) {
        let mut x = [s.splat(0.0); PIXELS];
        for (pixel, x) in x.iter_mut().enumerate() {
            // Safety: as asked.
            *x = unsafe { s.load(input.add(pixel * self.pixel_step)) };
        }
        // Safety: as asked.
        unsafe {
            self.lane::<S, 0, PIXELS, VECTORS>(s, &x, weights, sums);
            self.lane::<S, 1, PIXELS, VECTORS>(s, &x, weights, sums);
            self.lane::<S, 2, PIXELS, VECTORS>(s, &x, weights, sums);
            self.lane::<S, 3, PIXELS, VECTORS>(s, &x, weights, sums);
        }
    }

    /// The products of one lane of the pixels' values.
    ///
    /// *Safety*: as [`Micro::step`].
    #[inline(always)]
    unsafe fn lane<S: Simd, const LANE: i32, const PIXELS: usize, const VECTORS: usize>(
        &self,
        s: S,
        x: &[S::V; PIXELS],
        weights: *const f32,
        sums: &mut [[S::V; VECTORS]; PIXELS],
    ) {
        let vectors_per_panel = (PANEL / S::LANES).max(1);
        for v in 0..VECTORS {
            let panel = v / vectors_per_panel * self.panel_step;
            let at = LANE as usize * PANEL + panel + v % vectors_per_panel * S::LANES;
            // Safety: as asked.
            let w = unsafe { s.load(weights.add(at)) };
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                sums[v] = s.fma_lane::<LANE>(*x, w, sums[v]);
            }
        }
    }

    /// Computes a block.
    ///
    /// *Safety*: everything the arguments point to is readable, and `out` is writable, for so many
    /// pixels and vectors.
    #[inline(always)]
    pub(super) unsafe fn call<S: Simd>(&self, s: S, pixels: usize, vectors: usize) {
        match vectors {
            1 => self.call_vectors::<S, 1>(s, pixels),
            2 if S::VECTORS >= 2 => self.call_vectors::<S, 2>(s, pixels),
            3 if S::VECTORS >= 3 => self.call_vectors::<S, 3>(s, pixels),
            4 if S::VECTORS >= 4 => self.call_vectors::<S, 4>(s, pixels),
            _ => unreachable!("a unit has at most {} vectors", S::VECTORS),
        }
    }

    #[inline(always)]
    fn call_vectors<S: Simd, const VECTORS: usize>(&self, s: S, pixels: usize) {
        /// One arm for each block size that the instruction set can have.
        macro_rules! sizes {
            ($($n:literal)*) => {
                match pixels {
                    $($n if $n <= S::PIXELS => s.enter(Fixed::<'_, $n, VECTORS>(self)),)*
                    _ => unreachable!("a block has at most {} pixels", S::PIXELS),
                }
            };
        }
        sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}

/// A micro-kernel of a fixed size.
struct Fixed<'a, const PIXELS: usize, const VECTORS: usize>(&'a Micro<'a>);

impl<const PIXELS: usize, const VECTORS: usize> Kernel for Fixed<'_, PIXELS, VECTORS> {
    type Output = ();

    // The accumulators stay in registers only while every loop over them has a constant length
    // and does little: a richer epilogue once cost a store for each multiply-add.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let m = self.0;
        let mut sums = [[s.splat(0.0); VECTORS]; PIXELS];
        let mut weights = m.weights;
        let mut ahead = m.ahead;
        self.fetch_next(s);
        for &row in m.rows {
            for run in 0..m.runs.count {
                // Safety: the caller of `call` vouches for the pixels' runs and for the weights of
                // the unit, which are what the loops add up to.
                unsafe {
                    let mut input = row.add(run * m.runs.step);
                    // Some products to a turn, so that the pixels' addresses are made less often.
                    for _ in 0..m.runs.len / TURN {
                        for _ in 0..ahead.lines {
                            s.prefetch(ahead.from);
                            ahead.from = ahead.from.wrapping_add(PANEL);
                        }
                        if S::BY_LANE {
                            m.turn_by_lane(s, input, weights, &mut sums);
                        } else {
                            for k in 0..TURN {
                                let weights = weights.add(k * PANEL);
                                m.step(s, input.add(k), weights, &mut sums);
                            }
                        }
                        input = input.add(TURN);
                        weights = weights.add(TURN * PANEL);
                    }
                    for _ in 0..m.runs.len % TURN {
                        m.step(s, input, weights, &mut sums);
                        input = input.add(1);
                        weights = weights.add(PANEL);
                    }
                }
            }
        }
        match m.finish {
            Finish::Raw => self.write(s, &sums, |_, _, sum| sum),
            Finish::Bias(clamp) => {
                let (low, high) = (s.splat(clamp.low), s.splat(clamp.high));
                self.write(s, &sums, |v, _, sum| {
                    // Safety: bias of whole panels.
                    let bias = unsafe { s.load(clamp.bias.add(v * S::LANES)) };
                    s.min(high, s.max(low, s.add(sum, bias)))
                });
            }
            Finish::Residual { clamp, values, step } => {
                let (low, high) = (s.splat(clamp.low), s.splat(clamp.high));
                self.write(s, &sums, |v, pixel, sum| {
                    // Safety: bias of whole panels; the residual map has the output's channels.
                    let (bias, other) = unsafe {
                        let bias = s.load(clamp.bias.add(v * S::LANES));
                        let other = values.add(pixel * step + v * S::LANES);
                        let last = v + 1 == VECTORS && m.last_lanes < S::LANES;
                        let other = match last {
                            true => s.load_first(other, m.last_lanes),
                            false => s.load(other),
                        };
                        (bias, other)
                    };
                    s.min(high, s.max(low, s.add(s.add(sum, bias), other)))
                });
            }
        }
    }
}

impl<const PIXELS: usize, const VECTORS: usize> Fixed<'_, PIXELS, VECTORS> {
    /// Fetches the place of the next outputs, which the next call mostly has: a map is too large for
    /// the cache, and the stores to lines that are far away would fill the store queue.
    #[inline(always)]
    fn fetch_next<S: Simd>(&self, s: S) {
        let m = self.0;
        if matches!(m.finish, Finish::Raw) {
            return;
        }
        for pixel in PIXELS..2 * PIXELS {
            for at in (0..VECTORS * S::LANES).step_by(PANEL) {
                s.prefetch(m.out.wrapping_add(pixel * m.out_step + at));
            }
        }
    }

    #[inline(always)]
    fn write<S: Simd>(
        &self,
        s: S,
        sums: &[[S::V; VECTORS]; PIXELS],
        finished: impl Fn(usize, usize, S::V) -> S::V,
    ) {
        let m = self.0;
        for v in 0..VECTORS {
            for (pixel, sums) in sums.iter().enumerate() {
                let y = finished(v, pixel, sums[v]);
                // Safety: the output pixels have these channels.
                unsafe {
                    let out = m.out.add(pixel * m.out_step + v * S::LANES);
                    if v + 1 == VECTORS {
                        s.store_first(out, m.last_lanes, y);
                    } else {
                        s.store(out, y);
                    }
                }
            }
        }
    }
}
