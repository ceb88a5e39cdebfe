//! `tilehive-sim soak`: many hostile seeds.

use super::{Failure, bar};
use crate::soak::run;
use anyhow::anyhow;
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,

    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 0)]
    first_seed: u64,

    /// Seeds at a time [default: all cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Run each seed twice and compare
    #[arg(long)]
    twice: bool,

    /// Print every event on stderr, for one seed
    #[arg(long)]
    events: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of a soak.
#[derive(Debug, Default, Serialize)]
struct Summary {
    first_seed: u64,
    seeds: u64,
    steps: u64,
    frames: u64,
    failed_frames: u64,
    stolen: u64,
    reassigned: u64,
    backups: u64,
    spot_checks: u64,
    refused: u64,
    exchanged_bytes: u64,
    recomputed: u64,
    fallbacks: u64,
    seconds: f64,
    failures: Vec<Replay>,
}

#[derive(Debug, Serialize)]
struct Replay {
    seed: u64,
    reason: String,
    replay: String,
}

pub(super) fn soak(arguments: Arguments) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = arguments.jobs.unwrap_or(cores).clamp(1, 1024);
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let bar = bar(arguments.seeds, "seeds");
    let (first_seed, seeds) = (arguments.first_seed, arguments.seeds);
    let summary = Mutex::new(Summary { first_seed, seeds, ..Summary::default() });
    let work = || {
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            if offset >= seeds {
                return;
            }
            let seed = first_seed + offset;
            // A panic is a broken promise, too.
            let ended = std::panic::catch_unwind(|| run(seed, arguments.twice, arguments.events));
            let reason = {
                let mut all = summary.lock().expect("nobody panics with the summary");
                match ended {
                    Ok(Ok(outcome)) => {
                        all.steps += outcome.steps;
                        all.frames += outcome.frames.len() as u64;
                        all.failed_frames += outcome.failures.len() as u64;
                        all.stolen += outcome.stolen();
                        all.reassigned += outcome.reassigned;
                        all.backups += outcome.counters.backups;
                        all.spot_checks += outcome.counters.spot_checks;
                        all.refused += outcome.counters.refused;
                        all.exchanged_bytes += outcome.counters.exchanged_bytes;
                        all.recomputed += outcome.counters.recomputed;
                        all.fallbacks += outcome.counters.fallbacks;
                        None
                    }
                    Ok(Err(failure)) => Some(failure.to_string()),
                    Err(panic) => Some(match panic.downcast_ref::<String>() {
                        Some(text) => format!("panic: {text}"),
                        None => "panic".into(),
                    }),
                }
            };
            if let Some(reason) = reason {
                let replay = format!("tilehive-sim soak --seeds 1 --first-seed {seed} --events");
                bar.suspend(|| eprintln!("seed {seed}: {reason}\n  replay: {replay}"));
                let mut all = summary.lock().expect("nobody panics with the summary");
                all.failures.push(Replay { seed, reason, replay });
            }
            bar.inc(1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let mut all = summary.into_inner().expect("nobody panics with the summary");
    all.seconds = began.elapsed().as_secs_f64();
    all.failures.sort_by_key(|f| f.seed);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!(
            "{} seeds, {} steps in {:.1} s: {} frames ended, {} were refused for want of memory; \
             {} tasks stolen, {} reissued, {} copied, {} checked, {} turned down; {} kB exchanged, \
             {} tiles lost with their holders, {} frames gathered instead; {} seeds failed",
            all.seeds,
            all.steps,
            all.seconds,
            all.frames,
            all.failed_frames,
            all.stolen,
            all.reassigned,
            all.backups,
            all.spot_checks,
            all.refused,
            all.exchanged_bytes / 1000,
            all.recomputed,
            all.fallbacks,
            all.failures.len()
        );
    }
    match all.failures.first() {
        None => Ok(()),
        Some(first) => Err(Failure::run(anyhow!("seed {}: {}", first.seed, first.reason))
            .hint(format!("replay it with `{}`", first.replay))),
    }
}
