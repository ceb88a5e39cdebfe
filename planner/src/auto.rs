//! `auto`: the stages, cuts and devices with the smallest predicted makespan; one device where that
//! is the answer.
//!
//! Dynamic programming over the places where a stage may end. Each run of layers between two such
//! places is one stage: whole on any device, or, where all its layers can be cut, in tiles over the
//! fastest two, three, ... devices, as strips with shares by speed or as a grid. What a stage costs
//! does not depend on those before it, since maps are gathered in between; so the best way to each
//! place is the best way to an earlier one, and one stage.

use crate::cost::{stage_cost, stage_loads};
use crate::local::whole;
use crate::profile::{layer_works, speeds};
use crate::{DeviceProfile, PlanOptions, square_grid};
use model::{LayerId, MapId, Model};
use tiling::{Grid, Handover, Locality, Plan, Slot, Split, Stage, StageGeometry, Work, locality};

/// Places where a stage may end: more make the search slower with its square.
const PLACES_MAX: usize = 40;

/// Tiles a device in the grids that are tried.
const TILES_A_DEVICE: [usize; 2] = [1, 2];

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let search = Search::new(model, devices, options);
    let stages = search.run();
    Plan { strategy: "auto".into(), numerics: options.numerics, stages }
}

struct Search<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    options: PlanOptions,
    /// Devices, fastest at the whole model first.
    by_speed: Vec<usize>,
    /// The work of all layers before each, uncut.
    works: Vec<Work>,
    /// Layers before each that see their whole input.
    wholes: Vec<usize>,
}

/// The best way to a place: how long it takes, where its last stage starts, and that stage.
struct Way {
    ns: u64,
    from: usize,
    stage: Option<Stage>,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model, devices: &'a [DeviceProfile], options: PlanOptions) -> Self {
        let mut by_speed: Vec<usize> = (0..devices.len()).collect();
        let mut works = vec![Work::default()];
        for work in layer_works(model, options.numerics) {
            works.push(works[works.len() - 1] + work);
        }
        let at_all = speeds(devices, &works[works.len() - 1]);
        by_speed.sort_by_key(|&i| std::cmp::Reverse(at_all[i]));
        let mut wholes = vec![0];
        for i in 0..model.layers.len() {
            let is_whole = locality(model, LayerId(i as u32)) == Locality::Whole;
            wholes.push(wholes[i] + usize::from(is_whole));
        }
        Self { model, devices, options, by_speed, works, wholes }
    }

    fn run(&self) -> Vec<Stage> {
        let places = places(self.model, &self.wholes);
        let mut ways: Vec<Way> = vec![Way { ns: 0, from: 0, stage: None }];
        for (at, &end) in places.iter().enumerate().skip(1) {
            let mut best: Option<Way> = None;
            // The longest stage first: a bound from it spares most of the others.
            for (from, &start) in places[..at].iter().enumerate() {
                let before = ways[from].ns;
                if best.as_ref().is_some_and(|best| before >= best.ns) {
                    continue;
                }
                let left = best.as_ref().map(|best| best.ns - before);
                if let Some((ns, stage)) = self.stage(start, end, left) {
                    best = Some(Way { ns: before + ns, from, stage: Some(stage) });
                }
            }
            ways.push(best.expect("a whole stage is always possible"));
        }
        let mut stages = Vec::new();
        let mut at = ways.len() - 1;
        while at > 0 {
            stages.extend(ways[at].stage.clone());
            at = ways[at].from;
        }
        stages.reverse();
        stages
    }

    /// The best stage of some layers, if it takes less than `limit`.
    fn stage(&self, first: usize, end: usize, limit: Option<u64>) -> Option<(u64, Stage)> {
        let mut best: Option<(u64, Stage)> = None;
        let mut limit = limit.unwrap_or(u64::MAX);
        let mut consider = |stage: Stage| {
            if let Some(ns) = self.duration(&stage).filter(|&ns| ns < limit) {
                limit = ns;
                best = Some((ns, stage));
            }
        };
        for &device in self.by_speed.iter().take(4) {
            consider(whole(first, end, device as u32));
        }
        if self.wholes[first] == self.wholes[end] {
            let mut work = self.works[end];
            work -= self.works[first];
            let speeds = speeds(self.devices, &work);
            for count in counts(self.devices.len()) {
                let used = &self.by_speed[..count];
                self.cuts(used, &speeds).into_iter().for_each(|(grid, placement)| {
                    let (first_layer, end_layer) = (first as u32, end as u32);
                    let (split, handover) = (Split::Spatial(grid), Handover::Gather);
                    consider(Stage { first_layer, end_layer, split, placement, handover });
                });
            }
        }
        best
    }

    /// The cuts over some devices that are tried, each with the device of every tile.
    fn cuts(&self, used: &[usize], speeds: &[u64]) -> Vec<(Grid, Vec<Slot>)> {
        let slots: Vec<Slot> = used.iter().map(|&i| Slot(i as u32)).collect();
        let fastest = used.iter().map(|&i| speeds[i]).max().unwrap_or(1);
        // Thousandths of the fastest, so that equal devices have equal shares.
        let shares: Vec<u32> = (used.iter())
            .map(|&i| (speeds[i] as u128 * 1000 / fastest as u128).max(1) as u32)
            .collect();
        let mut cuts = vec![
            (Grid { row_shares: shares.clone(), col_shares: vec![1] }, slots.clone()),
            (Grid { row_shares: vec![1], col_shares: shares }, slots.clone()),
        ];
        for tiles in TILES_A_DEVICE {
            let grid = square_grid(tiles * used.len());
            let placement = deal(used, speeds, grid.tiles());
            cuts.push((grid, placement));
        }
        cuts
    }

    /// None where the cut does not fit the maps.
    fn duration(&self, stage: &Stage) -> Option<u64> {
        let geometry = StageGeometry::new(self.model, self.options.numerics, 0, stage).ok()?;
        let tiles = stage_loads(self.model, &geometry, stage);
        Some(stage_cost(self.model, self.devices, &geometry, stage, &tiles).duration_ns)
    }
}

/// Neighbouring tiles to the same device, in numbers that follow the speeds.
fn deal(used: &[usize], speeds: &[u64], tiles: usize) -> Vec<Slot> {
    let of_used: Vec<u64> = used.iter().map(|&i| speeds[i]).collect();
    let runs = used.iter().zip(crate::deal(&of_used, tiles));
    runs.flat_map(|(&i, n)| std::iter::repeat_n(Slot(i as u32), n)).collect()
}

/// How many devices are tried: all numbers of a few, some numbers of many.
fn counts(devices: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (2..=devices.min(4)).collect();
    counts.extend([6, 8, 12, 16, 24, 32, 64].into_iter().filter(|&n| n < devices));
    if devices > 4 {
        counts.push(devices);
    }
    counts
}

/// Where a stage may start or end: at both ends of the model, around layers that see their whole
/// input, and where the fewest bytes would have to be gathered.
fn places(model: &Model, wholes: &[usize]) -> Vec<usize> {
    let layers = model.layers.len();
    let crossing = crossing_bytes(model);
    let mut places = vec![0, layers];
    let is_whole = |i: usize| i < layers && wholes[i + 1] > wholes[i];
    let turns = (1..layers).filter(|&i| is_whole(i) != is_whole(i - 1));
    let mut turns: Vec<usize> = turns.collect();
    turns.sort_by_key(|&i| crossing[i]);
    places.extend(turns.into_iter().take(PLACES_MAX / 2));
    let mut rest: Vec<usize> = (1..layers).filter(|i| !places.contains(i)).collect();
    // Where a neighbour is narrower, a stage would rather end there.
    let narrower = |&i: &usize| {
        let around = i.saturating_sub(1).max(1)..(i + 2).min(layers);
        around.into_iter().filter(|&j| crossing[j] < crossing[i]).count()
    };
    rest.sort_by_key(|i| (narrower(i), crossing[*i], *i));
    let room = PLACES_MAX.saturating_sub(places.len());
    places.extend(rest.into_iter().take(room));
    places.sort_unstable();
    places.dedup();
    places
}

/// For each layer, the bytes of maps that exist before it and are read by it or later.
fn crossing_bytes(model: &Model) -> Vec<usize> {
    let layers = model.layers.len();
    let mut made = vec![0usize; model.maps.len()];
    let mut read = vec![0usize; model.maps.len()];
    for (i, layer) in model.layers.iter().enumerate() {
        made[layer.output.index()] = i + 1;
        layer.inputs.iter().for_each(|map| read[map.index()] = i + 1);
    }
    let mut crossing = vec![0usize; layers + 1];
    for map in 0..model.maps.len() {
        let id = MapId(map as u32);
        let bytes = model.shape(id).elements() * model.element(id).bytes();
        (made[map]..read[map]).for_each(|i| crossing[i] += bytes);
    }
    crossing
}
