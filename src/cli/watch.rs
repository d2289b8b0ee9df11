//! `qtuned watch`.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Global, JobArg, format, heading, jobs, print,
    run::ending,
    source::{Source, source},
};
use crate::{
    runner::{Exit, Update},
    store::{JobEvent, JobId, JobRow, JobState, TrialSummary},
};

/// Follow a job to its end
///
/// Everything that happened to it so far is told first. With --json, each line is one JSON object. The exit code is
/// that of `qtuned run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned watch\n  qtuned watch 3\n  qtuned watch mobilenet-v2 --json")]
pub(super) struct WatchArgs {
    #[command(flatten)]
    job: JobArg,
}

pub(super) fn run(global: &Global, args: &WatchArgs) -> Result<Exit> {
    let source = source(global)?;
    let job = source.job(args.job.name())?.job;
    if !global.json {
        print(&heading(&job))?;
    }
    follow(&*source, job.id, global.json)
}

/// Tells everything about a job until it has ended, or until nobody goes on with it.
pub(super) fn follow(source: &dyn Source, id: JobId, json: bool) -> Result<Exit> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    let live = io::stderr().is_terminal();
    let mut last: Option<Box<JobRow>> = None;
    source.follow(id, &mut |update| {
        if json {
            print(&format!("{}\n", serde_json::to_string(&update)?))?;
        }
        match update {
            Update::Event(event) if !json => {
                let line = tell(source, id, &event)?;
                bar.suspend(|| print(&line))?;
            }
            Update::Event(_) => {}
            Update::Job(job) => {
                if live {
                    bar.set_message(job.progress.as_ref().map(jobs::doing).unwrap_or_else(|| job.state.to_string()));
                    bar.tick();
                }
                // One of `qtuned run` that was stopped goes on when somebody asks.
                let over = job.state.is_final() || job.state == JobState::Interrupted && job.submitted_ms.is_none();
                last = Some(job);
                return Ok(!over);
            }
        }
        Ok(true)
    })?;
    bar.finish_and_clear();
    let Some(job) = last else { return Ok(Exit::Interrupted) };
    if !json {
        print(&ending(&job, &source.trials(id)?))?;
    }
    io::stdout().flush()?;
    Ok(match (job.state, job.within_budget) {
        (JobState::Succeeded, Some(true)) => Exit::Success,
        (JobState::Succeeded, _) => Exit::NothingWithinBudget,
        (JobState::Failed | JobState::Cancelled, _) => Exit::Cancelled,
        _ => Exit::Interrupted,
    })
}

fn tell(source: &dyn Source, id: JobId, event: &JobEvent) -> Result<String> {
    let time = format::time(event.time_ms);
    let trial = match event.kind.as_str() {
        "trial" => source.trials(id)?.into_iter().find(|trial| trial.number.to_string() == event.detail),
        _ => None,
    };
    Ok(match trial {
        Some(trial) => format!("{time} {}\n", summary(&trial)),
        None => format!("{time} {}\n", format!("{} {}", event.kind.replace('_', " "), event.detail).trim_end()),
    })
}

fn summary(trial: &TrialSummary) -> String {
    let fp32 = format::in_fp32(trial.int8_groups, trial.fp32_groups.len(), &trial.repairs);
    let score = format::score(trial.metric, trial.score);
    let median = format::or_none(trial.median_ns, format::milliseconds);
    let speed_up = format::or_none(trial.speed_up, |speed_up| format!("{speed_up:.2}×"));
    format!("trial {}: {fp32}, score {score}, median {median}, speed-up {speed_up}", trial.number)
}
