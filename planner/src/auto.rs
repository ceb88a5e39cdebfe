//! `auto`: the best plan that is found under the objective; one device where that is the answer.
//!
//! The search looks at some places only, and takes a stage to begin when all of the one before it is
//! made. So its plans, some published ones among them, are followed exactly, and the best is made
//! better by small changes.

use crate::cost::Bound;
use crate::exact::{Exact, Score};
use crate::profile::layer_works;
use crate::refine::{Moves, Verdict};
use crate::search::{Search, Space, World};
use crate::{DeviceProfile, Objective, PlanOptions, PlannerError, devices_used};
use crate::{aofl, coedge, deepthings, energy, local, modnn, packing, pico, replicate, rows};
use model::Model;
use tiling::{Handover, Numerics, Plan, Slot, Stage};

/// What small changes may cost: tiles x layers that are looked at. A second of one core has tens of
/// millions.
const EFFORT_MAX: usize = 600_000;

/// Plans that are made better by small changes, beside one in halves; the best of these is taken.
const STARTS_MAX: usize = 3;

/// Exact numerics take about so many times as long as fast ones: where memory is scarce they are looked at when
/// the fast plan is that far above what is possible.
const EXACT_TAKES: f64 = 2.0;

/// A model of many small layers runs best on a few of many devices: so many are tried, too.
const FEWER: [usize; 2] = [4, 8];

/// Devices up to which the slower of the published strategies are compared, too.
const COMPARED_MAX: usize = 16;

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<Plan, PlannerError> {
    if model.layers.is_empty() {
        let plan = local::plan(model, devices, options.numerics);
        return Ok(Plan { strategy: "auto".into(), ..plan });
    }
    let (options, mut exact, mut starts) = starts(model, devices, options)?;
    if starts.is_empty() {
        let fits = packing::plan(model, devices, options.numerics, &mut exact);
        starts = exact.ranked(&options, fits.into_iter().collect());
    }
    let starts = promising(starts);
    let ends = climbed(model, devices, options, &starts, &mut exact);
    let Some((_, best, stages)) = ends.into_iter().next() else {
        return match options.numerics {
            // Transformed weights take up to seven times as much as those that they are made of.
            Numerics::Fast01 | Numerics::Fast => {
                let options = PlanOptions { numerics: Numerics::Exact, ..options };
                self::plan(model, devices, options)
            }
            Numerics::Exact => Err(exact.room().why_nothing_fits()),
        };
    };
    let changed = stages != best.stages;
    let strategy = match options.objective {
        Objective::Throughput if changed => format!("auto: {}, refined", best.strategy),
        Objective::Throughput => format!("auto: {}", best.strategy),
        _ => "auto".into(),
    };
    if options.objective == Objective::Energy {
        energy::in_time(options, &exact.follow(&stages).unwrap_or_else(|| unreachable!()))?;
    }
    Ok(Plan { strategy, numerics: best.numerics, wire: best.wire, stages })
}

/// The numerics that plans are for, what scores them, and the plans, best first.
type Starts<'a> = (PlanOptions, Exact<'a>, Vec<(Score, Plan)>);

/// Plans to begin with, best first, with the numerics that they are for: where memory is scarce these are exact
/// ones if that makes the better plan. Transformed weights take up to seven times as much as those that they are
/// made of, and what does not fit has to go elsewhere.
fn starts<'a>(
    model: &'a Model,
    devices: &'a [DeviceProfile],
    options: PlanOptions,
) -> Result<Starts<'a>, PlannerError> {
    let of = |options: PlanOptions| -> Result<Starts<'a>, PlannerError> {
        let mut exact = Exact::new(model, devices, options.numerics);
        let plans = match options.objective {
            Objective::Latency => latency(model, devices, options, &mut exact),
            Objective::Throughput => throughput(model, devices, options, &mut exact),
            Objective::Energy => energy::plans(model, devices, options, &mut exact)?,
        };
        let ranked = exact.ranked(&options, plans);
        Ok((options, exact, ranked))
    };
    let asked = of(options)?;
    let is_fast = options.numerics != Numerics::Exact && options.objective == Objective::Latency;
    if !is_fast || !asked.1.room().is_scarce() {
        return Ok(asked);
    }
    let bound = Bound::of(model, devices, &layer_works(model, options.numerics)).ns() as f64;
    if asked.2.first().is_some_and(|(score, _)| score.1 < bound * EXACT_TAKES) {
        return Ok(asked);
    }
    let other = of(PlanOptions { numerics: Numerics::Exact, ..options })?;
    let is_better = match (asked.2.first(), other.2.first()) {
        (Some((fast, _)), Some((exact, _))) => exact < fast,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    Ok(if is_better { other } else { asked })
}

/// The best plans for one frame, best first, for a caller who judges by more than the cost model: made
/// better by small changes, then the same as they were found, and one device.
pub(crate) fn finalists(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Vec<Plan> {
    let Ok((options, mut exact, starts)) = starts(model, devices, options) else {
        return Vec::new();
    };
    let starts = promising(starts);
    let PlanOptions { numerics, wire, .. } = options;
    let plan = |stages| Plan { strategy: "auto".into(), numerics, wire, stages };
    let ends = climbed(model, devices, options, &starts, &mut exact);
    let ends: Vec<Plan> = ends.into_iter().map(|(.., stages)| plan(stages)).collect();
    let local = local::plan(model, devices, options.numerics);
    let local = exact.ranked(&options, vec![local]);
    // A stage for every layer and twice as many strips: nothing takes longer to play through, and made
    // better it is among the ends.
    let found = starts.into_iter().filter(|(_, start)| start.strategy != coedge::HALVES);
    let found = found.chain(local).map(|(_, start)| plan(start.stages));
    let mut all: Vec<Plan> = Vec::new();
    for plan in ends.into_iter().chain(found) {
        if !all.contains(&plan) {
            all.push(plan);
        }
    }
    all
}

/// The best few, and the best in halves: it has the most to gain from small changes, which join its stages.
/// One of them uses few devices: where many wait for each other, what is simulated is furthest from what is
/// predicted.
fn promising(ranked: Vec<(Score, Plan)>) -> Vec<(Score, Plan)> {
    let halves = ranked.iter().position(|(_, plan)| plan.strategy == coedge::HALVES);
    let of_few = ranked.iter().position(|(_, plan)| (2..=FEWER[0]).contains(&devices_used(plan)));
    let few_too = of_few.map_or(STARTS_MAX, |rank| STARTS_MAX - usize::from(rank >= STARTS_MAX));
    let is_kept = |rank: usize| rank < few_too || [halves, of_few].contains(&Some(rank));
    let ranked = ranked.into_iter().enumerate();
    ranked.filter(|(rank, _)| is_kept(*rank)).map(|(_, start)| start).collect()
}

/// Each plan made better by small changes, with its new stages, best first; of equals, the first.
fn climbed<'p>(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    starts: &'p [(Score, Plan)],
    exact: &mut Exact<'_>,
) -> Vec<(Score, &'p Plan, Vec<Stage>)> {
    let climb = |(_, start): &'p (Score, Plan)| {
        let stages = refined(model, devices, options, start.stages.clone(), exact);
        Some((exact.score(&options, &stages)?, start, stages))
    };
    let mut ends: Vec<_> = starts.iter().filter_map(climb).collect();
    ends.sort_by(|(a, ..), (b, ..)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    ends
}

/// Plans for one frame.
pub(crate) fn latency(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    exact: &mut Exact<'_>,
) -> Vec<Plan> {
    let mut plans = vec![local::plan(model, devices, options.numerics)];
    let several = devices.len() > 1;
    if options.handover.is_none() && several {
        plans.push(coedge::plan(model, devices, options));
    }
    if options.handover != Some(Handover::Exchange) && several && devices.len() <= COMPARED_MAX {
        plans.extend(modnn::plan(model, devices, options));
        let gathering = PlanOptions { grid: None, fused_layers: None, ..options };
        plans.extend(deepthings::plan(model, devices, gathering));
        plans.push(aofl::plan(model, devices, options));
    }
    let known = plans.iter().filter_map(|plan| exact.follow(&plan.stages));
    let limit_ns = known.map(|followed| followed.makespan_ns).min().unwrap_or(u64::MAX);
    let world = |handover| World { devices: devices.to_vec(), handover, limit_ns };
    let mut worlds = vec![world(options.handover)];
    if options.handover.is_none() && several {
        worlds.push(world(Some(Handover::Gather)));
    }
    let search = Search::new(model, devices, options.numerics, Space::All);
    let found = search.run(&worlds).into_iter().flatten();
    let plan = |stages| Plan::new("auto", options.numerics, stages);
    plans.extend(found.map(plan));
    // Not among those that bound the search, which does not see that halo travels beside computing.
    if options.handover.is_none() && several {
        let all = coedge::plan(model, devices, options);
        plans.push(coedge::halves(model, &all));
        for count in FEWER.into_iter().filter(|&count| count < devices.len()) {
            let fewer = coedge::over(model, devices, options, count);
            plans.push(coedge::halves(model, &fewer));
            plans.push(fewer);
        }
    }
    plans
}

/// Plans for a stream of frames: what is best for one, a pipeline, whole frames on all devices.
fn throughput(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    exact: &mut Exact<'_>,
) -> Vec<Plan> {
    let alone = PlanOptions { objective: Objective::Latency, ..options };
    let mut plans = vec![replicate::plan(model, options), pico::plan(model, devices, options)];
    plans.extend(latency(model, devices, alone, exact));
    plans
}

/// The same made better by small changes, with rows that are balanced first.
fn refined(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    stages: Vec<Stage>,
    exact: &mut Exact<'_>,
) -> Vec<Stage> {
    if devices.len() < 2 || stages.iter().any(|stage| stage.placement.contains(&Slot::ANY)) {
        return stages;
    }
    let mut best = stages;
    if let Some(mut score) = exact.score(&options, &best) {
        for at in 0..best.len() {
            let comes = at == 0 || best[at - 1].handover == Handover::Gather;
            let goes = best[at].handover == Handover::Gather || at + 1 == best.len();
            let kind = (options.numerics, exact.reach());
            let Some(stage) = rows::balanced(model, devices, kind, &best[at], (comes, goes)) else {
                continue;
            };
            let mut other = best.clone();
            other[at] = stage;
            if let Some(better) = exact.score(&options, &other).filter(|other| *other < score) {
                (score, best) = (better, other);
            }
        }
    }
    let reach = crate::cost::Reach::of(model);
    let moves = Moves::new(model, &reach, devices, options.handover);
    let end = exact.effort() + EFFORT_MAX;
    let judge = |stages: &[Stage]| -> Verdict<Score> {
        match exact.effort() > end {
            true => Verdict::Enough,
            false => Verdict::of(exact.score(&options, stages)),
        }
    };
    moves.climb(best, judge)
}
