//! `qtuned run`.

use std::{
    future, process,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

use super::{Global, JobFile, format, inspect, print, print_json, progress::Terminal, trials};
use crate::{
    cancel::Cancel,
    job::{self, JobLock},
    output,
    pipeline::{self, Ledger, Opened, Outcome, PipelineError, Progress},
    report::{Document, JobReport},
    runner::{Exit, Ran, Run, Stopped},
    store::{JobRow, Store, SystemClock, TrialSummary},
};

/// How long a run that was asked to stop may take to reach its next sample.
const PATIENCE: Duration = Duration::from_secs(8);

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

    /// Threads for everything but latencies, which the job decides; all CPUs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Exit> {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or_else(available, usize::from);
    let job = job::load(&args.job.path, &args.job.set)?;
    let opened = pipeline::open(&job)?;
    let lock = JobLock::new(&job, opened.hashes().clone());
    let model = serde_json::to_string(&inspect::facts(opened.model(), opened.groups()))?;
    let budget = &lock.job.budget;
    let terminal = Arc::new(Terminal::new(budget.metric, lock.job.sensitivity.rank_by, global.json));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(async {
        let cancel = Cancel::default();
        let overdue = stop_on_signals(&cancel, &terminal)?;
        let store = Store::open(&global.db, Arc::new(SystemClock)).await?;
        let run = Run::begin(&store, &lock).await?;
        store.set_model(run.job.id, &model).await?;
        if let Some(recorded) = run.job.continued {
            terminal.line(&format!("job {}: continues after {}", run.job.id, format::plural(recorded, "trial")));
        }
        let (shown, stop) = (Arc::clone(&terminal), cancel.clone());
        let searched = run.go(move |ledger| search(&opened, threads, ledger, &*shown, &stop));
        let ran = tokio::select! {
            ran = searched => ran?,
            () = overdue.notified() => run.interrupt().await?,
        };
        terminal.finish();
        let row = store.find_job(Some(&run.job.id.to_string())).await?;
        let report = JobReport::read(&store, row).await?;
        output::write(&ran.folder.join(Document::Html.file_name()), &Document::Html.of(&report)?)?;
        let row = report.job;
        let summaries: Vec<TrialSummary> = report.trials.into_iter().map(|trial| trial.summary).collect();
        store.close().await;
        anyhow::Ok((ran, row, summaries))
    });
    // A search that does not stop in time is left behind: what it recorded is on disk.
    runtime.shutdown_background();
    let (ran, row, summaries) = done?;
    let told = match global.json {
        true => print_json(&json!({"job": row, "trials": summaries, "output": ran.folder})),
        false => print(&ending(&ran, &row, &summaries)),
    };
    match told {
        // The exit code tells how the search ended, also to one who does not read the rest.
        Err(error) if super::is_broken_pipe(&error) => Ok(ran.exit),
        told => told.map(|()| ran.exit),
    }
}

/// The flow of a job.
fn search(
    opened: &Opened,
    threads: usize,
    ledger: &mut dyn Ledger,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, Stopped> {
    pipeline::run(opened, threads, ledger, progress, cancel).map_err(|error| match error {
        PipelineError::Cancelled(_) => Stopped::Cancelled,
        error => Stopped::Failed(Box::new(error)),
    })
}

/// On the first SIGINT or SIGTERM sets the flag and says so; at the second leaves at once. What is returned is
/// notified when the search has had its time to stop.
fn stop_on_signals(cancel: &Cancel, terminal: &Arc<Terminal>) -> Result<Arc<Notify>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let overdue = Arc::new(Notify::new());
    let (cancel, terminal, late) = (cancel.clone(), Arc::clone(terminal), Arc::clone(&overdue));
    tokio::spawn(async move {
        let first = OnceLock::new();
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = out_of_patience(first.get().is_some()) => {
                    late.notify_one();
                    continue;
                }
            }
            if first.set(()).is_err() {
                process::exit(Exit::Interrupted.code().into());
            }
            cancel.cancel();
            terminal.line("stopping; the same command continues (once more to stop at once)");
        }
    });
    Ok(overdue)
}

async fn out_of_patience(stopping: bool) {
    match stopping {
        true => tokio::time::sleep(PATIENCE).await,
        false => future::pending().await,
    }
}

/// What is told at the end: the trials, the choice, and where the results are.
fn ending(ran: &Ran, job: &JobRow, summaries: &[TrialSummary]) -> String {
    let mut text = String::new();
    if !summaries.is_empty() {
        text.push_str(&trials::table(summaries));
    }
    let chosen = summaries.iter().find(|trial| trial.chosen);
    text.push_str(&match (ran.exit, chosen) {
        (Exit::Success, Some(chosen)) => choice(chosen),
        (Exit::NothingWithinBudget, _) => "no quantized qconfig within the budget: fp32 is chosen\n".to_owned(),
        _ => format!("interrupted after {}; the same command continues\n", format::plural(job.trials, "trial")),
    });
    text.push_str(&format!("results are in {}\n", ran.folder.display()));
    text
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
    let drop = format::or_none(chosen.score_drop, format::points);
    format!("trial {number} is chosen: {fp32}\n{speed}, {size} of weights, drop {drop}\n")
}
