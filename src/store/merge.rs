//! Uniting databases: what tasks of a cluster recorded each on its own.

use std::{path::Path, sync::Arc};

use serde::Serialize;
use sqlx::SqliteConnection;

use super::{Store, StoreError, connect};

/// What another database brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Jobs that were not there.
    pub jobs: u64,
    /// Jobs that were there, and had gone on since.
    pub continued: u64,
    /// Trials that were not there.
    pub trials: u64,
}

/// What has no number of its own is the same under its key. Both files have the schema of this version.
const FACTS: [&str; 3] = [
    "INSERT INTO main.sensitivity_runs SELECT * FROM source.sensitivity_runs WHERE true ON CONFLICT DO NOTHING",
    "INSERT INTO main.groups SELECT * FROM source.groups WHERE true ON CONFLICT DO NOTHING",
    "INSERT INTO main.group_times SELECT * FROM source.group_times WHERE true ON CONFLICT DO NOTHING",
];

const TRIALS: &str = "
    INSERT INTO main.trials (key, qconfig, int8_groups, metric, correct, total, score, correct_bits, seconds,
        weight_bytes, activation_bytes, created_ms)
    SELECT key, qconfig, int8_groups, metric, correct, total, score, correct_bits, seconds, weight_bytes,
        activation_bytes, created_ms
    FROM source.trials WHERE true ORDER BY id ON CONFLICT (key) DO NOTHING";

/// Their numbers of latency runs and ours: of one that is the same in everything, or the next ones.
const RUNS: [&str; 3] = [
    "CREATE TEMP TABLE merged_runs AS
     WITH theirs AS (
         SELECT r.id, t.key, r.cpu, r.kernel, r.threads, r.batch, r.quota_milli_cpus, r.created_ms,
                (SELECT group_concat(role || ns, ' ' ORDER BY role, ordinal)
                 FROM source.latency_samples WHERE run_id = r.id) AS samples
         FROM source.latency_runs AS r JOIN source.trials AS t ON t.id = r.trial_id
     ),
     ours AS (
         SELECT r.id, t.key, r.cpu, r.kernel, r.threads, r.batch, r.quota_milli_cpus, r.created_ms,
                (SELECT group_concat(role || ns, ' ' ORDER BY role, ordinal)
                 FROM main.latency_samples WHERE run_id = r.id) AS samples
         FROM main.latency_runs AS r JOIN main.trials AS t ON t.id = r.trial_id
     ),
     known AS (
         SELECT theirs.id AS theirs, min(ours.id) AS ours
         FROM theirs
         LEFT JOIN ours ON ours.key = theirs.key AND ours.created_ms = theirs.created_ms AND ours.cpu = theirs.cpu
             AND ours.kernel = theirs.kernel AND ours.threads = theirs.threads AND ours.batch = theirs.batch
             AND ours.quota_milli_cpus IS theirs.quota_milli_cpus AND ours.samples IS theirs.samples
         GROUP BY theirs.id
     )
     SELECT theirs, ours IS NULL AS new,
            coalesce(ours, (SELECT coalesce(max(id), 0) FROM main.latency_runs)
                + row_number() OVER (ORDER BY ours IS NOT NULL, theirs)) AS ours
     FROM known",
    "INSERT INTO main.latency_runs (id, trial_id, cpu, kernel, threads, batch, quota_milli_cpus, created_ms)
     SELECT m.ours, t.id, r.cpu, r.kernel, r.threads, r.batch, r.quota_milli_cpus, r.created_ms
     FROM temp.merged_runs AS m
     JOIN source.latency_runs AS r ON r.id = m.theirs
     JOIN source.trials AS s ON s.id = r.trial_id
     JOIN main.trials AS t ON t.key = s.key
     WHERE m.new",
    "INSERT INTO main.latency_samples (run_id, role, ordinal, ns)
     SELECT m.ours, s.role, s.ordinal, s.ns
     FROM temp.merged_runs AS m JOIN source.latency_samples AS s ON s.run_id = m.theirs WHERE m.new",
];

/// Their numbers of jobs and ours, and whether theirs is taken: of two copies the one to which more has happened.
const JOBS: &str = "
    CREATE TEMP TABLE merged_jobs AS
    SELECT s.id AS theirs, d.id IS NULL AS new,
           coalesce(d.id, (SELECT coalesce(max(id), 0) FROM main.jobs)
               + row_number() OVER (ORDER BY d.id IS NOT NULL, s.id)) AS ours,
           d.id IS NULL OR (SELECT count(*) FROM source.events WHERE job_id = s.id)
               > (SELECT count(*) FROM main.events WHERE job_id = d.id) AS taken
    FROM source.jobs AS s LEFT JOIN main.jobs AS d ON d.uid = s.uid";

/// A job that had not ended is interrupted here, and in no queue: who works on it has the other database.
const TAKE: [&str; 12] = [
    "DELETE FROM main.events WHERE job_id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "DELETE FROM main.log_lines WHERE job_id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "DELETE FROM main.qconfig_files WHERE job_id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "DELETE FROM main.finalists WHERE job_id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "DELETE FROM main.job_trials WHERE job_id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "DELETE FROM main.jobs WHERE id IN (SELECT ours FROM temp.merged_jobs WHERE taken)",
    "INSERT INTO main.jobs (id, uid, name, identity, lock, metric, model_sha256, model, qtuned_version, state, priority,
         submitted_ms, finish, chosen, within_budget, error, exit_code, sensitivity_key, created_ms, started_ms,
         finished_ms)
     SELECT m.ours, s.uid, s.name, s.identity, s.lock, s.metric, s.model_sha256, s.model, s.qtuned_version,
         iif(s.state IN ('queued', 'running'), 'interrupted', s.state), s.priority,
         iif(s.state IN ('queued', 'running', 'interrupted'), NULL, s.submitted_ms), s.finish, s.chosen,
         s.within_budget, s.error, s.exit_code, s.sensitivity_key, s.created_ms, s.started_ms, s.finished_ms
     FROM temp.merged_jobs AS m JOIN source.jobs AS s ON s.id = m.theirs WHERE m.taken ORDER BY m.ours",
    "INSERT INTO main.job_trials (job_id, number, trial_id, latency_run_id, repairs, fp32_groups, fp32_positions,
         drop_seen, drop_low, drop_high, created_ms)
     SELECT m.ours, s.number, t.id, r.ours, s.repairs, s.fp32_groups, s.fp32_positions, s.drop_seen, s.drop_low,
         s.drop_high, s.created_ms
     FROM temp.merged_jobs AS m
     JOIN source.job_trials AS s ON s.job_id = m.theirs
     JOIN source.trials AS st ON st.id = s.trial_id
     JOIN main.trials AS t ON t.key = st.key
     LEFT JOIN temp.merged_runs AS r ON r.theirs = s.latency_run_id
     WHERE m.taken",
    "INSERT INTO main.finalists (job_id, place, trial, confidence, lost, won, base, total, bound, holds, fp32_score, score)
     SELECT m.ours, s.place, s.trial, s.confidence, s.lost, s.won, s.base, s.total, s.bound, s.holds, s.fp32_score, s.score
     FROM temp.merged_jobs AS m JOIN source.finalists AS s ON s.job_id = m.theirs WHERE m.taken",
    "INSERT INTO main.qconfig_files (job_id, number, file)
     SELECT m.ours, s.number, s.file
     FROM temp.merged_jobs AS m JOIN source.qconfig_files AS s ON s.job_id = m.theirs WHERE m.taken",
    "INSERT INTO main.events (job_id, time_ms, kind, detail)
     SELECT m.ours, s.time_ms, s.kind, s.detail
     FROM temp.merged_jobs AS m JOIN source.events AS s ON s.job_id = m.theirs WHERE m.taken ORDER BY s.id",
    "INSERT INTO main.log_lines (job_id, time_ms, level, message)
     SELECT m.ours, s.time_ms, s.level, s.message
     FROM temp.merged_jobs AS m JOIN source.log_lines AS s ON s.job_id = m.theirs WHERE m.taken ORDER BY s.id",
];

const FORGET: [&str; 2] = ["DROP TABLE temp.merged_runs", "DROP TABLE temp.merged_jobs"];

impl Store {
    /// Takes in what another database has, in one transaction. Trials are the same when their keys are; a job is the
    /// same in every database, and the copy to which more has happened stays. To do it again changes nothing.
    ///
    /// # Errors
    /// A file that is no database of this version, or whatever keeps it from being read or this one from being written.
    pub async fn merge(&self, path: &Path) -> Result<Merged, StoreError> {
        if connect::check_schema(path).await? < connect::newest() {
            Store::open(path, Arc::clone(&self.clock)).await?.close().await;
        }
        let mut connection = self.pool.acquire().await?;
        let name = path.to_string_lossy().into_owned();
        sqlx::query("ATTACH ? AS source").bind(name).execute(&mut *connection).await?;
        let merged = take_in(&mut connection).await;
        sqlx::query("DETACH source").execute(&mut *connection).await?;
        merged
    }
}

async fn take_in(connection: &mut SqliteConnection) -> Result<Merged, StoreError> {
    use sqlx::Connection;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for sql in FACTS {
        sqlx::query(sql).execute(&mut *transaction).await?;
    }
    let trials = sqlx::query(TRIALS).execute(&mut *transaction).await?.rows_affected();
    for sql in RUNS.into_iter().chain([JOBS]).chain(TAKE) {
        sqlx::query(sql).execute(&mut *transaction).await?;
    }
    let (jobs, continued): (i64, i64) =
        sqlx::query_as("SELECT coalesce(sum(new), 0), coalesce(sum(taken AND NOT new), 0) FROM temp.merged_jobs")
            .fetch_one(&mut *transaction)
            .await?;
    for sql in FORGET {
        sqlx::query(sql).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(Merged { jobs: count(jobs), continued: count(continued), trials })
}

#[cfg(test)]
mod tests;
