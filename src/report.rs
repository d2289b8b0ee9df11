//! What a job found, as one value, and the pictures of it.
//!
//! [`JobReport`] is what the pictures need and nothing else. A [`Document`] is a file made of it: one page that opens
//! without a network, two pictures, two tables. The web page ([`page`]) fetches the same value and draws it with the
//! same scripts.

mod document;
mod html;
pub mod page;
mod svg;

use std::path::Path;

use serde::Serialize;

use crate::{
    job::{BudgetSpec, JobLock},
    pipeline::GroupFacts,
    quant::Precision,
    sensitivity::RankBy,
    store::{JobRow, Store, StoreError, TrialSummary, json_number},
};

pub use document::Document;
pub use svg::DrawError;

/// A job with its trials and groups, and what is derived from them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    /// Version of qtuned that made the report.
    pub qtuned: &'static str,
    /// The job.
    pub job: JobRow,
    /// File name of its model.
    pub model: String,
    /// What must be kept.
    pub budget: BudgetReport,
    /// Which SQNR ranked the groups.
    pub rank_by: RankBy,
    /// The groups of its model, in topological order; none before the sensitivity analysis.
    pub groups: Vec<GroupReport>,
    /// Its trials, in order.
    pub trials: Vec<TrialReport>,
}

/// The budget of a job, and what it means for its scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetReport {
    /// As the job says it.
    #[serde(flatten)]
    pub spec: BudgetSpec,
    /// The score that a trial must reach; `None` before fp32 is measured.
    pub least_score: Option<f64>,
}

/// A group and what it loses in int8.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// Stable id.
    pub id: String,
    /// Operator.
    pub object_type: String,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Weights and biases.
    pub parameters: u64,
    /// SQNR of the weight, in dB; `None` for a group without one.
    pub weight_db: Option<Decibel>,
    /// SQNR of the output when fed the fp32 input. This and the next are `None` for a group that the starting qconfig
    /// leaves in fp32.
    pub local_db: Option<Decibel>,
    /// SQNR of the output in the network with every group quantized.
    pub accumulated_db: Option<Decibel>,
    /// SQNR of the network's output with this group alone quantized.
    pub output_db: Option<Decibel>,
    /// Smallest and largest element of its output in calibration.
    pub range: Option<[f32; 2]>,
    /// How it runs in the chosen qconfig; `None` before one is chosen.
    pub chosen: Option<Precision>,
}

/// A ratio in dB. In JSON a number, or the text `inf` where nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Decibel(#[serde(serialize_with = "json_number")] pub f64);

/// A trial with what the pictures say of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialReport {
    /// The trial.
    #[serde(flatten)]
    pub summary: TrialSummary,
    /// Where its score lies in the population, at the budget's confidence; `None` for the metric sqnr.
    pub interval: Option<[f64; 2]>,
    /// Whether its score is within the budget.
    pub within_budget: bool,
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The record cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lock of the job is not one that this version reads.
    #[error("the lock of job `{job}` cannot be read")]
    Lock {
        /// Name of the job.
        job: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pictures cannot be drawn.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// A value that JSON cannot hold.
    #[error("failed to format the report as JSON")]
    Json(#[from] serde_json::Error),
    /// A table that cannot be written.
    #[error("failed to format the report as CSV")]
    Csv(#[from] csv::Error),
}

impl JobReport {
    /// The report of a job as far as it is recorded.
    ///
    /// # Errors
    /// Whatever keeps the record from being read.
    pub async fn read(store: &Store, job: JobRow) -> Result<JobReport, ReportError> {
        let groups = store.job_groups(job.id).await?;
        let trials = store.summaries(job.id).await?;
        JobReport::new(job, groups, trials)
    }

    /// The report of a job with these groups and trials.
    ///
    /// # Errors
    /// A lock that cannot be read.
    pub fn new(job: JobRow, groups: Vec<GroupFacts>, trials: Vec<TrialSummary>) -> Result<JobReport, ReportError> {
        let unreadable = |e: serde_yaml::Error| ReportError::Lock { job: job.name.clone(), source: Box::new(e) };
        let lock: JobLock = serde_yaml::from_str(&job.lock).map_err(unreadable)?;
        let budget = lock.job.budget.budget();
        let baseline = trials.first().map(TrialSummary::measured);
        let chosen = trials.iter().find(|trial| trial.chosen);
        let groups = groups.into_iter().map(|group| GroupReport::new(group, chosen)).collect();
        let trial = |summary: TrialSummary| TrialReport {
            interval: summary.measured().interval(lock.job.budget.confidence).map(|(low, high)| [low, high]),
            within_budget: baseline.is_some_and(|baseline| budget.allows(&baseline, &summary.measured())),
            summary,
        };
        let trials: Vec<TrialReport> = trials.into_iter().map(trial).collect();
        let least_score = baseline.map(|fp32| budget.least(&fp32));
        let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(JobReport {
            qtuned: env!("CARGO_PKG_VERSION"),
            model: file_name(&lock.job.model.onnx),
            budget: BudgetReport { spec: lock.job.budget, least_score },
            rank_by: lock.job.sensitivity.rank_by,
            job,
            groups,
            trials,
        })
    }
}

impl GroupReport {
    /// A group, and how it runs in the chosen trial.
    pub fn new(facts: GroupFacts, chosen: Option<&TrialSummary>) -> GroupReport {
        let s = facts.sensitivity.as_ref();
        let precision = |trial: &TrialSummary| match s.is_none() || trial.fp32_groups.contains(&facts.id) {
            true => Precision::Fp32,
            false => Precision::Int8,
        };
        GroupReport {
            chosen: chosen.map(precision),
            object_type: facts.object_type,
            macs: facts.macs,
            parameters: facts.parameters,
            weight_db: s.and_then(|s| s.weight).map(Decibel),
            local_db: s.map(|s| Decibel(s.local)),
            accumulated_db: s.map(|s| Decibel(s.accumulated)),
            output_db: s.map(|s| Decibel(s.output)),
            range: s.map(|s| [s.range.0, s.range.1]),
            id: facts.id,
        }
    }

    /// One of its SQNRs.
    pub fn decibel(&self, kind: RankBy) -> Option<f64> {
        let decibel = match kind {
            RankBy::Weight => self.weight_db,
            RankBy::Local => self.local_db,
            RankBy::Accumulated => self.accumulated_db,
            RankBy::Output => self.output_db,
        };
        decibel.map(|Decibel(value)| value)
    }
}

#[cfg(test)]
mod tests;
