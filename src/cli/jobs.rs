//! `qtuned jobs`.

use anyhow::Result;
use clap::Args;

use super::{Global, format, print, print_json, with_store};
use crate::store::{JobRow, JobState};

/// List the jobs in the database, the newest first
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned jobs\n  qtuned jobs --json --db /data/qtuned.db")]
pub(super) struct JobsArgs {}

pub(super) fn run(global: &Global, _: &JobsArgs) -> Result<()> {
    let jobs = with_store(global, |store| async move { store.jobs().await })?;
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
            format::state(job.state).to_owned(),
            job.trials.to_string(),
            format::or_none(job.chosen, |number| number.to_string()),
            result(job),
            format::time(job.started_ms),
        ]
    };
    print(&format::table(&[">id", "name", "state", ">trials", ">chosen", "result", "started"], jobs.iter().map(row)))
}

fn result(job: &JobRow) -> String {
    match (job.state, job.within_budget, &job.error) {
        (JobState::Failed, _, Some(error)) => error.clone(),
        (JobState::Succeeded, Some(true), _) => "within the budget".to_owned(),
        (JobState::Succeeded, Some(false), _) => "nothing quantized within the budget".to_owned(),
        _ => format::NONE.to_owned(),
    }
}
