//! Trials with their latencies, and which job they belong to.

use std::io::{self, Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{
    JobId, JsonNumber, Store, StoreError,
    queue::note,
    rows::{by_name, count, from_json, int, name_of, number, pack, to_json, unpack},
};
use crate::{
    evaluate::{Evaluation, Fingerprint, Latency, Metric, Score},
    graph::GroupId,
    pipeline::TrialFacts,
    quant::Repair,
    search::{Key, Trial},
};

const WHAT: &str = "a trial";

/// Columns of a trial.
struct Columns {
    id: i64,
    repairs: String,
    fp32_positions: String,
    int8_groups: i64,
    correct: Option<i64>,
    total: i64,
    score: f64,
    correct_bits: Vec<u8>,
    seconds: f64,
    weight_bytes: i64,
    activation_bytes: i64,
}

impl Columns {
    fn into_trial(self, key: Key, latency: Option<Latency>) -> Result<Trial, StoreError> {
        let total: u64 = count(WHAT, self.total)?;
        let (score, correct) = match self.correct {
            None => (Score::Number { value: self.score, total }, Vec::new()),
            Some(correct) => {
                let bits = unpack(&self.correct_bits, count(WHAT, self.total)?);
                let problem = || format!("{} bytes of bits for {total} samples", self.correct_bits.len());
                let bits = bits.ok_or_else(|| StoreError::Corrupt { what: WHAT, problem: problem() })?;
                (Score::Count { correct: count(WHAT, correct)?, total }, bits)
            }
        };
        let fp32: Vec<usize> = from_json(WHAT, &self.fp32_positions)?;
        Ok(Trial {
            key,
            repairs: from_json(WHAT, &self.repairs)?,
            fp32_groups: fp32.into_iter().map(GroupId).collect(),
            int8_groups: count(WHAT, self.int8_groups)?,
            evaluation: Evaluation { score, correct, seconds: self.seconds },
            latency,
            weight_bytes: count(WHAT, self.weight_bytes)?,
            activation_bytes: count(WHAT, self.activation_bytes)?,
        })
    }
}

/// A trial of a job with everything derived: one row of the view `trial_summary`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrialSummary {
    /// Its number in the job; 0 is fp32.
    pub number: usize,
    /// What was measured.
    pub key: String,
    /// The metric: `top1`, `top5`, `agreement`, `sqnr` or `score`.
    #[schema(value_type = String)]
    pub metric: Metric,
    /// A fraction, dB, or the number that a program printed; the text `inf` when nothing is lost.
    #[serde(with = "crate::store::json_number")]
    #[schema(value_type = JsonNumber)]
    pub score: f64,
    /// Samples that were right; `None` for the metrics sqnr and score.
    pub correct: Option<u64>,
    /// Samples seen.
    pub total: u64,
    /// Whether it has seen all samples of the search split, rather than enough to be outside the budget.
    pub complete: bool,
    /// Samples lost against fp32, as a fraction of those seen, or what the metric score lost; `None` for the metric sqnr.
    pub score_drop: Option<f64>,
    /// The drop on the whole split is not below this,
    pub drop_low: Option<f64>,
    /// and not above this, at the confidence of the job.
    pub drop_high: Option<f64>,
    /// First quartile of the latency, in ns.
    pub q1_ns: Option<f64>,
    /// Median of the latency, in ns.
    pub median_ns: Option<f64>,
    /// Third quartile of the latency, in ns.
    pub q3_ns: Option<f64>,
    /// Median of fp32 taken in the same run, in ns.
    pub fp32_median_ns: Option<f64>,
    /// `fp32_median_ns / median_ns`.
    pub speed_up: Option<f64>,
    /// Bytes of all weights and biases.
    pub weight_bytes: u64,
    /// Bytes of values alive at the same time, at most.
    pub activation_bytes: u64,
    /// Groups in int8.
    pub int8_groups: usize,
    /// What is changed in the starting qconfig: names of repairs, in order.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub repairs: Vec<Repair>,
    /// Ids of the groups in fp32 that the starting qconfig quantizes.
    pub fp32_groups: Vec<String>,
    /// Whether no other trial of the job beats it.
    pub on_front: bool,
    /// Whether the job chose it.
    pub chosen: bool,
    /// Where and how its latency was taken: `cpu`, `kernel`, `threads`, `batch` and `quota_milli_cpus`.
    #[schema(value_type = Option<Object>)]
    pub fingerprint: Option<Fingerprint>,
}

impl TrialSummary {
    /// The metric's value with its counts.
    pub fn measured(&self) -> Score {
        match self.correct {
            Some(correct) => Score::Count { correct, total: self.total },
            None => Score::Number { value: self.score, total: self.total },
        }
    }

    /// Those on the front, the fastest first.
    pub fn front(mut trials: Vec<TrialSummary>) -> Vec<TrialSummary> {
        trials.retain(|trial| trial.on_front);
        trials.sort_by(|a, b| a.median_ns.partial_cmp(&b.median_ns).unwrap_or(std::cmp::Ordering::Equal));
        trials
    }
}

impl Store {
    /// The trial recorded under this key, with the latencies that `job` went by, or else the newest.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn trial(&self, job: JobId, key: &Key) -> Result<Option<Trial>, StoreError> {
        let text = key.to_string();
        let row = sqlx::query_as!(
            Columns,
            r#"SELECT t.id AS "id!", jt.repairs, jt.fp32_positions, t.int8_groups, t.correct, t.total, t.score, t.correct_bits,
                   t.seconds, t.weight_bytes, t.activation_bytes
               FROM trials AS t
               JOIN job_trials AS jt ON jt.trial_id = t.id
               WHERE t.key = ?
               ORDER BY jt.job_id = ? DESC, jt.job_id DESC LIMIT 1"#,
            text,
            job.0
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let run = sqlx::query_scalar!(
            r#"SELECT r.id AS "id!"
               FROM latency_runs AS r
               LEFT JOIN job_trials AS jt ON jt.latency_run_id = r.id AND jt.job_id = ?
               WHERE r.trial_id = ?
               ORDER BY jt.job_id IS NULL, r.id DESC LIMIT 1"#,
            job.0,
            row.id
        )
        .fetch_optional(&self.pool)
        .await?;
        let mut connection = self.pool.acquire().await?;
        let latency = match run {
            Some(run) => Some(latency(&mut connection, run).await?),
            None => None,
        };
        row.into_trial(*key, latency).map(Some)
    }

    /// Records a trial with its latencies as the `number`th of a job, in one transaction. What is there already
    /// stays: a trial with the same key is the same trial, only latencies that are new are added.
    ///
    /// # Errors
    /// Another trial at that number, or whatever keeps it from being recorded.
    pub async fn record_trial(
        &self,
        job: JobId,
        number: usize,
        metric: Metric,
        trial: &Trial,
        facts: &TrialFacts,
    ) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        let number = int(WHAT, number)?;
        let fp32_groups = to_json(WHAT, &facts.fp32_names)?;
        let repairs = to_json(WHAT, &trial.repairs)?;
        let fp32_positions = to_json(WHAT, &trial.fp32_groups.iter().map(|group| group.0).collect::<Vec<_>>())?;
        let fraction = |value: Option<f64>| value.map(|v| super::rows::number(WHAT, v)).transpose();
        let drop_seen = fraction(facts.drop.map(|drop| drop.seen))?;
        let drop_low = fraction(facts.drop.map(|drop| drop.low))?;
        let drop_high = fraction(facts.drop.map(|drop| drop.high))?;
        let file = compressed(facts)?;
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let id = insert_trial(&mut transaction, metric, trial, facts, now).await?;
        let run = match &trial.latency {
            Some(latency) => Some(insert_latency(&mut transaction, id, latency, now).await?),
            None => None,
        };
        let before =
            sqlx::query_scalar!("SELECT count(*) FROM job_trials WHERE job_id = ? AND number = ?", job.0, number)
                .fetch_one(&mut *transaction)
                .await?;
        let linked = sqlx::query!(
            "INSERT INTO job_trials (job_id, number, trial_id, latency_run_id, repairs, fp32_groups, fp32_positions,
                 drop_seen, drop_low, drop_high, created_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (job_id, number) DO UPDATE SET latency_run_id = excluded.latency_run_id
             WHERE trial_id = excluded.trial_id",
            job.0,
            number,
            id,
            run,
            repairs,
            fp32_groups,
            fp32_positions,
            drop_seen,
            drop_low,
            drop_high,
            now
        )
        .execute(&mut *transaction)
        .await?;
        if linked.rows_affected() == 0 {
            let problem = format!("trial {number} of job {job} was another one before");
            return Err(StoreError::Unrecordable { what: WHAT, problem });
        }
        sqlx::query!(
            "INSERT INTO qconfig_files (job_id, number, file) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            job.0,
            number,
            file
        )
        .execute(&mut *transaction)
        .await?;
        if before == 0 {
            note(&mut transaction, job.0, now, "trial", &number.to_string()).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The qconfig of a job's trial written whole, in YAML.
    ///
    /// # Errors
    /// No such trial, one recorded by a version that did not keep it, or whatever keeps it from being read.
    pub async fn qconfig_file(&self, job: JobId, trial: usize) -> Result<String, StoreError> {
        let number = int(WHAT, trial)?;
        let file = sqlx::query_scalar!("SELECT file FROM qconfig_files WHERE job_id = ? AND number = ?", job.0, number)
            .fetch_optional(&self.pool)
            .await?
            .ok_or(StoreError::NoQConfig { id: job, trial })?;
        let mut text = String::new();
        let unreadable = |e: io::Error| StoreError::Corrupt { what: "a qconfig file", problem: e.to_string() };
        GzDecoder::new(&file[..]).read_to_string(&mut text).map_err(unreadable)?;
        Ok(text)
    }

    /// The trials of a job, in order, with everything derived.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn summaries(&self, job: JobId) -> Result<Vec<TrialSummary>, StoreError> {
        let rows = sqlx::query_as!(
            SummaryColumns,
            r#"SELECT number AS "number!: i64", key AS "key!: String", metric AS "metric!: String",
                   score AS "score!: f64", correct AS "correct: i64", total AS "total!: i64",
                   complete AS "complete!: bool", score_drop AS "score_drop: f64", drop_low AS "drop_low: f64",
                   drop_high AS "drop_high: f64", q1_ns AS "q1_ns: f64", median_ns AS "median_ns: f64",
                   q3_ns AS "q3_ns: f64", fp32_median_ns AS "fp32_median_ns: f64", speed_up AS "speed_up: f64",
                   weight_bytes AS "weight_bytes!: i64", activation_bytes AS "activation_bytes!: i64",
                   int8_groups AS "int8_groups!: i64", repairs AS "repairs!: String", fp32_groups AS "fp32_groups!: String",
                   on_front AS "on_front!: bool", chosen AS "chosen!: bool", cpu AS "cpu?: String",
                   kernel AS "kernel?: String", threads AS "threads?: i64", batch AS "batch?: i64",
                   quota_milli_cpus AS "quota_milli_cpus?: i64"
               FROM trial_summary WHERE job_id = ? ORDER BY number"#,
            job.0
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(TrialSummary::try_from).collect()
    }
}

/// Columns of [`TrialSummary`].
struct SummaryColumns {
    number: i64,
    key: String,
    metric: String,
    score: f64,
    correct: Option<i64>,
    total: i64,
    complete: bool,
    score_drop: Option<f64>,
    drop_low: Option<f64>,
    drop_high: Option<f64>,
    q1_ns: Option<f64>,
    median_ns: Option<f64>,
    q3_ns: Option<f64>,
    fp32_median_ns: Option<f64>,
    speed_up: Option<f64>,
    weight_bytes: i64,
    activation_bytes: i64,
    int8_groups: i64,
    repairs: String,
    fp32_groups: String,
    on_front: bool,
    chosen: bool,
    cpu: Option<String>,
    kernel: Option<String>,
    threads: Option<i64>,
    batch: Option<i64>,
    quota_milli_cpus: Option<i64>,
}

impl TryFrom<SummaryColumns> for TrialSummary {
    type Error = StoreError;

    fn try_from(row: SummaryColumns) -> Result<TrialSummary, StoreError> {
        let fingerprint = match (row.cpu, row.kernel, row.threads, row.batch) {
            (Some(cpu), Some(kernel), Some(threads), Some(batch)) => Some(Fingerprint {
                cpu,
                kernel,
                threads: count(WHAT, threads)?,
                batch: count(WHAT, batch)?,
                quota_milli_cpus: row.quota_milli_cpus.map(|quota| count(WHAT, quota)).transpose()?,
            }),
            _ => None,
        };
        Ok(TrialSummary {
            number: count(WHAT, row.number)?,
            key: row.key,
            metric: by_name("a trial's metric", &row.metric)?,
            score: row.score,
            correct: row.correct.map(|correct| count(WHAT, correct)).transpose()?,
            total: count(WHAT, row.total)?,
            complete: row.complete,
            score_drop: row.score_drop,
            drop_low: row.drop_low,
            drop_high: row.drop_high,
            q1_ns: row.q1_ns,
            median_ns: row.median_ns,
            q3_ns: row.q3_ns,
            fp32_median_ns: row.fp32_median_ns,
            speed_up: row.speed_up,
            weight_bytes: count(WHAT, row.weight_bytes)?,
            activation_bytes: count(WHAT, row.activation_bytes)?,
            int8_groups: count(WHAT, row.int8_groups)?,
            repairs: from_json(WHAT, &row.repairs)?,
            fp32_groups: from_json(WHAT, &row.fp32_groups)?,
            on_front: row.on_front,
            chosen: row.chosen,
            fingerprint,
        })
    }
}

/// The qconfig file of a trial as it is kept.
fn compressed(facts: &TrialFacts) -> Result<Vec<u8>, StoreError> {
    let unwritable = |problem: String| StoreError::Unrecordable { what: "a qconfig file", problem };
    let yaml = serde_yaml::to_string(&facts.file).map_err(|e| unwritable(e.to_string()))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(yaml.as_bytes()).and_then(|()| encoder.finish()).map_err(|e| unwritable(e.to_string()))
}

/// The row of a trial, inserted when it is new.
async fn insert_trial(
    connection: &mut SqliteConnection,
    metric: Metric,
    trial: &Trial,
    facts: &TrialFacts,
    now: i64,
) -> Result<i64, StoreError> {
    let key = trial.key.to_string();
    let known = sqlx::query_scalar!(r#"SELECT id AS "id!" FROM trials WHERE key = ?"#, key)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(id) = known {
        return Ok(id);
    }
    let evaluation = &trial.evaluation;
    let correct = match evaluation.score {
        Score::Count { correct, total } => {
            let right = evaluation.correct.iter().filter(|right| **right).count() as u64;
            if (right, evaluation.correct.len() as u64) != (correct, total) {
                let problem = format!("{correct} of {total} are right, but {right} of its bits are set");
                return Err(StoreError::Unrecordable { what: WHAT, problem });
            }
            Some(int(WHAT, correct)?)
        }
        Score::Number { .. } => None,
    };
    let metric = name_of(WHAT, metric)?;
    let int8_groups = int(WHAT, trial.int8_groups)?;
    let total = int(WHAT, evaluation.score.total())?;
    let score = number(WHAT, evaluation.score.value())?;
    let bits = pack(&evaluation.correct);
    let seconds = number(WHAT, evaluation.seconds)?;
    let weight_bytes = int(WHAT, trial.weight_bytes)?;
    let activation_bytes = int(WHAT, trial.activation_bytes)?;
    let inserted = sqlx::query!(
        "INSERT INTO trials (key, qconfig, int8_groups, metric, correct, total, score, correct_bits, seconds,
             weight_bytes, activation_bytes, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        key,
        facts.qconfig_json,
        int8_groups,
        metric,
        correct,
        total,
        score,
        bits,
        seconds,
        weight_bytes,
        activation_bytes,
        now
    )
    .execute(connection)
    .await?;
    Ok(inserted.last_insert_rowid())
}

/// The row of these latencies, inserted when the trial does not have exactly them already.
async fn insert_latency(
    connection: &mut SqliteConnection,
    trial: i64,
    taken: &Latency,
    now: i64,
) -> Result<i64, StoreError> {
    let known =
        sqlx::query_scalar!(r#"SELECT id AS "id!" FROM latency_runs WHERE trial_id = ? ORDER BY id DESC"#, trial)
            .fetch_all(&mut *connection)
            .await?;
    for run in known {
        if latency(connection, run).await? == *taken {
            return Ok(run);
        }
    }
    let Fingerprint { cpu, kernel, threads, batch, quota_milli_cpus } = &taken.fingerprint;
    let threads = int(WHAT, *threads)?;
    let batch = int(WHAT, *batch)?;
    let quota = quota_milli_cpus.map(|quota| int(WHAT, quota)).transpose()?;
    let run = sqlx::query!(
        "INSERT INTO latency_runs (trial_id, cpu, kernel, threads, batch, quota_milli_cpus, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        trial,
        cpu,
        kernel,
        threads,
        batch,
        quota,
        now
    )
    .execute(&mut *connection)
    .await?
    .last_insert_rowid();
    for (role, samples) in [("candidate", &taken.candidate_ns), ("fp32", &taken.fp32_ns)] {
        for (ordinal, ns) in samples.iter().enumerate() {
            let ordinal = int(WHAT, ordinal)?;
            let ns = int(WHAT, *ns)?;
            sqlx::query!(
                "INSERT INTO latency_samples (run_id, role, ordinal, ns) VALUES (?, ?, ?, ?)",
                run,
                role,
                ordinal,
                ns
            )
            .execute(&mut *connection)
            .await?;
        }
    }
    Ok(run)
}

/// The latencies of a run.
async fn latency(connection: &mut SqliteConnection, run: i64) -> Result<Latency, StoreError> {
    let row = sqlx::query!("SELECT cpu, kernel, threads, batch, quota_milli_cpus FROM latency_runs WHERE id = ?", run)
        .fetch_one(&mut *connection)
        .await?;
    let fingerprint = Fingerprint {
        cpu: row.cpu,
        kernel: row.kernel,
        threads: count(WHAT, row.threads)?,
        batch: count(WHAT, row.batch)?,
        quota_milli_cpus: row.quota_milli_cpus.map(|quota| count(WHAT, quota)).transpose()?,
    };
    let mut latency = Latency { candidate_ns: Vec::new(), fp32_ns: Vec::new(), fingerprint };
    let samples = sqlx::query!("SELECT role, ns FROM latency_samples WHERE run_id = ? ORDER BY role, ordinal", run)
        .fetch_all(connection)
        .await?;
    for sample in samples {
        let ns = count(WHAT, sample.ns)?;
        match sample.role.as_str() {
            "candidate" => latency.candidate_ns.push(ns),
            _ => latency.fp32_ns.push(ns),
        }
    }
    Ok(latency)
}
