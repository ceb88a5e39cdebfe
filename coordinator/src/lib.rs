//! The coordinator: the `tilehive` program, and a [`Cluster`] for programs that host one.
//!
//! All decisions are in [`protocol::Coordinator`] and [`planner`]; here is what carries them out.
//!
//! | file | idea |
//! |---|---|
//! | `cluster.rs` | a running cluster: submit frames, see devices |
//! | `drive/` | the drive loop, and what it asks of the planner |
//! | `explanation/` | a plan explained before it runs: picture, tables, page |
//! | `store.rs` | the feature maps of the frames in flight |
//! | `locals.rs` | worker processes on this machine |
//! | `input.rs`, `pictures.rs`, `arrays.rs` | what a person gives a model, out of files |
//! | `metrics.rs` | numbers for Prometheus |
//! | `memory.rs` | how much memory a process takes |
//! | `outside.rs` | what files say, read from bytes alone |
//! | `say.rs` | words on stdout |
//! | `rows.rs` | pictures in and out of files row by row |
//! | `usage.rs` | how a model is used: conventions and task, and who said so |
//! | `results.rs` | answers as people want them, and into files |
//! | `graph_svg.rs` | a picture of a model's graph |
//! | `trace.rs` | the timeline of a run |
//! | `watch/` | a live view in the terminal |
//! | `failure.rs` | errors as people see them: cause, hint, exit code |
//! | `commands/` | one file for each command |

mod arrays;
mod cli;
mod cluster;
mod commands;
mod drive;
mod explanation;
mod failure;
mod graph_svg;
mod input;
mod locals;
mod memory;
mod metrics;
pub mod outside;
mod pictures;
mod progress;
mod results;
mod rows;
mod say;
mod store;
mod table;
mod trace;
mod usage;
mod watch;
mod watts;

pub use cli::main;
pub use cluster::{
    Answer, BandJob, Cluster, ClusterConfig, Device, HostedModel, Job, PairReport, Reach,
};
pub use failure::Failure;
pub use locals::{LocalWorkers, worker_binary};
pub use watts::Watts;
