//! A plan that fits where memory is scarce, however long it takes: something to begin with when the
//! search, which keeps only the fastest way to each place, has taken the room of a heavy layer for
//! lighter ones.
//!
//! Each layer is a stage on one device. The heaviest layers choose first, each the fastest device that
//! still has room; the others go where the layer before them is, if they fit there. A layer whose maps
//! do not fit beside its weights is cut into tiles that follow each other on the same device.

use crate::cost::{sliced_bytes, weight_bytes};
use crate::exact::Exact;
use crate::profile::{layer_works, speeds};
use crate::{DeviceProfile, square_grid};
use model::{LayerId, Model};
use tiling::{Grid, Numerics, Plan, Slot, Stage};

/// Tiles of a layer that is cut.
const TILES: [usize; 5] = [4, 16, 64, 144, 256];

/// Layers with more than this part of all weights choose first.
const HEAVY: u64 = 20;

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    numerics: Numerics,
    exact: &mut Exact<'_>,
) -> Option<Plan> {
    let works = layer_works(model, numerics);
    let at_all = speeds(devices, &works.iter().copied().sum());
    let mut by_speed: Vec<usize> = (0..devices.len()).collect();
    by_speed.sort_by_key(|&i| std::cmp::Reverse(at_all[i]));
    let layers = model.layers.len();
    let weights = |layer: usize| weight_bytes(model, LayerId(layer as u32));
    let all: u64 = (0..layers).map(weights).sum();
    let mut order: Vec<usize> = (0..layers).collect();
    order.sort_by_key(|&layer| match weights(layer) {
        heavy if heavy * HEAVY > all => std::cmp::Reverse(heavy),
        _ => std::cmp::Reverse(0),
    });
    let mut packing =
        Packing { model, exact, taken: vec![(0, 0); devices.len()], devices, stages: Vec::new() };
    packing.stages = vec![None; layers];
    for layer in order {
        let before = layer.checked_sub(1).and_then(|i| packing.stages[i].as_ref());
        let before = before.map(|stage| stage.placement[0].0 as usize);
        let heavy = weights(layer) * HEAVY > all;
        let first = before.filter(|_| !heavy);
        let choices = first.into_iter().chain(by_speed.iter().copied());
        let stage = choices.into_iter().find_map(|device| packing.put(layer, device));
        let stage = stage.or_else(|| packing.spread(layer))?;
        packing.stages[layer] = Some(stage);
    }
    let stages = packing.stages.into_iter().flatten().collect();
    Some(Plan::new("auto", numerics, stages))
}

struct Packing<'a, 'b> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    exact: &'a mut Exact<'b>,
    /// For each device, the bytes of its weights, and those of the tile that takes most.
    taken: Vec<(u64, u64)>,
    stages: Vec<Option<Stage>>,
}

impl Packing<'_, '_> {
    /// Puts a layer on a device, if it fits there in some number of tiles.
    fn put(&mut self, layer: usize, device: usize) -> Option<Stage> {
        let (before, tile) = self.taken[device];
        let given = self.devices[device].memory_bytes.unwrap_or(u64::MAX);
        let slot = Slot(device as u32);
        let whole = Stage::whole(layer..layer + 1, slot);
        let cut = |tiles: usize| {
            let grid: Grid = square_grid(tiles);
            let placement = vec![slot; grid.tiles()];
            Stage::cut(layer..layer + 1, grid, placement)
        };
        for stage in std::iter::once(whole).chain(TILES.map(cut)) {
            let Some(cut) = self.exact.cut(&stage) else { continue };
            // Smaller tiles may be computed in another way, with fewer weights.
            let weights = before + cut.weights(cut.slice_bytes.iter().sum());
            let Some(room) = given.checked_sub(weights) else { continue };
            let Some(takes) = self.exact.tiles_bytes(&stage, device, room) else { continue };
            if takes.max(tile) <= room {
                self.taken[device] = (weights, takes.max(tile));
                return Some(stage);
            }
        }
        None
    }
    /// Spreads a layer whose weights lie in slices over all devices, by the room that is left.
    fn spread(&mut self, layer: usize) -> Option<Stage> {
        let model = self.model;
        if sliced_bytes(model, LayerId(layer as u32)) == 0 {
            return None;
        }
        let left = |device: usize| {
            let (weights, tile) = self.taken[device];
            let given = self.devices[device].memory_bytes.unwrap_or(u64::MAX >> 8);
            given.saturating_sub(weights + tile) >> 10
        };
        let devices: Vec<usize> = (0..self.devices.len()).filter(|&d| left(d) > 0).collect();
        let most = devices.iter().map(|&d| left(d)).max()?;
        // Thousandths of the roomiest.
        let shares = devices.iter().map(|&d| (left(d) * 1000 / most).max(1) as u32).collect();
        let grid = Grid { row_shares: shares, col_shares: vec![1] };
        let placement = devices.iter().map(|&d| Slot(d as u32)).collect();
        let stage = Stage::cut(layer..layer + 1, grid, placement);
        let cut = self.exact.cut(&stage)?;
        for (tile, &device) in devices.iter().enumerate() {
            let given = self.devices[device].memory_bytes.unwrap_or(u64::MAX);
            let (weights, largest) = self.taken[device];
            let weights = weights + cut.weights(cut.slice_bytes[tile]);
            let takes = self.exact.tiles_bytes(&stage, device, given.checked_sub(weights)?)?;
            if weights + takes.max(largest) > given {
                return None;
            }
            self.taken[device] = (weights, takes.max(largest));
        }
        Some(stage)
    }
}
