//! A newtype for every id.

use model::WeightHash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A worker, for as long as its coordinator lives; a restart with the same identity keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

/// One input of the model, from submission to answer. The upper half tells one coordinator process
/// from the next: a worker may still compute a frame of the last one when the same number comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameId(pub u64);

/// A plan that a coordinator announced. The upper half tells one coordinator process from the next, so
/// that a plan never takes the place of one that a worker still knows from before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanId(pub u64);

/// Content hash of a model's graph in its wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelHash(pub WeightHash);

/// One tile of one stage of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The frame.
    pub frame: FrameId,
    /// Index of the stage in the plan.
    pub stage: u32,
    /// Index of the tile in the stage.
    pub tile: u32,
}

impl FrameId {
    /// Its number in its coordinator's life, from zero.
    pub fn number(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }

    /// Which coordinator process it belongs to.
    pub(crate) fn incarnation(self) -> u64 {
        self.0 >> 32
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} stage {} tile {}", self.frame.number(), self.stage, self.tile)
    }
}
