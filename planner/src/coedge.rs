//! `coedge`: every device has its rows of every map and gets the rows at its borders from its
//! neighbours; what cannot be cut runs on the fastest. *Source*: Zeng et al., CoEdge, ToN 2021
//! (arXiv 2012.03257): rows sized to compute and link. There a linear programme finds them, under a
//! deadline; here a row costs a device its share of the work and of the input, over its link.

use crate::modnn::shares;
use crate::profile::{fastest, layer_works};
use crate::refine::halved;
use crate::{DeviceProfile, PlanOptions};
use model::{LayerId, Model};
use tiling::{Grid, Locality, Plan, Slot, Split, Stage, Work, locality};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    over(model, devices, options, devices.len())
}

/// The same over so many devices, those that get most rows.
pub(crate) fn over(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    count: usize,
) -> Plan {
    let works = layer_works(model, options.numerics);
    let local = |i: usize| locality(model, LayerId(i as u32)) == Locality::Local;
    let cut = works.iter().enumerate().filter(|(i, _)| local(*i)).map(|(_, &work)| work);
    let mut speeds = speeds(model, devices, &cut.sum());
    let mut by_speed: Vec<usize> = (0..devices.len()).collect();
    by_speed.sort_by_key(|&i| std::cmp::Reverse(speeds[i]));
    by_speed.iter().skip(count.max(1)).for_each(|&i| speeds[i] = 0);
    let stage = |(i, work): (usize, &Work)| {
        let strips = if local(i) { strips(model, &speeds, i) } else { None };
        let stage = strips.unwrap_or_else(|| Stage::whole(i..i + 1, fastest(devices, work)));
        stage.exchanging()
    };
    let stages = works.iter().enumerate().map(stage).collect();
    Plan::new("coedge", options.numerics, stages)
}

/// What [`halves`] is called.
pub(crate) const HALVES: &str = "coedge in halves";

/// The same plan with two strips for each device, so that halo travels while the other one is computed.
pub(crate) fn halves(model: &Model, plan: &Plan) -> Plan {
    let halve = |stage: Stage| {
        let Split::Spatial(grid) = &stage.split else { return stage };
        let (row_shares, placement) = halved(&grid.row_shares, &stage.placement);
        let last = model.layers[stage.end_layer as usize - 1].output;
        if row_shares.len() > model.shape(last).rows() {
            return stage;
        }
        let split = Split::Spatial(Grid { row_shares, col_shares: vec![1] });
        Stage { split, placement, ..stage }
    };
    let stages = plan.stages.iter().cloned().map(halve).collect();
    Plan { strategy: HALVES.into(), stages, ..*plan }
}

/// How often in a thousand seconds each device could get the input and do the work.
fn speeds(model: &Model, devices: &[DeviceProfile], work: &Work) -> Vec<u64> {
    let input: usize = model
        .inputs
        .iter()
        .map(|&map| model.shape(map).elements() * model.element(map).bytes())
        .sum();
    let takes = |d: &DeviceProfile| {
        d.takes_ns(work) as f64 + input as f64 * 1e9 / d.link_bytes_per_s.max(1) as f64
    };
    devices.iter().map(|d| (1e12 / takes(d).max(1.0)).max(1.0) as u64).collect()
}

fn strips(model: &Model, speeds: &[u64], layer: usize) -> Option<Stage> {
    let rows = model.shape(model.layers[layer].output).rows();
    let (row_shares, placement): (Vec<u32>, Vec<Slot>) = shares(speeds, rows);
    let grid = Grid { row_shares, col_shares: vec![1] };
    (placement.len() > 1).then(|| Stage::cut(layer..layer + 1, grid, placement))
}
