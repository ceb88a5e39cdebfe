//! The stages, cuts and devices with the smallest predicted makespan.
//!
//! Dynamic programming over the places where a stage may end. Each run of layers between two such
//! places is one stage: whole on any device, or, where all its layers can be cut, in tiles over the
//! fastest two, three, ... devices, as strips with shares by speed or as a grid. Its outputs are
//! gathered, or stay on the workers; then the next stage is cut over the same ones, or whole. To each
//! place the best way is kept that gathers, and the best for each layout that leaves its maps on the
//! workers: each is a way to an earlier place, and one stage.
//!
//! What a stage's tiles ask for does not depend on links, so that several worlds that differ in them
//! alone are searched at once.

mod cuts;
mod places;

pub(crate) use cuts::{Layout, Space};

use crate::DeviceProfile;
use crate::cost::{Cut, Flow, Made, Parts, Reach, TileLoad, loads, take_from, walk};
use crate::memory::Room;
use crate::profile::{layer_works, speeds};
use cuts::{Tiling, tilings};
use model::Model;
use std::rc::Rc;
use tiling::{Handover, Numerics, Slot, Stage, Work};

/// Places where a stage may end: more make the search slower with its square.
const PLACES_MAX: usize = 40;

/// Devices on which a whole stage is tried; the fastest.
const WHOLE_MAX: usize = 4;

/// Links, and what may happen between stages.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The search's devices with other links.
    pub(crate) devices: Vec<DeviceProfile>,
    pub(crate) handover: Option<Handover>,
    /// Ways that cannot end sooner are not followed.
    pub(crate) limit_ns: u64,
}

pub(crate) struct Search<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    numerics: Numerics,
    reach: Reach,
    /// Devices, fastest at the whole model first.
    by_speed: Vec<usize>,
    tilings: Vec<Tiling>,
    places: Vec<usize>,
    /// For each place, the least time that the layers after it take, spread over all devices.
    rest_ns: Vec<u64>,
    room: Room<'a>,
}

/// A stage of a way, with its tiles.
struct Placed {
    stage: Stage,
    cut: Rc<Cut>,
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
        self.stages.iter().map(|p| Made { stage: &p.stage, cut: &p.cut }).collect()
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
        numerics: Numerics,
        space: Space,
    ) -> Self {
        Self::with_places(model, devices, numerics, space, PLACES_MAX)
    }

    /// With so many places at most.
    pub(crate) fn with_places(
        model: &'a Model,
        devices: &'a [DeviceProfile],
        numerics: Numerics,
        space: Space,
        places_max: usize,
    ) -> Self {
        let reach = Reach::of(model);
        let works = layer_works(model, numerics);
        let at_all = speeds(devices, &works.iter().copied().sum());
        let mut by_speed: Vec<usize> = (0..devices.len()).collect();
        by_speed.sort_by_key(|&i| std::cmp::Reverse(at_all[i]));
        let cuttable = works.iter().enumerate().filter(|(i, _)| reach.is_local(*i));
        let cuttable: Work = cuttable.map(|(_, &work)| work).sum();
        let room = Room::new(model, devices, numerics);
        let scarce = space == Space::All && room.is_scarce();
        let space = if scarce { Space::Scarce } else { space };
        let tilings = tilings(devices, &by_speed, &cuttable, space);
        let wholes = places::wholes(&reach, works.len());
        let places = places::places(model, &wholes, places_max);
        let rest_ns = rest(devices, &works, &places);
        Self { model, devices, numerics, reach, by_speed, tilings, places, rest_ns, room }
    }

    /// The best stages that it finds in each world; none where nothing fits or ends in time.
    pub(crate) fn run(&self, worlds: &[World]) -> Vec<Option<Vec<Stage>>> {
        // ways[place][world]
        let mut ways: Vec<Vec<Vec<Way>>> = vec![vec![vec![Way::default()]; worlds.len()]];
        for at in 1..self.places.len() {
            let last = at + 1 == self.places.len();
            let mut best: Vec<Vec<Way>> = vec![Vec::new(); worlds.len()];
            // The longest stage first: a bound from it spares most of the others.
            for (from, candidates) in self.candidates(at).into_iter().enumerate() {
                for (i, world) in worlds.iter().enumerate() {
                    for candidate in &candidates {
                        for way in &ways[from][i] {
                            self.follow(world, way, candidate, (at, last), &mut best[i]);
                        }
                    }
                }
            }
            ways.push(best);
        }
        let ended = ways.pop().unwrap_or_default().into_iter();
        let best = ended.map(|ways| {
            let gathered = ways.into_iter().filter(|way| way.kept.is_none());
            let way = gathered.min_by_key(|way| way.ns)?;
            Some(way.stages.iter().map(|placed| placed.stage.clone()).collect())
        });
        best.collect()
    }

    /// Goes one stage further on a way, where nothing better is known to end like it.
    fn follow(
        &self,
        world: &World,
        way: &Way,
        candidate: &Candidate,
        (at, last): (usize, bool),
        best: &mut Vec<Way>,
    ) {
        // What lies on some workers goes on there, or comes together on one.
        let fits = match (way.kept, candidate.layout) {
            (Some(kept), Some(layout)) => kept.goes_on_in(layout),
            (Some(_), None) => candidate.placed.stage.placement[0].0 as usize == self.by_speed[0],
            (None, _) => true,
        };
        let keeping = (candidate.keeping.as_ref())
            .filter(|_| !last && world.handover != Some(Handover::Gather));
        let slower = |best: &[Way], kept: Option<Layout>, ns: u64| {
            best.iter().any(|other| other.kept == kept && other.ns <= ns)
        };
        let soonest = way.ns.saturating_add(candidate.busy_ns);
        let hopeless = slower(best, None, soonest)
            && (keeping.is_none() || slower(best, candidate.layout, soonest));
        let too_late = soonest.saturating_add(self.rest_ns[at]) > world.limit_ns;
        if !fits || hopeless || too_late {
            return;
        }
        let stages = || way.stages.iter().chain([&candidate.placed]);
        if !self.room.holds(stages().map(|p| (&p.stage, &*p.cut))) {
            return;
        }
        let before = way.made();
        let mut tiles = candidate.loads.clone();
        take_from(self.model, self.devices, &before, &candidate.placed.cut, &mut tiles);
        let (computed, gathered) = Flow::new(&world.devices, &before).stage(&tiles);
        let mut consider = |ns: u64, kept: Option<Layout>, placed: &Rc<Placed>| {
            let ns = way.ns.saturating_add(ns);
            if !slower(best, kept, ns) {
                best.retain(|other| other.kept != kept);
                let mut stages = way.stages.clone();
                stages.push(placed.clone());
                best.push(Way { ns, stages, kept });
            }
        };
        if world.handover != Some(Handover::Exchange) || last || candidate.layout.is_none() {
            consider(gathered, None, &candidate.placed);
        }
        if let Some(placed) = keeping {
            consider(computed, candidate.layout, placed);
        }
    }

    /// The stages that end at a place, by the places where they start.
    fn candidates(&self, at: usize) -> Vec<Vec<Candidate>> {
        let end = self.places[at];
        let starts: Vec<usize> = self.places[..at].iter().rev().copied().collect();
        let mut candidates: Vec<Vec<Candidate>> = (0..at).map(|_| Vec::new()).collect();
        let whole = walk(self.model, &self.reach, self.numerics, Parts::Whole, &starts, end);
        for (cut, from) in whole.into_iter().zip((0..at).rev()) {
            let cut = Rc::new(cut);
            for &device in self.by_speed.iter().take(WHOLE_MAX) {
                let stage = Stage::whole(self.places[from]..end, Slot(device as u32));
                candidates[from].push(self.candidate(None, false, stage, cut.clone()));
            }
        }
        for tiling in &self.tilings {
            let (parts, keeps) = (Parts::Grid(&tiling.grid), tiling.keeps);
            let cuts = walk(self.model, &self.reach, self.numerics, parts, &starts, end);
            for (cut, from) in cuts.into_iter().zip((0..at).rev()) {
                let (grid, placement) = (tiling.grid.clone(), tiling.placement.clone());
                let stage = Stage::cut(self.places[from]..end, grid, placement);
                let layout = Some(tiling.layout);
                candidates[from].push(self.candidate(layout, keeps, stage, Rc::new(cut)));
            }
        }
        candidates
    }

    fn candidate(
        &self,
        layout: Option<Layout>,
        keeps: bool,
        stage: Stage,
        cut: Rc<Cut>,
    ) -> Candidate {
        let loads = loads(self.model, self.devices, Made { stage: &stage, cut: &cut });
        let mut busy_ns = vec![0; self.devices.len()];
        loads.iter().for_each(|load| busy_ns[load.device] += load.takes_ns);
        let busy_ns = busy_ns.into_iter().max().unwrap_or(0);
        let keeping = keeps.then(|| {
            let stage = stage.clone().exchanging();
            Rc::new(Placed { stage, cut: cut.clone() })
        });
        Candidate { layout, placed: Rc::new(Placed { stage, cut }), keeping, loads, busy_ns }
    }
}

/// For each place, the least time of the layers after it: the sum that the lower bound spreads.
fn rest(devices: &[DeviceProfile], works: &[Work], places: &[usize]) -> Vec<u64> {
    let all: Work = works.iter().copied().sum();
    let weights: Vec<f64> = devices.iter().map(|d| 1.0 / d.takes_ns(&all).max(1) as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut rest = vec![0.0; works.len() + 1];
    for (i, work) in works.iter().enumerate().rev() {
        let dear = devices.iter().zip(&weights).map(|(d, m)| d.takes_ns(work) as f64 * m / total);
        rest[i] = rest[i + 1] + dear.fold(f64::INFINITY, f64::min).min(1e18);
    }
    places.iter().map(|&place| rest[place] as u64).collect()
}

/// So many places where a stage may start or end.
pub(crate) fn places_of(model: &Model, most: usize) -> Vec<usize> {
    let reach = Reach::of(model);
    places::places(model, &places::wholes(&reach, model.layers.len()), most)
}
