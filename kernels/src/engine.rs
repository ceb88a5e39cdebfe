//! Runs the layers of a fused group on one tile.

use crate::arena::Pool;
use crate::cache::ScheduleCache;
use crate::error::KernelError;
use crate::pack::{PackedModel, Steps};
use crate::piece::Piece;
use crate::run::{self, Task};
use crate::simd::{Cpu, Isa};
use crate::threads::Threads;
use model::{LayerId, MapId, WeightStore};
use std::sync::Arc;
use std::time::Duration;
use tiling::{Algorithm, Numerics, Order, StageGeometry, TileGeometry};

/// Pieces that a tile reads, by their map.
pub type Given<'a> = &'a [(MapId, Arc<Piece>)];

/// Pieces that a tile made, by their map.
pub type Made = Vec<(MapId, Piece)>;

/// Threads, an instruction set and reusable memory.
///
/// One engine may run several tiles at once, though each then gets memory of its own.
pub struct Engine {
    threads: Threads,
    order: Order,
    memory: Pool,
    schedules: ScheduleCache,
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
        let order = Order::depth_first(threads.count);
        Ok(Self { threads, order, memory: Pool::default(), schedules: ScheduleCache::default() })
    }

    /// The same engine with another order of work, which changes time and memory, never a bit.
    pub fn with_order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.threads.cpu.isa()
    }

    /// The order of work on a tile.
    pub fn order(&self) -> Order {
        self.order
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

    /// Memory kept between runs.
    pub fn idle_bytes(&self) -> usize {
        self.memory.bytes() + self.threads.scratch_bytes()
    }

    /// Takes back an output that is no longer needed: memory that was touched before spares the
    /// next run its page faults (a third of the time of a large early layer).
    pub fn recycle(&self, piece: Piece) {
        self.memory.put_piece(piece);
    }

    /// Gives the memory kept between runs back to the system.
    pub fn trim(&self) {
        self.memory.clear();
        self.threads.trim();
    }

    /// As [`Engine::trim`], and gives back what the allocator keeps of what was freed earlier: for once a
    /// minute, since every page that is used again costs a fault.
    pub fn give_back(&self) {
        self.trim();
        crate::heap::give_back_freed();
    }

    /// Packs one layer as [`PackedModel::pack`] does, with all threads, in steps of a few milliseconds
    /// between which `pause` is called: it may run tiles that are more urgent.
    ///
    /// *Errors*: as [`PackedModel::pack`].
    pub fn pack(
        &self,
        model: &PackedModel,
        layer: LayerId,
        algorithm: Algorithm,
        weights: &WeightStore,
        pause: &mut dyn FnMut(),
    ) -> Result<(), KernelError> {
        model.pack_in(layer, algorithm, weights, Steps { threads: Some(&self.threads), pause })
    }

    /// Runs the layers of a stage over the regions of one of its tiles.
    ///
    /// *Shapes*: `inputs` may be larger than the tile needs, and several pieces of one map are
    /// pasted together. The result has exactly the tile's output regions, in its order.
    ///
    /// *Errors*: an input region is not covered, a layer is not packed, or the tile, the model and
    /// the pieces contradict each other.
    pub fn run_tile(
        &self,
        model: &PackedModel,
        stage: &StageGeometry,
        tile: usize,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<Vec<(MapId, Piece)>, KernelError> {
        let schedule = self.schedules.find(model.graph(), stage, tile, self.order)?;
        let outputs = &stage.tiles[tile].outputs;
        let task = Task { schedule: &schedule, inputs: &stage.tiles[tile].inputs, outputs };
        self.threads.enter(|| run::run(&self.threads, &self.memory, model, task, inputs, None))
    }

    /// Runs several tiles of a stage at once: index and inputs of each. The bits are those of
    /// [`Engine::run_tile`], tile by tile, and the memory is that of all of them; but the weights
    /// of a Winograd layer are read once for all tiles where these go through the same steps.
    ///
    /// *Shapes*, *Errors*: as [`Engine::run_tile`].
    pub fn run_tiles(
        &self,
        model: &PackedModel,
        stage: &StageGeometry,
        tiles: &[(usize, Given<'_>)],
    ) -> Result<Vec<Made>, KernelError> {
        let schedule =
            |&(tile, _): &(usize, _)| self.schedules.find(model.graph(), stage, tile, self.order);
        let schedules = tiles.iter().map(schedule).collect::<Result<Vec<_>, KernelError>>()?;
        let task = |(&(tile, inputs), schedule): (&(usize, _), _)| {
            let TileGeometry { inputs: regions, outputs, .. } = &stage.tiles[tile];
            (Task { schedule, inputs: regions, outputs }, inputs)
        };
        let schedules = schedules.iter().map(|schedule| &**schedule);
        let tasks: Vec<_> = tiles.iter().zip(schedules).map(task).collect();
        self.threads.enter(|| run::run_together(&self.threads, &self.memory, model, &tasks))
    }

    /// Runs the whole model as one tile and says how long each layer took, in the order of the
    /// model. A convolution that an addition took in has no line of its own.
    ///
    /// *Errors*: as [`Engine::run_tile`].
    pub fn profile_whole(
        &self,
        model: &PackedModel,
        numerics: Numerics,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<Vec<(LayerId, Algorithm, Duration)>, KernelError> {
        let stage = self.schedules.whole(model.graph(), numerics);
        let schedule = self.schedules.find(model.graph(), &stage, 0, self.order)?;
        let TileGeometry { inputs: regions, outputs, .. } = &stage.tiles[0];
        let task = Task { schedule: &schedule, inputs: regions, outputs };
        let mut times = vec![Duration::ZERO; schedule.units.len()];
        let made = self.threads.enter(|| {
            run::run(&self.threads, &self.memory, model, task, inputs, Some(&mut times))
        })?;
        made.into_iter().for_each(|(_, piece)| self.recycle(piece));
        let units = schedule.units.iter().zip(times);
        Ok(units.map(|(unit, time)| (unit.layer, unit.algorithm, time)).collect())
    }

    /// Runs the whole model as one tile.
    ///
    /// *Errors*: as [`Engine::run_tile`].
    pub fn run_whole(
        &self,
        model: &PackedModel,
        numerics: Numerics,
        inputs: &[(MapId, Arc<Piece>)],
    ) -> Result<Vec<(MapId, Piece)>, KernelError> {
        let stage = self.schedules.whole(model.graph(), numerics);
        self.run_tile(model, &stage, 0, inputs)
    }
}
