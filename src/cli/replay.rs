//! `qtuned replay`.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::{Global, JobArg, available_threads, format, print, print_json, progress::Terminal};
use crate::{
    cancel::Cancel,
    job::JobLock,
    pipeline,
    runner::{self, Exit, Processes},
    search::Key,
    store::{Store, SystemClock},
};

/// Measure a recorded trial again, and say whether it agrees to the bit
///
/// Calibrates and evaluates as the job did, on the samples that the trial saw. Nothing is recorded.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned replay 4
  qtuned replay 4 mobilenet-v2 --threads 1

Exit codes: 0 every outcome is as recorded, 1 some are not, or it could not be measured")]
pub(super) struct ReplayArgs {
    /// Number of the trial
    #[arg(value_name = "TRIAL")]
    trial: usize,

    #[command(flatten)]
    job: JobArg,

    /// Threads; all CPUs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

pub(super) fn run(global: &Global, args: &ReplayArgs) -> Result<Exit> {
    let threads = args.threads.map_or_else(available_threads, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (job, recorded) = runtime.block_on(async {
        let store = Store::open_existing(&global.db, Arc::new(SystemClock)).await?;
        let job = store.find_job(args.job.name()).await?;
        let summaries = store.summaries(job.id).await?;
        let missing = || format!("job {} has no trial {}; it has {}", job.id, args.trial, summaries.len());
        let summary = summaries.iter().find(|trial| trial.number == args.trial).with_context(missing)?;
        let key =
            summary.key.parse::<Key>().with_context(|| format!("the key of trial {} cannot be read", args.trial))?;
        let recorded = store.trial(job.id, &key).await?.with_context(missing)?;
        store.close().await;
        anyhow::Ok((job, recorded))
    })?;
    let lock: JobLock = serde_yaml::from_str(&job.lock).context("the lock of the job cannot be read")?;
    let cancel = Cancel::default();
    let opened = runner::open_locked(&lock, &cancel)?;
    let terminal = Terminal::new(lock.job.budget.metric, lock.job.sensitivity.rank_by, global.json);
    let replay = pipeline::replay(&opened, threads, &recorded, &Processes::default(), &terminal, &cancel)?;
    terminal.finish();
    let (then, now) = (recorded.evaluation.score.value(), replay.evaluation.score.value());
    let exit = if replay.agrees() { Exit::Success } else { Exit::Differs };
    if global.json {
        print_json(&json!({
            "job": job.id,
            "trial": args.trial,
            "agrees": replay.agrees(),
            "same_key": replay.same_key,
            "differing": replay.differing,
            "samples": replay.evaluation.score.total(),
            "score": now,
            "recorded_score": then,
        }))?;
        return Ok(exit);
    }
    let score = |value| format::score(lock.job.budget.metric, value);
    let samples = replay.evaluation.score.total();
    let verdict = match (replay.same_key, replay.differing) {
        (true, 0) => format!("agrees to the bit: {samples} samples, score {}", score(now)),
        (false, 0) => format!(
            "has the same outcomes on {samples} samples, score {}, but is another measurement now: its key differs, as \
             after an update of qtuned or on another kind of kernel",
            score(now)
        ),
        (_, differing) => format!(
            "DIFFERS on {differing} of {samples} samples: score {}, recorded {}{}",
            score(now),
            score(then),
            if replay.same_key { "" } else { "; its key differs, too" }
        ),
    };
    print(&format!("trial {} of job {} {verdict}\n", args.trial, job.id))?;
    Ok(exit)
}
