//! Two timelines side by side, task by task: how far a simulation is from what really happened.

use crate::{Activity, Span, Timeline, Try};
use serde::Serialize;
use std::collections::BTreeMap;

/// One task in both timelines. Attempts differ from run to run, so the one that computed last counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Which task.
    pub task: Try,
    /// Where it was computed in the first.
    pub device_a: String,
    /// Where it was computed in the second.
    pub device_b: String,
    /// When it ended in the first, from the start of its frame.
    pub end_a_ns: u64,
    /// When it ended in the second, from the start of its frame.
    pub end_b_ns: u64,
    /// How long it took in the first.
    pub busy_a_ns: u64,
    /// How long it took in the second.
    pub busy_b_ns: u64,
}

/// Two timelines side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Tasks that are in both, in order.
    pub pairs: Vec<Pair>,
    /// Tasks of the first alone.
    pub only_a: usize,
    /// Tasks of the second alone.
    pub only_b: usize,
    /// Makespan of each frame in both.
    pub makespans_ns: Vec<(u64, u64)>,
    /// Mean of |a - b| / a over the frames' makespans.
    pub makespan_error: f64,
    /// Mean of |a - b| / a over the tasks' computing times.
    pub busy_error: f64,
    /// Part of the common tasks that the same device computed (devices compared by name).
    pub same_device: f64,
}

type ByTask<'t> = BTreeMap<(u64, u32, u32), &'t Span>;

fn tasks(timeline: &Timeline) -> ByTask<'_> {
    let compute = timeline.of(Activity::Compute);
    compute.filter_map(|s| s.task.map(|t| ((t.frame, t.stage, t.tile), s))).collect()
}

/// When the first input of each frame was sent, and when its last task ended or was sent back.
fn frames(timeline: &Timeline) -> BTreeMap<u64, (u64, u64)> {
    let mut frames: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for span in &timeline.spans {
        let Some(task) = span.task else { continue };
        let (start, end) = frames.entry(task.frame).or_insert((span.start_ns, span.end_ns));
        (*start, *end) = ((*start).min(span.start_ns), (*end).max(span.end_ns));
    }
    frames
}

fn relative(a: u64, b: u64) -> f64 {
    a.abs_diff(b) as f64 / (a as f64).max(1.0)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), v| (sum + v, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Sets `b` (simulated, say) beside `a` (real, say). Frames are matched in order.
pub fn difference(a: &Timeline, b: &Timeline) -> Difference {
    let (frames_a, frames_b) = (frames(a), frames(b));
    let partner: BTreeMap<u64, u64> =
        frames_a.keys().copied().zip(frames_b.keys().copied()).collect();
    let (tasks_a, mut tasks_b) = (tasks(a), tasks(b));
    let name = |t: &Timeline, device: u32| {
        t.devices.get(device as usize).cloned().unwrap_or_else(|| format!("device {device}"))
    };
    let mut pairs = Vec::new();
    let mut only_a = 0;
    for ((frame, stage, tile), span) in tasks_a {
        let other = partner.get(&frame).and_then(|f| tasks_b.remove(&(*f, stage, tile)));
        let (Some(other), Some(task)) = (other, span.task) else {
            only_a += 1;
            continue;
        };
        let start_b = frames_b[&partner[&frame]].0;
        pairs.push(Pair {
            task,
            device_a: name(a, span.device),
            device_b: name(b, other.device),
            end_a_ns: span.end_ns.saturating_sub(frames_a[&frame].0),
            end_b_ns: other.end_ns.saturating_sub(start_b),
            busy_a_ns: span.end_ns - span.start_ns,
            busy_b_ns: other.end_ns - other.start_ns,
        });
    }
    let makespans_ns: Vec<(u64, u64)> = partner
        .iter()
        .map(|(a, b)| (frames_a[a], frames_b[b]))
        .map(|(a, b)| (a.1 - a.0, b.1 - b.0))
        .collect();
    Difference {
        only_a,
        only_b: tasks_b.len(),
        makespan_error: mean(makespans_ns.iter().map(|&(a, b)| relative(a, b))),
        busy_error: mean(pairs.iter().map(|p| relative(p.busy_a_ns, p.busy_b_ns))),
        same_device: mean(pairs.iter().map(|p| f64::from(u8::from(p.device_a == p.device_b)))),
        makespans_ns,
        pairs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(frame: u64, scale: u64) -> Timeline {
        let span = |tile: u32, start: u64, end: u64| Span {
            device: tile % 2,
            activity: Activity::Compute,
            task: Some(Try { frame, stage: 0, tile, attempt: 1 }),
            start_ns: 1000 + start * scale,
            end_ns: 1000 + end * scale,
            bytes: 0,
            stolen: false,
        };
        Timeline {
            devices: vec!["one".into(), "two".into()],
            spans: vec![span(0, 0, 100), span(1, 0, 200), span(2, 100, 200)],
            marks: Vec::new(),
        }
    }

    #[test]
    fn a_timeline_does_not_differ_from_itself() {
        let same = difference(&timeline(0, 1), &timeline(9, 1));
        assert_eq!((same.pairs.len(), same.only_a, same.only_b), (3, 0, 0));
        assert_eq!((same.makespan_error, same.busy_error, same.same_device), (0.0, 0.0, 1.0));
    }

    #[test]
    fn errors_are_relative_to_the_first() {
        let mut other = timeline(0, 3);
        other.devices.swap(0, 1);
        other.spans.pop();
        let difference = difference(&timeline(0, 2), &other);
        assert_eq!((difference.pairs.len(), difference.only_a), (2, 1));
        assert_eq!(difference.makespans_ns, [(400, 600)]);
        assert!((difference.makespan_error - 0.5).abs() < 1e-9, "{difference:?}");
        assert!((difference.busy_error - 0.5).abs() < 1e-9);
        assert_eq!(difference.same_device, 0.0);
    }
}
