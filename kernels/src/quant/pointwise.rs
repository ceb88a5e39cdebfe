//! Layers over each byte on its own, and the mean of all positions.
#![allow(unsafe_code)]

use super::Requantize;
#[cfg(target_arch = "x86_64")]
use super::dot::Dot;
#[cfg(target_arch = "x86_64")]
use super::dot::avx512::{self, Narrow};
use super::requantize::rounded;
use crate::general::{logical, write_logical};
use crate::math;
use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{Activation, CombineKind, Element, Quant, Shape};
use ndarray::IxDyn;

/// What turns a byte of a map into its integer: the bits that are turned, and what is taken away.
#[derive(Clone, Copy)]
struct Reading {
    flip: u8,
    less: i32,
}

impl Reading {
    fn new(element: Element) -> Self {
        match element {
            Element::I8 => Self { flip: 0x80, less: 128 },
            _ => Self { flip: 0, less: 0 },
        }
    }

    #[inline(always)]
    fn integer(self, byte: u8) -> i32 {
        i32::from(byte ^ self.flip) - self.less
    }
}

/// A function of bytes at the same place of one or two maps.
struct Each<'a, A, F> {
    from: &'a [A],
    to: &'a mut [u8],
    f: F,
}

impl<A: Copy, F: Fn(A) -> u8> Kernel for Each<'_, A, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = (self.f)(*from);
        }
    }
}

/// Numbers to bytes.
pub(super) fn quantize(threads: &Threads, input: View<'_>, quant: &Quant, output: &mut Target<'_>) {
    let (low, high) = quant.element.range();
    let (numbers, scale) = (Requantize::new(quant, low, high), quant.scale);
    let work = output.len();
    threads.bands_of(output, work, |region, values: &mut [u8]| {
        let strip = region.cols.len() * input.channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            let from = input.strip(row, region.cols);
            threads.cpu.run(Each { from, to, f: |x: f32| numbers.round(x / scale) });
        }
    });
}

/// Bytes to numbers.
pub(super) fn dequantize(
    threads: &Threads,
    input: View<'_, u8>,
    quant: &Quant,
    output: &mut Target<'_>,
) {
    let table: Vec<f32> = bytes(quant.element).map(|q| quant.dequantize(q)).collect();
    let work = output.len();
    threads.bands(output, work, |region, values| {
        let strip = region.cols.len() * input.channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            let from = input.strip(row, region.cols);
            to.iter_mut().zip(from).for_each(|(to, q)| *to = table[usize::from(*q)]);
        }
    });
}

/// The integers of all bytes.
fn bytes(element: Element) -> impl Iterator<Item = i32> {
    (0..=255u8).map(move |byte| match element {
        Element::I8 => i32::from(byte as i8),
        _ => i32::from(byte),
    })
}

/// The byte that each byte becomes by way of the numbers.
pub(super) fn table(input: &Quant, activation: Activation, output: &Quant) -> [u8; 256] {
    let mut table = [0; 256];
    for (q, to) in bytes(input.element).zip(&mut table) {
        *to = output.quantize(math::activate_one(activation, input.dequantize(q))) as u8;
    }
    table
}

/// Bytes to bytes.
pub(super) fn look_up(
    threads: &Threads,
    input: View<'_, u8>,
    table: &[u8; 256],
    output: &mut Target<'_>,
) {
    let work = output.len();
    threads.bands_of(output, work, |region, values: &mut [u8]| {
        let strip = region.cols.len() * input.channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            let from = input.strip(row, region.cols);
            to.iter_mut().zip(from).for_each(|(to, q)| *to = table[usize::from(*q)]);
        }
    });
}

/// The sum or the product of two bytes.
///
/// A sum is `a * a_ratio + (b * b_ratio + fixed)`, each step rounded once, and rounded with halves
/// to even: the zero points are in `fixed`.
#[derive(Clone, Copy)]
pub(crate) struct Addends {
    kind: CombineKind,
    reading: [Reading; 2],
    zeros: [i32; 2],
    ratios: [f32; 2],
    fixed: f32,
    /// Whether every sum is sure to fit i32.
    is_small: bool,
    low: f32,
    high: f32,
    numbers: Requantize,
}

impl Addends {
    pub(crate) fn new(
        kind: CombineKind,
        inputs: &[Quant; 2],
        output: &Quant,
        (low, high): (i32, i32),
    ) -> Self {
        let zeros = inputs.map(|input| input.zero);
        let ratios = match kind {
            CombineKind::Mul => [inputs[0].scale * inputs[1].scale / output.scale, 1.0],
            _ => inputs.map(|input| input.scale / output.scale),
        };
        let fixed =
            output.zero as f32 - (ratios[0] * zeros[0] as f32 + ratios[1] * zeros[1] as f32);
        Self {
            kind,
            reading: inputs.map(|input| Reading::new(input.element)),
            zeros,
            ratios,
            fixed,
            is_small: ratios.iter().all(|ratio| *ratio < 1e6),
            low: low as f32,
            high: high as f32,
            numbers: Requantize::new(output, low, high),
        }
    }

    #[inline(always)]
    fn sum(&self, a: u8, b: u8) -> u8 {
        let a = self.reading[0].integer(a) as f32;
        let b = self.reading[1].integer(b) as f32;
        let y = a.mul_add(self.ratios[0], b.mul_add(self.ratios[1], self.fixed));
        let y = if y > self.low { y } else { self.low };
        let y = if y < self.high { y } else { self.high };
        rounded(y) as u8
    }

    #[inline(always)]
    fn product(&self, a: u8, b: u8) -> u8 {
        let a = self.reading[0].integer(a) - self.zeros[0];
        let b = self.reading[1].integer(b) - self.zeros[1];
        self.numbers.one(a * b, self.ratios[0])
    }

    /// Two runs of bytes side by side.
    fn run(&self, threads: &Threads, a: &[u8], b: &[u8], to: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let (CombineKind::Add, true, Dot::Amx | Dot::Vnni512) =
            (self.kind, self.is_small, threads.cpu.dot())
        {
            let signs = self.reading.map(|reading| reading.flip != 0);
            let ratios = (self.ratios[0], self.ratios[1], self.fixed);
            // Safety: these ways have AVX-512 F, BW and VL.
            unsafe {
                let narrow = Narrow::new(0, self.numbers.bounds, self.numbers.is_signed);
                avx512::add([a, b], signs, ratios, narrow, to);
            }
            return;
        }
        threads.cpu.run(Both { addends: self, a, b, to });
    }

    /// The byte of two.
    pub(crate) fn one(&self, a: u8, b: u8) -> u8 {
        match self.kind {
            CombineKind::Mul => self.product(a, b),
            _ => self.sum(a, b),
        }
    }
}

/// Two runs of bytes side by side.
struct Both<'a> {
    addends: &'a Addends,
    a: &'a [u8],
    b: &'a [u8],
    to: &'a mut [u8],
}

impl Kernel for Both<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { addends, a, b, to } = self;
        let pairs = to.iter_mut().zip(a.iter().zip(b));
        match addends.kind {
            CombineKind::Mul => pairs.for_each(|(to, (a, b))| *to = addends.product(*a, *b)),
            _ => pairs.for_each(|(to, (a, b))| *to = addends.sum(*a, *b)),
        }
    }
}

/// Two spatial maps; an axis of length 1 is broadcast.
pub(super) fn combine(
    threads: &Threads,
    inputs: [View<'_, u8>; 2],
    addends: &Addends,
    (rows, cols): (usize, usize),
    output: &mut Target<'_>,
) {
    let channels = output.channels;
    let along = |at: usize, len: usize| if len == 1 { 0 } else { at };
    let plain = |v: &View<'_, u8>| (v.map_rows, v.map_cols, v.channels) == (rows, cols, channels);
    let work = 2 * output.len();
    threads.bands_of(output, work, |region, values: &mut [u8]| {
        let strip = region.cols.len() * channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            if inputs.iter().all(plain) {
                let [a, b] = inputs.map(|view| view.strip(row, region.cols));
                addends.run(threads, a, b, to);
                continue;
            }
            for (col, to) in region.cols.indices().zip(to.chunks_mut(channels)) {
                let pixel = |view: View<'_, u8>| {
                    let (row, col) = (along(row, view.map_rows), along(col, view.map_cols));
                    let pixel = view.pixel(row, col);
                    // One channel stands for all.
                    if pixel.len() == channels { pixel.to_vec() } else { vec![pixel[0]; channels] }
                };
                let [a, b] = inputs.map(pixel);
                addends.run(threads, &a, &b, to);
            }
        }
    });
}

/// Two general maps with ONNX broadcasting.
pub(crate) fn combine_general(
    inputs: [(&[u8], &Shape); 2],
    addends: &Addends,
    to_shape: &Shape,
    output: &mut Target<'_>,
) {
    let dims = IxDyn(&to_shape.dims());
    let [a, b] = inputs.map(|(values, shape)| {
        let view = logical(values, shape);
        view.broadcast(dims.clone()).expect("dims that broadcast: checked on load").to_owned()
    });
    let values = a.iter().zip(b.iter()).map(|(a, b)| addends.one(*a, *b));
    write_logical(to_shape, values, output.typed_mut());
}

/// What a sum over so many positions is multiplied with.
pub(crate) fn mean_scale(input: &Quant, output: &Quant, positions: usize) -> f32 {
    input.scale / (output.scale * positions as f32)
}

/// Adds bytes of pixels to sums of channels.
struct Sums<'a> {
    from: &'a [u8],
    reading: Reading,
    sums: &'a mut [i32],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { from, reading, sums } = self;
        for pixel in from.chunks(sums.len().max(1)) {
            for (sum, byte) in sums.iter_mut().zip(pixel) {
                *sum += reading.integer(*byte);
            }
        }
    }
}

/// The mean over all positions.
pub(super) fn global_average_pool(
    threads: &Threads,
    input: View<'_, u8>,
    (from, to): (&Quant, &Quant),
    output: &mut Target<'_>,
) {
    let positions = input.region.positions();
    let mut sums = vec![0; input.channels];
    let reading = Reading::new(from.element);
    threads.cpu.run(Sums { from: input.values(), reading, sums: &mut sums });
    let scale = mean_scale(from, to, positions);
    let (low, high) = to.element.range();
    let numbers = Requantize::new(to, low, high);
    let less = from.zero.wrapping_mul(positions as i32);
    for (to, sum) in output.typed_mut::<u8>().iter_mut().zip(sums) {
        *to = numbers.one(sum.wrapping_sub(less), scale);
    }
}
