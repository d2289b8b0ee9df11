//! What a daemon does besides its jobs.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{LOOK, one_line};
use crate::{
    cancel::Cancel,
    store::{Clock, Store},
};

/// How often old jobs are looked for.
const EVERY: Duration = Duration::from_secs(600);

/// Removes jobs that ended longer than `keep` ago, again and again until it is asked to stop. The folders with their
/// results stay.
pub async fn forget_old(store: Store, clock: impl Clock, keep: Duration, stop: Cancel) {
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    while !stop.is_cancelled() {
        match store.forget(clock.now_ms().saturating_sub(keep_ms)).await {
            Ok(jobs) => {
                jobs.iter().for_each(|job| tracing::info!(job = job.id.0, name = job.name, "removed, for its age"))
            }
            Err(error) => tracing::warn!(error = one_line(&error), "old jobs could not be removed"),
        }
        let since = Instant::now();
        while since.elapsed() < EVERY && !stop.is_cancelled() {
            sleep(LOOK).await;
        }
    }
}
