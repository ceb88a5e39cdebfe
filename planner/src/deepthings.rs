//! `deepthings`: one fused two-dimensional grid over the early layers, gather, the rest whole.
//! *Source*: Zhao et al., DeepThings, TCAD 2018 (fused tile partitioning).
//!
//! The published system leaves the depth and the grid to the user. Here both have a default: the
//! depth with the smallest predicted makespan, and enough tiles that stealing can even out.

use crate::exact::Exact;
use crate::profile::{fastest, layer_works, speeds};
use crate::search::places_of;
use crate::{Cost, DeviceProfile, PlanOptions, PlannerError, deal, local_prefix, square_grid};
use model::Model;
use tiling::{Grid, Plan, Slot, Stage, Work};

/// Depths that are compared: of a longer model, those where the fewest bytes would be gathered.
const DEPTHS_MAX: usize = 32;

/// Tiles a device: the last tiles to end are then a third of a device's share at most.
const TILES_A_DEVICE: usize = 3;

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<Plan, PlannerError> {
    let possible = local_prefix(model);
    let name = |i: usize| model.layers.get(i).map(|l| l.name.clone()).unwrap_or_default();
    if possible == 0 {
        return Err(PlannerError::NothingToCut { layer: name(0) });
    }
    if let Some(asked) = options.fused_layers.filter(|&asked| asked > possible) {
        return Err(PlannerError::TooManyFused { asked, possible, layer: name(possible) });
    }
    let grids = match options.grid {
        Some((rows, cols)) => vec![Grid::even(rows, cols)],
        None => default_grids(devices.len()),
    };
    let depths = match options.fused_layers {
        Some(depth) => vec![depth],
        None if possible <= DEPTHS_MAX => (1..=possible).collect(),
        None => {
            let places = places_of(model, DEPTHS_MAX).into_iter();
            let mut depths: Vec<usize> = places.filter(|d| (1..possible).contains(d)).collect();
            depths.push(possible);
            depths
        }
    };
    let works = layer_works(model, options.numerics);
    let mut exact = Exact::new(model, devices, options.numerics);
    let mut best: Option<(u64, Plan)> = None;
    let mut too_large: Option<(u64, Plan)> = None;
    let mut refused = None;
    for grid in &grids {
        for &depth in &depths {
            let plan = fused(&works, devices, grid, depth, options);
            match exact.follow(&plan.stages) {
                Some(followed) => {
                    let ns = followed.makespan_ns;
                    if best.as_ref().is_none_or(|(least, _)| ns <= *least) {
                        best = Some((ns, plan));
                    }
                }
                // Says what is wrong with it, or that it is the memory.
                None => match Cost::estimate(model, devices, &plan) {
                    Ok(cost) => {
                        if too_large.as_ref().is_none_or(|(least, _)| cost.makespan_ns <= *least) {
                            too_large = Some((cost.makespan_ns, plan));
                        }
                    }
                    Err(error) => refused = Some(error),
                },
            }
        }
    }
    match (best, too_large, refused) {
        (Some((_, plan)), ..) => Ok(plan),
        (None, Some((_, plan)), _) => Ok(plan),
        (None, None, Some(error)) => Err(error.into()),
        (None, None, None) => Err(PlannerError::NothingToCut { layer: name(0) }),
    }
}

/// Grids from one tile a device to [`TILES_A_DEVICE`], as square as can be; a single tile last, so
/// that maps too small to cut still run.
fn default_grids(devices: usize) -> Vec<Grid> {
    let mut grids: Vec<Grid> =
        (1..=TILES_A_DEVICE).rev().map(|n| square_grid(n * devices)).collect();
    grids.push(Grid::even(devices, 1));
    grids.push(Grid::even(1, 1));
    grids
}

fn fused(
    works: &[Work],
    devices: &[DeviceProfile],
    grid: &Grid,
    depth: usize,
    options: PlanOptions,
) -> Plan {
    let (early, late) = works.split_at(depth);
    let placement = place(devices, &early.iter().copied().sum(), grid.tiles());
    let mut stages = vec![Stage::cut(0..depth, grid.clone(), placement)];
    if !late.is_empty() {
        let device = fastest(devices, &late.iter().copied().sum());
        stages.push(Stage::whole(depth..works.len(), device));
    }
    Plan::new("deepthings", options.numerics, stages)
}

/// Gives neighbouring tiles to the same device, in numbers that follow the speeds at some work.
pub(crate) fn place(devices: &[DeviceProfile], work: &Work, tiles: usize) -> Vec<Slot> {
    let runs = deal(&speeds(devices, work), tiles).into_iter().enumerate();
    runs.flat_map(|(i, n)| std::iter::repeat_n(Slot(i as u32), n)).collect()
}
