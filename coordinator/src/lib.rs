//! The coordinator: the `tilehive` program, and a [`Cluster`] for programs that host one.
//!
//! All decisions are in [`protocol::Coordinator`] and [`planner`]; here is what carries them out.
//!
//! | file | idea |
//! |---|---|
//! | `cluster.rs` | a running cluster: submit frames, see devices |
//! | `drive.rs` | the drive loop |
//! | `store.rs` | the feature maps of the frames in flight |
//! | `locals.rs` | worker processes on this machine |
//! | `tensors.rs` | pictures and arrays in and out of files |
//! | `trace.rs` | the timeline of a run |
//! | `failure.rs` | errors as people see them: cause, hint, exit code |
//! | `commands/` | one file for each command |

mod cli;
mod cluster;
mod commands;
mod drive;
mod failure;
mod locals;
mod store;
mod table;
mod tensors;
mod trace;

pub use cli::main;
pub use cluster::{Answer, Cluster, ClusterConfig, Device, HostedModel, Job, Reach};
pub use failure::Failure;
pub use locals::{LocalWorkers, worker_binary};
pub use tensors::{read_input, write_output};
