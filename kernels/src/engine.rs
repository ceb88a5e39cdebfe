//! Runs the layers of a fused group on one tile.

use crate::arena::Arena;
use crate::error::KernelError;
use crate::gather::gather;
use crate::layer::LayerRun;
use crate::pack::PackedModel;
use crate::piece::{Piece, View};
use crate::quant::QuantRun;
use crate::simd::{Cpu, Isa};
use crate::threads::Threads;
use model::{LayerId, MapId, Model};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tiling::{
    Handover, Locality, Region, Slot, Split, Stage, StageGeometry, TileGeometry, locality,
    receptive_field,
};

/// Threads, an instruction set and reusable memory.
///
/// One engine may run several tiles at once, though each then gets memory of its own.
pub struct Engine {
    threads: Threads,
    arena: Mutex<Arena>,
}

/// A feature map's values during a run.
enum Held {
    /// The caller's, perhaps more than the tile needs.
    Given(Arc<Piece>),
    /// Made here, perhaps more than the tile gives away.
    Made(Piece),
}

impl Held {
    fn piece(&self) -> &Piece {
        match self {
            Held::Given(piece) => piece,
            Held::Made(piece) => piece,
        }
    }
}

impl Engine {
    /// An engine with the fastest instruction set of this processor; one thread means no pool.
    ///
    /// *Errors*: the system refuses the threads.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        Self::with_isa(threads, Isa::detect())
    }

    /// An engine that is held to an instruction set.
    ///
    /// *Errors*: the processor lacks it, or the system refuses the threads.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self, KernelError> {
        let threads = Threads::new(Cpu::new(isa)?, threads)?;
        Ok(Self { threads, arena: Mutex::default() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.threads.cpu.isa()
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.threads.count
    }

    /// The most that one thread could compute, measured now; takes a good part of a second.
    ///
    /// *Units*: GFLOP per second, a fused multiply-add counted as two.
    pub fn peak_gflop_per_s(&self) -> f64 {
        crate::simd::peak::gflop_per_s(self.threads.cpu)
    }

    /// Memory kept between runs for intermediate pieces.
    pub fn idle_bytes(&self) -> usize {
        self.arena.lock().map_or(0, |arena| arena.bytes())
    }

    /// Takes back an output that is no longer needed: memory that was touched before spares the
    /// next run its page faults (a third of the time of a large early layer).
    pub fn recycle(&self, piece: Piece) {
        if let Ok(mut arena) = self.arena.lock() {
            arena.adopt(piece);
        }
    }

    /// Gives the memory kept between runs back to the system.
    pub fn trim(&self) {
        if let Ok(mut arena) = self.arena.lock() {
            *arena = Arena::default();
        }
    }

    /// Runs the layers of a group, from `first_layer` on, over the regions of a tile.
    ///
    /// *Shapes*: `inputs` may be larger than the tile needs, and several pieces of one map are
    /// pasted together. The result has exactly the tile's output regions, in its order.
    ///
    /// *Errors*: an input region is not covered, a layer is not packed, or the tile, the model and
    /// the pieces contradict each other.
    pub fn run_tile(
        &self,
        model: &PackedModel,
        first_layer: LayerId,
        tile: &TileGeometry,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<Vec<(MapId, Piece)>, KernelError> {
        let layers = model.graph().layers.len();
        let first = first_layer.index();
        let end = first.saturating_add(tile.layers.len());
        if end > layers {
            return Err(KernelError::LayerRange { first, end, layers });
        }
        let arena = self.arena.lock().map(|mut arena| std::mem::take(&mut *arena));
        let arena = arena.unwrap_or_default();
        let mut run =
            Run { threads: &self.threads, model, first, tile, arena, held: BTreeMap::new() };
        let outputs = self.threads.enter(|| run.all(inputs));
        for held in std::mem::take(&mut run.held).into_values() {
            run.release(held);
        }
        run.arena.settle();
        if let Ok(mut arena) = self.arena.lock() {
            *arena = run.arena;
        }
        outputs
    }

    /// Runs the whole model as one tile.
    ///
    /// *Errors*: as [`Engine::run_tile`].
    pub fn run_whole(
        &self,
        model: &PackedModel,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<Vec<(MapId, Piece)>, KernelError> {
        let graph = model.graph();
        let stage = Stage {
            first_layer: 0,
            end_layer: graph.layers.len() as u32,
            split: Split::Whole,
            placement: vec![Slot(0)],
            handover: Handover::Gather,
        };
        let geometry = StageGeometry::new(graph, 0, &stage);
        let geometry = geometry.expect("an uncut stage has nothing that could fail");
        self.run_tile(model, LayerId(0), &geometry.tiles[0], inputs)
    }
}

/// One tile on its way through the group.
struct Run<'a> {
    threads: &'a Threads,
    model: &'a PackedModel,
    first: usize,
    tile: &'a TileGeometry,
    arena: Arena,
    held: BTreeMap<MapId, Held>,
}

impl Run<'_> {
    fn all(&mut self, inputs: &[(MapId, Arc<Piece>)]) -> Result<Vec<(MapId, Piece)>, KernelError> {
        let graph = self.model.graph().clone();
        for &(map, region) in &self.tile.inputs {
            let piece = gather(&graph, map, region, inputs)?;
            self.held.insert(map, Held::Given(piece));
        }
        // After which layer of the group a map is no longer read.
        let mut last_reader = BTreeMap::new();
        for (i, &region) in self.tile.layers.iter().enumerate() {
            if !region.is_empty() {
                let inputs = &graph.layers[self.first + i].inputs;
                last_reader.extend(inputs.iter().map(|&map| (map, i)));
            }
        }
        let wanted = |map: MapId| self.tile.outputs.iter().any(|&(output, _)| output == map);
        for (i, &region) in self.tile.layers.iter().enumerate() {
            if region.is_empty() {
                continue;
            }
            let id = LayerId((self.first + i) as u32);
            self.layer(&graph, id, region)?;
            let layer = graph.layer(id);
            for map in layer.inputs.iter().chain([&layer.output]) {
                let read_later = last_reader.get(map).is_some_and(|&last| last > i);
                if !read_later && !wanted(*map) {
                    self.free(*map);
                }
            }
        }
        let outputs = self.tile.outputs.iter();
        outputs.map(|&(map, region)| Ok((map, self.output(&graph, map, region)?))).collect()
    }

    fn free(&mut self, map: MapId) {
        if let Some(held) = self.held.remove(&map) {
            self.release(held);
        }
    }

    fn release(&mut self, held: Held) {
        if let Held::Made(piece) = held {
            self.arena.recycle(piece);
        }
    }

    /// Computes a region of one layer's output.
    fn layer(&mut self, graph: &Model, id: LayerId, region: Region) -> Result<(), KernelError> {
        let layer = graph.layer(id);
        crate::check::layer(graph, id)?;
        let shape = graph.shape(layer.output);
        // A layer that sees its whole input gives its whole output, even if only a part is needed.
        let region = match locality(graph, id) {
            Locality::Local => region,
            Locality::Whole => Region::whole(shape),
        };
        if !Region::whole(shape).contains(region) {
            let map = graph.map(layer.output).name.clone();
            let (expected, got) = (Region::whole(shape), region);
            return Err(KernelError::PieceOutside { map, expected, got });
        }
        let Some(packed) = self.model.find(id) else {
            return Err(KernelError::NotPacked { layer: layer.name.clone() });
        };
        let mut output = self.arena.piece(region, shape.channels(), graph.element(layer.output));
        // An input of which nothing is needed (all of it is padding) may be missing.
        let nothing: Vec<Piece> = (layer.inputs.iter())
            .map(|&map| {
                Piece::zeroed_of(Region::EMPTY, graph.shape(map).channels(), graph.element(map))
            })
            .collect();
        let mut inputs = Vec::with_capacity(layer.inputs.len());
        for (&map, nothing) in layer.inputs.iter().zip(&nothing) {
            let input_shape = graph.shape(map);
            let expected = receptive_field(&layer.op, region, shape, input_shape);
            let piece = self.held.get(&map).map_or(nothing, Held::piece);
            if !piece.region.contains(expected) {
                let (layer, map) = (layer.name.clone(), graph.map(map).name.clone());
                let got = piece.region;
                return Err(KernelError::TileRegion { layer, map, expected, got });
            }
            inputs.push((piece, input_shape));
        }
        let threads = self.threads;
        if crate::quant::handles(graph, layer) {
            let run = QuantRun { threads, layer, packed, inputs: &inputs, shape };
            run.run(&mut output)?;
        } else {
            let views = inputs.iter().map(|&(piece, shape)| (View::new(piece, shape), shape));
            let inputs: Vec<_> = views.collect();
            let run = LayerRun { threads, layer, packed, inputs: &inputs, shape };
            run.run(&mut output)?;
        }
        self.held.insert(layer.output, Held::Made(output));
        Ok(())
    }

    /// Takes out what the tile answers for.
    fn output(&mut self, graph: &Model, map: MapId, region: Region) -> Result<Piece, KernelError> {
        let held = self.held.remove(&map);
        let got = held.as_ref().map_or(Region::EMPTY, |held| held.piece().region);
        let Some(held) = held.filter(|_| got.contains(region)) else {
            let map = graph.map(map).name.clone();
            return Err(KernelError::MissingOutput { map, expected: region, got });
        };
        match held {
            Held::Made(piece) if piece.region == region => Ok(piece),
            held => {
                let piece = held.piece().crop(region);
                self.release(held);
                Ok(piece)
            }
        }
    }
}
