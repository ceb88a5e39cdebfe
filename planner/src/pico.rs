//! `pico`: a pipeline. The layers are cut into stages and the devices into groups, so that the slowest
//! stage of a stream of frames takes as little as can be. *Source*: Yang et al., PICO, TMC 2023
//! (arXiv 2206.08662): there the graph is cut into pieces first, to compute as little twice as can
//! be; here a stage may end where one of `auto` may.

use crate::auto::places_of;
use crate::cost::{Flow, Made, loads, take_from};
use crate::profile::{layer_works, speeds};
use crate::{DeviceProfile, PlanOptions};
use model::Model;
use tiling::{Grid, Plan, Slot, Stage, StageGeometry, Work};

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
    // ways[place][devices used]
    let mut ways: Vec<Vec<Option<Way>>> = vec![vec![None; order.len() + 1]; places.len()];
    ways[0][0] = Some(Way { period_ns: 0, stages: Vec::new() });
    for at in 1..places.len() {
        for from in 0..at {
            let work = works[places[from]..places[at]].iter().copied().sum();
            let speeds = speeds(devices, &work);
            for first in 0..order.len() {
                let Some(way) = ways[from][first].clone() else { continue };
                for end in first + 1..=order.len() {
                    let known = ways[at][end].as_ref().map_or(u64::MAX, |w| w.period_ns);
                    if way.period_ns >= known {
                        continue;
                    }
                    let group = &order[first..end];
                    let range = (places[from], places[at]);
                    let Some((ns, stage)) = stage(model, devices, options, range, group, &speeds)
                    else {
                        continue;
                    };
                    let period_ns = way.period_ns.max(ns);
                    if period_ns < known {
                        let mut stages = way.stages.clone();
                        stages.push(stage);
                        ways[at][end] = Some(Way { period_ns, stages });
                    }
                }
            }
        }
    }
    let best = ways.pop().into_iter().flatten().flatten().min_by_key(|way| way.period_ns);
    let stages = best.map(|way| way.stages).unwrap_or_default();
    Plan { strategy: "pico".into(), numerics: options.numerics, stages }
}

/// A group's stage: strips by speed, or whole on a group of one.
fn stage(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    (first, end): (usize, usize),
    group: &[usize],
    speeds: &[u64],
) -> Option<(u64, Stage)> {
    let stage = match group {
        [one] => Stage::whole(first..end, Slot(*one as u32)),
        _ => {
            let fastest = group.iter().map(|&i| speeds[i]).max().unwrap_or(1).max(1);
            let share = |&i: &usize| (speeds[i] as u128 * 1000 / fastest as u128).max(1) as u32;
            let grid = Grid { row_shares: group.iter().map(share).collect(), col_shares: vec![1] };
            let placement = group.iter().map(|&i| Slot(i as u32)).collect();
            Stage::cut(first..end, grid, placement)
        }
    };
    let geometry = StageGeometry::new(model, options.numerics, 0, &stage).ok()?;
    let mut tiles = loads(model, devices, Made { stage: &stage, geometry: &geometry });
    take_from(model, &[], &geometry, &mut tiles);
    let ns = Flow::new(devices, &[]).stage(&tiles).1;
    Some((ns, stage))
}
