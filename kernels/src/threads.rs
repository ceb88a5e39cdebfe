//! Static bands over a pool: the same rows stay on the same core from layer to layer.
//!
//! No result depends on how the work is cut, only the time does.

use crate::error::KernelError;
use crate::piece::{AlignedBuffer, Value};
use crate::simd::Cpu;
use crate::team::Team;
use crate::view::Target;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Mutex;
use tiling::{Region, Span};

/// The processor and the threads that a kernel may use.
pub(crate) struct Threads {
    pub(crate) cpu: Cpu,
    pub(crate) count: usize,
    pool: Option<ThreadPool>,
    /// Held by the tile that has the threads.
    busy: Mutex<()>,
    /// Working memory of each part, kept from layer to layer.
    scratch: Vec<Mutex<AlignedBuffer>>,
}

/// Below this many elements waking another thread costs more than it saves.
const ELEMENTS_MIN: usize = 1 << 12;

impl Threads {
    pub(crate) fn new(cpu: Cpu, count: usize) -> Result<Self, KernelError> {
        let count = count.max(1);
        let scratch = (0..count).map(|_| Mutex::default()).collect();
        if count == 1 {
            return Ok(Self { cpu, count, pool: None, busy: Mutex::default(), scratch });
        }
        let named = |i| format!("kernel-{i}");
        let builder = ThreadPoolBuilder::new().num_threads(count - 1).thread_name(named);
        match builder.build() {
            Ok(pool) => Ok(Self { cpu, count, pool: Some(pool), busy: Mutex::default(), scratch }),
            Err(e) => Err(KernelError::Threads { threads: count, cause: e.to_string() }),
        }
    }

    /// Runs a tile with all threads at hand. Of several tiles at once one has the threads, and
    /// the others run on their own.
    ///
    /// The caller leads, so that a tile wakes one thread less, and its part of the rows is in the
    /// same core's cache from tile to tile.
    pub(crate) fn enter<T>(&self, tile: impl FnOnce() -> T) -> T {
        let (Some(pool), Ok(_mine)) = (&self.pool, self.busy.try_lock()) else { return tile() };
        let team = Team::new(self.count - 1);
        pool.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, context| team.serve(context.index() + 1));
            team.lead(tile)
        })
    }

    /// Calls `f` with `0..parts`, each on the thread of that index; at most one part a thread.
    pub(crate) fn for_each_part(&self, parts: usize, f: impl Fn(usize) + Sync) {
        assert!(parts <= self.count);
        if parts <= 1 || !Team::share(parts, &f) {
            (0..parts).for_each(f);
        }
    }

    /// Lends a part some working memory with old values.
    pub(crate) fn with_scratch<T>(
        &self,
        part: usize,
        len: usize,
        f: impl FnOnce(&mut [f32]) -> T,
    ) -> T {
        // Two tiles may run at once; then one of them pays for memory of its own.
        let Ok(mut scratch) = self.scratch[part].try_lock() else {
            return f(AlignedBuffer::zeroed(len).values_mut());
        };
        if scratch.capacity() < len {
            *scratch = AlignedBuffer::zeroed(len);
        }
        f(&mut scratch.all_mut()[..len])
    }

    /// Gives the working memory back.
    pub(crate) fn trim(&self) {
        for scratch in self.scratch.iter().filter_map(|scratch| scratch.lock().ok()) {
            let mut scratch = scratch;
            *scratch = AlignedBuffer::default();
        }
    }

    /// Working memory that is kept.
    pub(crate) fn scratch_bytes(&self) -> usize {
        let capacity = |s: &Mutex<AlignedBuffer>| s.lock().map_or(0, |s| s.capacity());
        self.scratch.iter().map(capacity).sum::<usize>() * size_of::<f32>()
    }

    /// How many parts a region is cut into for a layer that touches so many elements.
    pub(crate) fn parts(&self, region: Region, work: usize) -> usize {
        if work < ELEMENTS_MIN { 1 } else { self.count.min(region.rows.len()).max(1) }
    }

    /// Calls `f` with bands of rows of an output piece and the values of each.
    ///
    /// `work` is the number of elements that the layer touches.
    pub(crate) fn bands(
        &self,
        output: &mut Target<'_>,
        work: usize,
        f: impl Fn(Region, &mut [f32]) + Sync,
    ) {
        self.bands_of(output, work, f);
    }

    /// As [`Threads::bands`], for elements of any type.
    pub(crate) fn bands_of<T: Value>(
        &self,
        output: &mut Target<'_>,
        work: usize,
        f: impl Fn(Region, &mut [T]) + Sync,
    ) {
        let region = output.region;
        let row_values = region.cols.len() * output.channels;
        let parts = self.parts(region, work);
        if parts == 1 {
            return f(region, output.typed_mut());
        }
        let mut rest = output.typed_mut();
        let mut bands = Vec::with_capacity(parts);
        for rows in split(region.rows, parts) {
            let (band, after) = rest.split_at_mut(rows.len() * row_values);
            rest = after;
            bands.push(Mutex::new(Some((Region::new(rows, region.cols), band))));
        }
        self.for_each_part(parts, |part| {
            let band = bands[part].lock().expect("a band is taken once").take();
            let (region, values) = band.expect("a band is taken once");
            f(region, values);
        });
    }
}

/// Cuts a span into parts that differ by at most one; there are at least as many indices.
pub(crate) fn split(span: Span, parts: usize) -> Vec<Span> {
    let cut = |i: usize| span.start + span.len() * i / parts;
    (0..parts).map(|i| Span::new(cut(i), cut(i + 1))).collect()
}
