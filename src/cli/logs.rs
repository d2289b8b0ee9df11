//! `qtuned logs`.

use std::{thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    Global, JobArg, format, print,
    source::{LOG_PAGE, source},
};
use crate::store::LogLine;

/// Show what was logged while a job ran
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned logs\n  qtuned logs 3 --follow\n  qtuned logs mobilenet-v2 --json")]
pub(super) struct LogsArgs {
    #[command(flatten)]
    job: JobArg,

    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn run(global: &Global, args: &LogsArgs) -> Result<()> {
    let source = source(global)?;
    let mut job = source.job(args.job.name())?.job;
    let id = job.id.to_string();
    let mut after = 0;
    loop {
        let lines = source.log_lines(job.id, after)?;
        for line in &lines {
            print(&show(line, global.json)?)?;
            after = line.id;
        }
        if lines.len() == LOG_PAGE as usize {
            continue;
        }
        if !args.follow || job.state.is_final() && lines.is_empty() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(300));
        job = source.job(Some(&id))?.job;
    }
}

fn show(line: &LogLine, json: bool) -> Result<String> {
    Ok(match json {
        true => format!("{}\n", serde_json::to_string(line)?),
        false => format!("{} {:<5} {}\n", format::time(line.time_ms), line.level, format::printable(&line.message)),
    })
}
