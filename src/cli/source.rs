//! Where the commands find jobs: a database here, or a server. The commands know only the trait.

mod remote;
mod upload;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Result, bail};

use super::{Global, JobFile};
use crate::{
    cancel::Cancel,
    pipeline::GroupFacts,
    report::{Document, JobReport},
    runner::{self, Follower, Update},
    store::{
        JobDetail, JobFilter, JobId, JobRow, LogLine, QueryLimits, Rows, Store, StoreError, Submission, SystemClock,
        TrialSummary,
    },
};

/// How often a database is looked at for something new.
const LOOK: Duration = Duration::from_millis(250);

/// How a job is submitted.
#[derive(Clone, Debug, Default)]
pub(super) struct SubmitOptions {
    /// The larger goes first.
    pub(super) priority: i64,
    /// Make a new job also where there is one with the same lock.
    pub(super) again: bool,
    /// Name of the request.
    pub(super) idempotency_key: Option<String>,
    /// Send the files that the job reads along.
    pub(super) upload: bool,
}

/// What can be done to a job that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Cancel,
    Retry,
    Remove,
}

/// Jobs, wherever they are.
pub(super) trait Source {
    /// Puts a job in the queue; whether it is a new one.
    fn submit(&self, file: &JobFile, options: &SubmitOptions) -> Result<(JobRow, bool)>;
    /// Jobs, the newest first.
    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>>;
    /// The job with this id or name, or else the latest.
    fn job(&self, name: Option<&str>) -> Result<JobDetail>;
    /// Does something to a job.
    fn act(&self, job: JobId, act: Act) -> Result<()>;
    /// The trials of a job, in order.
    fn trials(&self, job: JobId) -> Result<Vec<TrialSummary>>;
    /// The groups of a job's model, in topological order.
    fn groups(&self, job: JobId) -> Result<Vec<GroupFacts>>;
    /// The qconfig of a trial written whole, in YAML.
    fn qconfig(&self, job: JobId, trial: usize) -> Result<String>;
    /// A file made of what a job found.
    fn document(&self, job: JobId, document: Document) -> Result<Vec<u8>>;
    /// What a job logged after the line with this number.
    fn log_lines(&self, job: JobId, after: i64) -> Result<Vec<LogLine>>;
    /// Tells everything that happened and happens to a job, until `tell` returns false.
    fn follow(&self, job: JobId, tell: &mut dyn FnMut(Update) -> Result<bool>) -> Result<()>;
    /// The result of one statement that reads.
    fn query(&self, sql: &str) -> Result<Rows>;
}

/// The source that the command line names.
pub(super) fn source(global: &Global) -> Result<Box<dyn Source>> {
    Ok(match &global.server {
        Some(url) => Box::new(remote::Remote::new(url)),
        None => Box::new(Local::new(global)?),
    })
}

/// Log lines read at once.
pub(super) const LOG_PAGE: u32 = 1000;

/// A database here.
struct Local {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Local {
    fn new(global: &Global) -> Result<Local> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Local { path: global.db.clone(), runtime })
    }

    /// Runs `work` on the database, opened for reading.
    fn read<T, F: Future<Output = Result<T, StoreError>>>(&self, work: impl FnOnce(Store) -> F) -> Result<T> {
        self.with(Store::open_existing(&self.path, Arc::new(SystemClock)), work)
    }

    /// Runs `work` on the database, which must be there.
    fn write<T, F: Future<Output = Result<T, StoreError>>>(&self, work: impl FnOnce(Store) -> F) -> Result<T> {
        if !self.path.exists() {
            return Err(StoreError::Missing { path: self.path.clone() }.into());
        }
        self.with(Store::open(&self.path, Arc::new(SystemClock)), work)
    }

    fn with<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        opened: impl Future<Output = Result<Store, StoreError>>,
        work: impl FnOnce(Store) -> F,
    ) -> Result<T> {
        Ok(self.runtime.block_on(async {
            let store = opened.await?;
            let done = work(store.clone()).await;
            store.close().await;
            done
        })?)
    }
}

impl Source for Local {
    fn submit(&self, file: &JobFile, options: &SubmitOptions) -> Result<(JobRow, bool)> {
        if options.upload {
            bail!("--upload sends files to a server: --server names one");
        }
        let prepared = runner::prepare_submitted(&file.load()?, &Cancel::default())?;
        let submission = Submission {
            lock: prepared.lock,
            model: prepared.model,
            upload: None,
            priority: options.priority,
            again: options.again,
            idempotency_key: options.idempotency_key.clone(),
        };
        self.with(Store::open(&self.path, Arc::new(SystemClock)), |store| async move {
            let submitted = store.submit(&submission).await?;
            Ok((store.job(submitted.id).await?, submitted.new))
        })
    }

    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>> {
        self.read(|store| async move { store.jobs(filter).await })
    }

    fn job(&self, name: Option<&str>) -> Result<JobDetail> {
        self.read(|store| async move { store.find_job(name).await?.try_into() })
    }

    fn act(&self, job: JobId, act: Act) -> Result<()> {
        self.write(|store| async move {
            match act {
                Act::Cancel => store.cancel(job).await,
                Act::Retry => store.retry(job).await,
                Act::Remove => store.remove(job).await,
            }
        })
    }

    fn trials(&self, job: JobId) -> Result<Vec<TrialSummary>> {
        self.read(|store| async move { store.summaries(job).await })
    }

    fn groups(&self, job: JobId) -> Result<Vec<GroupFacts>> {
        self.read(|store| async move { store.job_groups(job).await })
    }

    fn qconfig(&self, job: JobId, trial: usize) -> Result<String> {
        self.read(|store| async move { store.qconfig_file(job, trial).await })
    }

    fn document(&self, job: JobId, document: Document) -> Result<Vec<u8>> {
        let (job, groups, trials, certificate) = self.read(|store| async move {
            let certificate = store.certificate(job).await?;
            Ok((store.job(job).await?, store.job_groups(job).await?, store.summaries(job).await?, certificate))
        })?;
        Ok(document.of(&JobReport::new(job, groups, trials, certificate.as_ref())?)?)
    }

    fn log_lines(&self, job: JobId, after: i64) -> Result<Vec<LogLine>> {
        self.read(|store| async move { store.log_lines(job, after, LOG_PAGE).await })
    }

    fn follow(&self, job: JobId, tell: &mut dyn FnMut(Update) -> Result<bool>) -> Result<()> {
        let store = self.runtime.block_on(Store::open_existing(&self.path, Arc::new(SystemClock)))?;
        let mut follower = Follower::new(store, job, 0);
        loop {
            for update in self.runtime.block_on(follower.news())? {
                if !tell(update)? {
                    return Ok(());
                }
            }
            thread::sleep(LOOK);
        }
    }

    fn query(&self, sql: &str) -> Result<Rows> {
        Ok(self.runtime.block_on(Store::query(&self.path, sql, QueryLimits::NONE))?)
    }
}
