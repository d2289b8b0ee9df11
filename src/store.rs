//! The record in SQLite: jobs, trials, sensitivities, latencies, events. All SQL is here.
//!
//! A database is opened by [`Store::open`], which makes and migrates it, or by [`Store::open_existing`], which is for
//! commands that only look. Facts are written in one transaction each and are on disk when the call returns. What can
//! be derived (medians, the front) is not stored: views derive it, by the definitions of [`crate::evaluate`] and
//! [`crate::pareto`].
//!
//! SQLite's write-ahead log needs memory that all readers share, which network file systems do not give. There the
//! database has a rollback journal instead, and one process holds it locked while it has it open.

mod certificates;
mod changes;
mod connect;
mod events;
mod groups;
mod jobs;
mod json_number;
mod ledger;
mod life;
mod merge;
mod query;
mod queue;
mod rows;
mod trials;
mod upkeep;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use sqlx::SqlitePool;

pub use changes::Changes;
pub use events::{JobEvent, LogLine};
pub use groups::GroupRow;
pub use jobs::{Counts, JobDetail, JobFilter, JobId, JobProgress, JobRow, JobState};
pub use json_number::JsonNumber;
pub use ledger::StoreLedger;
pub use life::{JobEnd, Word};
pub use merge::Merged;
pub use query::{Cell, QueryLimits, Rows};
pub use queue::{BegunJob, ClaimedJob, LEASE, Submission, Submitted};
pub use trials::TrialSummary;

/// Where times come from: milliseconds since 1970-01-01 UTC.
pub trait Clock: Send + Sync {
    /// Now.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// An open database.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
}

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A command that only looks found no file.
    #[error("{}: there is no database; `qtuned run` makes one, --db names another", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{}: this file is not an SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// An SQLite database of another program.
    #[error("{}: this SQLite database was not made by qtuned", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database was written by a version of qtuned that knows more.
    #[error("{}: this database was made by a newer qtuned (schema {version}); use that version, or another --db", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its newest migration.
        version: i64,
    },
    /// The file cannot be opened or brought up to date.
    #[error("{}: failed to open the database", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A statement failed.
    #[error("failed to use the database")]
    Sql(#[from] sqlx::Error),
    /// A row that this program would not have written.
    #[error("the database holds {what} that cannot be read: {problem}")]
    Corrupt {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that the database cannot hold.
    #[error("failed to record {what}: {problem}")]
    Unrecordable {
        /// What was to be recorded.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No job has this id or name.
    #[error("there is no job `{name}` in the database")]
    NoSuchJob {
        /// As given.
        name: String,
    },
    /// There are no jobs yet.
    #[error("there are no jobs in the database yet")]
    NoJobs,
    /// Another process has the job.
    #[error("job {id} is being run by another process; `qtuned watch {id}` follows it")]
    Running {
        /// The job.
        id: JobId,
        /// The process.
        owner: String,
    },
    /// The process that wrote had lost the job.
    #[error("job {id} was taken over by another process, or removed")]
    Lost {
        /// The job.
        id: JobId,
    },
    /// Something that cannot be done to a job in this state.
    #[error("job {id} is {state} and cannot {what}")]
    WrongState {
        /// The job.
        id: JobId,
        /// Where it is.
        state: JobState,
        /// What was asked.
        what: &'static str,
    },
    /// A request's name that was used for something else.
    #[error("this idempotency key was used for another job, {id}")]
    KeyReused {
        /// The job that it was used for.
        id: JobId,
    },
    /// A trial whose qconfig was not kept whole.
    #[error("job {id} has no qconfig file of trial {trial}")]
    NoQConfig {
        /// The job.
        id: JobId,
        /// The trial.
        trial: usize,
    },
    /// A copy of the database cannot be written.
    #[error("{}: failed to write the copy", path.display())]
    Copy {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A statement of the user's that is refused.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// Whether more was asked at once than can be answered: the same may be asked again later.
    pub fn is_overload(&self) -> bool {
        matches!(self, StoreError::Sql(sqlx::Error::PoolTimedOut))
    }
}

/// Whether an error comes from a disk that is full.
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    /// SQLITE_FULL.
    const FULL: &str = "13";
    let full = |error: &(dyn std::error::Error + 'static)| {
        let sql = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        let io = error.downcast_ref::<std::io::Error>();
        sql.is_some_and(|e| e.code().as_deref() == Some(FULL))
            || io.is_some_and(|e| matches!(e.kind(), StorageFull | QuotaExceeded))
    };
    std::iter::successors(Some(error), |error| error.source()).any(full)
}

#[cfg(test)]
mod tests;
