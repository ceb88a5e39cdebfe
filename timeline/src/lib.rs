//! What happened in a run, real or simulated, as data: spans on devices, and marks.
//!
//! Both drivers write the same [`Timeline`], so that a real run can be set beside a simulated one.
//! It is written as Chrome's trace events, which Perfetto (<https://ui.perfetto.dev>) opens.
//!
//! | file | idea |
//! |---|---|
//! | `chrome.rs` | to and from Chrome's trace event format |
//! | `difference.rs` | two timelines side by side, task by task |

mod chrome;
mod difference;

pub use chrome::{TraceError, read, write};
pub use difference::{Difference, Pair, difference};

use serde::{Deserialize, Serialize};

/// What a device did in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It computed a task.
    Compute,
    /// The inputs of a task were on their way to it, waiting for their turn included.
    Receive,
    /// The outputs of a task were on their way from it.
    Send,
    /// Weights were on their way to it.
    Weights,
}

impl Activity {
    /// All of them, in the order in which they are drawn.
    pub const ALL: [Activity; 4] =
        [Activity::Compute, Activity::Receive, Activity::Send, Activity::Weights];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Compute => "compute",
            Activity::Receive => "receive",
            Activity::Send => "send",
            Activity::Weights => "weights",
        }
    }
}

/// One try of one tile, as far as a timeline knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Try {
    /// The frame.
    pub frame: u64,
    /// The stage.
    pub stage: u32,
    /// The tile.
    pub tile: u32,
    /// Which attempt.
    pub attempt: u32,
}

/// Something that took time on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Index into [`Timeline::devices`].
    pub device: u32,
    /// What it did.
    pub activity: Activity,
    /// For which task; none for weights.
    pub task: Option<Try>,
    /// When it began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Bytes that moved; zero for computing.
    pub bytes: u64,
    /// Whether the task came from another worker's share.
    pub stolen: bool,
}

/// Something that happened at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at_ns: u64,
    /// On which device; none for the whole cluster.
    pub device: Option<u32>,
    /// What, for people.
    pub what: String,
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Names of the devices.
    pub devices: Vec<String>,
    /// In the order in which they ended.
    pub spans: Vec<Span>,
    /// In order of time.
    pub marks: Vec<Mark>,
}

impl Timeline {
    /// The end of the last span or mark.
    pub fn end_ns(&self) -> u64 {
        let spans = self.spans.iter().map(|s| s.end_ns);
        spans.chain(self.marks.iter().map(|m| m.at_ns)).max().unwrap_or(0)
    }

    /// Spans of one kind.
    pub fn of(&self, activity: Activity) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |s| s.activity == activity)
    }
}
