//! `qtuned export`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Global, JobArg, print, source::source};

/// Write the qconfig of a trial: the mapping, and every scale and zero point
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned export -o best.qconfig.yaml
  qtuned export mobilenet-v2 --trial 4 > trial-4.qconfig.yaml")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    job: JobArg,

    /// Number of the trial; the chosen one when not given
    #[arg(long, value_name = "N")]
    trial: Option<usize>,

    /// The file to write; standard output when not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &ExportArgs) -> Result<()> {
    let source = source(global)?;
    let job = source.job(args.job.name())?.job;
    let Some(trial) = args.trial.or(job.chosen) else {
        bail!("job {} has not chosen a trial yet; --trial names one of its {}", job.id, job.trials);
    };
    let text = source.qconfig(job.id, trial)?;
    match &args.output {
        Some(path) => fs::write(path, text).with_context(|| format!("failed to write {}", path.display())),
        None => print(&text),
    }
}
