//! Queues are bounded: what is sent ahead to a worker, in tasks and in bytes, and the frames in
//! flight.

use super::Violation;
use protocol::{Coordinator, CoordinatorConfig, WorkerId};

/// First attempts on a worker are within its window, or one that it runs and one that it stole.
pub(crate) fn window(
    machine: &Coordinator,
    config: &CoordinatorConfig,
    worker: WorkerId,
) -> Result<(), Violation> {
    // A worker that asks early steals its second task while the first runs.
    let stolen = if config.stealing { 2 } else { 0 };
    let window = config.window_tasks_max.max(stolen);
    let tasks = machine.held_by(worker).filter(|&(_, attempt)| attempt == 1).count();
    if tasks > window {
        return Err(Violation::Window { worker, tasks, window });
    }
    Ok(())
}

pub(crate) fn frames(machine: &Coordinator, config: &CoordinatorConfig) -> Result<(), Violation> {
    let (frames, bound) = (machine.in_flight(), config.frames_in_flight_max);
    if frames > bound { Err(Violation::FramesInFlight { frames, bound }) } else { Ok(()) }
}
