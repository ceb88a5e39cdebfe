//! The geometry of a stage: what each of its tiles reads, computes and writes.

use crate::algorithm::{Algorithm, Numerics};
use crate::plan::{PlanError, Slot, Split, Stage, describe};
use crate::receptive::{Locality, locality, receptive_field};
use crate::region::{Region, Span};
use crate::work::{Work, layer_work};
use model::limits::ELEMENTS_MAX;
use model::{LayerId, MapId, Model, Op, WeightId};
use std::collections::BTreeMap;

/// One tile: its region at every map of the fused group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileGeometry {
    /// The regions of the stage's input maps that the tile reads; empty regions are left out.
    pub inputs: Vec<(MapId, Region)>,
    /// The region of its output map that each layer of the group computes, in order. Empty where
    /// the tile does not need the layer.
    pub layers: Vec<Region>,
    /// The regions of the stage's output maps that the tile is responsible for.
    pub outputs: Vec<(MapId, Region)>,
}

/// What is read of a layer's weights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerWeights {
    /// The layer.
    pub layer: LayerId,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// The tensors.
    pub ids: Vec<WeightId>,
}

impl LayerWeights {
    /// Each tensor with the bytes that it takes when it is packed.
    pub fn packed<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = (WeightId, u64)> + 'a {
        let Self { layer, algorithm, ids } = self;
        ids.iter().map(move |&id| (id, packed_bytes(model, *layer, *algorithm, id)))
    }
}

/// Outputs that packed weights lie together for.
const PANEL: usize = 16;

/// Bytes of a layer's tensor when it is packed: a dense convolution's outputs fill whole panels, and
/// transformed weights are more than those that they are made of. These, and depthwise ones, are never half
/// floats.
pub fn packed_bytes(model: &Model, layer: LayerId, algorithm: Algorithm, id: WeightId) -> u64 {
    let info = model.weight(id);
    let layer = model.layer(layer);
    let (Op::Conv { weights, groups, .. }, Some(&input)) = (&layer.op, layer.inputs.first()) else {
        return info.bytes() as u64;
    };
    let (inputs, outputs) = (model.shape(input).channels(), model.shape(layer.output).channels());
    let groups = (*groups).max(1);
    let is_depthwise = groups > 1 && groups == inputs && groups == outputs;
    if *weights != id || is_depthwise {
        return (info.elements() * size_of::<f32>()) as u64;
    }
    let element_bytes = match algorithm {
        Algorithm::Direct => info.element.bytes(),
        _ => size_of::<f32>(),
    };
    let taps = match (algorithm, &info.dims[..]) {
        (Algorithm::Direct, [_, _, rows, cols]) => rows * cols,
        _ => algorithm.positions(),
    };
    let of_group = (outputs / groups).next_multiple_of(PANEL) as u64;
    groups as u64 * of_group * (inputs / groups) as u64 * taps as u64 * element_bytes as u64
}

/// The weights that a region of a layer's output reads: all of the layer's, but of a layer in
/// slices only those that make the region's rows.
pub fn weights_of(model: &Model, layer: LayerId, region: Region) -> Vec<WeightId> {
    let op = &model.layer(layer).op;
    match op {
        _ if region.is_empty() => Vec::new(),
        Op::LinearRows { slices, bias, .. } => {
            let rows = model.weight(slices[0]).dims[0];
            let read = region.rows.start / rows..region.rows.end.div_ceil(rows);
            let read = slices.get(read).unwrap_or_default();
            read.iter().copied().chain(*bias).collect()
        }
        _ => op.weight_ids(),
    }
}

/// A stage's boundary maps and tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageGeometry {
    /// First layer of the group.
    pub first_layer: LayerId,
    /// Maps made before the group that it reads, in order of their ids.
    pub input_maps: Vec<MapId>,
    /// Maps the group makes that a later stage or the caller wants, in order of their ids.
    pub output_maps: Vec<MapId>,
    /// How each layer of the group is computed, the same for all tiles.
    pub algorithms: Vec<Algorithm>,
    /// The tiles in row-major order of the grid.
    pub tiles: Vec<TileGeometry>,
}

impl StageGeometry {
    /// Works out the geometry of a stage of a model.
    ///
    /// *Errors*: a layer that cannot be cut in a stage that is; a grid that does not fit.
    pub fn new(
        model: &Model,
        numerics: Numerics,
        index: usize,
        stage: &Stage,
    ) -> Result<Self, PlanError> {
        let geometry = Self::of_any_size(model, numerics, index, stage)?;
        check_sizes(model, index, &geometry)?;
        Ok(geometry)
    }

    fn of_any_size(
        model: &Model,
        numerics: Numerics,
        index: usize,
        stage: &Stage,
    ) -> Result<Self, PlanError> {
        let group = stage.first_layer as usize..stage.end_layer as usize;
        let (input_maps, output_maps) = boundary(model, group.clone());
        let shares = match &stage.split {
            Split::Whole => None,
            Split::Spatial(grid) | Split::Band { grid, .. } => {
                for i in group.clone() {
                    if locality(model, LayerId(i as u32)) == Locality::Whole {
                        let layer = model.layers[i].name.clone();
                        return Err(PlanError::NotLocal { stage: index, layer });
                    }
                }
                Some(grid)
            }
        };
        let mut output_regions = vec![Vec::new(); stage.tiles()];
        for &map in &output_maps {
            let (name, shape) = describe(model, map);
            let Some(grid) = shares else {
                output_regions[0].push((map, Region::whole(shape)));
                continue;
            };
            let (rows, cols) = (shape.rows(), shape.cols());
            let cuts = (cut(rows, &grid.row_shares), cut(cols, &grid.col_shares));
            let (Some(row_spans), Some(col_spans)) = cuts else {
                return Err(PlanError::Grid {
                    stage: index,
                    grid_rows: grid.row_shares.len(),
                    grid_cols: grid.col_shares.len(),
                    map: name,
                    rows,
                    cols,
                });
            };
            let row_spans = match &stage.split {
                Split::Band { row, .. } => {
                    let row = *row as usize;
                    row_spans.get(row..=row).unwrap_or_default()
                }
                _ => row_spans.as_slice(),
            };
            let tiles = row_spans.iter().flat_map(|&r| col_spans.iter().map(move |&c| (r, c)));
            for (regions, (r, c)) in output_regions.iter_mut().zip(tiles) {
                regions.push((map, Region::new(r, c)));
            }
        }
        let tiles: Vec<TileGeometry> = output_regions
            .into_iter()
            .map(|outputs| tile(model, group.clone(), &input_maps, outputs))
            .collect();
        let algorithm = |i: usize| algorithm(model, numerics, group.start + i, &tiles, (i, 1));
        let algorithms = (0..group.len()).map(algorithm).collect();
        let first_layer = LayerId(stage.first_layer);
        Ok(Self { first_layer, input_maps, output_maps, algorithms, tiles })
    }

    /// A whole model as one stage of one tile, however large: for what it would take. Who runs it
    /// makes it by [`StageGeometry::new`].
    pub fn whole(model: &Model, numerics: Numerics) -> Self {
        let stage = Stage::whole(0..model.layers.len(), Slot(0));
        Self::of_any_size(model, numerics, 0, &stage)
            .expect("an uncut stage has nothing that could fail")
    }

    /// The same stage for whoever computes so many of its tiles at once, and so reads weights for
    /// all of them: other algorithms pay then, and the last bits may differ.
    pub fn for_tiles_together(mut self, model: &Model, numerics: Numerics, tiles: usize) -> Self {
        for i in 0..self.algorithms.len() {
            let layer = self.first_layer.index() + i;
            self.algorithms[i] = algorithm(model, numerics, layer, &self.tiles, (i, tiles));
        }
        self
    }

    /// The tiles that make a region of one of the stage's output maps, each with its part of it.
    pub fn makers(&self, map: MapId, region: Region) -> impl Iterator<Item = (usize, Region)> {
        let part = move |tile: &TileGeometry| {
            let made = tile.outputs.iter().find(|(made, _)| *made == map);
            made.map_or(Region::EMPTY, |(_, made)| made.intersect(region))
        };
        let parts = self.tiles.iter().map(part).enumerate();
        parts.filter(|(_, part)| !part.is_empty())
    }

    /// What one tile asks of a device.
    pub fn tile_work(&self, model: &Model, tile: usize) -> Work {
        let layers = self.tiles[tile].layers.iter().zip(&self.algorithms).enumerate();
        layers
            .map(|(i, (region, algorithm))| {
                let layer = LayerId(self.first_layer.0 + i as u32);
                layer_work(model, layer, *algorithm, *region)
            })
            .sum()
    }

    /// The weights that one tile reads, layer by layer; layers that read none are left out.
    pub fn tile_weights(&self, model: &Model, tile: usize) -> Vec<LayerWeights> {
        let layers = self.tiles[tile].layers.iter().zip(&self.algorithms).enumerate();
        layers
            .map(|(i, (&region, &algorithm))| {
                let layer = LayerId(self.first_layer.0 + i as u32);
                LayerWeights { layer, algorithm, ids: weights_of(model, layer, region) }
            })
            .filter(|weights| !weights.ids.is_empty())
            .collect()
    }

    /// Multiply-adds that one tile stands for: those of direct convolution.
    pub fn tile_multiply_adds(&self, model: &Model, tile: usize) -> u64 {
        let layers = self.tiles[tile].layers.iter().enumerate();
        layers
            .map(|(i, region)| {
                let layer = LayerId(self.first_layer.0 + i as u32);
                model.multiply_adds_per_position(layer) * region.positions() as u64
            })
            .sum()
    }
}

/// What pays for a layer on the largest of its tiles: one set of weights serves them all.
fn algorithm(
    model: &Model,
    numerics: Numerics,
    layer: usize,
    tiles: &[TileGeometry],
    (in_group, together): (usize, usize),
) -> Algorithm {
    let layer = &model.layers[layer];
    let regions = tiles.iter().map(|tile| tile.layers[in_group]);
    let largest = regions.max_by_key(|region| region.positions()).unwrap_or_default();
    let Some(&input) = layer.inputs.first() else { return Algorithm::Direct };
    let shapes = (model.shape(input), model.shape(layer.output));
    Algorithm::choose(numerics, &layer.op, shapes, largest, together)
}

/// Refuses what no device should be asked to hold: of a map, more values than [`ELEMENTS_MAX`] in
/// one tile, or in all tiles together of a map that enters or leaves the stage. Maps as a whole
/// may be larger.
fn check_sizes(model: &Model, stage: usize, geometry: &StageGeometry) -> Result<(), PlanError> {
    let check = |map: MapId, region: Region| {
        let (name, shape) = describe(model, map);
        let elements = region.positions().saturating_mul(shape.channels());
        if elements <= ELEMENTS_MAX {
            return Ok(());
        }
        Err(PlanError::TooLarge { stage, map: name, elements, limit: ELEMENTS_MAX })
    };
    let mut held: BTreeMap<MapId, Region> = BTreeMap::new();
    for tile in &geometry.tiles {
        for (i, region) in tile.layers.iter().enumerate() {
            check(model.layers[geometry.first_layer.index() + i].output, *region)?;
        }
        for &(map, region) in tile.inputs.iter().chain(&tile.outputs) {
            let hull = held.entry(map).or_default();
            *hull = hull.hull(region);
        }
    }
    held.into_iter().try_for_each(|(map, region)| check(map, region))
}

/// Splits `0..len` by shares; none when a part would be empty or a share is zero.
fn cut(len: usize, shares: &[u32]) -> Option<Vec<Span>> {
    let total: u128 = shares.iter().map(|&s| s as u128).sum();
    let mut spans = Vec::with_capacity(shares.len());
    let (mut prefix, mut start) = (0u128, 0usize);
    for &share in shares {
        prefix += share as u128;
        let end = (len as u128 * prefix / total.max(1)) as usize;
        if end <= start {
            return None;
        }
        spans.push(Span::new(start, end));
        start = end;
    }
    (!spans.is_empty()).then_some(spans)
}

/// The maps that enter and leave a group of layers, each list in order of the ids.
fn boundary(model: &Model, group: std::ops::Range<usize>) -> (Vec<MapId>, Vec<MapId>) {
    let made: Vec<MapId> = model.layers[group.clone()].iter().map(|l| l.output).collect();
    let mut inputs: Vec<MapId> =
        model.layers[group.clone()].iter().flat_map(|l| l.inputs.iter().copied()).collect();
    inputs.sort();
    inputs.dedup();
    inputs.retain(|map| !made.contains(map));
    let later = &model.layers[group.end..];
    let mut outputs = made;
    outputs
        .retain(|map| model.outputs.contains(map) || later.iter().any(|l| l.inputs.contains(map)));
    outputs.sort();
    (inputs, outputs)
}

/// Walks the group backwards from the output regions to the inputs.
fn tile(
    model: &Model,
    group: std::ops::Range<usize>,
    input_maps: &[MapId],
    outputs: Vec<(MapId, Region)>,
) -> TileGeometry {
    let mut needed: BTreeMap<MapId, Region> = outputs.iter().copied().collect();
    let mut layers = vec![Region::EMPTY; group.len()];
    for i in group.clone().rev() {
        let layer = &model.layers[i];
        let region = needed.get(&layer.output).copied().unwrap_or_default();
        layers[i - group.start] = region;
        let output_shape = model.shape(layer.output);
        for &input in &layer.inputs {
            let field = receptive_field(&layer.op, region, output_shape, model.shape(input));
            let so_far = needed.entry(input).or_default();
            *so_far = so_far.hull(field);
        }
    }
    let inputs = input_maps
        .iter()
        .map(|&map| (map, needed.get(&map).copied().unwrap_or_default()))
        .filter(|(_, region)| !region.is_empty())
        .collect();
    TileGeometry { inputs, layers, outputs }
}
