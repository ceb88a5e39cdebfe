//! The worker process: finds its coordinator, proves it belongs, measures itself, works.
//!
//! All decisions are in [`protocol::Worker`]; here is what carries them out.
//!
//! | file | idea |
//! |---|---|
//! | `drive.rs` | the drive loop: network and compute in, network and compute out |
//! | `compute.rs` | the thread that computes |
//! | `blobs.rs` | weights and graphs by hash, on disk or in memory |
//! | `cli.rs` | the command line |
//! | `logging.rs` | `tracing` on stderr, the same for all programs |

mod blobs;
pub mod cli;
mod compute;
mod drive;
pub mod logging;

pub use blobs::BlobCache;
pub use compute::measure_multiply_adds_per_s;
pub use drive::{Ended, drive};
