//! Works through the schedule of one tile.
//!
//! Safety of the module: the intermediate maps lie in one arena, at places that the schedule gives
//! them. Buffers that are in use at the same time do not overlap (a property that the tests of
//! `tiling` check), maps in one buffer have channels of their own, and the steps run one after
//! another; so what a step writes, nobody reads meanwhile. Every region is asserted to lie inside
//! the rows that its buffer holds before a pointer is made.
#![allow(unsafe_code)]

use crate::arena::Pool;
use crate::conv::{self, Conv};
use crate::error::KernelError;
use crate::gather::gather;
use crate::layer::LayerRun;
use crate::pack::{Packed, PackedModel};
use crate::piece::Piece;
use crate::quant::QuantRun;
use crate::spatial;
use crate::threads::Threads;
use crate::view::{Erased, Target};
use model::{MapId, Model, Op};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiling::schedule::{Buffer, Place, Schedule, Step, Unit};
use tiling::{Region, Span};

/// A tile to run.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) schedule: &'a Schedule,
    pub(crate) inputs: &'a [(MapId, Region)],
    pub(crate) outputs: &'a [(MapId, Region)],
}

/// Runs the steps of a schedule; adds up the time of each unit where asked.
///
/// *Errors*: an input region is not covered, or a layer is not packed.
pub(crate) fn run(
    threads: &Threads,
    memory: &Pool,
    model: &PackedModel,
    task: Task<'_>,
    inputs: &[(MapId, Arc<Piece>)],
    mut profile: Option<&mut [Duration]>,
) -> Result<Vec<(MapId, Piece)>, KernelError> {
    let Task { schedule, .. } = task;
    let graph = &**model.graph();
    let mut given = BTreeMap::new();
    for &(map, region) in task.inputs {
        given.insert(map, gather(graph, map, region, inputs)?);
    }
    let packed = packed_units(model, schedule)?;
    let mut arena = memory.arena(schedule.arena_bytes.div_ceil(size_of::<f32>()));
    let first = arena.all_mut().as_mut_ptr().cast::<u8>();
    let mut pieces = Vec::new();
    let held = |buffer: &Buffer| {
        let memory = if buffer.given_away {
            pieces.push(memory.piece(buffer.region, buffer.channels, buffer.element));
            let last = pieces.last_mut().expect("just pushed");
            last.as_bytes_mut().as_mut_ptr()
        } else {
            assert!(buffer.offset + buffer.bytes() <= schedule.arena_bytes);
            // Safety: inside the arena.
            unsafe { first.add(buffer.offset) }
        };
        Held { memory, first_row: buffer.region.rows.start, end_row: buffer.region.rows.start }
    };
    let held: Vec<Held> = schedule.buffers.iter().map(held).collect();
    let done = schedule.units.iter().map(|unit| unit.region.rows.start).collect();
    let mut run = Run { threads, graph, schedule, packed, given, held, done };
    for step in &schedule.steps {
        let begun = profile.is_some().then(Instant::now);
        run.step(step)?;
        if let (Some(times), Some(begun)) = (&mut profile, begun) {
            times[step.unit] += begun.elapsed();
        }
    }
    let outputs = run.outputs(task.outputs, &mut pieces);
    memory.put_arena(arena);
    outputs
}

/// What each unit needs beside its inputs.
fn packed_units<'a>(
    model: &'a PackedModel,
    schedule: &Schedule,
) -> Result<Vec<&'a Packed>, KernelError> {
    let packed = |unit: &Unit| {
        let layer = unit.conv.unwrap_or(unit.layer);
        model.find(layer, unit.algorithm).ok_or_else(|| {
            let layer = model.graph().layer(layer).name.clone();
            KernelError::NotPacked { layer }
        })
    };
    schedule.units.iter().map(packed).collect()
}

/// A buffer's memory, and the rows of its map that it holds now.
struct Held {
    memory: *mut u8,
    first_row: usize,
    /// After the last row that was written.
    end_row: usize,
}

/// One tile on its way.
struct Run<'a> {
    threads: &'a Threads,
    graph: &'a Model,
    schedule: &'a Schedule,
    packed: Vec<&'a Packed>,
    given: BTreeMap<MapId, Arc<Piece>>,
    held: Vec<Held>,
    /// Rows done by each unit, up to this one.
    done: Vec<usize>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        let unit = &self.schedule.units[step.unit];
        let place = self.schedule.places[&unit.output];
        self.make_room(place, step);
        let inputs: Vec<_> = (0..unit.inputs.len())
            .map(|input| (self.view(unit, input, step.rows), self.graph.shape(unit.inputs[input])))
            .collect();
        let shape = self.graph.shape(unit.output);
        let element = self.graph.element(unit.output);
        let region = Region::new(step.rows, unit.region.cols);
        // Safety: `make_room` has seen to the rows; the unit is the only one that writes them.
        let mut output = unsafe {
            let first = self.pointer(place, region);
            let step = self.schedule.buffers[place.buffer].channels;
            Target::at(first, element, region, shape.channels(), step)
        };
        let layer = self.graph.layer(unit.layer);
        let packed = self.packed[step.unit];
        match (&layer.op, unit.conv.map(|conv| &self.graph.layer(conv).op)) {
            (&Op::Combine { activation, .. }, Some(Op::Conv { window, .. })) => {
                let Packed::Conv(packed) = packed else {
                    return Err(KernelError::NotPacked { layer: layer.name.clone() });
                };
                let (input, residual) = (inputs[0].0.typed(), Some(inputs[1].0.typed()));
                let conv = Conv { input, window, packed, activation, residual };
                conv::run(self.threads, conv, &mut output);
            }
            (Op::Concat, _) => {
                // What a convolution has written into its place need not be copied.
                let in_place = |map: &MapId| {
                    let lies = |p: &Place| p.buffer == place.buffer;
                    self.schedule.places.get(map).is_some_and(lies)
                };
                let parts = unit.inputs.iter().zip(&inputs).map(|(map, (view, shape))| {
                    (shape.channels(), (!in_place(map)).then_some(*view))
                });
                spatial::concat(self.threads, &parts.collect::<Vec<_>>(), &mut output);
            }
            _ if crate::quant::handles(self.graph, layer) => {
                let threads = self.threads;
                QuantRun { threads, layer, packed, inputs: &inputs, shape }.run(&mut output)?;
            }
            _ => {
                let threads = self.threads;
                let inputs: Vec<_> = inputs.iter().map(|(view, s)| (view.typed(), *s)).collect();
                LayerRun { threads, layer, packed, inputs: &inputs, shape }.run(&mut output)?;
            }
        }
        self.done[step.unit] = step.rows.end;
        Ok(())
    }

    /// Moves the rows that are still needed to the front where the next would not fit.
    fn make_room(&mut self, place: Place, step: &Step) {
        let buffer = &self.schedule.buffers[place.buffer];
        let held = &mut self.held[place.buffer];
        if step.rows.end - held.first_row > buffer.rows {
            assert!(step.rows.end - step.kept_from <= buffer.rows);
            let (row, kept) = (buffer.row_bytes(), held.end_row.max(step.kept_from));
            let bytes = (kept - step.kept_from) * row;
            // Safety: both ranges are rows of this buffer; they may overlap.
            unsafe {
                let from = held.memory.add((step.kept_from - held.first_row) * row);
                std::ptr::copy(from, held.memory, bytes);
            }
            held.first_row = step.kept_from;
        }
        held.end_row = held.end_row.max(step.rows.end);
    }

    /// What some rows of a unit read of one input.
    fn view(&self, unit: &Unit, input: usize, rows: Span) -> Erased<'_> {
        let map = unit.inputs[input];
        let (shape, element) = (self.graph.shape(map), self.graph.element(map));
        let channels = shape.channels();
        let field = unit.field(self.graph, input, rows);
        let Some(&place) = self.schedule.places.get(&map) else {
            let Some(piece) = self.given.get(&map) else {
                // An input of which nothing is needed (all of it is padding) may be missing.
                assert!(field.is_empty());
                // Safety: no value is read.
                return unsafe {
                    let nothing = std::ptr::NonNull::<f32>::dangling().as_ptr().cast();
                    Erased::at(nothing, element, Region::EMPTY, (channels, channels), shape)
                };
            };
            assert!(piece.region.contains(field));
            return Erased::new(piece, shape);
        };
        let buffer = &self.schedule.buffers[place.buffer];
        let there = Span::new(self.held[place.buffer].first_row, self.done[place.unit]);
        let region = Region::new(there, buffer.region.cols);
        assert!(region.contains(field), "{map:?}: {region} lacks {field}");
        if there.is_empty() {
            // Safety: no value is read.
            return unsafe {
                let memory = self.held[place.buffer].memory;
                Erased::at(memory, element, Region::EMPTY, (channels, buffer.channels), shape)
            };
        }
        // Safety: the rows are held, and written, since their unit has done them.
        unsafe {
            let first = self.pointer(place, region);
            Erased::at(first, element, region, (channels, buffer.channels), shape)
        }
    }

    /// Where a region of a map starts, whole rows of the buffer.
    ///
    /// *Panics* when the buffer does not hold the rows.
    fn pointer(&self, place: Place, region: Region) -> *mut u8 {
        let buffer = &self.schedule.buffers[place.buffer];
        let held = &self.held[place.buffer];
        assert_eq!(region.cols, buffer.region.cols);
        assert!(held.first_row <= region.rows.start);
        assert!(region.rows.end - held.first_row <= buffer.rows);
        let rows = (region.rows.start - held.first_row) * buffer.row_bytes();
        let skipped = rows + place.channel * buffer.element.bytes();
        // Safety: inside the buffer.
        unsafe { held.memory.add(skipped) }
    }

    /// Takes out what the tile answers for.
    fn outputs(
        &self,
        outputs: &[(MapId, Region)],
        pieces: &mut Vec<Piece>,
    ) -> Result<Vec<(MapId, Piece)>, KernelError> {
        // Pieces lie in the order of their buffers.
        let buffers = self.schedule.buffers.iter().enumerate();
        let given_away = buffers.filter(|(_, buffer)| buffer.given_away).map(|(i, _)| i);
        let mut made: BTreeMap<usize, Piece> = given_away.zip(pieces.drain(..)).collect();
        let output = |&(map, region): &(MapId, Region)| {
            let place = self.schedule.places.get(&map);
            let shape = self.graph.shape(map);
            if let Some(piece) = place.and_then(|place| made.remove(&place.buffer)) {
                assert_eq!(piece.region, region);
                return Ok((map, piece));
            }
            let (channels, element) = (shape.channels(), self.graph.element(map));
            let mut piece = Piece::zeroed_of(region, channels, element);
            match (place, self.given.get(&map)) {
                (Some(&place), _) => {
                    let buffer = &self.schedule.buffers[place.buffer];
                    // Safety: the buffer holds all its rows to the end.
                    let all = unsafe {
                        let first = self.pointer(place, buffer.region);
                        let steps = (channels, buffer.channels);
                        Erased::at(first, element, buffer.region, steps, shape)
                    };
                    Target::of(&mut piece).copy(all);
                }
                (None, Some(given)) => piece.paste(given),
                (None, None) => {
                    let map = self.graph.map(map).name.clone();
                    let got = Region::EMPTY;
                    return Err(KernelError::MissingOutput { map, expected: region, got });
                }
            }
            Ok((map, piece))
        };
        outputs.iter().map(output).collect()
    }
}
