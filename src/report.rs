//! What a job found, as one value, and the pictures of it.
//!
//! [`JobReport`] is what the pictures need and nothing else. A [`Document`] is a file made of it: one page that opens
//! without a network, two pictures, two tables. The web page ([`page`]) fetches the same value and draws it with the
//! same scripts.

mod certainty;
mod document;
mod html;
pub mod page;
mod svg;

use std::{fs, path::Path};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    evaluate::Metric,
    job::JobLock,
    pipeline::{Certificate, GroupFacts},
    search::DropKind,
    sensitivity::RankBy,
    store::{GroupRow, JobRow, Store, StoreError, TrialSummary},
    verify,
};

pub use certainty::{FinalistReport, RankingReport};
pub use document::{Document, groups_csv};
pub use svg::DrawError;

/// A job with its trials and groups, and what is derived from them.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobReport {
    /// Version of qtuned that made the report.
    pub qtuned: &'static str,
    /// The job.
    pub job: JobRow,
    /// File name of its model.
    pub model: String,
    /// What must be kept.
    pub budget: BudgetReport,
    /// Which SQNR ranked the groups: `weight`, `local`, `accumulated` or `output`.
    #[schema(value_type = String)]
    pub rank_by: RankBy,
    /// The groups of its model, in topological order; none before the sensitivity analysis.
    pub groups: Vec<GroupRow>,
    /// Its trials, in order.
    pub trials: Vec<TrialReport>,
    /// How well the ranking predicted what the groups win; `null` when too few trials tell.
    pub ranking: Option<RankingReport>,
    /// The trials that the certify split was opened for, in the order of the choice; none before it was opened.
    pub finalists: Vec<FinalistReport>,
    /// How the exported network behaves where it is deployed: the certificate that `verify` left in the folder of the
    /// job's results, of this job and this model; `null` without one.
    #[schema(value_type = Option<Object>)]
    pub deployment: Option<verify::Certificate>,
}

/// The budget of a job, and what it means for its scores.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct BudgetReport {
    /// What is measured: `top1`, `top5`, `agreement`, `sqnr` or `score`.
    #[schema(value_type = String)]
    pub metric: Metric,
    /// Largest drop from fp32, a fraction, or in the unit of the metric score; `null` for the metric sqnr.
    pub max_drop: Option<f64>,
    /// What the drop is a fraction of: `absolute` of all samples, `relative` of fp32's score.
    #[schema(value_type = String)]
    pub drop: DropKind,
    /// Least SQNR of the output, in dB; `null` for other metrics.
    pub min_db: Option<f64>,
    /// Confidence of the intervals.
    pub confidence: f64,
    /// The score that a trial must reach; `null` before fp32 is measured.
    pub least_score: Option<f64>,
}

/// A trial with what the pictures say of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TrialReport {
    /// The trial.
    #[serde(flatten)]
    pub summary: TrialSummary,
    /// Where its score lies in the population, at the budget's confidence; `None` for the metrics sqnr and
    /// score.
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
        let certificate = store.certificate(job.id).await?;
        JobReport::new(job, groups, trials, certificate.as_ref())
    }

    /// The report of a job with these groups and trials. The certificate of its deployment is read from the folder of its
    /// results.
    ///
    /// # Errors
    /// A lock that cannot be read.
    pub fn new(
        job: JobRow,
        groups: Vec<GroupFacts>,
        trials: Vec<TrialSummary>,
        certificate: Option<&Certificate>,
    ) -> Result<JobReport, ReportError> {
        let unreadable = |e: serde_yaml::Error| ReportError::Lock { job: job.name.clone(), source: Box::new(e) };
        let lock: JobLock = serde_yaml::from_str(&job.lock).map_err(unreadable)?;
        let spec = &lock.job.budget;
        let budget = spec.budget();
        let baseline = trials.first().map(TrialSummary::measured);
        let chosen = trials.iter().find(|trial| trial.chosen);
        let groups: Vec<GroupRow> = groups.iter().map(|group| GroupRow::new(group, chosen)).collect();
        let ranking = RankingReport::of(&groups, &trials, lock.job.sensitivity.rank_by);
        let trial = |summary: TrialSummary| TrialReport {
            interval: summary.measured().interval(spec.confidence).map(|(low, high)| [low, high]),
            within_budget: baseline.is_some_and(|baseline| budget.allows(&baseline, &summary.measured())),
            summary,
        };
        let trials: Vec<TrialReport> = trials.into_iter().map(trial).collect();
        let least_score = baseline.map(|fp32| budget.least(&fp32));
        let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(JobReport {
            qtuned: env!("CARGO_PKG_VERSION"),
            model: file_name(&lock.job.model.onnx),
            budget: BudgetReport {
                metric: spec.metric,
                max_drop: spec.max_drop,
                drop: spec.drop,
                min_db: spec.min_db,
                confidence: spec.confidence,
                least_score,
            },
            rank_by: lock.job.sensitivity.rank_by,
            deployment: deployment(&lock, &job),
            job,
            groups,
            trials,
            ranking,
            finalists: certificate.map(FinalistReport::all).unwrap_or_default(),
        })
    }
}

/// Largest file that may be a certificate, in bytes.
const MAX_CERTIFICATE: u64 = 16 << 20;

/// The certificate in the folder of the job's results. One of another job or model, or of another form, is none.
fn deployment(lock: &JobLock, job: &JobRow) -> Option<verify::Certificate> {
    let path = lock.job.output.as_ref()?.join(verify::FILE);
    let is_small = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= MAX_CERTIFICATE);
    let text = is_small.then(|| fs::read_to_string(&path).ok())??;
    let certificate: verify::Certificate = serde_json::from_str(&text).ok()?;
    let is_of_job = certificate.job == job.name && certificate.sha256.model == job.model_sha256;
    (certificate.schema == verify::SCHEMA && is_of_job).then_some(certificate)
}

#[cfg(test)]
mod tests;
