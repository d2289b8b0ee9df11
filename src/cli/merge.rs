//! `qtuned merge`.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::{Global, format, print, print_json};
use crate::store::{Store, StoreError, SystemClock};

/// Unite databases, such as those of the tasks of a cluster
///
/// Trials are the same when they measured the same. A job is taken once, and of two copies of it the one to which more
/// has happened. The same command again changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned merge task-*.db -o all.db
  qtuned trials --db all.db")]
pub(super) struct MergeArgs {
    /// Databases to take in, in this order
    #[arg(required = true, value_name = "A.db")]
    sources: Vec<PathBuf>,

    /// The database to take them into; made when there is none
    #[arg(short, long, value_name = "ALL.db")]
    output: PathBuf,
}

pub(super) fn run(global: &Global, args: &MergeArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for source in &args.sources {
            if !source.exists() {
                return Err(StoreError::Missing { path: source.clone() }.into());
            }
            if args.output.canonicalize().is_ok_and(|output| source.canonicalize().is_ok_and(|s| s == output)) {
                bail!("{}: expected databases other than the output", source.display());
            }
        }
        let store = Store::open(&args.output, Arc::new(SystemClock)).await?;
        let mut rows = Vec::new();
        for source in &args.sources {
            let merged = store.merge(source).await?;
            if global.json {
                rows.push(json!({"source": source, "merged": merged}));
                continue;
            }
            print(&format!(
                "{}: {} and {} are new, {} had gone on\n",
                source.display(),
                format::plural(merged.jobs as usize, "job"),
                format::plural(merged.trials as usize, "trial"),
                format::plural(merged.continued as usize, "job"),
            ))?;
        }
        store.close().await;
        if global.json { print_json(&rows) } else { Ok(()) }
    })
}
