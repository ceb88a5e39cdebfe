//! A plan explained before anything runs, as data: what the text, the page and the JSON are made of.

mod page;
mod text;

pub(crate) use page::page;
pub(crate) use text::print;

use crate::commands::inspect::Inspection;
use model::{LoadedModel, Model};
use planner::{
    Cost, DeviceCost, DeviceProfile, PlanOptions, RunnerUp, StageCost, Strategy, Turning,
};
use serde::Serialize;
use tiling::{Handover, Numerics, Plan, Region, Slot, Split, StageGeometry};

/// What there is to say of a plan.
#[derive(Serialize)]
pub(crate) struct Explanation {
    pub model: String,
    /// Where the devices are from, in words.
    pub cluster: String,
    pub objective: planner::Objective,
    pub numerics: Numerics,
    pub devices: Vec<DeviceFacts>,
    /// Ways between devices that are not what their links suggest.
    pub pairs: Vec<PairFacts>,
    pub stages: Vec<StageFacts>,
    pub layers: Vec<LayerFacts>,
    pub runner_ups: Vec<RunnerUp>,
    pub turning: Turning,
    /// One frame on one device, the best for it; its input is sent there, and its answer back.
    pub alone_ns: u64,
    /// What is to be done, in a sentence.
    pub verdict: String,
    /// What would have to change for another verdict, in sentences.
    pub turns: Vec<String>,
    pub plan: Plan,
    pub cost: Cost,
}

/// A device, what the plan asks of it, and what it could do alone.
#[derive(Serialize)]
pub(crate) struct DeviceFacts {
    pub name: String,
    /// One frame on this device alone, its input there already.
    pub alone_ns: u64,
    pub link_bytes_per_s: u64,
    pub round_trip_ns: u64,
    /// What it may hold at most.
    pub memory_bytes: Option<u64>,
    pub load: DeviceCost,
}

/// The way between two devices, where it is not what their links suggest.
#[derive(Serialize)]
pub(crate) struct PairFacts {
    pub devices: [String; 2],
    pub bytes_per_s: u64,
    pub round_trip_ns: u64,
}

/// A stage and where its tiles lie.
#[derive(Serialize)]
pub(crate) struct StageFacts {
    pub first: String,
    pub last: String,
    pub first_layer: u32,
    pub end_layer: u32,
    /// How it is cut, in words.
    pub cut: String,
    /// Rows and columns of the map that is cut.
    pub extent: [usize; 2],
    pub tiles: Vec<TileFacts>,
    pub handover: Handover,
    pub cost: StageCost,
}

/// What of the stage's first output map a tile makes, and where.
#[derive(Serialize)]
pub(crate) struct TileFacts {
    /// None: whoever is free.
    pub device: Option<u32>,
    pub rows: [usize; 2],
    pub cols: [usize; 2],
}

/// A layer of the network.
#[derive(Serialize)]
pub(crate) struct LayerFacts {
    pub name: String,
    pub operator: String,
    pub dims: Vec<usize>,
    pub multiply_adds: u64,
    /// On the device that is fastest at the whole model.
    pub takes_ns: u64,
    pub tiled: bool,
}

/// What is explained.
pub(crate) struct Question<'a> {
    pub model: &'a LoadedModel,
    pub cluster: String,
    pub devices: &'a [DeviceProfile],
    pub strategy: Strategy,
    pub options: PlanOptions,
}

impl Explanation {
    pub(crate) fn of(question: Question<'_>, plan: Plan, cost: Cost) -> Self {
        let Question { model, cluster, devices, strategy, options } = question;
        let graph = &*model.graph;
        let chosen = (strategy, &plan, &cost);
        let runner_ups = planner::runner_ups(graph, devices, chosen, options);
        let turning = match strategy {
            Strategy::Auto => planner::turning(graph, devices, &plan, options),
            _ => Turning::default(),
        };
        let alone = planner::alone_ns(graph, devices, options.numerics);
        let facts = devices.iter().zip(alone).zip(&cost.devices);
        let facts = facts.map(|((device, alone_ns), load)| DeviceFacts {
            name: device.name.clone(),
            alone_ns,
            link_bytes_per_s: device.link_bytes_per_s,
            round_trip_ns: device.round_trip_ns,
            memory_bytes: device.memory_bytes,
            load: load.clone(),
        });
        let stages = plan.stages.iter().zip(&cost.stages).enumerate();
        let stages = stages.map(|(i, (stage, cost))| stage_facts(graph, &plan, i, stage, cost));
        let takes = planner::layers_ns(graph, devices, plan.numerics);
        let layers = Inspection::of(model, Default::default()).layers.into_iter().zip(takes);
        let layers = layers.map(|(layer, takes_ns)| LayerFacts {
            name: layer.name,
            operator: layer.operator,
            dims: layer.dims,
            multiply_adds: layer.multiply_adds,
            takes_ns,
            tiled: layer.tiled,
        });
        let local = runner_ups.iter().find(|other| other.strategy == Strategy::Local.name());
        let local = local.and_then(|other| Some(other.cost?.makespan_ns));
        // Where `local` is what was asked for, it is not among the others.
        let alone_ns = local.unwrap_or(match strategy {
            Strategy::Local => cost.makespan_ns,
            _ => cost.one_device_ns,
        });
        let asked = text::Asked { devices: devices.len(), strategy, options, alone_ns };
        let verdict = text::verdict(asked, &plan, &cost);
        let mut turns = text::turns(asked, turning);
        if plan.numerics == Numerics::Exact && options.numerics != Numerics::Exact {
            turns.insert(0, text::SCARCE.into());
        }
        Self {
            model: graph.name.clone(),
            cluster,
            objective: options.objective,
            numerics: plan.numerics,
            devices: facts.collect(),
            pairs: pairs(devices),
            stages: stages.collect(),
            layers: layers.collect(),
            runner_ups,
            turning,
            alone_ns,
            verdict,
            turns,
            plan,
            cost,
        }
    }
}

fn pairs(devices: &[DeviceProfile]) -> Vec<PairFacts> {
    let of = |(i, device): (usize, &DeviceProfile)| {
        let later = devices[i + 1..].iter();
        let known = later.filter_map(|other| Some((other, *device.pair_with(other)?)));
        let facts = |(other, pair): (&DeviceProfile, planner::Pair)| PairFacts {
            devices: [device.name.clone(), other.name.clone()],
            bytes_per_s: pair.bytes_per_s,
            round_trip_ns: pair.round_trip_ns,
        };
        known.map(facts).collect::<Vec<_>>()
    };
    devices.iter().enumerate().flat_map(of).collect()
}

fn stage_facts(
    graph: &Model,
    plan: &Plan,
    index: usize,
    stage: &tiling::Stage,
    cost: &StageCost,
) -> StageFacts {
    let name = |l: u32| graph.layers.get(l as usize).map(|l| l.name.clone()).unwrap_or_default();
    let geometry = StageGeometry::new(graph, plan.numerics, index, stage);
    let tiles = geometry.map(|geometry| geometry.tiles).unwrap_or_default();
    let regions = tiles.iter().filter_map(|tile| tile.outputs.first().map(|(_, region)| *region));
    let regions: Vec<Region> = regions.collect();
    let all = regions.iter().copied().fold(Region::EMPTY, Region::hull);
    let tile = |(region, slot): (&Region, &Slot)| TileFacts {
        device: Some(slot.0).filter(|_| *slot != Slot::ANY),
        rows: [region.rows.start, region.rows.end],
        cols: [region.cols.start, region.cols.end],
    };
    StageFacts {
        first: name(stage.first_layer),
        last: name(stage.end_layer - 1),
        first_layer: stage.first_layer,
        end_layer: stage.end_layer,
        cut: cut(&stage.split),
        extent: [all.rows.end, all.cols.end],
        tiles: regions.iter().zip(&stage.placement).map(tile).collect(),
        handover: stage.handover,
        cost: cost.clone(),
    }
}

/// How a stage is cut, in words.
fn cut(split: &Split) -> String {
    match split {
        Split::Whole => "whole".into(),
        Split::Spatial(grid) => match (grid.row_shares.len(), grid.col_shares.len()) {
            (rows, 1) => format!("{rows} strips of rows"),
            (1, cols) => format!("{cols} strips of columns"),
            (rows, cols) => format!("{rows} x {cols} tiles"),
        },
        Split::Band { grid, row } => format!("band {row}, {} tiles", grid.col_shares.len()),
    }
}
