//! Jobs and their events.

use std::fmt;

use serde::Serialize;

use super::{
    Store, StoreError,
    rows::{by_name, count, int, name_of},
};
use crate::{evaluate::Metric, job::JobLock, search::Finish};

/// Number of a job in its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// A process runs it, or was killed while it did.
    Running,
    /// It was asked to stop; the same job continues it.
    Interrupted,
    /// The search ended.
    Succeeded,
    /// It could not go on.
    Failed,
}

/// A job that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BegunJob {
    /// Its number.
    pub id: JobId,
    /// Trials recorded by earlier runs of it; `None` for a job that is new.
    pub continued: Option<usize>,
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEnd {
    /// The search ended.
    Succeeded {
        /// Why.
        finish: Finish,
        /// Number of the chosen trial.
        chosen: usize,
        /// Whether that is within the budget and not fp32.
        within_budget: bool,
    },
    /// It could not go on.
    Failed {
        /// Why, in one line.
        error: String,
    },
    /// It was asked to stop.
    Interrupted,
}

/// A job as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// Its name; not unique.
    pub name: String,
    /// Where it is.
    pub state: JobState,
    /// What it measures.
    pub metric: Metric,
    /// SHA-256 of the ONNX file.
    pub model_sha256: String,
    /// Trials so far.
    pub trials: usize,
    /// Why the search ended.
    pub finish: Option<Finish>,
    /// Number of the chosen trial.
    pub chosen: Option<usize>,
    /// Whether the chosen trial is within the budget and not fp32.
    pub within_budget: Option<bool>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was first started, in ms since 1970.
    pub created_ms: i64,
    /// When it was last started.
    pub started_ms: i64,
    /// When its last run ended.
    pub finished_ms: Option<i64>,
    /// Every default filled in, in YAML.
    #[serde(skip)]
    pub lock: String,
}

/// Columns of [`JobRow`].
struct Columns {
    id: i64,
    name: String,
    state: String,
    metric: String,
    model_sha256: String,
    trials: i64,
    finish: Option<String>,
    chosen: Option<i64>,
    within_budget: Option<i64>,
    error: Option<String>,
    created_ms: i64,
    started_ms: i64,
    finished_ms: Option<i64>,
    lock: String,
}

impl TryFrom<Columns> for JobRow {
    type Error = StoreError;

    fn try_from(row: Columns) -> Result<JobRow, StoreError> {
        Ok(JobRow {
            id: JobId(row.id),
            state: by_name("a job's state", &row.state)?,
            metric: by_name("a job's metric", &row.metric)?,
            trials: count("a job's trials", row.trials)?,
            finish: row.finish.map(|finish| by_name("a job's finish", &finish)).transpose()?,
            chosen: row.chosen.map(|chosen| count("a job's choice", chosen)).transpose()?,
            within_budget: row.within_budget.map(|flag| flag != 0),
            name: row.name,
            model_sha256: row.model_sha256,
            error: row.error,
            created_ms: row.created_ms,
            started_ms: row.started_ms,
            finished_ms: row.finished_ms,
            lock: row.lock,
        })
    }
}

impl Store {
    /// Starts a job: a new one, or the one with the same identity, which this run continues.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn begin_job(&self, lock: &JobLock) -> Result<BegunJob, StoreError> {
        let unwritable = |e: serde_yaml::Error| StoreError::Unrecordable { what: "the job", problem: e.to_string() };
        let identity = lock.identity().map_err(unwritable)?.to_string();
        let yaml = lock.to_yaml().map_err(unwritable)?;
        let metric = name_of("the metric", lock.job.budget.metric)?;
        let now = self.clock.now_ms();
        let version = env!("CARGO_PKG_VERSION");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let known = sqlx::query_scalar!(r#"SELECT id AS "id!" FROM jobs WHERE identity = ?"#, identity)
            .fetch_optional(&mut *transaction)
            .await?;
        let begun = if let Some(id) = known {
            sqlx::query!(
                "UPDATE jobs SET state = 'running', lock = ?, qtuned_version = ?, started_ms = ?, finished_ms = NULL,
                     finish = NULL, chosen = NULL, within_budget = NULL, error = NULL, exit_code = NULL
                 WHERE id = ?",
                yaml,
                version,
                now,
                id
            )
            .execute(&mut *transaction)
            .await?;
            let trials = sqlx::query_scalar!("SELECT count(*) FROM job_trials WHERE job_id = ?", id)
                .fetch_one(&mut *transaction)
                .await?;
            BegunJob { id: JobId(id), continued: Some(count("a job's trials", trials)?) }
        } else {
            let id = sqlx::query!(
                "INSERT INTO jobs (name, identity, lock, metric, model_sha256, qtuned_version, state, created_ms,
                     started_ms)
                 VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?)",
                lock.job.name,
                identity,
                yaml,
                metric,
                lock.sha256.model,
                version,
                now,
                now
            )
            .execute(&mut *transaction)
            .await?
            .last_insert_rowid();
            BegunJob { id: JobId(id), continued: None }
        };
        transaction.commit().await?;
        self.event(begun.id, if begun.continued.is_some() { "continued" } else { "started" }, version).await?;
        Ok(begun)
    }

    /// Records what the importer says of a job's model, a JSON object.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn set_model(&self, job: JobId, json: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE jobs SET model = ? WHERE id = ?", json, job.0).execute(&self.pool).await?;
        Ok(())
    }

    /// Records how a run of a job ended, and what the process will exit with.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn end_job(&self, job: JobId, end: &JobEnd, exit_code: u8) -> Result<(), StoreError> {
        let (state, finish, chosen, within, error) = match end {
            JobEnd::Succeeded { finish, chosen, within_budget } => {
                let finish = name_of("the finish", finish)?;
                (JobState::Succeeded, Some(finish), Some(int("the choice", *chosen)?), Some(*within_budget), None)
            }
            JobEnd::Failed { error } => (JobState::Failed, None, None, None, Some(error.as_str())),
            JobEnd::Interrupted => (JobState::Interrupted, None, None, None, None),
        };
        let state = name_of("the state", state)?;
        let now = self.clock.now_ms();
        sqlx::query!(
            "UPDATE jobs SET state = ?, finish = ?, chosen = ?, within_budget = ?, error = ?, exit_code = ?,
                 finished_ms = ?
             WHERE id = ?",
            state,
            finish,
            chosen,
            within,
            error,
            exit_code,
            now,
            job.0
        )
        .execute(&self.pool)
        .await?;
        self.event(job, &state, error.unwrap_or_default()).await
    }

    /// Notes something that happened to a job.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn event(&self, job: JobId, kind: &str, detail: &str) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        sqlx::query!(
            "INSERT INTO events (job_id, time_ms, kind, detail) VALUES (?, ?, ?, ?)",
            job.0,
            now,
            kind,
            detail
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// All jobs, the newest first.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        let rows = sqlx::query_as!(
            Columns,
            r#"SELECT id AS "id!", name, state, metric, model_sha256,
                   (SELECT count(*) FROM job_trials WHERE job_id = jobs.id) AS "trials!: i64",
                   finish, chosen, within_budget, error, created_ms, started_ms, finished_ms, lock
               FROM jobs ORDER BY id DESC"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(JobRow::try_from).collect()
    }

    /// The job with this id, or else the latest with this name; the latest of all without one.
    ///
    /// # Errors
    /// No such job, or whatever keeps it from being read.
    pub async fn find_job(&self, name: Option<&str>) -> Result<JobRow, StoreError> {
        let jobs = self.jobs().await?;
        let Some(name) = name else {
            return jobs.into_iter().max_by_key(|j| (j.started_ms, j.id)).ok_or(StoreError::NoJobs);
        };
        let by_id = name.parse().ok().and_then(|id| jobs.iter().position(|job| job.id == JobId(id)));
        let position = by_id.or_else(|| jobs.iter().position(|job| job.name == name));
        let missing = || StoreError::NoSuchJob { name: name.to_owned() };
        position.and_then(|at| jobs.into_iter().nth(at)).ok_or_else(missing)
    }
}
