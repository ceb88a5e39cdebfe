//! Local search: small changes of a plan, as long as one of them is better.
//!
//! A change moves the place where a stage ends, joins two stages or parts one, gives rows to a
//! neighbour, leaves a device out or takes one in, lets two change places where ways between devices
//! differ, cuts a stage as its neighbour is cut, or lets maps
//! stay where they were gathered. The changes are tried in a fixed order, and what better means is up
//! to the caller: an exact estimate, or a simulation.

use crate::cost::Reach;
use crate::exact::Exact;
use crate::{DeviceProfile, PlanOptions};
use model::Model;
use tiling::{Grid, Handover, Plan, Slot, Split, Stage};

/// Makes a plan better by small changes that fit the memory of its devices. `judge` says how good a
/// plan is; less is better.
///
/// The same arguments give the same plan.
pub fn refine<S: PartialOrd>(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    plan: Plan,
    mut judge: impl FnMut(&Plan) -> Verdict<S>,
) -> Plan {
    let Plan { strategy, numerics, wire, stages } = plan;
    let (reach, handover) = (&Reach::of(model), options.handover);
    let moves = Moves::new(model, reach, devices, handover);
    let mut exact = Exact::new(model, devices, numerics);
    let limited = devices.iter().any(|device| device.memory_bytes.is_some());
    let stages = moves.climb(stages, |stages| {
        if limited && exact.follow(stages).is_none() {
            return Verdict::NoPlan;
        }
        let (strategy, stages) = (strategy.clone(), stages.to_vec());
        judge(&Plan { strategy, numerics, wire, stages })
    });
    Plan { strategy, numerics, wire, stages }
}

/// What is thought of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<S> {
    /// So good; less is better.
    Is(S),
    /// It is no plan.
    NoPlan,
    /// The search is to end.
    Enough,
}

impl<S> Verdict<S> {
    pub(crate) fn of(score: Option<S>) -> Self {
        score.map_or(Verdict::NoPlan, Verdict::Is)
    }
}

/// Shares are counted in parts of this when rows pass from one device to another...
const WHOLE: u32 = 4096;

/// ...so many at a time.
const STEPS: [u32; 3] = [512, 128, 32];

/// Devices of one stage that changes are tried with.
const DEVICES_MAX: usize = 16;

pub(crate) struct Moves<'a> {
    model: &'a Model,
    reach: &'a Reach,
    devices: usize,
    /// Whether it matters who is whose neighbour.
    paired: bool,
    /// What must happen between stages, where that is not free.
    handover: Option<Handover>,
}

impl<'a> Moves<'a> {
    pub(crate) fn new(
        model: &'a Model,
        reach: &'a Reach,
        devices: &[DeviceProfile],
        handover: Option<Handover>,
    ) -> Self {
        let paired = devices.iter().any(|device| !device.pairs.is_empty());
        Self { model, reach, devices: devices.len(), paired, handover }
    }

    /// Goes from plan to better plan until no change is better.
    pub(crate) fn climb<S: PartialOrd>(
        &self,
        stages: Vec<Stage>,
        mut judge: impl FnMut(&[Stage]) -> Verdict<S>,
    ) -> Vec<Stage> {
        let Verdict::Is(mut score) = judge(&stages) else { return stages };
        let mut best = stages;
        loop {
            let mut better = false;
            let mut at = 0;
            while at < best.len() {
                for changed in self.changes(&best, at) {
                    match judge(&changed) {
                        Verdict::Is(other) if other < score => {
                            (score, best, better) = (other, changed, true);
                            break;
                        }
                        Verdict::Is(_) | Verdict::NoPlan => {}
                        Verdict::Enough => return best,
                    }
                }
                at += 1;
            }
            if !better {
                return best;
            }
        }
    }

    /// All changes at a stage.
    fn changes(&self, stages: &[Stage], at: usize) -> Vec<Vec<Stage>> {
        let mut changes = Vec::new();
        self.borders(stages, at, &mut changes);
        self.splits(stages, at, &mut changes);
        self.shares(stages, at, &mut changes);
        if let Some(handover) = self.handover {
            let between = |stages: &[Stage]| {
                let (_, before) = stages.split_last().expect("a plan has stages");
                before.iter().all(|stage| stage.handover == handover)
            };
            changes.retain(|stages| between(stages));
        }
        changes
    }

    /// Where stages end, and what happens there.
    fn borders(&self, stages: &[Stage], at: usize, changes: &mut Vec<Vec<Stage>>) {
        let stage = &stages[at];
        let (first, end) = (stage.first_layer, stage.end_layer);
        if let Some(next) = stages.get(at + 1) {
            for like in [stage, next] {
                let handover = next.handover;
                let joined = Stage {
                    first_layer: first,
                    end_layer: next.end_layer,
                    handover,
                    ..like.clone()
                };
                changes.push(replaced(stages, at..at + 2, [joined]));
            }
            for border in [end - 1, end + 1, end.saturating_sub(3), end + 3] {
                if border > first && border < next.end_layer && border != end {
                    let before = Stage { end_layer: border, ..stage.clone() };
                    let after = Stage { first_layer: border, ..next.clone() };
                    changes.push(replaced(stages, at..at + 2, [before, after]));
                }
            }
            let other = match stage.handover {
                Handover::Gather => Handover::Exchange,
                Handover::Exchange => Handover::Gather,
            };
            changes.push(replaced(
                stages,
                at..at + 1,
                [Stage { handover: other, ..stage.clone() }],
            ));
        }
        let mut places = vec![first + (end - first) / 2, first + 1, end - 1];
        places.sort_unstable();
        places.dedup();
        for place in places.into_iter().filter(|&place| place > first && place < end) {
            for handover in [Handover::Exchange, Handover::Gather] {
                let before = Stage { end_layer: place, handover, ..stage.clone() };
                let after = Stage { first_layer: place, ..stage.clone() };
                changes.push(replaced(stages, at..at + 1, [before, after]));
            }
        }
    }

    /// Cuts of a neighbour, and one device for all of a stage.
    fn splits(&self, stages: &[Stage], at: usize, changes: &mut Vec<Vec<Stage>>) {
        let stage = &stages[at];
        let neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten();
        let neighbours = neighbours.filter_map(|i| stages.get(i));
        for other in neighbours {
            if (&other.split, &other.placement) != (&stage.split, &stage.placement)
                && (other.split == Split::Whole || self.is_local(stage))
            {
                let (split, placement) = (other.split.clone(), other.placement.clone());
                let like = Stage { split, placement, ..stage.clone() };
                changes.push(replaced(stages, at..at + 1, [like]));
            }
        }
        let here = if stage.split == Split::Whole { stage.placement[0] } else { Slot::ANY };
        for slot in (0..self.devices.min(DEVICES_MAX) as u32).map(Slot).filter(|&s| s != here) {
            let whole = Stage { split: Split::Whole, placement: vec![slot], ..stage.clone() };
            changes.push(replaced(stages, at..at + 1, [whole]));
            if here != Slot::ANY && self.is_local(stage) {
                let grid = Grid::even(2, 1);
                let (split, placement) = (Split::Spatial(grid), vec![here, slot]);
                let shared = Stage { split, placement, ..stage.clone() };
                changes.push(replaced(stages, at..at + 1, [shared]));
            }
        }
    }

    /// Rows and columns of a stage, and of all that follow it and are cut alike.
    fn shares(&self, stages: &[Stage], at: usize, changes: &mut Vec<Vec<Stage>>) {
        let Split::Spatial(grid) = &stages[at].split else { return };
        let placement = &stages[at].placement;
        let alike = |stage: &&Stage| match &stage.split {
            Split::Spatial(other) => {
                let extent = |g: &Grid| (g.row_shares.len(), g.col_shares.len());
                extent(other) == extent(grid) && stage.placement == *placement
            }
            _ => false,
        };
        let run = stages[at..].iter().take_while(alike).count();
        let starts_run = at == 0 || !alike(&&stages[at - 1]);
        let mut lengths = vec![1];
        if run > 1 && starts_run {
            lengths.insert(0, run);
        }
        let mut grids: Vec<(Grid, Vec<Slot>)> = Vec::new();
        let (rows, cols) = (grid.row_shares.len(), grid.col_shares.len());
        for (is_row, parts) in [(true, rows), (false, cols)] {
            let shares = if is_row { &grid.row_shares } else { &grid.col_shares };
            for step in STEPS {
                for i in (1..parts).take(DEVICES_MAX) {
                    for (from, to) in [(i - 1, i), (i, i - 1)] {
                        let Some(shares) = shifted(shares, from, to, step) else { continue };
                        let mut grid = grid.clone();
                        *(if is_row { &mut grid.row_shares } else { &mut grid.col_shares }) =
                            shares;
                        grids.push((grid, placement.clone()));
                    }
                }
            }
        }
        if rows == 1 || cols == 1 {
            self.strips(grid, placement, &mut grids);
        } else {
            for i in 1..placement.len() {
                for (a, b) in [(i - 1, i), (i, i - 1)] {
                    if placement[a] != placement[b] {
                        let mut placement = placement.clone();
                        placement[a] = placement[b];
                        grids.push((grid.clone(), placement));
                    }
                }
            }
        }
        for (grid, placement) in grids {
            for &length in &lengths {
                let like = |stage: &Stage| {
                    let (split, placement) = (Split::Spatial(grid.clone()), placement.clone());
                    Stage { split, placement, ..stage.clone() }
                };
                let changed: Vec<Stage> = stages[at..at + length].iter().map(like).collect();
                changes.push(replaced(stages, at..at + length, changed));
            }
        }
    }

    /// Strips without one of their devices, with one more, or in another order.
    fn strips(&self, grid: &Grid, placement: &[Slot], grids: &mut Vec<(Grid, Vec<Slot>)>) {
        let are_rows = grid.col_shares.len() == 1;
        let of = |shares: Vec<u32>| match are_rows {
            true => Grid { row_shares: shares, col_shares: vec![1] },
            false => Grid { row_shares: vec![1], col_shares: shares },
        };
        let shares = if are_rows { &grid.row_shares } else { &grid.col_shares };
        let count = placement.len();
        for i in (0..count).take(if count > 2 { DEVICES_MAX } else { 0 }) {
            let (mut shares, mut placement) = (shares.clone(), placement.to_vec());
            shares.remove(i);
            placement.remove(i);
            grids.push((of(shares), placement));
        }
        for i in (1..count).take(if self.paired { DEVICES_MAX } else { 0 }) {
            let (mut shares, mut placement) = (shares.clone(), placement.to_vec());
            shares.swap(i - 1, i);
            placement.swap(i - 1, i);
            grids.push((of(shares), placement));
        }
        let others = (0..self.devices as u32).map(Slot).filter(|slot| !placement.contains(slot));
        for (shares, placement) in [halved(shares, placement), joined(shares, placement)] {
            if placement.len() != count {
                grids.push((of(shares), placement));
            }
        }
        for slot in others.take(2) {
            let (mut shares, mut placement) = (shares.clone(), placement.to_vec());
            let least = shares.iter().copied().min().unwrap_or(1);
            shares.push((least / 2).max(1));
            placement.push(slot);
            grids.push((of(shares), placement));
        }
    }

    fn is_local(&self, stage: &Stage) -> bool {
        let layers = stage.first_layer as usize..stage.end_layer as usize;
        layers.end <= self.model.layers.len() && layers.into_iter().all(|i| self.reach.is_local(i))
    }
}

fn replaced(
    stages: &[Stage],
    range: std::ops::Range<usize>,
    by: impl IntoIterator<Item = Stage>,
) -> Vec<Stage> {
    let mut changed = stages.to_vec();
    changed.splice(range, by);
    changed
}

/// Shares of which one gives some of the whole to another; none where it has not as much.
fn shifted(shares: &[u32], from: usize, to: usize, step: u32) -> Option<Vec<u32>> {
    let total: u64 = shares.iter().map(|&share| u64::from(share)).sum();
    let scaled = |&share: &u32| (u64::from(share) * u64::from(WHOLE) / total).max(1) as u32;
    let mut scaled: Vec<u32> = shares.iter().map(scaled).collect();
    scaled[from] = scaled[from].checked_sub(step).filter(|&left| left > 0)?;
    scaled[to] += step;
    Some(scaled)
}

/// Most strips of a stage: more cost more messages than they hide.
const STRIPS_MAX: usize = 32;

/// Two strips in place of each: the rows that neighbours wait for travel while the other half is
/// computed. Nothing changes where there are many, or one device has several.
pub(crate) fn halved(shares: &[u32], placement: &[Slot]) -> (Vec<u32>, Vec<Slot>) {
    let once = placement.windows(2).all(|pair| pair[0] != pair[1]);
    let times = if once && 2 * placement.len() <= STRIPS_MAX { 2 } else { 1 };
    let shares = shares.iter().flat_map(|&share| std::iter::repeat_n(share, times));
    let placement = placement.iter().flat_map(|&slot| std::iter::repeat_n(slot, times));
    (shares.collect(), placement.collect())
}

/// One strip in place of neighbours on one device.
fn joined(shares: &[u32], placement: &[Slot]) -> (Vec<u32>, Vec<Slot>) {
    let mut joined: Vec<(u32, Slot)> = Vec::new();
    for (&share, &slot) in shares.iter().zip(placement) {
        match joined.last_mut().filter(|(_, last)| *last == slot) {
            Some((sum, _)) => *sum = sum.saturating_add(share),
            None => joined.push((share, slot)),
        }
    }
    joined.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cost, DeviceProfile};
    use model::{LoadOptions, open};
    use tiling::{Numerics, Rates};

    fn device(giga_per_s: u64) -> DeviceProfile {
        let wired = DeviceProfile::wired("d", Rates::typical(giga_per_s * 1_000_000_000));
        DeviceProfile { link_bytes_per_s: 117_000_000, ..wired }
    }

    /// From equal strips over unequal devices to something better, asking no more often than it may.
    #[test]
    fn small_changes_make_a_plan_better() {
        let model = open("zoo:tiny-yolov2@224x224", &LoadOptions::default()).unwrap().graph;
        let (devices, options) = ([device(12), device(4)], PlanOptions::EXACT);
        let grid = Grid { row_shares: vec![1, 1], col_shares: vec![1] };
        let layers = model.layers.len();
        let stages = vec![Stage::cut(0..layers, grid, vec![Slot(0), Slot(1)])];
        let start = Plan::new("equal", Numerics::Exact, stages);
        let takes = |plan: &Plan| Some(Cost::estimate(&model, &devices, plan).ok()?.makespan_ns);
        let climb = |most: usize| {
            let mut asked = 0;
            let plan = refine(&model, &devices, options, start.clone(), |plan| {
                if asked == most {
                    return Verdict::Enough;
                }
                asked += 1;
                Verdict::of(takes(plan))
            });
            (takes(&plan).unwrap(), plan, asked)
        };
        let (best, plan, asked) = climb(2000);
        let before = takes(&start).unwrap();
        assert!(best * 4 < before * 3, "{best} after {before}");
        assert!(asked <= 2000 && plan.check(&model).is_ok());
        assert_eq!(climb(2000).1, plan, "the same each time");
        let (few, _, asked) = climb(20);
        assert!(asked <= 20 && best <= few && few <= before);
        // What nothing is better than stays.
        assert_eq!(refine(&model, &devices, options, plan.clone(), |_| Verdict::Is(1)), plan);
    }

    #[test]
    fn strips_are_halved_and_joined() {
        let (shares, placement) = (vec![3, 2], vec![Slot(1), Slot(0)]);
        let halves = halved(&shares, &placement);
        assert_eq!(halves, (vec![3, 3, 2, 2], vec![Slot(1), Slot(1), Slot(0), Slot(0)]));
        assert_eq!(joined(&halves.0, &halves.1), (vec![6, 4], placement));
        assert_eq!(halved(&halves.0, &halves.1), halves, "no quarters");
    }

    #[test]
    fn shares_pass_from_one_to_another() {
        assert_eq!(shifted(&[1, 1], 0, 1, 512), Some(vec![1536, 2560]));
        assert_eq!(shifted(&[1, 7], 0, 1, 512), None, "nothing would be left");
    }
}
