//! The order in which one device computes a tile, and where every map lies while it does.
//!
//! A tile goes *depth first*: as soon as a layer has the rows for its next few, the deepest such
//! layer runs, so that rows are read again while they are still in the cache, and a map keeps only
//! the rows that somebody still reads. Nothing is computed twice.
//!
//! ```text
//!   conv1  ====    ====        ====          time ->   (= some rows)
//!   conv2      ===     ====         ====
//!   pool           =        ==           ==
//! ```
//!
//! No bit of the answer depends on the order. Winograd blocks are counted from the first row of a
//! layer's region, and a layer stops in between only after whole blocks.
//!
//! The memory is planned beforehand: all intermediate maps lie in one arena of
//! [`Schedule::arena_bytes`], and maps that are never needed together share their place. Maps
//! that only exist to be joined or added to another lie where the joined map does:
//!
//! - the input of a concat that a convolution makes is written into the joined map;
//! - an addition that follows a convolution happens in the convolution's epilogue.

mod memory;
mod unit;

pub use unit::Unit;
pub(crate) use unit::{CACHED_WEIGHTS, POSITIONS_A_READING, WINOGRAD_BLOCKS_A_READING};

use crate::region::{Region, Span};
use crate::stage::StageGeometry;
use model::{Element, MapId, Model};
use std::collections::BTreeMap;
use unit::Chunk;

/// How far a tile's layers run before the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Each layer over its whole region before the next.
    LayerByLayer,
    /// As few rows at a time as can be: the least memory.
    RowByRow,
    /// Some rows at a time, enough for each layer to be fast.
    DepthFirst {
        /// Threads that share the rows.
        threads: usize,
        /// Bytes of a map that should stay in a core's cache until they are read.
        cache_bytes: usize,
    },
}

impl Order {
    /// Depth first where it costs little: on a core with 2 MB of second-level cache chunks of
    /// 256 KB were up to a sixth slower than whole layers, these are level with them for pictures
    /// of ordinary size, and large pictures still take a quarter of the memory.
    pub fn depth_first(threads: usize) -> Self {
        Order::DepthFirst { threads, cache_bytes: 2 << 20 }
    }
}

/// Where a map lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The unit that makes it.
    pub unit: usize,
    /// Index into [`Schedule::buffers`].
    pub buffer: usize,
    /// Its first channel among those of the buffer.
    pub channel: usize,
}

/// Memory of a map, or of several that are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The region that is made in the course of time; the buffer is as wide as this.
    pub region: Region,
    /// Channels of one position.
    pub channels: usize,
    /// What one value is.
    pub element: Element,
    /// Rows that it holds at a time.
    pub rows: usize,
    /// Whether the caller gets it, so that it lies outside the arena.
    pub given_away: bool,
    /// Where it starts in the arena, in bytes.
    pub offset: usize,
    /// The first step that writes and the last that reads it.
    steps: Span,
}

impl Buffer {
    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.region.cols.len() * self.channels * self.element.bytes()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

/// Some rows of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index into [`Schedule::units`].
    pub unit: usize,
    /// Rows of its output map.
    pub rows: Span,
    /// The first row of the output's buffer that is still needed; those before may be overwritten.
    pub kept_from: usize,
}

/// The order of work on one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Layers, some with a convolution taken in, in the order of the model.
    pub units: Vec<Unit>,
    /// What is done, one after another.
    pub steps: Vec<Step>,
    /// Memory of the maps made here.
    pub buffers: Vec<Buffer>,
    /// Where each map that is made here lies.
    pub places: BTreeMap<MapId, Place>,
    /// Bytes of the arena; maps that are given away are not in it.
    pub arena_bytes: usize,
}

/// An arena above this is worth a few percent of time: networks on pictures of ordinary size stay
/// below.
const LARGE_BYTES: usize = 128 << 20;

/// Chunks of less cost more time than they save memory.
const CACHE_BYTES_MIN: usize = 512 << 10;

/// Bytes of a cache line: every buffer starts at one.
pub const LINE_BYTES: usize = 64;

impl Schedule {
    /// Works out the order for one tile of a stage.
    ///
    /// Where depth first would take much memory, smaller chunks are taken, or whole layers where
    /// even these take less: a grid's tile whose halo is large holds most rows of a skip
    /// connection anyway.
    pub fn new(model: &Model, stage: &StageGeometry, tile: usize, order: Order) -> Self {
        let mut made = Self::in_order(model, stage, tile, order);
        let Order::DepthFirst { threads, mut cache_bytes } = order else { return made };
        if made.arena_bytes <= LARGE_BYTES {
            return made;
        }
        let mut consider = |order| {
            let other = Self::in_order(model, stage, tile, order);
            if other.arena_bytes < made.arena_bytes {
                made = other;
            }
            made.arena_bytes
        };
        let mut bytes = consider(Order::LayerByLayer);
        while bytes > LARGE_BYTES && cache_bytes > CACHE_BYTES_MIN {
            cache_bytes /= 2;
            bytes = consider(Order::DepthFirst { threads, cache_bytes });
        }
        made
    }

    fn in_order(model: &Model, stage: &StageGeometry, tile: usize, order: Order) -> Self {
        let geometry = &stage.tiles[tile];
        let units = unit::units(model, stage, geometry);
        let (mut buffers, places) = memory::places(model, &units, &geometry.outputs);
        let mut flow = Flow::new(model, &units, &buffers, &places, &geometry.outputs);
        let chunks: Vec<Chunk> = units.iter().map(|unit| unit.chunk(model, order)).collect();
        let steps = flow.run(&chunks);
        let windows = flow.windows;
        for (buffer, rows) in buffers.iter_mut().zip(windows) {
            buffer.rows = rows.min(buffer.region.rows.len());
        }
        memory::lifetimes(&units, &steps, &places, &geometry.outputs, &mut buffers);
        let arena_bytes = memory::arrange(&mut buffers);
        Self { units, steps, buffers, places, arena_bytes }
    }

    /// Bytes of maps that are given away.
    pub fn output_bytes(&self) -> usize {
        let outputs = self.buffers.iter().filter(|buffer| buffer.given_away);
        outputs.map(Buffer::bytes).sum()
    }
}

/// The flow of rows through the units.
struct Flow<'a> {
    model: &'a Model,
    units: &'a [Unit],
    buffers: &'a [Buffer],
    places: &'a BTreeMap<MapId, Place>,
    /// For each unit, the units that make its inputs; none where an input is given.
    makers: Vec<Vec<Option<usize>>>,
    /// For each buffer, the units and their inputs that read a map in it.
    readers: Vec<Vec<(usize, usize)>>,
    /// For each buffer, the units that write a map in it.
    writers: Vec<Vec<usize>>,
    /// Whether all rows of a buffer stay.
    wanted: Vec<bool>,
    /// Rows done by each unit, up to this one.
    done: Vec<usize>,
    /// Rows that each buffer has to hold.
    windows: Vec<usize>,
}

impl<'a> Flow<'a> {
    fn new(
        model: &'a Model,
        units: &'a [Unit],
        buffers: &'a [Buffer],
        places: &'a BTreeMap<MapId, Place>,
        outputs: &[(MapId, Region)],
    ) -> Self {
        let maker: BTreeMap<MapId, usize> =
            units.iter().enumerate().map(|(i, unit)| (unit.output, i)).collect();
        let makers: Vec<Vec<Option<usize>>> = (units.iter())
            .map(|unit| unit.inputs.iter().map(|map| maker.get(map).copied()).collect())
            .collect();
        let mut readers = vec![Vec::new(); buffers.len()];
        let mut writers = vec![Vec::new(); buffers.len()];
        for (i, unit) in units.iter().enumerate() {
            writers[places[&unit.output].buffer].push(i);
            for (input, map) in unit.inputs.iter().enumerate() {
                if let Some(place) = places.get(map) {
                    readers[place.buffer].push((i, input));
                }
            }
        }
        let mut wanted = vec![false; buffers.len()];
        for (map, _) in outputs {
            if let Some(place) = places.get(map) {
                wanted[place.buffer] = true;
            }
        }
        let done = units.iter().map(|unit| unit.region.rows.start).collect();
        let windows = vec![0; buffers.len()];
        Self { model, units, buffers, places, makers, readers, writers, wanted, done, windows }
    }

    fn run(&mut self, chunks: &[Chunk]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut first_open = 0;
        while first_open < self.units.len() {
            let open = (first_open..self.units.len()).rev();
            // The first that is open can always run: all before it are done.
            let next = open.clone().find_map(|i| Some((i, self.next_rows(i, chunks[i])?)));
            let (unit, rows) = next.expect("layers are in topological order");
            steps.push(self.step(unit, rows, chunks[unit]));
            while first_open < self.units.len() && self.is_done(first_open) {
                first_open += 1;
            }
        }
        steps
    }

    fn is_done(&self, unit: usize) -> bool {
        self.done[unit] == self.units[unit].region.rows.end
    }

    /// The next rows of a unit, if its inputs have what they need.
    fn next_rows(&self, unit: usize, chunk: Chunk) -> Option<Span> {
        let region = self.units[unit].region;
        if self.is_done(unit) {
            return None;
        }
        let start = self.done[unit];
        let mut end = (start + chunk.rows).min(region.rows.end);
        // A short rest is done with the last rows.
        if region.rows.end - end < chunk.rows / 2 {
            end = region.rows.end;
        }
        let rows = Span::new(start, end);
        let is_there = |(input, maker): (usize, &Option<usize>)| {
            let Some(maker) = *maker else { return true };
            let field = self.units[unit].field(self.model, input, rows);
            field.is_empty() || self.done[maker] >= field.rows.end
        };
        self.makers[unit].iter().enumerate().all(is_there).then_some(rows)
    }

    fn step(&mut self, unit: usize, rows: Span, chunk: Chunk) -> Step {
        let buffer = self.places[&self.units[unit].output].buffer;
        let kept_from = self.kept_from(buffer);
        let written = self.writers[buffer].iter().map(|&writer| self.done[writer]);
        let end = written.max().unwrap_or(0).max(rows.end);
        // Room for some more rows, so that what is kept is moved less often.
        let room = if self.wanted[buffer] { 0 } else { chunk.rows };
        self.windows[buffer] = self.windows[buffer].max(end - kept_from + room);
        self.done[unit] = rows.end;
        Step { unit, rows, kept_from }
    }

    /// The first row of a buffer that a reader or a writer still needs.
    fn kept_from(&self, buffer: usize) -> usize {
        let region = self.buffers[buffer].region;
        if self.wanted[buffer] {
            return region.rows.start;
        }
        let reads = self.readers[buffer].iter().filter_map(|&(unit, input)| {
            let rest = Span::new(self.done[unit], self.units[unit].region.rows.end);
            let field = self.units[unit].field(self.model, input, rest);
            (!field.is_empty()).then_some(field.rows.start)
        });
        let open = self.writers[buffer].iter().filter(|&&writer| !self.is_done(writer));
        let writes = open.map(|&writer| self.done[writer]);
        reads.chain(writes).min().unwrap_or(region.rows.end)
    }
}

#[cfg(test)]
mod tests;
