//! `auto`: the stages, cuts and devices with the smallest predicted makespan; one device where that
//! is the answer.
//!
//! Dynamic programming over the places where a stage may end. Each run of layers between two such
//! places is one stage: whole on any device, or, where all its layers can be cut, in tiles over the
//! fastest two, three, ... devices, as strips with shares by speed or as a grid. Its outputs are
//! gathered, or stay on the workers; then the next stage is cut over the same ones, or whole. To each
//! place the best way is kept that gathers, and the best for each layout that leaves its maps on the
//! workers: each is a way to an earlier place, and one stage.

use crate::cost::{Cost, Flow, Made, TileLoad, loads, take_from};
use crate::profile::{layer_works, speeds};
use crate::{DeviceProfile, Objective, PlanOptions, coedge, pico, replicate, square_grid};
use model::{LayerId, MapId, Model};
use std::rc::Rc;
use tiling::{Grid, Handover, Locality, Plan, Slot, Stage, StageGeometry, Work, locality};

/// Places where a stage may end: more make the search slower with its square.
const PLACES_MAX: usize = 40;

/// Tiles a device in the grids that are tried.
const TILES_A_DEVICE: [usize; 2] = [1, 2];

/// Of the cuts that are tried, those whose outputs may stay on the workers: strips of rows, and grids
/// with a tile for each device.
const KEPT_CUTS: [usize; 2] = [0, 2];

/// More devices gather.
const KEEPERS_MAX: usize = 16;

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let made = |options| {
        let stages = Search::new(model, devices, options, Space::All).run();
        Plan { strategy: "auto".into(), numerics: options.numerics, stages }
    };
    if options.objective == Objective::Throughput {
        return streaming(model, devices, options);
    }
    let mut plans = vec![made(options)];
    if options.handover.is_none() && devices.len() > 1 {
        // The search takes a stage to begin when all of the one before it is made, and looks at some
        // places only; what really happens is looked at in the end.
        let gather = Some(Handover::Gather);
        plans.push(made(PlanOptions { handover: gather, ..options }));
        plans.push(Plan { strategy: "auto".into(), ..coedge::plan(model, devices, options) });
    }
    let takes =
        |plan: &Plan| Cost::estimate(model, devices, plan).map_or(u64::MAX, |c| c.makespan_ns);
    plans.into_iter().min_by_key(takes).expect("there is one")
}

/// The plan that lets most frames of a stream through: what is best for one frame, a pipeline, or
/// whole frames on all devices.
fn streaming(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let alone = PlanOptions { objective: Objective::Latency, ..options };
    let plans = [
        replicate::plan(model, options),
        pico::plan(model, devices, options),
        plan(model, devices, alone),
    ];
    let cost = |plan: &Plan| {
        let cost = Cost::estimate(model, devices, plan);
        cost.map_or((u64::MAX, 0), |c| (c.period_ns, c.makespan_ns))
    };
    let best = plans.into_iter().min_by_key(cost);
    let best = best.expect("there are three");
    Plan { strategy: format!("auto: {}", best.strategy), ..best }
}

/// Which cuts of a stage are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Strips by speed, grids.
    All,
    /// Equal strips of rows alone.
    EqualStrips,
}

pub(crate) struct Search<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    options: PlanOptions,
    space: Space,
    /// Devices, fastest at the whole model first.
    by_speed: Vec<usize>,
    /// The work of all layers before each, uncut.
    works: Vec<Work>,
    /// Layers before each that see their whole input.
    wholes: Vec<usize>,
}

/// A stage of a way, with its geometry.
struct Placed {
    stage: Stage,
    geometry: StageGeometry,
}

/// Which cut over how many devices: stages of the same cut fit each other when maps stay where they
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    devices: usize,
    cut: usize,
}

/// A way to compute the layers before a place.
#[derive(Clone, Default)]
struct Way {
    ns: u64,
    stages: Vec<Rc<Placed>>,
    /// How the outputs of the last stage lie on the workers; none when they are gathered.
    kept: Option<Layout>,
}

impl Way {
    fn made(&self) -> Vec<Made<'_>> {
        self.stages.iter().map(|p| Made { stage: &p.stage, geometry: &p.geometry }).collect()
    }
}

/// A stage that is tried.
struct Candidate {
    layout: Option<Layout>,
    placed: Rc<Placed>,
    /// The same, with outputs that stay on the workers.
    keeping: Option<Rc<Placed>>,
    loads: Vec<TileLoad>,
    /// The time of the busiest device, with all inputs there.
    busy_ns: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        model: &'a Model,
        devices: &'a [DeviceProfile],
        options: PlanOptions,
        space: Space,
    ) -> Self {
        let mut by_speed: Vec<usize> = (0..devices.len()).collect();
        let mut works = vec![Work::default()];
        for work in layer_works(model, options.numerics) {
            works.push(works[works.len() - 1] + work);
        }
        let at_all = speeds(devices, &works[works.len() - 1]);
        by_speed.sort_by_key(|&i| std::cmp::Reverse(at_all[i]));
        let wholes = wholes(model);
        Self { model, devices, options, space, by_speed, works, wholes }
    }

    /// The best stages that it finds.
    pub(crate) fn run(&self) -> Vec<Stage> {
        let places = places(self.model, &self.wholes, PLACES_MAX);
        let mut ways: Vec<Vec<Way>> = vec![vec![Way::default()]];
        for (at, &end) in places.iter().enumerate().skip(1) {
            let last = at + 1 == places.len();
            let mut best: Vec<Way> = Vec::new();
            // The longest stage first: a bound from it spares most of the others.
            for (from, &start) in places[..at].iter().enumerate() {
                let limit = |best: &[Way]| best.iter().map(|way| way.ns).max();
                let soonest = ways[from].iter().map(|way| way.ns).min().unwrap_or(0);
                if limit(&best).is_some_and(|limit| soonest >= limit) && has_gathered(&best) {
                    continue;
                }
                for candidate in self.candidates(start, end) {
                    for way in &ways[from] {
                        self.follow(way, &candidate, last, &mut best);
                    }
                }
            }
            ways.push(best);
        }
        let all = ways.pop().unwrap_or_default();
        let best = all.into_iter().filter(|way| way.kept.is_none()).min_by_key(|way| way.ns);
        let stages = best.map(|way| way.stages).unwrap_or_default();
        stages.iter().map(|placed| placed.stage.clone()).collect()
    }

    /// Goes one stage further on a way, where nothing better is known to end like it.
    fn follow(&self, way: &Way, candidate: &Candidate, last: bool, best: &mut Vec<Way>) {
        // What lies on some workers goes on there, or comes together on one.
        let fits = match (way.kept, candidate.layout) {
            (Some(kept), Some(layout)) => kept.devices == layout.devices,
            (Some(_), None) => candidate.placed.stage.placement[0].0 as usize == self.by_speed[0],
            (None, _) => true,
        };
        let only_gather = self.options.handover == Some(Handover::Gather);
        let only_exchange = self.options.handover == Some(Handover::Exchange);
        let keeping = candidate.keeping.as_ref().filter(|_| !last && !only_gather);
        let slower = |best: &[Way], kept: Option<Layout>, ns: u64| {
            best.iter().any(|other| other.kept == kept && other.ns <= ns)
        };
        let soonest = way.ns.saturating_add(candidate.busy_ns);
        let hopeless = slower(best, None, soonest)
            && (keeping.is_none() || slower(best, candidate.layout, soonest));
        if !fits || hopeless {
            return;
        }
        let before = way.made();
        let mut tiles = candidate.loads.clone();
        take_from(self.model, &before, &candidate.placed.geometry, &mut tiles);
        let (computed, gathered) = Flow::new(self.devices, &before).stage(&tiles);
        let mut consider = |ns: u64, kept: Option<Layout>, placed: &Rc<Placed>| {
            let ns = way.ns.saturating_add(ns);
            if !slower(best, kept, ns) {
                best.retain(|other| other.kept != kept);
                let mut stages = way.stages.clone();
                stages.push(placed.clone());
                best.push(Way { ns, stages, kept });
            }
        };
        if !only_exchange || last || candidate.layout.is_none() {
            consider(gathered, None, &candidate.placed);
        }
        if let Some(placed) = keeping {
            consider(computed, candidate.layout, placed);
        }
    }

    /// The stages of some layers that are tried.
    fn candidates(&self, first: usize, end: usize) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for &device in self.by_speed.iter().take(4) {
            let stage = Stage::whole(first..end, Slot(device as u32));
            candidates.extend(self.candidate(None, stage));
        }
        if self.wholes[first] == self.wholes[end] {
            let mut work = self.works[end];
            work -= self.works[first];
            let speeds = speeds(self.devices, &work);
            for devices in counts(self.devices.len()) {
                let used = &self.by_speed[..devices];
                for (cut, (grid, placement)) in self.cuts(used, &speeds).into_iter().enumerate() {
                    let stage = Stage::cut(first..end, grid, placement);
                    candidates.extend(self.candidate(Some(Layout { devices, cut }), stage));
                }
            }
        }
        candidates
    }

    /// None where the cut does not fit the maps.
    fn candidate(&self, layout: Option<Layout>, stage: Stage) -> Option<Candidate> {
        let geometry = StageGeometry::new(self.model, self.options.numerics, 0, &stage).ok()?;
        let made = Made { stage: &stage, geometry: &geometry };
        let loads = loads(self.model, self.devices, made);
        let mut busy_ns = vec![0; self.devices.len()];
        loads.iter().for_each(|load| busy_ns[load.device] += load.takes_ns);
        let busy_ns = busy_ns.into_iter().max().unwrap_or(0);
        let keeps = layout.is_some_and(|l| l.devices <= KEEPERS_MAX && KEPT_CUTS.contains(&l.cut));
        let keeping = keeps.then(|| {
            let stage = stage.clone().exchanging();
            Rc::new(Placed { stage, geometry: geometry.clone() })
        });
        let placed = Rc::new(Placed { stage, geometry });
        Some(Candidate { layout, placed, keeping, loads, busy_ns })
    }

    /// The cuts over some devices that are tried, each with the device of every tile.
    fn cuts(&self, used: &[usize], speeds: &[u64]) -> Vec<(Grid, Vec<Slot>)> {
        let slots: Vec<Slot> = used.iter().map(|&i| Slot(i as u32)).collect();
        if self.space == Space::EqualStrips {
            let grid = Grid { row_shares: vec![1; used.len()], col_shares: vec![1] };
            return vec![(grid, slots)];
        }
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
}

/// For each layer, how many before it see their whole input.
fn wholes(model: &Model) -> Vec<usize> {
    let mut wholes = vec![0];
    for i in 0..model.layers.len() {
        let is_whole = locality(model, LayerId(i as u32)) == Locality::Whole;
        wholes.push(wholes[i] + usize::from(is_whole));
    }
    wholes
}

/// So many places where a stage may start or end.
pub(crate) fn places_of(model: &Model, most: usize) -> Vec<usize> {
    places(model, &wholes(model), most)
}

fn has_gathered(ways: &[Way]) -> bool {
    ways.iter().any(|way| way.kept.is_none())
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
fn places(model: &Model, wholes: &[usize], most: usize) -> Vec<usize> {
    let layers = model.layers.len();
    let crossing = crossing_bytes(model);
    let mut places = vec![0, layers];
    let is_whole = |i: usize| i < layers && wholes[i + 1] > wholes[i];
    let turns = (1..layers).filter(|&i| is_whole(i) != is_whole(i - 1));
    let mut turns: Vec<usize> = turns.collect();
    turns.sort_by_key(|&i| crossing[i]);
    places.extend(turns.into_iter().take(most / 2));
    let mut rest: Vec<usize> = (1..layers).filter(|i| !places.contains(i)).collect();
    // Where a neighbour is narrower, a stage would rather end there.
    let narrower = |&i: &usize| {
        let around = i.saturating_sub(1).max(1)..(i + 2).min(layers);
        around.into_iter().filter(|&j| crossing[j] < crossing[i]).count()
    };
    rest.sort_by_key(|i| (narrower(i), crossing[*i], *i));
    let room = most.saturating_sub(places.len());
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
