//! `pico`: a pipeline. The layers are cut into stages and the devices into groups, so that the slowest
//! stage of a stream of frames takes as little as can be. *Source*: Yang et al., PICO, TMC 2023
//! (arXiv 2206.08662): there the graph is cut into pieces first, to compute as little twice as can
//! be; here a stage may end where one of `auto` may.

use crate::cost::{Cut, Flow, Made, Parts, Reach, loads, take_from, walk};
use crate::profile::{layer_works, speeds};
use crate::search::places_of;
use crate::{DeviceProfile, PlanOptions};
use model::Model;
use tiling::{Grid, Plan, Slot, Stage, Work};

/// Places where a stage may end, at most: the search grows with its square and that of the devices.
const PLACES_MAX: usize = 16;

/// Devices in the pipeline, at most; the fastest.
const DEVICES_MAX: usize = 16;

/// The best pipeline of the layers before a place on some of the fastest devices.
#[derive(Clone)]
struct Way {
    period_ns: u64,
    stages: Vec<Stage>,
}

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let places = places_of(model, PLACES_MAX);
    let works = layer_works(model, options.numerics);
    let all = speeds(devices, &works.iter().copied().sum::<Work>());
    let mut order: Vec<usize> = (0..devices.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(all[i]));
    order.truncate(DEVICES_MAX);
    let reach = Reach::of(model);
    let cuttable = works.iter().enumerate().filter(|(i, _)| reach.is_local(*i));
    let speeds = speeds(devices, &cuttable.map(|(_, &work)| work).sum());
    // ways[place][devices used]
    let mut ways: Vec<Vec<Option<Way>>> = vec![vec![None; order.len() + 1]; places.len()];
    ways[0][0] = Some(Way { period_ns: 0, stages: Vec::new() });
    for at in 1..places.len() {
        let starts: Vec<usize> = places[..at].iter().rev().copied().collect();
        for first in 0..order.len() {
            for end in first + 1..=order.len() {
                let group = Group::of(&order[first..end], &speeds);
                let (numerics, last) = (options.numerics, places[at]);
                let cuts = walk(model, &reach, numerics, group.parts(), &starts, last);
                for (cut, from) in cuts.iter().zip((0..at).rev()) {
                    let Some(way) = &ways[from][first] else { continue };
                    let known = ways[at][end].as_ref().map_or(u64::MAX, |w| w.period_ns);
                    let stage = group.stage(places[from]..last);
                    let period_ns = way.period_ns.max(takes(model, devices, &stage, cut));
                    if period_ns < known {
                        let stages = way.stages.iter().cloned().chain([stage]).collect();
                        ways[at][end] = Some(Way { period_ns, stages });
                    }
                }
            }
        }
    }
    let best = ways.pop().into_iter().flatten().flatten().min_by_key(|way| way.period_ns);
    let stages = best.map(|way| way.stages).unwrap_or_default();
    Plan::new("pico", options.numerics, stages)
}

/// Some devices, and how they share a stage: strips by speed, or whole on a group of one.
struct Group {
    grid: Option<Grid>,
    placement: Vec<Slot>,
}

impl Group {
    fn of(group: &[usize], speeds: &[u64]) -> Self {
        let fastest = group.iter().map(|&i| speeds[i]).max().unwrap_or(1).max(1);
        let share = |&i: &usize| (speeds[i] as u128 * 1000 / fastest as u128).max(1) as u32;
        let grid = Grid { row_shares: group.iter().map(share).collect(), col_shares: vec![1] };
        let placement = group.iter().map(|&i| Slot(i as u32)).collect();
        Self { grid: (group.len() > 1).then_some(grid), placement }
    }

    fn parts(&self) -> Parts<'_> {
        self.grid.as_ref().map_or(Parts::Whole, Parts::Grid)
    }

    fn stage(&self, layers: std::ops::Range<usize>) -> Stage {
        match &self.grid {
            None => Stage::whole(layers, self.placement[0]),
            Some(grid) => Stage::cut(layers, grid.clone(), self.placement.clone()),
        }
    }
}

/// What a stage by itself takes, both ways included.
fn takes(model: &Model, devices: &[DeviceProfile], stage: &Stage, cut: &Cut) -> u64 {
    let mut tiles = loads(model, devices, Made { stage, cut });
    take_from(model, devices, &[], cut, &mut tiles);
    Flow::new(devices, &[]).stage(&tiles).1
}
