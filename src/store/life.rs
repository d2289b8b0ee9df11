//! The life of a job in a process, and what others can do to it: it is kept alive, cancelled, tried again and removed,
//! and it ends.
//!
//! A process that runs a job owns it for a lease that it renews. Whatever it writes about the job's state it writes
//! as the owner: one whose lease was lost to another process changes nothing.

use super::{
    JobId, JobProgress, JobState, Store, StoreError,
    queue::{lease_ms, note},
    rows::{int, name_of, to_json},
};
use crate::search::Finish;

/// What the owner of a job hears about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To go on.
    GoOn,
    /// To cancel it.
    Cancel,
    /// That another process has it now, or that it is gone.
    Lost,
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
    /// Its process was asked to stop.
    Interrupted,
    /// It was cancelled.
    Cancelled,
}

impl Store {
    /// The processes that are believed to run jobs.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn owners(&self) -> Result<Vec<String>, StoreError> {
        let now = self.clock.now_ms();
        let owners = sqlx::query_scalar!(
            r#"SELECT DISTINCT owner AS "owner!" FROM jobs
               WHERE state = 'running' AND lease_until_ms >= ? AND owner IS NOT NULL"#,
            now
        );
        Ok(owners.fetch_all(&self.pool).await?)
    }

    /// Ends the leases of a process that is known to be gone.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn bury(&self, owner: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE jobs SET lease_until_ms = 0 WHERE owner = ? AND state = 'running'", owner)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// What its owner should know about a job, without writing.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn hear(&self, job: JobId, owner: &str) -> Result<Word, StoreError> {
        let row = sqlx::query!("SELECT state, owner, cancel_ms FROM jobs WHERE id = ?", job.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(match row {
            Some(row) if row.state == "running" && row.owner.as_deref() == Some(owner) => match row.cancel_ms {
                Some(_) => Word::Cancel,
                None => Word::GoOn,
            },
            _ => Word::Lost,
        })
    }

    /// Renews the lease of a job and says what it is doing.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn beat(&self, job: JobId, owner: &str, progress: &JobProgress) -> Result<(), StoreError> {
        let until = self.clock.now_ms() + lease_ms();
        let progress = to_json("a job's progress", progress)?;
        sqlx::query!(
            "UPDATE jobs SET lease_until_ms = ?, progress = ? WHERE id = ? AND owner = ? AND state = 'running'",
            until,
            progress,
            job.0,
            owner
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records how a run of a job ended, and what the process exits with on its account.
    ///
    /// # Errors
    /// A job that this owner has no more, or whatever keeps it from being recorded.
    pub async fn end_job(&self, job: JobId, owner: &str, end: &JobEnd, exit_code: u8) -> Result<(), StoreError> {
        let (state, finish, chosen, within, error) = match end {
            JobEnd::Succeeded { finish, chosen, within_budget } => {
                let finish = name_of("the finish", finish)?;
                (JobState::Succeeded, Some(finish), Some(int("the choice", *chosen)?), Some(*within_budget), None)
            }
            JobEnd::Failed { error } => (JobState::Failed, None, None, None, Some(error.as_str())),
            JobEnd::Interrupted => (JobState::Interrupted, None, None, None, None),
            JobEnd::Cancelled => (JobState::Cancelled, None, None, None, None),
        };
        let state = name_of("the state", state)?;
        let now = self.clock.now_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let ended = sqlx::query!(
            "UPDATE jobs SET state = ?, finish = ?, chosen = ?, within_budget = ?, error = ?, exit_code = ?,
                 finished_ms = ?, owner = NULL, lease_until_ms = 0, cancel_ms = NULL, progress = NULL
             WHERE id = ? AND owner = ? AND state = 'running'",
            state,
            finish,
            chosen,
            within,
            error,
            exit_code,
            now,
            job.0,
            owner
        )
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Err(StoreError::Lost { id: job });
        }
        note(&mut transaction, job.0, now, &state, error.unwrap_or_default()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Cancels a job: at once when it does not run, else its process is asked to.
    ///
    /// # Errors
    /// A job that has ended, or whatever keeps it from being recorded.
    pub async fn cancel(&self, job: JobId) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let state = sqlx::query_scalar!(
            r#"UPDATE jobs SET cancel_ms = ?1,
                   state = iif(state = 'running' AND lease_until_ms >= ?1, state, 'cancelled'),
                   finished_ms = iif(state = 'running' AND lease_until_ms >= ?1, NULL, ?1)
               WHERE id = ?2 AND state IN ('queued', 'running', 'interrupted') RETURNING state AS "state!: String""#,
            now,
            job.0
        )
        .fetch_optional(&mut *transaction)
        .await?;
        match state.as_deref() {
            None => return Err(self.wrong_state(job, "be cancelled").await),
            Some("running") => note(&mut transaction, job.0, now, "cancel_asked", "").await?,
            Some(_) => note(&mut transaction, job.0, now, "cancelled", "").await?,
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Puts a job that failed, was cancelled or interrupted in the queue once more. Its trials are not made again.
    ///
    /// # Errors
    /// A job in another state, or whatever keeps it from being recorded.
    pub async fn retry(&self, job: JobId) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let queued = sqlx::query!(
            "UPDATE jobs SET state = 'queued', submitted_ms = ?1, owner = NULL, cancel_ms = NULL, error = NULL,
                 exit_code = NULL, finished_ms = NULL
             WHERE id = ?2 AND (state IN ('failed', 'cancelled', 'interrupted')
                 OR state = 'running' AND lease_until_ms < ?1)",
            now,
            job.0
        )
        .execute(&mut *transaction)
        .await?;
        if queued.rows_affected() == 0 {
            drop(transaction);
            return Err(self.wrong_state(job, "be tried again").await);
        }
        note(&mut transaction, job.0, now, "queued", "again").await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Removes a job that does not run, and the trials and sensitivities that only it has.
    ///
    /// # Errors
    /// A job that runs, or whatever keeps it from being removed.
    pub async fn remove(&self, job: JobId) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let running = sqlx::query_scalar!(
            "SELECT count(*) FROM jobs WHERE id = ? AND state = 'running' AND lease_until_ms >= ?",
            job.0,
            now
        );
        if running.fetch_one(&mut *transaction).await? > 0 {
            drop(transaction);
            return Err(self.wrong_state(job, "be removed").await);
        }
        let connection = &mut *transaction;
        let key = sqlx::query_scalar!("SELECT sensitivity_key FROM jobs WHERE id = ?", job.0)
            .fetch_optional(&mut *connection)
            .await?
            .ok_or_else(|| StoreError::NoSuchJob { name: job.to_string() })?;
        sqlx::query!("DELETE FROM events WHERE job_id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!("DELETE FROM log_lines WHERE job_id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!("DELETE FROM qconfig_files WHERE job_id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!("DELETE FROM finalists WHERE job_id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!("DELETE FROM job_trials WHERE job_id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!("DELETE FROM jobs WHERE id = ?", job.0).execute(&mut *connection).await?;
        sqlx::query!(
            "DELETE FROM latency_samples WHERE run_id IN (SELECT id FROM latency_runs
                 WHERE trial_id NOT IN (SELECT trial_id FROM job_trials))"
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("DELETE FROM latency_runs WHERE trial_id NOT IN (SELECT trial_id FROM job_trials)")
            .execute(&mut *connection)
            .await?;
        sqlx::query!("DELETE FROM trials WHERE id NOT IN (SELECT trial_id FROM job_trials)")
            .execute(&mut *connection)
            .await?;
        let used = sqlx::query_scalar!("SELECT count(*) FROM jobs WHERE sensitivity_key = ?", key)
            .fetch_one(&mut *connection)
            .await?;
        if used == 0 {
            sqlx::query!("DELETE FROM group_times WHERE sensitivity_key = ?", key).execute(&mut *connection).await?;
            sqlx::query!("DELETE FROM groups WHERE sensitivity_key = ?", key).execute(&mut *connection).await?;
            sqlx::query!("DELETE FROM sensitivity_runs WHERE key = ?", key).execute(&mut *connection).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Records what the importer says of a job's model, a JSON object.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn set_model(&self, job: JobId, json: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE jobs SET model = ? WHERE id = ?", json, job.0).execute(&self.pool).await?;
        Ok(())
    }

    /// Why something cannot be done to a job.
    async fn wrong_state(&self, job: JobId, what: &'static str) -> StoreError {
        match self.job(job).await {
            Ok(row) => StoreError::WrongState { id: job, state: row.state, what },
            Err(error) => error,
        }
    }
}
