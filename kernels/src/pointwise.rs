//! Element-wise layers: activations, per-channel arithmetic, and arithmetic of several maps.

use crate::math;
use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{Activation, CombineKind};
use tiling::{Region, Span};

/// Values that fit the first-level cache beside what they are computed from.
const RUN_VALUES: usize = 2 << 10;

/// Applies a function to each element.
pub(crate) fn activate(
    threads: &Threads,
    input: View<'_>,
    activation: Activation,
    output: &mut Target<'_>,
) {
    let work = output.len();
    threads.bands(output, work, |region, values| {
        let strip = region.cols.len() * input.channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            to.copy_from_slice(input.strip(row, region.cols));
            threads.cpu.run(ActivateRun { activation, values: to });
        }
    });
}

struct ActivateRun<'a> {
    activation: Activation,
    values: &'a mut [f32],
}

impl Kernel for ActivateRun<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for run in self.values.chunks_mut(RUN_VALUES) {
            math::activate_slice(s, self.activation, run);
        }
    }
}

/// `x * scale[c] + shift[c]` with one rounding, then the activation.
pub(crate) fn channel_affine(
    threads: &Threads,
    input: View<'_>,
    (scale, shift): (&[f32], &[f32]),
    activation: Activation,
    output: &mut Target<'_>,
) {
    let work = output.len();
    threads.bands(output, work, |region, values| {
        threads.cpu.run(AffineBand { input, scale, shift, activation, region, values });
    });
}

struct AffineBand<'a> {
    input: View<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
    region: Region,
    values: &'a mut [f32],
}

impl Kernel for AffineBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.input.channels;
        let strip = self.region.cols.len() * channels;
        for (row, to) in self.region.rows.indices().zip(self.values.chunks_mut(strip)) {
            let from = self.input.strip(row, self.region.cols);
            for (to, from) in to.chunks_mut(channels).zip(from.chunks(channels)) {
                let lanes = to.chunks_mut(S::LANES).zip(from.chunks(S::LANES));
                let constants = self.scale.chunks(S::LANES).zip(self.shift.chunks(S::LANES));
                for ((to, from), (scale, shift)) in lanes.zip(constants) {
                    let y = s.fma(s.read(from), s.read(scale), s.read(shift));
                    s.write(to, y);
                }
            }
            math::activate_slice(s, self.activation, to);
        }
    }
}

/// `x` if `x >= 0`, else `slope[c] * x`.
pub(crate) fn prelu(threads: &Threads, input: View<'_>, slope: &[f32], output: &mut Target<'_>) {
    let work = output.len();
    threads.bands(output, work, |region, values| {
        threads.cpu.run(PreluBand { input, slope, region, values });
    });
}

struct PreluBand<'a> {
    input: View<'a>,
    slope: &'a [f32],
    region: Region,
    values: &'a mut [f32],
}

impl Kernel for PreluBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.input.channels;
        let strip = self.region.cols.len() * channels;
        for (row, to) in self.region.rows.indices().zip(self.values.chunks_mut(strip)) {
            let from = self.input.strip(row, self.region.cols);
            for (to, from) in to.chunks_mut(channels).zip(from.chunks(channels)) {
                let lanes = to.chunks_mut(S::LANES).zip(from.chunks(S::LANES));
                for ((to, from), slope) in lanes.zip(self.slope.chunks(S::LANES)) {
                    let x = s.read(from);
                    let y = s.select_less(x, s.splat(0.0), s.mul(s.read(slope), x), x);
                    s.write(to, y);
                }
            }
        }
    }
}

/// Arithmetic over two or more spatial maps, folded from the first to the last; an axis of length
/// 1 is broadcast.
pub(crate) fn combine(
    threads: &Threads,
    inputs: &[View<'_>],
    kind: CombineKind,
    activation: Activation,
    (rows, cols): (usize, usize),
    output: &mut Target<'_>,
) {
    let work = output.len() * inputs.len();
    let channels = output.channels;
    threads.bands(output, work, |region, values| {
        let map = Axes3 { rows, cols, channels };
        threads.cpu.run(CombineBand { inputs, kind, activation, map, region, values });
    });
}

/// The size of the output map.
struct Axes3 {
    rows: usize,
    cols: usize,
    channels: usize,
}

struct CombineBand<'a> {
    inputs: &'a [View<'a>],
    kind: CombineKind,
    activation: Activation,
    map: Axes3,
    region: Region,
    values: &'a mut [f32],
}

/// One input of a run of output values.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Values(&'a [f32]),
    /// One value for the whole run.
    One(f32),
}

impl<'a> Operand<'a> {
    #[inline(always)]
    fn read<S: Simd>(self, s: S, at: usize, n: usize) -> S::V {
        match self {
            Operand::Values(values) => s.read(&values[at..at + n]),
            Operand::One(x) => s.splat(x),
        }
    }

    /// The input's values for some columns of a row of the output.
    fn of(input: &View<'a>, map: &Axes3, row: usize, cols: Span) -> Self {
        let row = if input.map_rows == 1 && map.rows != 1 { 0 } else { row };
        let narrow = input.map_cols == 1 && map.cols != 1;
        let cols = if narrow { Span::whole(1) } else { cols };
        let values = input.strip(row, cols);
        if input.channels == 1 && map.channels != 1 {
            Operand::One(values[0])
        } else {
            Operand::Values(values)
        }
    }
}

impl Kernel for CombineBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Axes3 { cols, channels, .. } = self.map;
        let by_pixel = |input: &View<'_>| input.channels != channels || input.map_cols != cols;
        // Whole strips where no input is broadcast along a row, else pixel by pixel.
        let run_cols = match self.inputs.iter().any(by_pixel) {
            true => 1,
            false => (RUN_VALUES / channels.max(1)).max(1),
        };
        let mut operands = Vec::with_capacity(self.inputs.len());
        let strip = self.region.cols.len() * channels;
        for (row, to) in self.region.rows.indices().zip(self.values.chunks_mut(strip)) {
            let starts = self.region.cols.indices().step_by(run_cols);
            for (start, to) in starts.zip(to.chunks_mut(run_cols * channels)) {
                let span = Span::new(start, (start + run_cols).min(self.region.cols.end));
                operands.clear();
                let views = self.inputs.iter();
                operands.extend(views.map(|input| Operand::of(input, &self.map, row, span)));
                match self.kind {
                    CombineKind::Add => fold::<S, Add>(s, &operands, to),
                    CombineKind::Mul => fold::<S, Mul>(s, &operands, to),
                    CombineKind::Sub => fold::<S, Sub>(s, &operands, to),
                    CombineKind::Div => fold::<S, Div>(s, &operands, to),
                    CombineKind::Max => fold::<S, Max>(s, &operands, to),
                    CombineKind::Min => fold::<S, Min>(s, &operands, to),
                }
                math::activate_slice(s, self.activation, to);
            }
        }
    }
}

#[inline(always)]
fn fold<S: Simd, A: Arithmetic>(s: S, operands: &[Operand<'_>], to: &mut [f32]) {
    if let [Operand::Values(a), Operand::Values(b)] = operands {
        let inputs = a.chunks(S::LANES).zip(b.chunks(S::LANES));
        for (to, (a, b)) in to.chunks_mut(S::LANES).zip(inputs) {
            let y = A::of(s, s.read(a), s.read(b));
            s.write(to, y);
        }
        return;
    }
    for (i, to) in to.chunks_mut(S::LANES).enumerate() {
        let (at, n) = (i * S::LANES, to.len());
        let mut y = operands[0].read(s, at, n);
        for operand in &operands[1..] {
            y = A::of(s, y, operand.read(s, at, n));
        }
        s.write(to, y);
    }
}

/// Arithmetic of two vectors.
trait Arithmetic {
    fn of<S: Simd>(s: S, a: S::V, b: S::V) -> S::V;
}

/// Defines an arithmetic by the operation of the same name.
macro_rules! arithmetic {
    ($($name:ident $operation:ident),*) => {$(
        struct $name;

        impl Arithmetic for $name {
            #[inline(always)]
            fn of<S: Simd>(s: S, a: S::V, b: S::V) -> S::V {
                s.$operation(a, b)
            }
        }
    )*};
}

arithmetic!(Add add, Mul mul, Sub sub, Div div, Max max, Min min);
