//! Drives the production state machines in virtual time: the same [`protocol::Coordinator`] and
//! [`protocol::Worker`] that run over libp2p, with every tensor really computed.
//!
//! One seed, one thread, integer nanoseconds: the same scenario gives the same event hash. Faults
//! come first, then the cluster heals, then every frame must complete.
//!
//! | file | idea |
//! |---|---|
//! | `scenario.rs` | what is simulated: model, frames, workers, links, faults |
//! | `cluster.rs` | the clock: one event after another |
//! | `head.rs` | the coordinator's driver: maps, plans, blobs |
//! | `device.rs` | a worker's driver: inputs, weights, compute |
//! | `fault.rs` | what goes wrong: crash, stall, cut, and how it is noticed |
//! | `link.rs` | when what is sent arrives |
//! | `invariants.rs` | what must hold after every step |
//! | `random.rs` | the one source of chance |

mod cluster;
mod device;
mod fault;
mod head;
mod invariants;
mod link;
mod random;
mod scenario;

pub use cluster::{Cluster, Outcome};
pub use invariants::Violation;
pub use random::Random;
pub use scenario::{Fault, FaultKind, LinkSpec, Sabotage, Scenario, WorkerSpec};
