//! Spot checks: a few tasks are computed by two workers. Where two answers differ a third decides,
//! and the worker that is alone with its answer is expelled for good.

use super::{Coordinator, Output};
use crate::Nanos;
use crate::ids::{TaskId, WorkerId};
use std::collections::BTreeMap;

/// A number that looks random, from a task and a seed. *Source*: the finaliser of SplitMix64
/// (Steele, Lea, Flood, 2014).
fn scramble(seed: u64, task: TaskId) -> u64 {
    let position = u64::from(task.stage) << 32 | u64::from(task.tile);
    let mut z = seed
        .wrapping_add(task.frame.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(position.wrapping_mul(0xd134_2543_de82_ef95));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Coordinator {
    /// Decides whether two answers to a task shall be compared. With one worker there is nobody to
    /// compare with, and what stays on a worker nobody sees.
    pub(super) fn choose_check(&mut self, task: TaskId) {
        let per_mille = self.config.spot_checks_per_mille;
        if per_mille == 0
            || scramble(self.config.seed, task) % 1000 >= per_mille
            || self.live().nth(1).is_none()
            || self.frames.get(&task.frame).is_some_and(|f| f.exchanges(task.stage as usize))
        {
            return;
        }
        self.counters.spot_checks += 1;
        if let Some(tile) = self.frames.get_mut(&task.frame).and_then(|f| f.tile(task)) {
            tile.answers = Some(Vec::new());
        }
    }

    /// An answer to a task that is checked.
    pub(super) fn answered(&mut self, now: Nanos, task: TaskId, id: WorkerId, checksum: u64) {
        let tile = self.frames.get_mut(&task.frame).and_then(|f| f.tile(task));
        let Some(answers) = tile.and_then(|tile| tile.answers.as_mut()) else { return };
        answers.push((id, checksum));
        let answers = answers.clone();
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, sum) in &answers {
            *votes.entry(*sum).or_default() += 1;
        }
        let agreed = votes.iter().find(|(_, votes)| **votes >= 2).map(|(&sum, _)| sum);
        let Some(right) = agreed else { return self.second_opinion(now, task) };
        if answers[0].1 != right {
            // The bundle just given is one of the two that agree: they agree because of it.
            self.outputs.push_back(Output::Regather(task));
        }
        self.settle(now, task);
        for (worker, _) in answers.into_iter().filter(|(_, sum)| *sum != right) {
            self.banned.insert(worker);
            self.expel(now, worker, format!("its answer to {task} is not that of two others"));
        }
    }

    /// Asks one more worker, where the answers so far do not settle a task and nobody is at it.
    pub(super) fn second_opinion(&mut self, now: Nanos, task: TaskId) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if frame.awaits(task) || frame.live_attempts(task) > 0 {
            return;
        }
        let Some(answers) = frame.tile(task).and_then(|tile| tile.answers.clone()) else { return };
        let asked = |id: &WorkerId| answers.iter().any(|(worker, _)| worker == id);
        let others: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(id, w)| w.alive && !w.stuck && !asked(id))
            .map(|(&id, _)| id)
            .filter(|&id| self.able(id, task))
            .collect();
        match others.into_iter().min_by_key(|&id| (self.remaining(now, id).all_ns, id)) {
            Some(id) => self.scatter(now, id, task),
            // Nobody is there to compare with: the one answer stands.
            None if answers.len() == 1 => self.settle(now, task),
            None => {
                let names = answers.iter().map(|(id, _)| match self.workers.get(id) {
                    Some(worker) => worker.report.name.clone(),
                    None => id.to_string(),
                });
                let names = names.collect::<Vec<_>>().join(" and ");
                let reason =
                    format!("{names} gave different answers to {task}, and nobody can decide");
                self.end_frame(task.frame);
                self.outputs.push_back(Output::FrameFailed(task.frame, reason));
            }
        }
    }
}
