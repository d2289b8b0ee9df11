//! `qtuned submit`.

use anyhow::Result;
use clap::Args;

use super::{
    Global, JobFile, print, print_json,
    source::{SubmitOptions, source},
    watch,
};
use crate::runner::Exit;

/// Put a job in the queue that `qtuned serve` works on
///
/// The job, its model and its data are read and checked first. The same job is not made twice: one that failed, was
/// cancelled or interrupted is queued again and goes on after its trials, any other stays as it is.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned submit job.yaml
  qtuned submit job.yaml --watch
  qtuned submit job.yaml --upload --server http://gpu7:7878
  qtuned submit job.yaml --priority 5 --set budget.max_drop=0.02")]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    job: JobFile,

    /// Follow the job to its end; the exit code is then that of `qtuned run`
    #[arg(long)]
    watch: bool,

    /// Jobs with a larger priority go first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1000..=1000))]
    priority: i64,

    /// Make a new job also where there is the same already
    #[arg(long)]
    again: bool,

    /// Send the model and the data along: for a server that does not share a disk with this machine
    #[arg(long)]
    upload: bool,

    /// A name for this request: sent again it does nothing
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) fn run(global: &Global, args: &SubmitArgs) -> Result<Exit> {
    let SubmitArgs { job, watch, priority, again, upload, idempotency_key } = args;
    let options =
        SubmitOptions { priority: *priority, again: *again, idempotency_key: idempotency_key.clone(), upload: *upload };
    let source = source(global)?;
    let (job, new) = source.submit(job, &options)?;
    match global.json {
        true => print_json(&job)?,
        false if new => print(&format!("job {}: {} ({})\n", job.id, job.name, job.state))?,
        false => print(&format!("job {}: {} ({}), the same as before\n", job.id, job.name, job.state))?,
    }
    match watch {
        true => watch::follow(&*source, job.id, global.json),
        false => Ok(Exit::Success),
    }
}
