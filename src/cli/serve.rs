//! `qtuned serve`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::net::TcpListener;

use super::{Global, available_threads, signals};
use crate::{
    cancel::Cancel,
    job::is_target_name,
    runner::{self, JobLines, Processes, Workshop},
    server::{Access, Server, Uploads},
    store::{Changes, Store, SystemClock},
};

/// Run the jobs of a queue and answer over HTTP until asked to stop
///
/// On SIGINT or SIGTERM no job is taken any more, the running ones leave their evaluation, and the process ends within
/// ten seconds; the next one goes on with them. A second signal ends it at once, and nothing that was recorded is lost.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned serve
  qtuned serve --workers 2 --db /data/qtuned.db
  qtuned serve --keep-days 30
  qtuned serve --allow-target phone=./measure-on-phone
  qtuned serve --listen 0.0.0.0:7878 --token-file tokens --data-root /data")]
pub(super) struct ServeArgs {
    /// Jobs that run at the same time; the CPUs are divided among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,

    /// Threads of all workers together; all CPUs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Where to listen; port 0 takes a free one, which is told in the log
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7878")]
    listen: SocketAddr,

    /// Lines `read TOKEN` and `write TOKEN`: who may. Needed on any address that is not loopback
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The folder below which jobs that come over HTTP may read; paths in them are relative to it. Without it they
    /// read what this process can on a loopback address, and nothing on another
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,

    /// Where files are kept that clients upload; a folder beside the database when not given
    #[arg(long, value_name = "DIR")]
    uploads: Option<PathBuf>,

    /// Largest file that a client may upload, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    max_upload: u64,

    /// A program that jobs may measure with by its name, also those that come over HTTP, which may bring none of their
    /// own; can be given several times. It is called as PROGRAM latency MODEL.onnx or PROGRAM metric MODEL.onnx FOLDER
    #[arg(long, value_name = "NAME=PROGRAM", value_parser = target)]
    allow_target: Vec<(String, PathBuf)>,

    /// Remove jobs this many days after they ended, with the trials that only they have; never when not given
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: Option<u32>,
}

/// A name and a program that is there.
fn target(given: &str) -> Result<(String, PathBuf), String> {
    let expected = "expected NAME=PROGRAM, such as phone=./measure-on-phone";
    let (name, program) = given.split_once('=').ok_or(expected)?;
    if !is_target_name(name) {
        return Err(format!("{expected}; a name has at most 64 letters, digits, `-`, `_` and `.`"));
    }
    let program = Path::new(program).canonicalize().map_err(|error| format!("failed to find `{program}`: {error}"))?;
    match program.is_file() {
        true => Ok((name.to_owned(), program)),
        false => Err(format!("{expected}; `{}` is not a file", program.display())),
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn run(global: &Global, args: &ServeArgs, lines: JobLines) -> Result<()> {
    let workers = usize::from(args.workers);
    let threads = (args.threads.map_or_else(available_threads, usize::from) / workers).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(async {
        let stop = Cancel::default();
        signals::stop_on_signals(&stop, || tracing::info!("stopping (once more to stop at once)"))?;
        let targets: BTreeMap<String, PathBuf> = args.allow_target.iter().cloned().collect();
        if targets.len() < args.allow_target.len() {
            bail!("--allow-target: expected one program for each name");
        }
        let access = Access::new(args.listen, args.token_file.as_deref(), args.data_root.as_deref())?;
        let access = access.with_targets(targets.keys().cloned());
        let listener = TcpListener::bind(args.listen).await;
        let listener = listener.with_context(|| format!("failed to listen on {}", args.listen))?;
        let address = listener.local_addr()?;
        let store = Store::open(&global.db, Arc::new(SystemClock)).await?;
        tokio::spawn(lines.keep(store.clone()));
        let workshop = Workshop::new(store.clone(), threads, Processes::with_targets(targets), stop.clone());
        if let Some(days) = args.keep_days {
            tokio::spawn(runner::forget_old(store.clone(), SystemClock, DAY * days, stop.clone()));
        }
        let uploads = args.uploads.clone().unwrap_or_else(|| global.db.with_extension("uploads"));
        let changes = Changes::open(&global.db).await?;
        let uploads = Uploads::new(uploads, args.max_upload << 20);
        let server = Server::new(store.clone(), &global.db, Arc::clone(&workshop), access, uploads, changes, stop);
        let work = |workshop: &Arc<Workshop>| {
            let workshop = Arc::clone(workshop);
            tokio::spawn(async move { workshop.work().await })
        };
        let working: Vec<_> = (0..workers).map(|_| work(&workshop)).collect();
        tracing::info!(workers, threads, database = %global.db.display(), "serving on http://{address}");
        server.serve(listener).await?;
        for worker in working {
            worker.await?;
        }
        tokio::time::sleep(runner::GATHER).await;
        store.close().await;
        anyhow::Ok(())
    });
    // A search that did not stop in time is left behind: what it recorded is on disk.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}
