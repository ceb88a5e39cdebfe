//! Schedules that were worked out before: a tile runs once for each frame.

use crate::check;
use crate::error::KernelError;
use model::{LayerId, Model};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tiling::schedule::Schedule;
use tiling::{Algorithm, Numerics, Order, StageGeometry, TileGeometry};

/// The schedules used last.
#[derive(Default)]
pub(crate) struct ScheduleCache {
    tiles: Mutex<VecDeque<Entry>>,
    wholes: Mutex<VecDeque<Whole>>,
}

/// What a schedule was made for.
struct Entry {
    model: Arc<Model>,
    first_layer: LayerId,
    algorithms: Vec<Algorithm>,
    tile: TileGeometry,
    order: Order,
    schedule: Arc<Schedule>,
}

/// A model as one stage.
struct Whole {
    model: Arc<Model>,
    numerics: Numerics,
    stage: Arc<StageGeometry>,
}

/// Tiles of a plan that one device is likely to see.
const ENTRIES_MAX: usize = 64;

impl ScheduleCache {
    /// The schedule of a tile.
    ///
    /// *Errors*: model and tile contradict each other.
    pub(crate) fn find(
        &self,
        model: &Arc<Model>,
        stage: &StageGeometry,
        tile: usize,
        order: Order,
    ) -> Result<Arc<Schedule>, KernelError> {
        let geometry = &stage.tiles[tile];
        let is_it = |e: &&Entry| {
            Arc::ptr_eq(&e.model, model)
                && e.first_layer == stage.first_layer
                && e.order == order
                && e.algorithms == stage.algorithms
                && e.tile == *geometry
        };
        let found = lock(&self.tiles).iter().find(is_it).map(|e| e.schedule.clone());
        if let Some(schedule) = found {
            return Ok(schedule);
        }
        check::tile(model, stage.first_layer, geometry)?;
        let schedule = Arc::new(Schedule::new(model, stage, tile, order));
        let mut tiles = lock(&self.tiles);
        tiles.truncate(ENTRIES_MAX - 1);
        tiles.push_front(Entry {
            model: model.clone(),
            first_layer: stage.first_layer,
            algorithms: stage.algorithms.clone(),
            tile: geometry.clone(),
            order,
            schedule: schedule.clone(),
        });
        Ok(schedule)
    }

    /// A whole model as one stage.
    pub(crate) fn whole(&self, model: &Arc<Model>, numerics: Numerics) -> Arc<StageGeometry> {
        let mut wholes = lock(&self.wholes);
        let is_it = |w: &&Whole| Arc::ptr_eq(&w.model, model) && w.numerics == numerics;
        if let Some(found) = wholes.iter().find(is_it) {
            return found.stage.clone();
        }
        let stage = Arc::new(StageGeometry::whole(model, numerics));
        wholes.truncate(3);
        wholes.push_front(Whole { model: model.clone(), numerics, stage: stage.clone() });
        stage
    }
}

/// Entries are only ever added whole, so a panic elsewhere leaves them sound.
fn lock<T>(entries: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}
