//! How a job comes to a process: it is submitted and claimed, or begun without the queue.

use std::{collections::HashSet, time::Duration};

use sqlx::SqliteConnection;

use super::{
    JobEnd, JobId, Store, StoreError,
    rows::{count, name_of},
};
use crate::job::JobLock;

/// How long a process is believed to run its job without a sign of life.
pub const LEASE: Duration = Duration::from_secs(30);

/// A job to put in the queue.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The job.
    pub lock: JobLock,
    /// What the importer says of its model, in JSON.
    pub model: String,
    /// The folder of uploaded files that it reads, by its hash.
    pub upload: Option<String>,
    /// The larger goes first.
    pub priority: i64,
    /// Make a new job also where there is one with the same lock.
    pub again: bool,
    /// A name of this request: sent again it does nothing.
    pub idempotency_key: Option<String>,
}

/// What submitting a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job's number.
    pub id: JobId,
    /// Whether there was no such job before.
    pub new: bool,
}

/// A job that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BegunJob {
    /// Its number.
    pub id: JobId,
    /// Trials recorded by earlier runs of it; `None` for a job that starts for the first time.
    pub continued: Option<usize>,
}

/// A job that a worker took from the queue.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// Its number, and what is there of it.
    pub job: BegunJob,
    /// What to run.
    pub lock: JobLock,
}

impl Store {
    /// Puts a job in the queue. The one with the same lock is not made again: it is queued once more when it failed,
    /// was cancelled or interrupted, and else stays as it is.
    ///
    /// # Errors
    /// An idempotency key that was used for another job, or whatever keeps it from being recorded.
    pub async fn submit(&self, submission: &Submission) -> Result<Submitted, StoreError> {
        let Locked { identity, yaml, metric } = Locked::of(&submission.lock)?;
        let Submission { lock, model, upload, priority, again, idempotency_key: key } = submission;
        let (now, version) = (self.clock.now_ms(), env!("CARGO_PKG_VERSION"));
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(key) = key {
            let known = sqlx::query!(r#"SELECT id AS "id!", identity FROM jobs WHERE idempotency_key = ?"#, key)
                .fetch_optional(&mut *transaction)
                .await?;
            if let Some(known) = known {
                return match known.identity == identity {
                    true => Ok(Submitted { id: JobId(known.id), new: false }),
                    false => Err(StoreError::KeyReused { id: JobId(known.id) }),
                };
            }
        }
        let same = match again {
            true => None,
            false => latest(&mut transaction, &identity).await?,
        };
        if let Some(id) = same {
            let queued = sqlx::query!(
                "UPDATE jobs SET state = 'queued', submitted_ms = ?1, priority = ?2, lock = ?3, owner = NULL,
                     cancel_ms = NULL, error = NULL, exit_code = NULL, finished_ms = NULL,
                     idempotency_key = coalesce(idempotency_key, ?4)
                 WHERE id = ?5 AND (state IN ('failed', 'cancelled', 'interrupted')
                     OR state = 'running' AND lease_until_ms < ?1)",
                now,
                priority,
                yaml,
                key,
                id
            )
            .execute(&mut *transaction)
            .await?;
            if queued.rows_affected() > 0 {
                note(&mut transaction, id, now, "queued", "again").await?;
            }
            transaction.commit().await?;
            return Ok(Submitted { id: JobId(id), new: false });
        }
        let id = sqlx::query!(
            "INSERT INTO jobs (name, identity, idempotency_key, lock, metric, model_sha256, model, qtuned_version, state,
                 priority, upload, created_ms, submitted_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'queued', ?9, ?10, ?11, ?11)",
            lock.job.name,
            identity,
            key,
            yaml,
            metric,
            lock.sha256.model,
            model,
            version,
            priority,
            upload,
            now
        )
        .execute(&mut *transaction)
        .await?
        .last_insert_rowid();
        note(&mut transaction, id, now, "queued", "").await?;
        transaction.commit().await?;
        Ok(Submitted { id: JobId(id), new: true })
    }

    /// The folders of uploaded files that jobs refer to, by their hashes.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn uploads(&self) -> Result<HashSet<String>, StoreError> {
        let uploads = sqlx::query_scalar!(r#"SELECT DISTINCT upload AS "upload!" FROM jobs WHERE upload IS NOT NULL"#);
        Ok(uploads.fetch_all(&self.pool).await?.into_iter().collect())
    }

    /// Takes the next job from the queue, in one statement: the one with the largest priority, of those the oldest.
    /// A job whose process was stopped or killed is still in the queue.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn claim(&self, owner: &str) -> Result<Option<ClaimedJob>, StoreError> {
        let (now, version) = (self.clock.now_ms(), env!("CARGO_PKG_VERSION"));
        let until = now + lease_ms();
        let claimed = sqlx::query!(
            r#"UPDATE jobs SET state = 'running', owner = ?1, lease_until_ms = ?2, qtuned_version = ?3, started_ms = ?4,
                   finished_ms = NULL, progress = NULL, finish = NULL, chosen = NULL, within_budget = NULL,
                   error = NULL, exit_code = NULL
               WHERE id = (SELECT id FROM jobs
                   WHERE submitted_ms IS NOT NULL AND state IN ('queued', 'running', 'interrupted')
                       AND (state != 'running' OR lease_until_ms < ?4)
                   ORDER BY priority DESC, submitted_ms, id LIMIT 1)
               RETURNING id AS "id!", lock AS "lock!""#,
            owner,
            until,
            version,
            now
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(claimed) = claimed else { return Ok(None) };
        let id = JobId(claimed.id);
        let unreadable = |e: serde_yaml::Error| StoreError::Corrupt { what: "a job's lock", problem: e.to_string() };
        let lock = match serde_yaml::from_str(&claimed.lock).map_err(unreadable) {
            Ok(lock) => lock,
            // Left in the queue it would be claimed for ever.
            Err(error) => {
                self.end_job(id, owner, &JobEnd::Failed { error: error.to_string() }, 1).await?;
                return Err(error);
            }
        };
        let mut connection = self.pool.acquire().await?;
        let continued = note_start(&mut connection, id.0, now).await?;
        Ok(Some(ClaimedJob { job: BegunJob { id, continued }, lock }))
    }

    /// Starts a job without the queue: a new one, or the latest with the same identity, which this run continues.
    ///
    /// # Errors
    /// A job that another process runs, or whatever keeps it from being recorded.
    pub async fn begin_job(&self, lock: &JobLock, owner: &str) -> Result<BegunJob, StoreError> {
        let Locked { identity, yaml, metric } = Locked::of(lock)?;
        let (now, version) = (self.clock.now_ms(), env!("CARGO_PKG_VERSION"));
        let until = now + lease_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let id = match latest(&mut transaction, &identity).await? {
            Some(id) => {
                let begun = sqlx::query!(
                    "UPDATE jobs SET state = 'running', owner = ?1, lease_until_ms = ?2, lock = ?3, qtuned_version = ?4,
                         started_ms = ?5, finished_ms = NULL, cancel_ms = NULL, progress = NULL, finish = NULL,
                         chosen = NULL, within_budget = NULL, error = NULL, exit_code = NULL
                     WHERE id = ?6 AND (state != 'running' OR lease_until_ms < ?5 OR owner = ?1)",
                    owner,
                    until,
                    yaml,
                    version,
                    now,
                    id
                )
                .execute(&mut *transaction)
                .await?;
                if begun.rows_affected() == 0 {
                    let owner = sqlx::query_scalar!("SELECT owner FROM jobs WHERE id = ?", id);
                    let owner = owner.fetch_one(&mut *transaction).await?.unwrap_or_default();
                    return Err(StoreError::Running { id: JobId(id), owner });
                }
                id
            }
            None => sqlx::query!(
                "INSERT INTO jobs (name, identity, lock, metric, model_sha256, qtuned_version, state, owner,
                     lease_until_ms, created_ms, started_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'running', ?7, ?8, ?9, ?9)",
                lock.job.name,
                identity,
                yaml,
                metric,
                lock.sha256.model,
                version,
                owner,
                until,
                now
            )
            .execute(&mut *transaction)
            .await?
            .last_insert_rowid(),
        };
        let continued = note_start(&mut transaction, id, now).await?;
        transaction.commit().await?;
        Ok(BegunJob { id: JobId(id), continued })
    }
}

/// What a lock is in columns.
struct Locked {
    identity: String,
    yaml: String,
    metric: String,
}

impl Locked {
    fn of(lock: &JobLock) -> Result<Locked, StoreError> {
        let unwritable = |e: serde_yaml::Error| StoreError::Unrecordable { what: "the job", problem: e.to_string() };
        Ok(Locked {
            identity: lock.identity().map_err(unwritable)?.to_string(),
            yaml: lock.to_yaml().map_err(unwritable)?,
            metric: name_of("the metric", lock.job.budget.metric)?,
        })
    }
}

pub(super) fn lease_ms() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

/// The latest job with this identity.
async fn latest(connection: &mut SqliteConnection, identity: &str) -> Result<Option<i64>, StoreError> {
    let query =
        sqlx::query_scalar!(r#"SELECT id AS "id!" FROM jobs WHERE identity = ? ORDER BY id DESC LIMIT 1"#, identity);
    Ok(query.fetch_optional(connection).await?)
}

/// Notes that a job was started, or is continued after the trials that are returned.
async fn note_start(connection: &mut SqliteConnection, job: i64, now: i64) -> Result<Option<usize>, StoreError> {
    let before = sqlx::query_scalar!("SELECT count(*) FROM events WHERE job_id = ? AND kind = 'started'", job)
        .fetch_one(&mut *connection)
        .await?;
    let trials = sqlx::query_scalar!("SELECT count(*) FROM job_trials WHERE job_id = ?", job)
        .fetch_one(&mut *connection)
        .await?;
    let kind = if before > 0 { "continued" } else { "started" };
    note(connection, job, now, kind, env!("CARGO_PKG_VERSION")).await?;
    (before > 0).then(|| count("a job's trials", trials)).transpose()
}

/// Notes something that happened to a job.
pub(super) async fn note(
    connection: &mut SqliteConnection,
    job: i64,
    now: i64,
    kind: &str,
    detail: &str,
) -> Result<(), StoreError> {
    sqlx::query!("INSERT INTO events (job_id, time_ms, kind, detail) VALUES (?, ?, ?, ?)", job, now, kind, detail)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
