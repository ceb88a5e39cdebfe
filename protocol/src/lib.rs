//! Messages, and the two state machines that run a cluster: [`Coordinator`] and [`Worker`].
//!
//! No I/O, no async, no clock, no randomness, no iteration over a hash map. The driver contract,
//! the same for production and for the simulator:
//!
//! 1. `handle(now, input)` once for each thing that happened;
//! 2. drain `poll_output()` and carry each output out, in order;
//! 3. wait for the next input or until `next_deadline()`, then give `Input::Tick`.
//!
//! The machines never touch a tensor. They name pieces, tasks and blobs; the driver holds them.
//!
//! ```text
//!                Bundle(Scatter)                  Bundle(Handover)
//!  Coordinator ───────────────────▶ Worker (victim) ─────────────▶ Worker (thief)
//!       ▲  ▲   ◀─── Hungry ─────────────────────────────────────────┘  │
//!       │  └───── Yielded / Kept ─────┘                                │
//!       └──────────────────────── Bundle(Result) ◀─────────────────────┘
//! ```

pub mod coordinator;
pub mod ids;
mod link;
pub mod message;
mod survey;
mod version;
pub mod worker;

pub use coordinator::{
    ActivePlan, Coordinator, CoordinatorConfig, Counters, PairLink, Succession, WorkerProfile,
    WorkerReport,
};
pub use ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
pub use link::measuring_bytes;
pub use message::{
    Battery, Bundle, BundleKind, Carried, Delivery, Form, Health, Hello, Member, Message, Orders,
    PieceHeader, Power, Source,
};
pub use survey::{Survey, Surveys, WeightSet};
pub use version::{LAST_RELEASE, LAST_VERSION, VERSION, shared_numerics, spoken};
pub use worker::Worker;

/// Nanoseconds since the driver started; monotonic.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Both sides say something at least this often.
pub const HEARTBEAT_NS: Nanos = SECOND;

/// A side that said nothing for this long is taken for dead.
pub const SILENCE_NS: Nanos = 4 * SECOND;
