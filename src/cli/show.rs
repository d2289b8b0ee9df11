//! `qtuned show`.

use anyhow::Result;
use clap::Args;

use super::{Global, JobArg, format, heading, jobs, print, print_json, source::source};

/// Show a job: where it is, what it is doing and how it ended
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned show\n  qtuned show mobilenet-v2\n  qtuned show 3 --json")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    job: JobArg,
}

pub(super) fn run(global: &Global, args: &ShowArgs) -> Result<()> {
    let detail = source(global)?.job(args.job.name())?;
    if global.json {
        return print_json(&detail);
    }
    let job = &detail.job;
    let mut text = heading(job);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<10} {value}\n"));
        }
    };
    let of = |path: &[&str]| {
        let value = path.iter().try_fold(&detail.spec, |value, key| value.get(key))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    line("doing", job.progress.as_ref().map(jobs::doing));
    line("error", job.error.clone());
    line("trials", Some(job.trials.to_string()));
    line("chosen", job.chosen.map(|number| format!("trial {number}")));
    line("metric", of(&["budget", "metric"]));
    line("max_drop", of(&["budget", "max_drop"]));
    line("min_db", of(&["budget", "min_db"]));
    line("priority", (job.priority != 0).then(|| job.priority.to_string()));
    line("model", of(&["model", "onnx"]));
    line("results", of(&["output"]));
    line("submitted", job.submitted_ms.map(format::time));
    line("started", job.started_ms.map(format::time));
    line("ended", job.finished_ms.map(format::time));
    print(&text)
}
