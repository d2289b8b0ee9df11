//! What happened to jobs, and what they logged.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobId, Store, StoreError, queue::note};

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobEvent {
    /// Its number, which grows.
    pub id: i64,
    /// When, in ms since 1970.
    pub time_ms: i64,
    /// `queued`, `started`, `continued`, `sensitivities`, `trial`, `finished`, `cancel_asked`, or the state that the
    /// job came to.
    pub kind: String,
    /// The trial's number, the error, or another word about it.
    pub detail: String,
}

/// A line that was logged while a job ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Its number, which grows.
    pub id: i64,
    /// When, in ms since 1970.
    pub time_ms: i64,
    /// `ERROR`, `WARN`, `INFO` or `DEBUG`.
    pub level: String,
    /// What was said, with its fields.
    pub message: String,
}

impl Store {
    /// Notes something that happened to a job.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn event(&self, job: JobId, kind: &str, detail: &str) -> Result<(), StoreError> {
        note(&mut *self.pool.acquire().await?, job.0, self.clock.now_ms(), kind, detail).await
    }

    /// What happened to a job after the event with this number, in order; `limit` at most.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn events(&self, job: JobId, after: i64, limit: u32) -> Result<Vec<JobEvent>, StoreError> {
        let events = sqlx::query_as!(
            JobEvent,
            "SELECT id, time_ms, kind, detail FROM events WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?",
            job.0,
            after,
            limit
        );
        Ok(events.fetch_all(&self.pool).await?)
    }

    /// Keeps lines that were logged, in one transaction. Lines of a job that is gone are left out.
    ///
    /// # Errors
    /// Whatever keeps them from being recorded.
    pub async fn log(&self, lines: &[(JobId, LogLine)]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (job, line) in lines {
            sqlx::query!(
                "INSERT INTO log_lines (job_id, time_ms, level, message) SELECT id, ?, ?, ? FROM jobs WHERE id = ?",
                line.time_ms,
                line.level,
                line.message,
                job.0
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// What a job logged after the line with this number, in order; `limit` at most.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn log_lines(&self, job: JobId, after: i64, limit: u32) -> Result<Vec<LogLine>, StoreError> {
        let lines = sqlx::query_as!(
            LogLine,
            "SELECT id, time_ms, level, message FROM log_lines WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?",
            job.0,
            after,
            limit
        );
        Ok(lines.fetch_all(&self.pool).await?)
    }
}
