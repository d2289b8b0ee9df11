//! `qtuned run`.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{
    Global, JobFile, Strictness, available_threads, format, print, print_json, progress::Terminal, signals, trials,
};
use crate::{
    cancel::Cancel,
    evaluate::plain,
    pipeline::{Certificate, Certified, Finalist, Progress},
    report::FinalistReport,
    runner::{self, Exit, JobLines, Processes, Run},
    store::{JobRow, JobState, Store, SystemClock, TrialSummary},
};

/// Search the qconfig of a job; the same command again continues after a stop
///
/// Trials are recorded as they are made, and none is made twice: after Ctrl-C, SIGTERM or a crash the same command
/// goes on where it stopped. The output folder holds the best qconfig so far at every moment.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned run job.yaml
  qtuned run job.yaml --set search.max_time=10m --set budget.max_drop=0.02
  qtuned run job.yaml --threads 8 --json --db /data/qtuned.db

Exit codes: 0 within the budget, 1 failed, 2 invalid job, 3 nothing quantized within the budget (fp32 is chosen),
75 interrupted; the same command continues")]
pub(super) struct RunArgs {
    #[command(flatten)]
    job: JobFile,

    #[command(flatten)]
    strictness: Strictness,

    /// Threads for everything but latencies, which the job decides; all CPUs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

pub(super) fn run(global: &Global, args: &RunArgs, lines: JobLines) -> Result<Exit> {
    let threads = args.threads.map_or_else(available_threads, usize::from);
    let job = args.job.load()?;
    let prepared = runner::prepare(&job, &Cancel::default())?;
    let (metric, rank_by) = (job.spec.budget.metric, job.spec.sensitivity.rank_by);
    let terminal = Arc::new(Terminal::new(metric, rank_by, global.json));
    if let Some(resolution) = args.strictness.check(&prepared.opened)? {
        terminal.line(&resolution);
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(async {
        let stop = Cancel::default();
        let told = Arc::clone(&terminal);
        signals::stop_on_signals(&stop, move || {
            told.line("stopping; the same command continues (once more to stop at once)");
        })?;
        let store = Store::open(&global.db, Arc::new(SystemClock)).await?;
        tokio::spawn(lines.keep(store.clone()));
        let run = Run::begin(&store, &prepared.lock).await?;
        store.set_model(run.job.id, &prepared.model).await?;
        if let Some(recorded) = run.job.continued {
            terminal.line(&format!("job {}: continues after {}", run.job.id, format::plural(recorded, "trial")));
        }
        let (shown, opened) = (Arc::clone(&terminal) as Arc<dyn Progress + Send + Sync>, prepared.opened);
        let flow = run.go(shown, &stop, move |ledger, progress, cancel| {
            runner::search(&opened, threads, ledger, &Processes::default(), progress, cancel)
        });
        let ran = flow.await?;
        terminal.finish();
        let row = store.job(run.job.id).await?;
        let summaries = store.summaries(run.job.id).await?;
        let certificate = store.certificate(run.job.id).await?.filter(|_| ran.outcome.is_some());
        // What was logged last is written within this time.
        tokio::time::sleep(runner::GATHER).await;
        store.close().await;
        anyhow::Ok((ran, row, summaries, certificate))
    });
    // A search that does not stop in time is left behind: what it recorded is on disk.
    runtime.shutdown_background();
    let (ran, row, summaries, certificate) = done?;
    let finalists = certificate.as_ref().map(FinalistReport::all).unwrap_or_default();
    let told = match global.json {
        true => print_json(&json!({"job": row, "trials": summaries, "finalists": finalists, "output": ran.folder})),
        false => {
            let certified = certificate.as_ref().map(certified).unwrap_or_default();
            print(&format!("{}{certified}results are in {}\n", ending(&row, &summaries), ran.folder.display()))
        }
    };
    match told {
        // The exit code tells how the search ended, also to one who does not read the rest.
        Err(error) if super::is_broken_pipe(&error) => Ok(ran.exit),
        told => told.map(|()| ran.exit),
    }
}

/// What is told at the end: the trials and the choice.
pub(super) fn ending(job: &JobRow, summaries: &[TrialSummary]) -> String {
    let mut text = String::new();
    if !summaries.is_empty() {
        text.push_str(&trials::table(summaries));
    }
    let chosen = summaries.iter().find(|trial| trial.chosen);
    text.push_str(&match (job.state, job.within_budget, chosen) {
        (JobState::Succeeded, Some(true), Some(chosen)) => choice(chosen),
        (JobState::Succeeded, ..) => "no quantized qconfig within the budget: fp32 is chosen\n".to_owned(),
        (JobState::Failed, ..) => format!("failed: {}\n", job.error.as_deref().unwrap_or_default()),
        (JobState::Cancelled, ..) => format!("cancelled after {}\n", format::plural(job.trials, "trial")),
        _ => format!("interrupted after {}; the same command continues\n", format::plural(job.trials, "trial")),
    });
    text
}

/// What the certify split says, a line for each finalist that was tried.
fn certified(certificate: &Certificate) -> String {
    let line = |&Finalist { trial, certified, observed }: &Finalist| {
        if let Some(observed) = observed {
            let [fp32, score, drop] = [observed.fp32, observed.score, observed.drop()].map(plain);
            return Some(format!(
                "trial {trial} on the certify split: score {score}, fp32 {fp32}, drop {drop}; of one number no bound follows\n"
            ));
        }
        let Certified { pairs, bound, holds } = certified?;
        let bound = format::or_none(bound, format::points);
        Some(format!(
            "trial {trial} is {}certified: at {} % confidence its drop in the population is at most {bound} ({} samples: \
             {} lost, {} won)\n",
            if holds { "" } else { "NOT " },
            certificate.confidence * 100.0,
            pairs.total,
            pairs.lost,
            pairs.won,
        ))
    };
    certificate.finalists.iter().filter_map(line).collect()
}

fn choice(chosen: &TrialSummary) -> String {
    let fp32 = match &chosen.fp32_groups[..] {
        [] => "everything in int8".to_owned(),
        groups => format!("in fp32: {}", groups.join(", ")),
    };
    let speed = match chosen.speed_up {
        Some(speed_up) if speed_up > 1.0 => format!("{speed_up:.2} times as fast as fp32"),
        Some(speed_up) => format!("NOT faster than fp32 ({speed_up:.2} times as fast)"),
        None => "without a latency".to_owned(),
    };
    let (number, size) = (chosen.number, format::bytes(chosen.weight_bytes));
    let drop = format::or_none(chosen.score_drop, |drop| format::drop(chosen.metric, drop));
    let repaired = format::repaired(&chosen.repairs);
    format!("trial {number} is chosen: {fp32}{repaired}\n{speed}, {size} of weights, drop {drop}\n")
}
