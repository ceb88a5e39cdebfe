//! A picture that no device can hold: a grid of tiles that each device can, computed band by band.
//!
//! ```text
//!   ┌────┬────┬────┐
//!   │    │    │    │  written
//!   ├────┼────┼────┤
//!   │ ▒▒ │ ▒▒ │    │  band in flight: its rows of the input are in memory, with their halo
//!   ├────┼────┼────┤
//!   │    │    │    │  not read yet
//!   └────┴────┴────┘
//! ```

use crate::deepthings::place;
use crate::profile::layer_works;
use crate::{Cost, DeviceProfile, PlannerError};
use model::{MapId, Model};
use tiling::{
    Grid, Numerics, Order, Plan, PlanError, Region, Schedule, Slot, Split, Stage, StageGeometry,
};

/// What may be held at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// By one worker, for its tiles.
    pub worker_bytes: u64,
    /// By the coordinator, for the bands in flight.
    pub coordinator_bytes: u64,
    /// Whether they are one process, and the bytes one sum.
    pub shared: bool,
    /// Workers.
    pub devices: usize,
    /// Bands in flight at once.
    pub bands: usize,
    /// Tasks that one worker holds.
    pub tasks: usize,
}

/// A grid, and what it makes each side hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamGrid {
    /// Equal tiles.
    pub grid: Grid,
    /// By one worker.
    pub worker_bytes: u64,
    /// By the coordinator.
    pub coordinator_bytes: u64,
    /// Multiply-adds of all tiles, halo included, as those of the middle one tell.
    pub multiply_adds: u64,
}

/// Bands this many times lower than the highest that fit are still compared: narrow tiles of high
/// bands may compute more twice than square ones of lower bands.
const LOWER: usize = 4;

/// The grid under the limits that computes least twice.
///
/// *Errors*: a layer that needs its whole input, or limits below the smallest tile.
pub fn stream_grid(model: &Model, limits: StreamLimits) -> Result<StreamGrid, PlannerError> {
    // With the finest grid first: what does not fit then never does.
    let (rows_max, cols_max) = finest(model);
    let smallest = measure(model, limits, rows_max, cols_max)?;
    if !smallest.fits(limits) {
        return Err(smallest.too_little(limits));
    }
    let devices = limits.devices.max(1);
    let cols_min = devices.div_ceil(limits.bands.max(1)).min(cols_max);
    let mut best: Option<(usize, StreamGrid)> = None;
    for rows in steps(1, rows_max) {
        if best.as_ref().is_some_and(|(first, _)| rows > LOWER * first) {
            break;
        }
        let widest = measure(model, limits, rows, cols_max)?;
        if !widest.fits(limits) {
            continue;
        }
        for cols in steps(cols_min, cols_max) {
            let candidate = measure(model, limits, rows, cols)?;
            if candidate.fits(limits) {
                let first = best.as_ref().map_or(rows, |(first, _)| *first);
                if best.as_ref().is_none_or(|(_, b)| candidate.multiply_adds < b.multiply_adds) {
                    best = Some((first, candidate));
                }
                break;
            }
        }
    }
    Ok(best.map_or(smallest, |(_, grid)| grid))
}

/// The plan of one band: one row of a grid over all layers.
///
/// *Errors*: a grid or a band that does not fit the model.
pub fn band(
    model: &Model,
    devices: &[DeviceProfile],
    grid: &Grid,
    row: usize,
    numerics: Numerics,
) -> Result<(Plan, Cost), PlannerError> {
    if devices.is_empty() {
        return Err(PlannerError::NoDevice);
    }
    let work = layer_works(model, numerics).into_iter().sum();
    let placement = place(devices, &work, grid.col_shares.len());
    let plan = of_band(model, grid.clone(), row, placement, numerics);
    let cost = Cost::estimate(model, devices, &plan)?;
    Ok((plan, cost))
}

fn of_band(
    model: &Model,
    grid: Grid,
    row: usize,
    placement: Vec<Slot>,
    numerics: Numerics,
) -> Plan {
    let split = Split::Band { grid, row: row as u32 };
    let stage = Stage::of(0..model.layers.len(), split, placement);
    Plan::new("stream", numerics, vec![stage])
}

/// Tiles of about 16 rows and columns of the smallest output: below that the halo is nearly all.
fn finest(model: &Model) -> (usize, usize) {
    let shapes = || model.outputs.iter().map(|&map| model.shape(map));
    let parts = |len: Option<usize>| len.map_or(1, |len| (len / 16).max(1)).min(4096);
    (parts(shapes().map(|s| s.rows()).min()), parts(shapes().map(|s| s.cols()).min()))
}

/// Numbers from `first` to `last`, each about an eighth above the one before.
fn steps(first: usize, last: usize) -> impl Iterator<Item = usize> {
    let next = move |n: &usize| (*n < last).then(|| (n + (n / 8).max(1)).min(last));
    std::iter::successors(Some(first.min(last)), next)
}

/// What the tiles in the middle of a grid make each side hold.
fn measure(
    model: &Model,
    limits: StreamLimits,
    rows: usize,
    cols: usize,
) -> Result<StreamGrid, PlanError> {
    let grid = Grid::even(rows, cols);
    let plan = of_band(model, grid.clone(), rows / 2, vec![Slot(0); cols], Numerics::Exact);
    plan.check(model)?;
    let geometry = StageGeometry::new(model, plan.numerics, 0, &plan.stages[0])?;
    let tile = cols / 2;
    let schedule = Schedule::new(model, &geometry, tile, Order::depth_first(1));
    let bytes = |pieces: &[(MapId, Region)]| -> u64 {
        pieces.iter().map(|&(m, r)| (r.positions() * model.pixel_bytes(m)) as u64).sum()
    };
    let tile_in = bytes(&geometry.tiles[tile].inputs);
    let tile_out = bytes(&geometry.tiles[tile].outputs);
    let hull = |pieces: fn(&tiling::TileGeometry) -> &[(MapId, Region)], map: MapId| {
        let regions = geometry.tiles.iter().flat_map(pieces).filter(|(m, _)| *m == map);
        (map, regions.fold(Region::EMPTY, |hull, (_, region)| hull.hull(*region)))
    };
    let read: Vec<_> = geometry.input_maps.iter().map(|&m| hull(|t| &t.inputs, m)).collect();
    let made: Vec<_> = geometry.output_maps.iter().map(|&m| hull(|t| &t.outputs, m)).collect();
    let (band_in, band_out) = (bytes(&read), bytes(&made));
    let (bands, tasks) = (limits.bands as u64, limits.tasks as u64);
    // A worker: the inputs of the tasks it holds and one that arrives, the maps in between, and
    // the output that is made, the one that is sent and one that is kept to be used again.
    let worker_bytes = (tasks + 1) * tile_in + schedule.arena_bytes as u64 + 3 * tile_out;
    // The coordinator: the bands, the results that arrive, and the rows as bytes on either side.
    let arriving = 2 * tile_out * limits.devices.max(1) as u64;
    let coordinator_bytes = bands * (band_in + band_out) + arriving + (band_in + band_out) / 4;
    let multiply_adds = geometry.tile_multiply_adds(model, tile) * (rows * cols) as u64;
    Ok(StreamGrid { grid, worker_bytes, coordinator_bytes, multiply_adds })
}

impl StreamGrid {
    fn fits(&self, limits: StreamLimits) -> bool {
        let StreamLimits { worker_bytes, coordinator_bytes, shared, .. } = limits;
        match shared {
            true => {
                self.worker_bytes + self.coordinator_bytes <= worker_bytes.min(coordinator_bytes)
            }
            false => {
                self.worker_bytes <= worker_bytes && self.coordinator_bytes <= coordinator_bytes
            }
        }
    }

    fn too_little(&self, limits: StreamLimits) -> PlannerError {
        let (worker, coordinator) = (self.worker_bytes, self.coordinator_bytes);
        let needed = if limits.shared { worker + coordinator } else { worker.max(coordinator) };
        PlannerError::TooLittleMemory {
            needed,
            given: limits.worker_bytes.min(limits.coordinator_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::builder::Builder;
    use model::{Activation, Op, Shape, Window};
    use tiling::Rates;

    /// Five 3x3 convolutions of 16 channels over a large picture.
    fn convolutions(rows: usize, cols: usize) -> Model {
        let mut builder = Builder::new("deep", "deep");
        let mut map = builder.input("in", Shape::Spatial { channels: 3, rows, cols }).unwrap();
        let mut channels = 3;
        for i in 0..5 {
            let weights = builder.weight(vec![0.0; 16 * channels * 9], &[16, channels, 3, 3]);
            let window = Window::square(3, 1, 1);
            let (weights, activation) = (weights.unwrap(), Activation::Relu);
            let op = Op::Conv { window, groups: 1, weights, bias: None, activation };
            map = builder.layer(&format!("conv{i}"), op, &[map]).unwrap();
            channels = 16;
        }
        builder.output(map);
        (*builder.finish().unwrap().graph).clone()
    }

    fn limits(bytes: u64) -> StreamLimits {
        let (shared, devices, bands, tasks) = (false, 2, 2, 3);
        StreamLimits {
            worker_bytes: bytes,
            coordinator_bytes: bytes,
            shared,
            devices,
            bands,
            tasks,
        }
    }

    #[test]
    fn less_memory_means_more_tiles_and_the_limit_holds() {
        let model = convolutions(2048, 1024);
        let mut tiles = 0;
        for megabytes in [400, 100, 50, 25] {
            let found = stream_grid(&model, limits(megabytes << 20)).unwrap();
            assert!(found.worker_bytes.max(found.coordinator_bytes) <= megabytes << 20);
            assert!(found.grid.tiles() > tiles, "{megabytes} MB: {:?}", found.grid);
            tiles = found.grid.tiles();
        }
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let model = convolutions(2048, 1024);
        let Err(PlannerError::TooLittleMemory { needed, given }) =
            stream_grid(&model, limits(1000))
        else {
            panic!("1000 bytes cannot do");
        };
        assert_eq!(given, 1000);
        assert!(stream_grid(&model, limits(needed)).is_ok());
        assert!(stream_grid(&model, limits(needed - 1)).is_err());
    }

    #[test]
    fn the_bands_of_a_grid_make_the_tiles_of_the_grid() {
        let model = convolutions(100, 90);
        let grid = Grid { row_shares: vec![2, 1, 3], col_shares: vec![1, 4] };
        let placement = vec![Slot(0); grid.tiles()];
        let whole = Stage::cut(0..model.layers.len(), grid.clone(), placement);
        let whole = StageGeometry::new(&model, Numerics::Exact, 0, &whole).unwrap();
        let devices = [1, 2].map(|speed| DeviceProfile::wired("d", Rates::typical(speed)));
        for row in 0..3 {
            let (plan, cost) = band(&model, &devices, &grid, row, Numerics::Exact).unwrap();
            let band = StageGeometry::new(&model, plan.numerics, 0, &plan.stages[0]).unwrap();
            assert_eq!(band.tiles, whole.tiles[row * 2..row * 2 + 2]);
            assert!(cost.multiply_adds > 0);
        }
        assert!(band(&model, &devices, &grid, 3, Numerics::Exact).is_err());
    }
}
