//! The runners without a cluster: naive reference, whole, tiled in process.

use crate::{Built, Maps};
use kernels::wire::{inputs_for, round_outputs};
use kernels::{Engine, KernelError, Piece, reference};
use model::MapId;
use planner::{DeviceProfile, PlanOptions, PlannerError, Strategy};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::{Numerics, Plan, Rates, Region, StageGeometry};

fn shared(maps: Vec<(MapId, Piece)>) -> Maps {
    maps.into_iter().map(|(map, piece)| (map, Arc::new(piece))).collect()
}

/// Puts maps in the order of the model's outputs.
fn in_order(built: &Built, maps: Maps) -> Maps {
    let by_map: BTreeMap<MapId, Arc<Piece>> = maps.into_iter().collect();
    let outputs = built.model.graph.outputs.iter();
    outputs.map(|map| (*map, by_map[map].clone())).collect()
}

/// Runner 1: one obvious loop for each operator.
///
/// *Panics* when the reference refuses the model.
pub fn naive(built: &Built, frame: usize) -> Maps {
    shared(
        reference::run(&built.model, Numerics::Exact, &built.frames[frame]).expect("a sound model"),
    )
}

/// Runner 2: the whole model as one tile.
///
/// *Panics* when the engine refuses the model.
pub fn whole(built: &Built, engine: &Engine, numerics: Numerics, frame: usize) -> Maps {
    let outputs = engine.run_whole(&built.packed, numerics, &built.frames[frame]);
    in_order(built, shared(outputs.expect("a sound model")))
}

/// The plan of a strategy for so many devices of different speeds.
///
/// *Errors*: the grid does not fit; such a problem is skipped.
pub fn plan(
    built: &Built,
    strategy: Strategy,
    options: PlanOptions,
    devices: usize,
) -> Result<Plan, PlannerError> {
    let speeds = (0..devices).map(|i| 1_000_000_000 + 700_000_000 * i as u64);
    let devices: Vec<_> =
        speeds.map(|speed| DeviceProfile::wired("device", Rates::uniform(speed))).collect();
    planner::plan(&built.model.graph, &devices, strategy, options).map(|(plan, _)| plan)
}

/// Runner 3: stage by stage, each tile with nothing but its own input regions. `bend` may change
/// the geometry on the way: that is for canaries.
///
/// *Errors*: the engine finds that a tile lacks something.
///
/// *Panics* when the plan does not fit the model.
pub fn tiled(
    built: &Built,
    engine: &Engine,
    frame: usize,
    plan: &Plan,
    bend: impl Fn(&mut StageGeometry),
) -> Result<Maps, KernelError> {
    let graph = &built.model.graph;
    let (inputs, _) = inputs_for(graph, plan.wire, built.frames[frame].clone());
    let mut maps: BTreeMap<MapId, Piece> =
        inputs.iter().map(|(map, piece)| (*map, Piece::clone(piece))).collect();
    for (i, stage) in plan.stages.iter().enumerate() {
        let mut geometry =
            StageGeometry::new(graph, plan.numerics, i, stage).expect("the planner checked it");
        built.packed.pack_stage(&geometry, &built.model.weights)?;
        bend(&mut geometry);
        let mut made: BTreeMap<MapId, Piece> = BTreeMap::new();
        for (index, tile) in geometry.tiles.iter().enumerate() {
            let cut = |&(map, region): &(MapId, Region)| (map, Arc::new(maps[&map].crop(region)));
            let inputs: Vec<_> = tile.inputs.iter().map(cut).collect();
            let mut outputs = engine.run_tile(&built.packed, &geometry, index, &inputs)?;
            round_outputs(graph, plan.wire, &mut outputs);
            for (map, piece) in outputs {
                let shape = graph.shape(map);
                let element = graph.element(map);
                let zeroed = || Piece::zeroed_of(Region::whole(shape), shape.channels(), element);
                made.entry(map).or_insert_with(zeroed).paste(&piece);
            }
        }
        maps.extend(made);
    }
    Ok(in_order(built, shared(maps.into_iter().collect())))
}
