//! What fits where: on each device the weights of its stages, and beside them the tile that takes
//! most, with what it reads, what it makes, and the arena of its schedule; and the pieces that stay there
//! until their frame is over.

use crate::cost::{Cut, bytes, peak_bytes, weight_bytes};
use crate::{DeviceProfile, PlannerError};
use model::{LayerId, MapId, Model, Op, Shape};
use std::cell::RefCell;
use std::collections::HashMap;
use tiling::schedule::LINE_BYTES;
use tiling::{
    Grid, Handover, Locality, Numerics, Region, Slot, Split, Stage, StageGeometry, locality,
};

/// What filling up to whole vectors may add to a layer's weights beyond twice their size.
const FILLED_UP: u64 = 1 << 18;

/// The memory of some devices.
pub(crate) struct Room<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    numerics: Numerics,
    /// Whether some device may not hold every tile and all weights.
    limited: bool,
    /// Bytes of the weights of all layers before each.
    weights: Vec<u64>,
    /// Bytes of all weights as one device would pack them.
    packed: u64,
    /// What the tiles of a stage take whose schedules were made. It is looked up, never gone through.
    exact: RefCell<HashMap<(u32, u32, Split), Vec<u64>>>,
}

/// Something that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Index of its stage.
    pub(crate) stage: usize,
    pub(crate) device: usize,
    pub(crate) needed: u64,
    pub(crate) given: u64,
}

impl<'a> Room<'a> {
    pub(crate) fn new(model: &'a Model, devices: &'a [DeviceProfile], numerics: Numerics) -> Self {
        let mut weights = vec![0];
        for i in 0..model.layers.len() {
            weights.push(weights[i] + weight_bytes(model, LayerId(i as u32)));
        }
        let whole = StageGeometry::whole(model, numerics).tile_weights(model, 0);
        let packed = whole.iter().flat_map(|layer| layer.packed(model)).map(|(_, bytes)| bytes);
        let packed = packed.sum();
        let most = takes_at_most(model);
        let limited = devices.iter().any(|d| d.memory_bytes.is_some_and(|given| given < most));
        let exact = RefCell::default();
        Self { model, devices, numerics, limited, weights, packed, exact }
    }

    /// Whether some device may not be able to hold the whole model at once.
    pub(crate) fn is_scarce(&self) -> bool {
        let all = self.model.maps.iter().enumerate().map(|(i, _)| self.map_bytes(MapId(i as u32)));
        let all = all.sum::<u64>() + self.packed;
        self.devices.iter().any(|device| device.memory_bytes.is_some_and(|given| given < all))
    }

    fn map_bytes(&self, map: MapId) -> u64 {
        (self.model.shape(map).elements() * self.model.element(map).bytes()) as u64
    }

    /// Whether all stages fit on the devices that they name.
    pub(crate) fn holds<'b>(
        &self,
        stages: impl Iterator<Item = (&'b Stage, &'b Cut)> + Clone,
    ) -> bool {
        !self.limited || self.misfit(stages).is_none()
    }

    /// What does not fit, on the device that lacks most.
    pub(crate) fn misfit<'b>(
        &self,
        stages: impl Iterator<Item = (&'b Stage, &'b Cut)> + Clone,
    ) -> Option<Misfit> {
        let limits = self.devices.iter().enumerate();
        let limits = limits.filter_map(|(i, device)| Some((i, device.memory_bytes?)));
        let misfits = limits.filter_map(|(device, given)| {
            let weights = stages.clone().filter(|(stage, _)| is_on(stage, device));
            let weights = weights.map(|(stage, cut)| {
                let read = tiles_on(stage, device).map(|tile| cut.slice_bytes[tile]).sum();
                cut.weights(read)
            });
            let stay = weights.sum::<u64>() + kept_bytes(self.model, stages.clone(), device);
            let stages = stages.clone().enumerate().filter(|(_, (stage, _))| is_on(stage, device));
            let needs = stages.map(|(index, (stage, cut))| {
                (stay + self.tiles(stage, cut, device, given.saturating_sub(stay)), index)
            });
            let (needed, stage) = needs.max_by_key(|(needed, _)| *needed)?;
            (needed > given).then_some(Misfit { stage, device, needed, given })
        });
        misfits.max_by_key(|misfit| misfit.needed - misfit.given)
    }

    /// A tile that no device holds with the weights of its stage, whomever the plan names: where one
    /// does not fit, the coordinator gives it to another.
    pub(crate) fn fits_nobody<'b>(
        &self,
        stages: impl Iterator<Item = (&'b Stage, &'b Cut)>,
    ) -> Option<Misfit> {
        let given = |device: usize| self.devices[device].memory_bytes.unwrap_or(u64::MAX);
        let roomiest = (0..self.devices.len()).max_by_key(|&d| (given(d), std::cmp::Reverse(d)))?;
        let given = given(roomiest);
        let misfits = stages.enumerate().flat_map(|(index, (stage, cut))| {
            let takes = move |tile: usize| {
                let weights = cut.weights(cut.slice_bytes[tile]);
                weights + self.tile(stage, cut, tile, given.saturating_sub(weights))
            };
            let needs = (0..stage.tiles()).map(takes);
            let misfit = move |needed| Misfit { stage: index, device: roomiest, needed, given };
            needs.filter(|&needed| needed > given).map(misfit).collect::<Vec<_>>()
        });
        misfits.max_by_key(|misfit| misfit.needed)
    }

    /// What the tiles of a stage take on a device, one at a time.
    pub(crate) fn tiles(&self, stage: &Stage, cut: &Cut, device: usize, given: u64) -> u64 {
        let takes = |tile| self.tile(stage, cut, tile, given);
        tiles_on(stage, device).map(takes).max().unwrap_or(0)
    }

    /// What a tile takes; more than that where it fits all the same, and less where it does not.
    fn tile(&self, stage: &Stage, cut: &Cut, tile: usize, given: u64) -> u64 {
        let borders = &cut.borders.tiles[tile];
        let aligned = LINE_BYTES as u64 * u64::from(stage.end_layer - stage.first_layer);
        let inputs = bytes(self.model, &borders.inputs);
        let at_most = inputs + cut.made_bytes[tile] + aligned;
        let at_least = inputs + bytes(self.model, &borders.outputs);
        if at_most <= given {
            at_most
        } else if at_least > given {
            at_least
        } else {
            self.exactly(stage, tile)
        }
    }

    /// What a tile takes by its schedule. Those of its whole stage are made at once: they share its geometry.
    fn exactly(&self, stage: &Stage, tile: usize) -> u64 {
        let key = (stage.first_layer, stage.end_layer, stage.split.clone());
        let mut exact = self.exact.borrow_mut();
        let tiles = exact.entry(key).or_insert_with(|| {
            let Ok(geometry) = StageGeometry::new(self.model, self.numerics, 0, stage) else {
                return vec![u64::MAX / 2; stage.tiles()];
            };
            (0..stage.tiles()).map(|tile| peak_bytes(self.model, &geometry, tile)).collect()
        });
        tiles[tile]
    }

    /// Why nothing fits: the layer that lacks most on every device, however it is cut, and the device
    /// that comes nearest.
    pub(crate) fn why_nothing_fits(&self) -> PlannerError {
        let given = |device: usize| self.devices[device].memory_bytes.unwrap_or(u64::MAX);
        let roomiest = (0..self.devices.len()).max_by_key(|&d| (given(d), std::cmp::Reverse(d)));
        let roomiest = roomiest.unwrap_or(0);
        let given = given(roomiest);
        let layers = 0..self.model.layers.len();
        let alone = layers.map(|layer| (self.least(layer), layer)).max_by_key(|(least, _)| *least);
        let (needed, layer) = alone.unwrap_or_default();
        let layer = self.model.layers.get(layer).map(|l| l.name.clone()).unwrap_or_default();
        let device = self.devices[roomiest].name.clone();
        match needed > given {
            true => PlannerError::NoRoom { layer, device, needed, given },
            false => {
                let all = self.devices.iter().map(|d| d.memory_bytes.unwrap_or(u64::MAX));
                let given = all.fold(0, u64::saturating_add);
                let weights = self.weights[self.model.layers.len()];
                PlannerError::NoRoomForAll { weights, given, layer, largest: needed }
            }
        }
    }

    /// The least that a layer takes anywhere: whole, or its largest tile in the finest strips.
    fn least(&self, layer: usize) -> u64 {
        let model = self.model;
        let whole = Stage::whole(layer..layer + 1, Slot(0));
        let mut stages = vec![whole];
        if locality(model, LayerId(layer as u32)) == Locality::Local {
            let shape: &Shape = model.shape(model.layers[layer].output);
            let (rows, cols) = (shape.rows().clamp(1, 16), shape.cols().clamp(1, 16));
            let placement = vec![Slot(0); rows * cols];
            stages.push(Stage::cut(layer..layer + 1, Grid::even(rows, cols), placement));
        }
        let takes = |stage: &Stage| {
            let tiles = 0..stage.tiles();
            tiles.map(|tile| self.exactly(stage, tile)).max().unwrap_or(0)
        };
        let least = stages.iter().map(takes).min().unwrap_or(0);
        // Of a layer in slices, a device may have as little as one.
        let weights = match &model.layers[layer].op {
            Op::LinearRows { slices, .. } => model.weight(slices[0]).bytes() as u64,
            _ => self.weights[layer + 1] - self.weights[layer],
        };
        least + weights
    }
}

/// What no plan exceeds on any device: all weights, transformed for the largest blocks, a tile that reads
/// and makes every map whole, and all of them kept, made here or sent.
fn takes_at_most(model: &Model) -> u64 {
    let weights = model.layers.iter().enumerate().map(|(i, layer)| {
        // F(6x6) makes 64 values of nine, and channels are made up to whole vectors.
        let transforms = matches!(&layer.op, Op::Conv { weights, .. }
            if model.weight(*weights).dims[2..] == [3, 3]);
        let times = if transforms { 8 } else { 2 };
        weight_bytes(model, LayerId(i as u32)).saturating_mul(times) + FILLED_UP
    });
    let maps = (0..model.maps.len()).map(|i| {
        let map = MapId(i as u32);
        (model.shape(map).elements() * model.element(map).bytes()) as u64 + LINE_BYTES as u64
    });
    weights.sum::<u64>().saturating_add(maps.sum::<u64>().saturating_mul(4))
}

/// What stays on a device of the maps of a frame that are exchanged: what its tiles make, and what they
/// read of others' pieces.
pub(crate) fn kept_bytes<'b>(
    model: &Model,
    stages: impl Iterator<Item = (&'b Stage, &'b Cut)> + Clone,
    device: usize,
) -> u64 {
    let mut kept = 0;
    // Of each map that is exchanged, what this device made.
    let mut made: HashMap<MapId, Vec<Region>> = HashMap::new();
    for (stage, cut) in stages {
        for tile in tiles_on(stage, device) {
            for (map, region) in &cut.borders.tiles[tile].inputs {
                let Some(own) = made.get(map) else { continue };
                let own = own.iter().map(|own| own.intersect(*region).positions());
                let others = region.positions().saturating_sub(own.sum());
                kept += (others * model.pixel_bytes(*map)) as u64;
            }
        }
        if stage.handover != Handover::Exchange {
            continue;
        }
        // Also where it makes none of a map, it may read of it.
        let outputs = cut.borders.tiles.iter().flat_map(|tile| &tile.outputs);
        outputs.for_each(|(map, _)| _ = made.entry(*map).or_default());
        for tile in tiles_on(stage, device) {
            for (map, region) in &cut.borders.tiles[tile].outputs {
                made.entry(*map).or_default().push(*region);
                kept += (region.positions() * model.pixel_bytes(*map)) as u64;
            }
        }
    }
    kept
}

fn is_on(stage: &Stage, device: usize) -> bool {
    tiles_on(stage, device).next().is_some()
}

/// The tiles that a device may have.
fn tiles_on(stage: &Stage, device: usize) -> impl Iterator<Item = usize> {
    let placed = stage.placement.iter().enumerate();
    let here = placed.filter(move |(_, slot)| **slot == Slot::ANY || slot.0 as usize == device);
    here.map(|(tile, _)| tile)
}
