//! Jobs as they are recorded, and how they are found.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Store, StoreError,
    rows::{by_name, count, from_json, name_of},
};
use crate::{evaluate::Metric, job::JobLock, search::Finish};

/// Number of a job in its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a worker.
    Queued,
    /// A process runs it.
    Running,
    /// Its process stopped or was killed. A worker takes up one that was submitted; `run` continues any.
    Interrupted,
    /// The search ended.
    Succeeded,
    /// It could not go on.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// All of them, in the order in which a job may come to them.
    pub const ALL: [JobState; 6] = [
        JobState::Queued,
        JobState::Running,
        JobState::Interrupted,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// Whether nothing more happens to it unless somebody asks.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Interrupted => "interrupted",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        })
    }
}

impl FromStr for JobState {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<JobState, StoreError> {
        by_name("a job's state", name)
    }
}

/// What a running job is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// `import`, `calibrate`, `sensitivity`, `evaluate` or `latency`.
    pub stage: String,
    /// The trial that is evaluated or whose latency is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<usize>,
    /// The group that this trial takes back to fp32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Samples seen in this stage.
    pub done: u64,
    /// Samples in this stage, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How many of the samples seen were right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<u64>,
    /// How long the search is likely to go on, in seconds, when each further layer in fp32 wins as much as those so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A job as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobRow {
    /// Its number.
    pub id: JobId,
    /// Its name; not unique.
    pub name: String,
    /// Where it is.
    pub state: JobState,
    /// The larger goes first.
    pub priority: i64,
    /// What it measures: `top1`, `top5`, `agreement`, `sqnr` or `score`.
    #[schema(value_type = String)]
    pub metric: Metric,
    /// SHA-256 of the ONNX file.
    pub model_sha256: String,
    /// Trials so far.
    pub trials: usize,
    /// What it is doing; absent when it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// Why the search ended: `within_budget`, `exhausted`, `max_trials` or `max_time`.
    #[schema(value_type = Option<String>)]
    pub finish: Option<Finish>,
    /// Number of the chosen trial.
    pub chosen: Option<usize>,
    /// Whether the chosen trial is within the budget and not fp32.
    pub within_budget: Option<bool>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was made, in ms since 1970.
    pub created_ms: i64,
    /// When it was last put in the queue; `null` for a job of `qtuned run`.
    pub submitted_ms: Option<i64>,
    /// When it was last started.
    pub started_ms: Option<i64>,
    /// When its last run ended.
    pub finished_ms: Option<i64>,
    /// Every default filled in, in YAML.
    #[serde(skip)]
    pub lock: String,
    /// What the importer says of its model, in JSON.
    #[serde(skip)]
    pub model: Option<String>,
}

/// A job with everything that decides its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: JobRow,
    /// The job file with every default filled in and whole paths.
    pub spec: serde_json::Value,
    /// SHA-256 of what it reads.
    pub sha256: serde_json::Value,
    /// What the importer says of its model; `null` before that is known.
    pub model: Option<serde_json::Value>,
}

impl TryFrom<JobRow> for JobDetail {
    type Error = StoreError;

    fn try_from(job: JobRow) -> Result<JobDetail, StoreError> {
        let corrupt = |problem: String| StoreError::Corrupt { what: "a job's lock", problem };
        let lock: JobLock = serde_yaml::from_str(&job.lock).map_err(|e| corrupt(e.to_string()))?;
        Ok(JobDetail {
            spec: serde_json::to_value(&lock.job).map_err(|e| corrupt(e.to_string()))?,
            sha256: serde_json::to_value(&lock.sha256).map_err(|e| corrupt(e.to_string()))?,
            model: job.model.as_deref().map(|json| from_json("a job's model", json)).transpose()?,
            job,
        })
    }
}

/// Which jobs to list. The default is the newest of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Those in this state.
    pub state: Option<JobState>,
    /// Those of this name.
    pub name: Option<String>,
    /// Those with a smaller number.
    pub before: Option<i64>,
    /// How many at most; all without one.
    pub limit: Option<u32>,
}

/// How many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Jobs in each state.
    pub jobs: [(JobState, i64); 6],
    /// Trials of all jobs.
    pub trials: i64,
}

/// Columns of [`JobRow`].
struct Columns {
    id: i64,
    name: String,
    state: String,
    priority: i64,
    metric: String,
    model_sha256: String,
    trials: i64,
    progress: Option<String>,
    finish: Option<String>,
    chosen: Option<i64>,
    within_budget: Option<i64>,
    error: Option<String>,
    created_ms: i64,
    submitted_ms: Option<i64>,
    started_ms: Option<i64>,
    finished_ms: Option<i64>,
    lock: String,
    model: Option<String>,
}

impl TryFrom<Columns> for JobRow {
    type Error = StoreError;

    fn try_from(row: Columns) -> Result<JobRow, StoreError> {
        let state = row.state.parse()?;
        let progress = row.progress.filter(|_| state == JobState::Running);
        Ok(JobRow {
            id: JobId(row.id),
            state,
            priority: row.priority,
            metric: by_name("a job's metric", &row.metric)?,
            trials: count("a job's trials", row.trials)?,
            progress: progress.map(|json| from_json("a job's progress", &json)).transpose()?,
            finish: row.finish.map(|finish| by_name("a job's finish", &finish)).transpose()?,
            chosen: row.chosen.map(|chosen| count("a job's choice", chosen)).transpose()?,
            within_budget: row.within_budget.map(|flag| flag != 0),
            name: row.name,
            model_sha256: row.model_sha256,
            error: row.error,
            created_ms: row.created_ms,
            submitted_ms: row.submitted_ms,
            started_ms: row.started_ms,
            finished_ms: row.finished_ms,
            lock: row.lock,
            model: row.model,
        })
    }
}

impl Store {
    /// Jobs, the newest first.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let newest = filter.before.map_or(i64::MAX, |before| before.saturating_sub(1));
        self.select(i64::MIN, newest, filter).await
    }

    /// The job with this number.
    ///
    /// # Errors
    /// No such job, or whatever keeps it from being read.
    pub async fn job(&self, id: JobId) -> Result<JobRow, StoreError> {
        let missing = || StoreError::NoSuchJob { name: id.to_string() };
        self.select(id.0, id.0, &JobFilter::default()).await?.pop().ok_or_else(missing)
    }

    /// The job with this id, or else the latest with this name; without one, the latest that was started or submitted.
    ///
    /// # Errors
    /// No such job, or whatever keeps it from being read.
    pub async fn find_job(&self, name: Option<&str>) -> Result<JobRow, StoreError> {
        let Some(name) = name else {
            let latest = sqlx::query_scalar!(
                r#"SELECT id AS "id!" FROM jobs ORDER BY coalesce(started_ms, submitted_ms, created_ms) DESC, id DESC
                   LIMIT 1"#
            );
            let id = latest.fetch_optional(&self.pool).await?.ok_or(StoreError::NoJobs)?;
            return self.job(JobId(id)).await;
        };
        if let Ok(id) = name.parse() {
            match self.job(JobId(id)).await {
                Err(StoreError::NoSuchJob { .. }) => {}
                found => return found,
            }
        }
        let filter = JobFilter { name: Some(name.to_owned()), limit: Some(1), ..JobFilter::default() };
        self.jobs(&filter).await?.pop().ok_or_else(|| StoreError::NoSuchJob { name: name.to_owned() })
    }

    /// How many jobs there are in each state, and how many trials.
    ///
    /// # Errors
    /// Whatever keeps them from being counted.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let now = self.clock.now_ms();
        let rows = sqlx::query!(
            r#"SELECT iif(state = 'running' AND lease_until_ms < ?, 'interrupted', state) AS "state!: String",
                   count(*) AS "count!: i64"
               FROM jobs GROUP BY 1"#,
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let of = |state: &JobState| rows.iter().find(|row| row.state == state.to_string()).map_or(0, |row| row.count);
        let trials = sqlx::query_scalar!("SELECT count(*) FROM trials").fetch_one(&self.pool).await?;
        Ok(Counts { jobs: JobState::ALL.map(|state| (state, of(&state))), trials })
    }

    async fn select(&self, oldest: i64, newest: i64, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let now = self.clock.now_ms();
        let state = filter.state.map(|state| name_of("the state", state)).transpose()?;
        let limit = filter.limit.map_or(-1, i64::from);
        // A process that gave no sign of life for its lease is not believed to run.
        let rows = sqlx::query_as!(
            Columns,
            r#"SELECT id AS "id!", name AS "name!", state AS "state!: String", priority AS "priority!",
                   metric AS "metric!", model_sha256 AS "model_sha256!", trials AS "trials!: i64", progress, finish,
                   chosen, within_budget, error, created_ms AS "created_ms!", submitted_ms, started_ms, finished_ms,
                   lock AS "lock!", model
               FROM (SELECT id, name, priority, metric, model_sha256, progress, finish, chosen, within_budget, error,
                         created_ms, submitted_ms, started_ms, finished_ms, lock, model,
                         iif(state = 'running' AND lease_until_ms < ?1, 'interrupted', state) AS state,
                         (SELECT count(*) FROM job_trials WHERE job_id = jobs.id) AS trials
                     FROM jobs WHERE id BETWEEN ?2 AND ?3)
               WHERE (?4 IS NULL OR state = ?4) AND (?5 IS NULL OR name = ?5)
               ORDER BY id DESC LIMIT ?6"#,
            now,
            oldest,
            newest,
            state,
            filter.name,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(JobRow::try_from).collect()
    }
}
