//! The least time that a plan, or any plan, can take on a set of devices.
//!
//! For any weights `m` of the devices that add up to one, all tiles together take at least
//! `sum over tiles of min over devices of m * time`: the dual of the linear programme that spreads
//! every tile over all devices at will. Any weights give a sound bound; a few rounds of making the
//! busiest dearer give a good one. *Source*: Lenstra, Shmoys, Tardos, "Approximation algorithms for
//! scheduling unrelated parallel machines", 1990 (the programme and its dual).

use crate::physics::{LinkSpec, Medium};
use crate::scenario::WorkerSpec;
use model::MapId;
use protocol::{ActivePlan, Nanos, SECOND};
use serde::Serialize;
use std::ops::Range;
use tiling::{Handover, Plan, Region, Shares, TileGeometry, Work};

/// Rounds in which the weights are made better.
const ROUNDS: usize = 48;

/// The least possible times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bound {
    /// One frame of this plan, alone.
    pub frame_ns: Nanos,
    /// What each further frame adds at least when frames overlap.
    pub next_frame_ns: Nanos,
    /// One frame of any plan, without halo and without a network.
    pub any_plan_ns: Nanos,
}

impl Bound {
    /// The least time of so many frames.
    pub fn frames_ns(&self, frames: usize) -> Nanos {
        self.frame_ns.max(self.next_frame_ns * frames as u64)
    }
}

/// Devices of one kind, taken together.
struct Kind<'a> {
    spec: &'a WorkerSpec,
    count: f64,
}

fn kinds(workers: &[WorkerSpec]) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for spec in workers {
        match kinds.iter_mut().find(|k| k.spec.device == spec.device) {
            Some(kind) => kind.count += 1.0,
            None => kinds.push(Kind { spec, count: 1.0 }),
        }
    }
    kinds
}

/// Least time to spread these items over these kinds of devices.
fn spread(items: &[Work], kinds: &[Kind<'_>], overhead: bool) -> f64 {
    if items.is_empty() || kinds.is_empty() {
        return 0.0;
    }
    let time = |kind: &Kind<'_>, item: &Work| {
        let device = &kind.spec.device;
        device.tile_ns(item) - if overhead { 0.0 } else { device.overhead_ns as f64 }
    };
    let times: Vec<Vec<f64>> =
        items.iter().map(|i| kinds.iter().map(|k| time(k, i)).collect()).collect();
    // Where all devices differ by one factor, these weights are the best.
    let alone = |k: usize| times.iter().map(|item| item[k]).sum::<f64>().max(1e-9);
    let mut weights: Vec<f64> = (0..kinds.len()).map(|k| 1.0 / alone(k)).collect();
    let mut best: f64 = 0.0;
    for _ in 0..ROUNDS {
        let total: f64 = weights.iter().zip(kinds).map(|(w, k)| w * k.count).sum();
        weights.iter_mut().for_each(|w| *w /= total);
        let mut load = vec![0.0; kinds.len()];
        let mut bound = 0.0;
        for item in &times {
            let dear = |k: &usize| weights[*k] * item[*k];
            let cheapest = (0..kinds.len()).min_by(|a, b| dear(a).total_cmp(&dear(b)));
            let cheapest = cheapest.unwrap_or(0);
            bound += dear(&cheapest);
            load[cheapest] += item[cheapest] / kinds[cheapest].count;
        }
        best = best.max(bound);
        let mean = load.iter().sum::<f64>() / load.len() as f64;
        for (weight, load) in weights.iter_mut().zip(&load) {
            *weight *= 1.0 + 0.1 * (load / mean.max(1e-9) - 1.0).clamp(-0.9, 2.0);
        }
    }
    best
}

fn seconds_to_ns(seconds: f64) -> f64 {
    seconds * SECOND as f64
}

/// The least time of a plan, where maps take these shares of their bytes on the wire, and of any plan
/// whose layers ask for `layers`.
pub(crate) fn bound(
    (plan, shares): (&ActivePlan, &Shares),
    layers: &[Work],
    workers: &[WorkerSpec],
    head: LinkSpec,
) -> Bound {
    let kinds = kinds(workers);
    let works = |stage: usize| {
        let tiles = 0..plan.geometry()[stage].tiles.len();
        tiles.map(move |tile| plan.work_of(stage as u32, tile as u32))
    };
    let bytes = |regions: &[(MapId, Region)]| -> f64 {
        let one = |&(map, region): &(MapId, Region)| {
            let bytes = region.positions() * plan.model.pixel_bytes(map);
            shares.of(map, bytes as u64) as f64
        };
        regions.iter().map(one).sum()
    };
    let fastest = |rate: fn(&LinkSpec) -> u64| {
        workers.iter().map(|w| rate(&w.link)).max().unwrap_or(1).max(1) as f64
    };
    let (down, up) = (fastest(|l| l.receive_bytes_per_s), fastest(|l| l.send_bytes_per_s));
    let (head_out, head_in) = (head.send_bytes_per_s as f64, head.receive_bytes_per_s as f64);
    let way = workers.iter().map(|w| w.link.round_trip.min_ns / 2).min().unwrap_or(0) as f64
        + head.round_trip.min_ns as f64 / 2.0;
    // With all workers in one air, everything that is sent shares it.
    let airs: std::collections::BTreeSet<Medium> = workers.iter().map(|w| w.link.medium).collect();
    let one_air = airs.len() == 1 && matches!(airs.first(), Some(Medium::Air(_)));
    let mut frame = 0.0;
    let mut moved = 0.0;
    for run in exchanging_runs(&plan.plan) {
        let tiles: Vec<&TileGeometry> =
            plan.geometry()[run.clone()].iter().flat_map(|g| &g.tiles).collect();
        // What passes from worker to worker costs something, too: this is a bound.
        let made_within = |map: &MapId| {
            let made = plan.geometry()[run.clone()].iter();
            made.take(run.len() - 1).any(|g| g.output_maps.contains(map))
        };
        let comes = |map: &MapId| !made_within(map);
        let goes = |map: &MapId| !made_within(map) || plan.model.outputs.contains(map);
        let sum = |regions: &[(MapId, Region)], counts: &dyn Fn(&MapId) -> bool| -> f64 {
            let counted: Vec<_> = regions.iter().filter(|(m, _)| counts(m)).copied().collect();
            bytes(&counted)
        };
        let in_bytes: Vec<f64> = tiles.iter().map(|t| sum(&t.inputs, &comes)).collect();
        let out_bytes: Vec<f64> = tiles.iter().map(|t| sum(&t.outputs, &goes)).collect();
        let ends = plan.geometry()[run.end - 1].tiles.len();
        let starts = plan.geometry()[run.start].tiles.len();
        let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
        let first = way + seconds_to_ns(least(&in_bytes[..starts]) / down.min(head_out));
        let last_out = &out_bytes[out_bytes.len() - ends..];
        let last = way + seconds_to_ns(least(last_out) / up.min(head_in));
        let alone = |work: &Work| {
            kinds.iter().map(|k| k.spec.device.tile_ns(work)).fold(f64::INFINITY, f64::min)
        };
        let works: Vec<Work> = run.flat_map(works).collect();
        let longest = works.iter().map(alone).fold(0.0, f64::max);
        let shortest = works.iter().map(alone).fold(f64::INFINITY, f64::min);
        let (scattered, gathered): (f64, f64) = (in_bytes.iter().sum(), out_bytes.iter().sum());
        let scatter = seconds_to_ns(scattered / head_out);
        let gather = seconds_to_ns(gathered / head_in);
        let air = seconds_to_ns(scattered / down + gathered / up);
        let air = if one_air { air } else { 0.0 };
        let compute = spread(&works, &kinds, true).max(longest) + first + last;
        frame += compute
            .max(way + scatter + shortest + last)
            .max(first + shortest + gather)
            .max(air + way);
        moved += scatter.max(gather).max(air);
    }
    let all: Vec<Work> = (0..plan.geometry().len()).flat_map(works).collect();
    Bound {
        frame_ns: frame as Nanos,
        next_frame_ns: spread(&all, &kinds, true).max(moved) as Nanos,
        any_plan_ns: spread(layers, &kinds, false) as Nanos,
    }
}

/// Stages in a row that do not wait for a gather in between.
fn exchanging_runs(plan: &Plan) -> Vec<Range<usize>> {
    let ends = plan.stages.iter().enumerate();
    let ends = ends.filter(|(_, stage)| stage.handover == Handover::Gather).map(|(i, _)| i + 1);
    let mut ends: Vec<usize> = ends.collect();
    if ends.last() != Some(&plan.stages.len()) {
        ends.push(plan.stages.len());
    }
    let starts = std::iter::once(0).chain(ends.clone());
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physics::DeviceModel;
    use tiling::OperatorClass;

    fn workers(rates: &[u64]) -> Vec<WorkerSpec> {
        let plain = |&r: &u64| DeviceModel { overhead_ns: 0, ..DeviceModel::plain(r) };
        rates.iter().map(|r| WorkerSpec::of(plain(r), LinkSpec::unlimited())).collect()
    }

    fn items(of: &[u64]) -> Vec<Work> {
        of.iter().map(|&amount| Work::of(OperatorClass::Conv, amount)).collect()
    }

    #[test]
    fn speeds_add_up() {
        let workers = workers(&[100, 300, 100]);
        let bound = spread(&items(&[200, 300]), &kinds(&workers), true);
        assert!((bound - 1e9).abs() < 1.0, "500 multiply-adds at 500 a second: {bound}");
    }

    #[test]
    fn each_device_does_what_it_does_best() {
        // Two devices, each ten times faster than the other at one of two operators.
        let mut workers = workers(&[100, 100]);
        for (worker, best) in workers.iter_mut().zip([OperatorClass::Conv1x1, OperatorClass::Conv])
        {
            let rates = worker.device.rates.scaled(|class| if class == best { 10.0 } else { 1.0 });
            worker.device.rates = rates;
        }
        let items = [Work::of(OperatorClass::Conv1x1, 1000), Work::of(OperatorClass::Conv, 1000)];
        let bound = spread(&items, &kinds(&workers), true);
        assert!((0.95e9..=1.0e9 + 1.0).contains(&bound), "{bound}");
    }

    #[test]
    fn frames_that_overlap_take_at_least_their_work() {
        let bound = Bound { frame_ns: 100, next_frame_ns: 40, any_plan_ns: 0 };
        assert_eq!((bound.frames_ns(1), bound.frames_ns(10)), (100, 400));
    }
}
