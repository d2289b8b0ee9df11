//! `qtuned jobs`.

use anyhow::Result;
use clap::Args;

use super::{Global, format, print, print_json, source::source};
use crate::store::{JobFilter, JobProgress, JobRow, JobState};

/// List the jobs, the newest first
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned jobs
  qtuned jobs --state running
  qtuned jobs --json --db /data/qtuned.db")]
pub(super) struct JobsArgs {
    /// Only those in this state: queued, running, interrupted, succeeded, failed or cancelled
    #[arg(long)]
    state: Option<JobState>,

    /// Only those of this name
    #[arg(long)]
    name: Option<String>,

    /// How many at most
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

pub(super) fn run(global: &Global, args: &JobsArgs) -> Result<()> {
    let JobsArgs { state, name, limit } = args;
    let jobs = source(global)?.jobs(&JobFilter { state: *state, name: name.clone(), before: None, limit: *limit })?;
    if global.json {
        return print_json(&jobs);
    }
    if jobs.is_empty() {
        return print("no jobs yet\n");
    }
    let row = |job: &JobRow| {
        vec![
            job.id.to_string(),
            job.name.clone(),
            job.state.to_string(),
            job.trials.to_string(),
            format::or_none(job.chosen, |number| number.to_string()),
            result(job),
            format::or_none(job.started_ms, format::time),
        ]
    };
    print(&format::table(&[">id", "name", "state", ">trials", ">chosen", "result", "started"], jobs.iter().map(row)))
}

fn result(job: &JobRow) -> String {
    match (job.state, job.within_budget, &job.error) {
        (JobState::Failed, _, Some(error)) => error.clone(),
        (JobState::Succeeded, Some(true), _) => "within the budget".to_owned(),
        (JobState::Succeeded, Some(false), _) => "nothing quantized within the budget".to_owned(),
        (JobState::Running, ..) => format::or_none(job.progress.as_ref(), doing),
        _ => format::NONE.to_owned(),
    }
}

/// What a running job is doing, in a few words.
pub(super) fn doing(progress: &JobProgress) -> String {
    let mut text = match progress.trial {
        Some(trial) => format!("trial {trial}: {}", progress.stage),
        None => progress.stage.clone(),
    };
    if let Some(total) = progress.total.filter(|total| *total > 0) {
        text.push_str(&format!(" {} %", progress.done * 100 / total));
    }
    if let Some(seconds) = progress.seconds_left {
        text.push_str(&format::left(seconds));
    }
    text
}
