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
mod connect;
mod groups;
mod jobs;
mod ledger;
mod query;
mod rows;
mod trials;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use sqlx::SqlitePool;

pub use jobs::{BegunJob, JobEnd, JobId, JobRow, JobState};
pub use ledger::StoreLedger;
pub(crate) use query::json_number;
pub use query::{Cell, Rows};
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
    /// A statement of the user's that is refused.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
