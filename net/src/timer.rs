//! Waiting for what a state machine wants to be told.

use std::time::{Duration, Instant};
use tokio::time;

/// Waits until so many nanoseconds have passed since a time; for ever, where there is nothing to wait
/// for.
pub async fn after(started: Instant, ns: Option<u64>) {
    match ns {
        Some(ns) => time::sleep_until((started + Duration::from_nanos(ns)).into()).await,
        None => std::future::pending().await,
    }
}
