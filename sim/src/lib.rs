//! Drives the production state machines in virtual time: the same [`protocol::Coordinator`] and
//! [`protocol::Worker`] that run over libp2p, on devices and links modelled after real ones.
//!
//! One seed, one thread, integer nanoseconds: the same scenario gives the same event hash. Faults
//! come first, then the cluster heals, then every frame must complete. Small scenarios carry values,
//! and every tile is really computed; large ones carry sizes alone.
//!
//! | file | idea |
//! |---|---|
//! | `scenario.rs` | what is simulated: model, frames, workers, links, faults |
//! | `physics/` | what the world is made of: compute, heat, load, network, energy |
//! | `cluster.rs`, `queue.rs`, `events.rs` | the clock: one event after another |
//! | `head.rs` | the coordinator's driver: maps, plans, blobs |
//! | `device.rs`, `job.rs` | a worker's driver: inputs, weights, compute |
//! | `fault.rs` | what goes wrong: crash, stall, cut, and how it is noticed |
//! | `files/` | devices, links, clusters and scenarios as TOML |
//! | `invariants/` | what must hold after every step |
//! | `bound.rs` | the least time that a plan can take |
//! | `record.rs`, `outcome.rs` | what is kept of a run |
//! | `soak.rs` | random hostile clusters |
//! | `report.rs`, `page/` | the numbers of a run, and its picture |
//! | `command/` | the program |
//! | `random.rs`, `fnv.rs` | the one source of chance; the hash of a run |

mod bound;
mod cluster;
pub mod command;
mod device;
mod events;
mod fault;
pub mod files;
mod fnv;
mod head;
mod invariants;
mod job;
mod outcome;
mod page;
pub mod pairs;
pub mod physics;
mod queue;
mod random;
mod record;
pub mod rehearsal;
pub mod report;
mod scenario;
pub mod soak;

pub use bound::Bound;
pub use cluster::Cluster;
pub use invariants::Violation;
pub use outcome::{DeviceOutcome, FrameOutcome, Outcome};
pub use page::Page;
pub use physics::{DeviceModel, LinkSpec};
pub use random::Random;
pub use record::Traffic;
pub use scenario::{Fault, FaultKind, PairSpec, Payload, Sabotage, Scenario, Weights, WorkerSpec};
