//! `qtuned db`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, format, print, print_json};
use crate::store::{Store, StoreError, SystemClock};

/// Look after a database: check it, copy it, make it small
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned db check
  qtuned db backup qtuned-$(date +%F).db
  qtuned db vacuum --db /data/qtuned.db")]
pub(super) struct DbArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand, Debug)]
enum Act {
    /// Read everything and say what is wrong; exit code 1 when something is
    Check,
    /// Write a copy, also while jobs run
    Backup {
        /// The file to write; there must be none yet
        #[arg(value_name = "FILE")]
        copy: PathBuf,
    },
    /// Give back the room of jobs that were removed
    Vacuum,
}

pub(super) fn run(global: &Global, args: &DbArgs) -> Result<()> {
    if global.server.is_some() {
        bail!("`qtuned db` works on a database here: use --db, without --server");
    }
    let path = &global.db;
    if !path.exists() {
        return Err(StoreError::Missing { path: path.clone() }.into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = runtime.block_on(Store::open(path, Arc::new(SystemClock)))?;
    let text = match &args.act {
        Act::Check => {
            let wrong = runtime.block_on(store.check())?;
            if global.json {
                print_json(&json!({"wrong": wrong}))?;
            }
            if !wrong.is_empty() {
                bail!("{}: {}", path.display(), wrong.join("; "));
            }
            format!("{}: nothing is wrong\n", path.display())
        }
        Act::Backup { copy } => {
            runtime.block_on(store.backup(copy))?;
            if global.json {
                print_json(&json!({"copy": copy, "bytes": size(copy)}))?;
            }
            format!("{}: {}\n", copy.display(), format::bytes(size(copy)))
        }
        Act::Vacuum => {
            let before = size(path);
            runtime.block_on(store.vacuum())?;
            if global.json {
                print_json(&json!({"bytes_before": before, "bytes": size(path)}))?;
            }
            format!("{}: {}, before {}\n", path.display(), format::bytes(size(path)), format::bytes(before))
        }
    };
    runtime.block_on(store.close());
    match global.json {
        true => Ok(()),
        false => print(&text),
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
