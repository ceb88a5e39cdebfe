//! The worker process: finds its coordinator, proves it belongs, measures itself, works.
//!
//! All decisions are in [`protocol::Worker`]; here is what carries them out.
//!
//! | file | idea |
//! |---|---|
//! | `drive.rs` | the drive loop: network and compute in, network and compute out |
//! | `compute.rs` | the thread that computes |
//! | `outbox.rs` | pieces on their way out, encoded where that pays |
//! | `blobs/` | weights and graphs by hash, on disk within a limit, or in memory |
//! | `measure/` | how fast this device is, by operator class |
//! | `profile.rs` | what was measured, kept on disk |
//! | `pace.rs` | a device that stands for a slower one |
//! | `freed.rs` | what is freed is given back to the system |
//! | `health.rs` | memory, heat, throttling, battery |
//! | `board.rs` | what it is and draws |
//! | `metrics/` | what it did, in numbers for Prometheus |
//! | `membership.rs` | the token that is kept; joining and leaving |
//! | `doctor/` | what is wrong with a device, and the cure |
//! | `service.rs` | what systemd wants to hear |
//! | `manual.rs` | manual pages and completions |
//! | `cli.rs` | the command line |
//! | `logging.rs` | `tracing` on stderr, the same for all programs |

mod blobs;
pub mod board;
pub mod cli;
mod compute;
pub mod doctor;
mod drive;
pub mod freed;
pub mod health;
pub mod logging;
pub mod manual;
mod measure;
pub mod membership;
pub mod metrics;
pub mod outbox;
mod pace;
mod profile;
mod service;

pub use blobs::BlobCache;
pub use drive::{Ended, drive, drive_paced};
pub use measure::Measured;
pub use pace::Pace;
pub use profile::profile;
