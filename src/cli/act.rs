//! `qtuned cancel`, `qtuned retry` and `qtuned rm`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use super::{
    Global, print, print_json,
    source::{Act, source},
};
use crate::store::JobState;

/// How long `cancel` waits for a running job to stop.
const WAIT: Duration = Duration::from_secs(4);

/// Cancel a job: at once when it waits, within two seconds when it runs
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned cancel 3\n  qtuned cancel mobilenet-v2")]
pub(super) struct CancelArgs {
    /// Id or name of the job
    job: String,
}

/// Put a job that failed, was cancelled or interrupted in the queue again
///
/// It goes on after the trials that it has.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned retry 3\n  qtuned retry mobilenet-v2")]
pub(super) struct RetryArgs {
    /// Id or name of the job
    job: String,
}

/// Remove a job that does not run, with the trials that only it has
///
/// The folder with its results stays.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned rm 3")]
pub(super) struct RemoveArgs {
    /// Id or name of the job
    job: String,
}

pub(super) fn run_cancel(global: &Global, args: &CancelArgs) -> Result<()> {
    act(global, &args.job, Act::Cancel)
}

pub(super) fn run_retry(global: &Global, args: &RetryArgs) -> Result<()> {
    act(global, &args.job, Act::Retry)
}

pub(super) fn run_remove(global: &Global, args: &RemoveArgs) -> Result<()> {
    act(global, &args.job, Act::Remove)
}

fn act(global: &Global, name: &str, act: Act) -> Result<()> {
    let source = source(global)?;
    let before = source.job(Some(name))?.job;
    source.act(before.id, act)?;
    if act == Act::Remove {
        return match global.json {
            true => print_json(&before),
            false => print(&format!("job {}: {} is removed\n", before.id, before.name)),
        };
    }
    let until = Instant::now() + WAIT;
    let id = before.id.to_string();
    let job = loop {
        let job = source.job(Some(&id))?.job;
        if act != Act::Cancel || job.state != JobState::Running || Instant::now() > until {
            break job;
        }
        thread::sleep(Duration::from_millis(100));
    };
    match global.json {
        true => print_json(&job),
        false => print(&format!("job {}: {} ({})\n", job.id, job.name, job.state)),
    }
}
