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
use crate::engine::{Given, Made};
use crate::error::KernelError;
use crate::gather::gather;
use crate::layer::LayerRun;
use crate::pack::{Packed, PackedModel};
use crate::piece::{AlignedBuffer, Piece};
use crate::quant::QuantRun;
use crate::spatial;
use crate::threads::Threads;
use crate::view::{Erased, Target};
use model::{MapId, Model, Op, Shape};
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

impl Task<'_> {
    fn step(&self, i: usize) -> Step {
        self.schedule.steps[i]
    }
}

/// Runs the steps of a schedule; adds up the time of each unit where asked.
///
/// *Errors*: an input region is not covered, or a layer is not packed.
pub(crate) fn run(
    threads: &Threads,
    memory: &Pool,
    model: &PackedModel,
    task: Task<'_>,
    inputs: Given<'_>,
    mut profile: Option<&mut [Duration]>,
) -> Result<Made, KernelError> {
    let mut run = Run::new(threads, memory, model, task, inputs)?;
    for step in &task.schedule.steps {
        let begun = profile.is_some().then(Instant::now);
        run.step(step)?;
        if let (Some(times), Some(begun)) = (&mut profile, begun) {
            times[step.unit] += begun.elapsed();
        }
    }
    run.finish(memory, task.outputs)
}

/// Runs several tiles of one stage, step by step together where their schedules go through the
/// same layers: what reads its weights from far reads them once for all.
///
/// *Errors*: as [`run`].
pub(crate) fn run_together(
    threads: &Threads,
    memory: &Pool,
    model: &PackedModel,
    tasks: &[(Task<'_>, Given<'_>)],
) -> Result<Vec<Made>, KernelError> {
    let in_step = tasks.windows(2).all(|two| {
        let layers = |task: &Task<'_>| -> Vec<_> {
            let Schedule { steps, units, .. } = task.schedule;
            steps.iter().map(|step| (units[step.unit].layer, units[step.unit].conv)).collect()
        };
        layers(&two[0].0) == layers(&two[1].0)
    });
    if !in_step {
        let alone = |&(task, inputs): &_| run(threads, memory, model, task, inputs, None);
        return tasks.iter().map(alone).collect();
    }
    let mut runs = Vec::with_capacity(tasks.len());
    for &(task, inputs) in tasks {
        runs.push((Run::new(threads, memory, model, task, inputs)?, task));
    }
    let steps = tasks.first().map_or(0, |(task, _)| task.schedule.steps.len());
    for i in 0..steps {
        for (run, task) in &mut runs {
            run.make_room(&task.step(i));
        }
        let convolutions = runs.iter().map(|(run, task)| run.convolution(&task.step(i)));
        let together: Option<Vec<_>> = convolutions.collect();
        if let Some(together) = together {
            conv::run_together(threads, together);
            runs.iter_mut().for_each(|(run, task)| run.finished(&task.step(i)));
            continue;
        }
        for (run, task) in &mut runs {
            run.step(&task.step(i))?;
        }
    }
    runs.into_iter().map(|(run, task)| run.finish(memory, task.outputs)).collect()
}

/// What each unit needs beside its inputs.
fn packed_units(model: &PackedModel, schedule: &Schedule) -> Result<Vec<Arc<Packed>>, KernelError> {
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
    /// Held until its end, also where they are given up meanwhile.
    packed: Vec<Arc<Packed>>,
    given: BTreeMap<MapId, Arc<Piece>>,
    /// Memory of the buffers that are not given away; they point into it.
    arena: AlignedBuffer,
    /// Memory of the others, in their order.
    pieces: Vec<Piece>,
    held: Vec<Held>,
    /// Rows done by each unit, up to this one.
    done: Vec<usize>,
}

impl<'a> Run<'a> {
    fn new(
        threads: &'a Threads,
        memory: &Pool,
        model: &'a PackedModel,
        task: Task<'a>,
        inputs: Given<'_>,
    ) -> Result<Self, KernelError> {
        let Task { schedule, .. } = task;
        let graph = &**model.graph();
        let mut given = BTreeMap::new();
        for &(map, region) in task.inputs {
            given.insert(map, gather(graph, map, region, inputs, memory)?);
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
        Ok(Self { threads, graph, schedule, packed, given, arena, pieces, held, done })
    }

    /// Gives the memory back, but for what the tile answers for.
    fn finish(mut self, memory: &Pool, outputs: &[(MapId, Region)]) -> Result<Made, KernelError> {
        let outputs = self.outputs(memory, outputs);
        memory.put_arena(self.arena);
        // What was pasted together here nobody else has.
        let pasted = self.given.into_values().filter_map(Arc::into_inner);
        pasted.for_each(|piece| memory.put_piece(piece));
        outputs
    }

    fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        self.make_room(step);
        if let Some((conv, mut output)) = self.convolution(step) {
            conv::run(self.threads, conv, &mut output);
        } else {
            self.other(step)?;
        }
        self.finished(step);
        Ok(())
    }

    fn finished(&mut self, step: &Step) {
        self.done[step.unit] = step.rows.end;
    }

    fn inputs(&self, step: &Step) -> Vec<(Erased<'_>, &Shape)> {
        let unit = &self.schedule.units[step.unit];
        (0..unit.inputs.len())
            .map(|input| (self.view(unit, input, step.rows), self.graph.shape(unit.inputs[input])))
            .collect()
    }

    /// What a step writes; `make_room` has been called for it.
    fn target(&self, step: &Step) -> Target<'_> {
        let unit = &self.schedule.units[step.unit];
        let place = self.schedule.places[&unit.output];
        let element = self.graph.element(unit.output);
        let region = Region::new(step.rows, unit.region.cols);
        // Safety: `make_room` has seen to the rows; the unit is the only one that writes them.
        unsafe {
            let first = self.pointer(place, region);
            let step = self.schedule.buffers[place.buffer].channels;
            Target::at(first, element, region, self.graph.shape(unit.output).channels(), step)
        }
    }

    /// A step that is a convolution of floats, and what it writes.
    fn convolution(&self, step: &Step) -> Option<(Conv<'_>, Target<'_>)> {
        let unit = &self.schedule.units[step.unit];
        let Packed::Conv(packed) = &*self.packed[step.unit] else { return None };
        let layer = self.graph.layer(unit.layer);
        let (window, activation, is_sum) =
            match (&layer.op, unit.conv.map(|conv| &self.graph.layer(conv).op)) {
                (Op::Conv { window, activation, .. }, None) => (window, *activation, false),
                (&Op::Combine { activation, .. }, Some(Op::Conv { window, .. })) => {
                    (window, activation, true)
                }
                _ => return None,
            };
        let inputs = self.inputs(step);
        let residual = is_sum.then(|| inputs[1].0.typed());
        let conv = Conv { input: inputs[0].0.typed(), window, packed, activation, residual };
        Some((conv, self.target(step)))
    }

    /// A step that is no convolution of floats.
    fn other(&self, step: &Step) -> Result<(), KernelError> {
        let unit = &self.schedule.units[step.unit];
        let place = self.schedule.places[&unit.output];
        let (inputs, mut output) = (self.inputs(step), self.target(step));
        let (layer, shape) = (self.graph.layer(unit.layer), self.graph.shape(unit.output));
        let packed = &*self.packed[step.unit];
        match &layer.op {
            _ if unit.conv.is_some() => {
                return Err(KernelError::NotPacked { layer: layer.name.clone() });
            }
            Op::Concat => {
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
        Ok(())
    }

    /// Moves the rows that are still needed to the front where the next would not fit.
    fn make_room(&mut self, step: &Step) {
        let place = self.schedule.places[&self.schedule.units[step.unit].output];
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
    fn outputs(&mut self, memory: &Pool, outputs: &[(MapId, Region)]) -> Result<Made, KernelError> {
        // Pieces lie in the order of their buffers.
        let buffers = self.schedule.buffers.iter().enumerate();
        let given_away = buffers.filter(|(_, buffer)| buffer.given_away).map(|(i, _)| i);
        let mut made: BTreeMap<usize, Piece> = given_away.zip(self.pieces.drain(..)).collect();
        let output = |&(map, region): &(MapId, Region)| {
            let place = self.schedule.places.get(&map);
            let shape = self.graph.shape(map);
            if let Some(piece) = place.and_then(|place| made.remove(&place.buffer)) {
                assert_eq!(piece.region, region);
                return Ok((map, piece));
            }
            let (channels, element) = (shape.channels(), self.graph.element(map));
            // Old values, all of which are written over.
            let mut piece = memory.piece(region, channels, element);
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
