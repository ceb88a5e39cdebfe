//! What the tiles of a stage read, compute and make, without the layers in between: all that a cost
//! is made of, and little enough to keep thousands of.
//!
//! A search asks for all stages that end at one place. What a tile needs of a layer depends on the
//! layers after it alone, so one walk backwards from the end passes every stage that ends there:
//!
//! ```text
//!   layers   0   1   2   3   4   5
//!                            └───┤   the stage 4..6
//!                    └───────────┤   the stage 2..6: the same tiles, two layers longer
//!            └───────────────────┤   the stage 0..6
//! ```

use super::region_bytes;
use model::limits::ELEMENTS_MAX;
use model::{LayerId, MapId, Model, Op, Shape};
use tiling::{
    Algorithm, Grid, Locality, Numerics, Region, Span, StageGeometry, TileGeometry, Work,
    layer_work, locality, packed_bytes, receptive_field, weights_of,
};

/// The tiles of a stage, from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Maps that enter and leave, and what of them each tile reads and makes; the regions of the
    /// layers in between and their algorithms are left out.
    pub(crate) borders: StageGeometry,
    /// For each tile, what it asks of a device.
    pub(crate) works: Vec<Work>,
    /// For each tile, the multiply-adds of direct convolution.
    pub(crate) multiply_adds: Vec<u64>,
    /// For each tile, the bytes of all maps that it makes: never less than what it holds of them.
    pub(crate) made_bytes: Vec<u64>,
    /// Bytes of the packed weights, but for layers whose weights lie in slices.
    pub(crate) weight_bytes: u64,
    /// The same of these layers...
    pub(crate) sliced_bytes: u64,
    /// ...and what each tile reads of that.
    pub(crate) slice_bytes: Vec<u64>,
}

impl Cut {
    /// Bytes of the weights for tiles that read so much of those in slices.
    pub(crate) fn weights(&self, slice_bytes: u64) -> u64 {
        self.weight_bytes + slice_bytes.min(self.sliced_bytes)
    }

    /// The tiles of a stage whose geometry is known.
    pub(crate) fn of(model: &Model, mut geometry: StageGeometry) -> Self {
        let tiles = 0..geometry.tiles.len();
        let first = geometry.first_layer.index();
        let works = tiles.clone().map(|tile| geometry.tile_work(model, tile)).collect();
        let multiply_adds = tiles.map(|tile| geometry.tile_multiply_adds(model, tile)).collect();
        let made = |tile: &TileGeometry| {
            let layers = tile.layers.iter().zip(&model.layers[first..]);
            layers.map(|(&region, layer)| region_bytes(model, layer.output, region)).sum()
        };
        let made_bytes = geometry.tiles.iter().map(made).collect();
        let slices = |tile: &TileGeometry| {
            let layers = tile.layers.iter().zip(first..);
            layers.map(|(&region, i)| slice_bytes(model, LayerId(i as u32), region)).sum()
        };
        let slice_bytes = geometry.tiles.iter().map(slices).collect();
        let layers = geometry.algorithms.iter().enumerate();
        let packed = layers.map(|(i, &algorithm)| {
            let regions = geometry.tiles.iter().map(|tile| tile.layers[i]);
            let is_read = regions.into_iter().any(|region| !region.is_empty());
            let layer = LayerId((first + i) as u32);
            if is_read { packed(model, layer, algorithm) } else { (0, 0) }
        });
        let (weight_bytes, sliced_bytes) =
            packed.fold((0, 0), |(w, s), (weights, sliced)| (w + weights, s + sliced));
        geometry.algorithms.clear();
        geometry.tiles.iter_mut().for_each(|tile| tile.layers.clear());
        Self {
            borders: geometry,
            works,
            multiply_adds,
            made_bytes,
            weight_bytes,
            sliced_bytes,
            slice_bytes,
        }
    }
}

/// What is known of a model's maps before any cut.
pub(crate) struct Reach {
    /// One more than the last layer that reads a map; past the end where the caller wants it.
    read_until: Vec<usize>,
    /// Whether each layer can be cut.
    local: Vec<bool>,
}

impl Reach {
    pub(crate) fn of(model: &Model) -> Self {
        let mut read_until = vec![0; model.maps.len()];
        for (i, layer) in model.layers.iter().enumerate() {
            layer.inputs.iter().for_each(|map| read_until[map.index()] = i + 1);
        }
        model.outputs.iter().for_each(|map| read_until[map.index()] = usize::MAX);
        let layers = 0..model.layers.len();
        let is_local = |i| locality(model, LayerId(i as u32)) == Locality::Local;
        Self { read_until, local: layers.map(is_local).collect() }
    }

    /// Whether a layer can be cut.
    pub(crate) fn is_local(&self, layer: usize) -> bool {
        self.local[layer]
    }
}

/// What is walked through.
#[derive(Clone, Copy)]
pub(crate) enum Parts<'a> {
    /// All of every map.
    Whole,
    /// The tiles of a grid.
    Grid(&'a Grid),
    /// One row of the tiles of a grid.
    Row(&'a Grid, usize),
}

impl Parts<'_> {
    fn tiles(self) -> usize {
        match self {
            Parts::Whole => 1,
            Parts::Grid(grid) => grid.tiles(),
            Parts::Row(grid, _) => grid.col_shares.len(),
        }
    }

    /// The region of each tile in a map; none where the cut does not fit it.
    fn of(self, shape: &Shape) -> Option<Vec<Region>> {
        let (grid, row) = match self {
            Parts::Whole => return Some(vec![Region::whole(shape)]),
            Parts::Grid(grid) => (grid, None),
            Parts::Row(grid, row) => (grid, Some(row)),
        };
        let mut rows = spans(shape.rows(), &grid.row_shares)?;
        let cols = spans(shape.cols(), &grid.col_shares)?;
        if let Some(row) = row {
            rows = vec![*rows.get(row)?];
        }
        let of_row = |&r: &Span| cols.iter().map(move |&c| Region::new(r, c));
        Some(rows.iter().flat_map(of_row).collect())
    }
}

/// The stages that start at each of some places and end at one, with one cut, longest last; `starts`
/// descend from the end. It ends early where a cut does not fit, where a layer needs
/// its whole input, and where cutting spares nobody anything any more: what comes before would be
/// computed by every tile as a whole.
pub(crate) fn walk(
    model: &Model,
    reach: &Reach,
    numerics: Numerics,
    parts: Parts<'_>,
    starts: &[usize],
    end: usize,
) -> Vec<Cut> {
    let tiles = parts.tiles();
    let mut walk = Walk {
        model,
        numerics,
        needed: vec![Region::EMPTY; model.maps.len() * tiles],
        entering: Vec::new(),
        leaving: Vec::new(),
        works: vec![Work::default(); tiles],
        multiply_adds: vec![0; tiles],
        made_bytes: vec![0; tiles],
        weight_bytes: 0,
        sliced_bytes: 0,
        slice_bytes: vec![0; tiles],
        regions: vec![Region::EMPTY; tiles],
    };
    let mut cuts = Vec::with_capacity(starts.len());
    let mut at = end;
    for &start in starts {
        while at > start {
            at -= 1;
            if !matches!(parts, Parts::Whole) && !reach.is_local(at) {
                return cuts;
            }
            let output = model.layers[at].output;
            let leaves = reach.read_until[output.index()] > end;
            if walk.layer(at, parts, leaves).is_none() {
                return cuts;
            }
        }
        match walk.cut(start) {
            Some(cut) => cuts.push(cut),
            None => return cuts,
        }
        if walk.is_in_vain() {
            return cuts;
        }
    }
    cuts
}

/// A walk backwards from the end of a stage.
struct Walk<'a> {
    model: &'a Model,
    numerics: Numerics,
    /// For each tile, the region of each map that the layers so far read.
    needed: Vec<Region>,
    /// Maps that the layers so far read and do not make, in order of their ids.
    entering: Vec<MapId>,
    /// Maps that they make and others want, each with the region of every tile.
    leaving: Vec<(MapId, Vec<Region>)>,
    works: Vec<Work>,
    multiply_adds: Vec<u64>,
    made_bytes: Vec<u64>,
    weight_bytes: u64,
    sliced_bytes: u64,
    slice_bytes: Vec<u64>,
    /// Of the layer that was passed last, what each tile computes.
    regions: Vec<Region>,
}

impl Walk<'_> {
    fn of_tile(&mut self, tile: usize, map: MapId) -> &mut Region {
        &mut self.needed[tile * self.model.maps.len() + map.index()]
    }

    /// Takes one layer more in; none where the cut does not fit its map.
    fn layer(&mut self, index: usize, parts: Parts<'_>, leaves: bool) -> Option<()> {
        let model = self.model;
        let (id, layer) = (LayerId(index as u32), &model.layers[index]);
        let shape = model.shape(layer.output);
        let tiles = self.works.len();
        for tile in 0..tiles {
            self.regions[tile] = *self.of_tile(tile, layer.output);
        }
        if leaves {
            let shares = parts.of(shape)?;
            for (region, &share) in self.regions.iter_mut().zip(&shares) {
                *region = region.hull(share);
            }
            self.leaving.push((layer.output, shares));
        }
        let largest = self.regions.iter().copied().max_by_key(|region| region.positions())?;
        if largest.positions().saturating_mul(shape.channels()) > ELEMENTS_MAX {
            return None;
        }
        let algorithm = match layer.inputs.first() {
            Some(&input) => {
                let shapes = (model.shape(input), shape);
                Algorithm::choose(self.numerics, &layer.op, shapes, largest, 1)
            }
            None => Algorithm::Direct,
        };
        if !largest.is_empty() {
            let (weights, sliced) = packed(model, id, algorithm);
            self.weight_bytes += weights;
            self.sliced_bytes += sliced;
        }
        let each = model.multiply_adds_per_position(id);
        for tile in 0..tiles {
            let region = self.regions[tile];
            self.works[tile] += layer_work(model, id, algorithm, region);
            self.multiply_adds[tile] += each * region.positions() as u64;
            self.made_bytes[tile] += region_bytes(model, layer.output, region);
            self.slice_bytes[tile] += slice_bytes(model, id, region);
            for &input in &layer.inputs {
                let field = receptive_field(&layer.op, region, shape, model.shape(input));
                let so_far = self.of_tile(tile, input);
                *so_far = so_far.hull(field);
            }
        }
        self.entering.retain(|&map| map != layer.output);
        for &input in &layer.inputs {
            if let Err(at) = self.entering.binary_search(&input) {
                self.entering.insert(at, input);
            }
        }
        Some(())
    }

    /// The stage of the layers so far; none where more would have to be held than may be.
    fn cut(&mut self, start: usize) -> Option<Cut> {
        let mut leaving = self.leaving.clone();
        leaving.sort_by_key(|(map, _)| *map);
        let input_maps = self.entering.clone();
        let all = |&map: &MapId| {
            let of = |tile| self.needed[tile * self.model.maps.len() + map.index()];
            (map, (0..self.works.len()).map(of).fold(Region::EMPTY, Region::hull))
        };
        let too_large = |(map, region): (MapId, Region)| {
            let channels = self.model.shape(map).channels();
            region.positions().saturating_mul(channels) > ELEMENTS_MAX
        };
        let made = leaving
            .iter()
            .map(|(map, parts)| (*map, parts.iter().copied().fold(Region::EMPTY, Region::hull)));
        if input_maps.iter().map(all).chain(made).any(too_large) {
            return None;
        }
        let tile = |tile: usize| {
            let read =
                |&map: &MapId| (map, self.needed[tile * self.model.maps.len() + map.index()]);
            let inputs = input_maps.iter().map(read).filter(|(_, region)| !region.is_empty());
            TileGeometry {
                inputs: inputs.collect(),
                layers: Vec::new(),
                outputs: leaving.iter().map(|(map, parts)| (*map, parts[tile])).collect(),
            }
        };
        let tiles = (0..self.works.len()).map(tile).collect();
        let output_maps = leaving.iter().map(|(map, _)| *map).collect();
        let (first_layer, algorithms) = (LayerId(start as u32), Vec::new());
        Some(Cut {
            borders: StageGeometry { first_layer, input_maps, output_maps, algorithms, tiles },
            works: self.works.clone(),
            multiply_adds: self.multiply_adds.clone(),
            made_bytes: self.made_bytes.clone(),
            weight_bytes: self.weight_bytes,
            sliced_bytes: self.sliced_bytes,
            slice_bytes: self.slice_bytes.clone(),
        })
    }

    /// Whether every tile computes all of what any does: cutting spares nobody anything here, nor
    /// before, since fields only grow.
    fn is_in_vain(&self) -> bool {
        let all = self.regions.iter().copied().fold(Region::EMPTY, Region::hull);
        self.works.len() > 1 && self.regions.iter().all(|&region| region == all)
    }
}

/// Bytes of a layer's packed weights: those of one piece, and those in slices.
fn packed(model: &Model, layer: LayerId, algorithm: Algorithm) -> (u64, u64) {
    let op = &model.layer(layer).op;
    let ids = op.weight_ids().into_iter();
    let bytes = ids.map(|id| packed_bytes(model, layer, algorithm, id)).sum();
    match op {
        Op::LinearRows { .. } => (0, bytes),
        _ => (bytes, 0),
    }
}

/// Bytes that a region reads of a layer whose weights lie in slices; none of any other.
fn slice_bytes(model: &Model, layer: LayerId, region: Region) -> u64 {
    match model.layer(layer).op {
        Op::LinearRows { .. } => {
            let ids = weights_of(model, layer, region).into_iter();
            ids.map(|id| model.weight(id).bytes() as u64).sum()
        }
        _ => 0,
    }
}

/// The parts of an axis by shares; none when one would be empty.
fn spans(len: usize, shares: &[u32]) -> Option<Vec<Span>> {
    let total: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    let (mut prefix, mut start) = (0u128, 0);
    let part = |&share: &u32| {
        prefix += u128::from(share);
        let end = (len as u128 * prefix / total.max(1)) as usize;
        let span = (end > start).then(|| Span::new(start, end));
        start = end;
        span
    };
    shares.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, open};
    use tiling::{Slot, Stage};

    /// What one walk finds is what the geometry of each stage by itself says.
    #[test]
    fn a_walk_passes_every_stage() {
        let mut compared = 0;
        for name in
            ["zoo:unet@64x64", "zoo:resnet50@64x64", "zoo:efficientnet-b0@64x64", "zoo:alexnet"]
        {
            let model = open(name, &LoadOptions::default()).unwrap().graph;
            let reach = Reach::of(&model);
            let shares = |rows: &[u32], cols: &[u32]| {
                Some(Grid { row_shares: rows.to_vec(), col_shares: cols.to_vec() })
            };
            let grids = [None, shares(&[3, 2, 1], &[1]), shares(&[1, 1], &[2, 3])];
            for numerics in [Numerics::Exact, Numerics::Fast] {
                for (grid, end) in
                    grids.iter().flat_map(|g| (1..=model.layers.len()).map(move |e| (g, e)))
                {
                    let starts: Vec<usize> = (end.saturating_sub(12)..end).rev().collect();
                    let parts = grid.as_ref().map_or(Parts::Whole, Parts::Grid);
                    let cuts = walk(&model, &reach, numerics, parts, &starts, end);
                    for (&start, cut) in starts.iter().zip(&cuts) {
                        let stage = match grid {
                            None => Stage::whole(start..end, Slot(0)),
                            Some(grid) => {
                                let placement = vec![Slot(0); grid.tiles()];
                                Stage::cut(start..end, grid.clone(), placement)
                            }
                        };
                        let geometry = StageGeometry::new(&model, numerics, 0, &stage).unwrap();
                        assert_eq!(*cut, Cut::of(&model, geometry), "{name} {start}..{end}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 1000, "{compared}");
    }

    #[test]
    fn a_walk_ends_where_all_tiles_compute_the_same() {
        let model = open("zoo:resnet50@64x64", &LoadOptions::default()).unwrap().graph;
        let reach = Reach::of(&model);
        let end = (0..model.layers.len()).find(|&i| !reach.is_local(i)).unwrap();
        let starts: Vec<usize> = (0..end).rev().collect();
        let grid = Grid::even(2, 1);
        let cuts = walk(&model, &reach, Numerics::Exact, Parts::Grid(&grid), &starts, end);
        let tiles = &cuts.last().unwrap().borders.tiles;
        assert!(cuts.len() < end, "half of the last map needs all of the first one");
        assert!(tiles.iter().all(|tile| tile.inputs == tiles[0].inputs));
    }
}
