//! The whole flow of a job, from a model to its chosen qconfig, and the ports through which its facts leave.

mod analyze;
mod bench;
mod by_program;
mod certify;
mod facts;
mod form;
mod guess;
mod keys;
mod replay;
mod resolution;
mod run;

use serde::Serialize;

pub use analyze::{Subject, analyze, analyze_job};
pub use bench::SplitSamples;
pub use certify::{Certificate, Certified, Finalist, Observed};
pub use facts::{macs, model_facts, parameters};
pub use form::{FormError, check_form};
pub use guess::{Guess, Guesses, TRIED, guess};
pub use replay::{Replay, replay};
pub use resolution::Resolution;
pub use run::{Opened, PipelineError, open, run};

use crate::{
    quant::QConfigFile,
    search::{DropInterval, Finish, GroupTime, Key, Trial},
    sensitivity::GroupSensitivity,
};

/// Where facts are recorded, and found again by a run that continues. Implemented by the store; the core
/// knows no database.
pub trait Ledger {
    /// The sensitivities recorded under this key.
    ///
    /// # Errors
    /// Whatever keeps the record from being read.
    fn sensitivities(&mut self, key: &Key) -> Result<Option<Vec<GroupSensitivity>>, LedgerError>;

    /// Records the groups of the job's model and their sensitivities, in topological order.
    ///
    /// # Errors
    /// Whatever keeps them from being recorded.
    fn record_sensitivities(&mut self, key: &Key, groups: &[GroupFacts]) -> Result<(), LedgerError>;

    /// The times of groups recorded beside the sensitivities of this key.
    ///
    /// # Errors
    /// Whatever keeps the record from being read.
    fn group_times(&mut self, key: &Key) -> Result<Option<Vec<GroupTime>>, LedgerError>;

    /// Records what each group of the model takes, in topological order, beside the sensitivities of this key.
    ///
    /// # Errors
    /// Whatever keeps them from being recorded.
    fn record_group_times(&mut self, key: &Key, times: &[GroupTime]) -> Result<(), LedgerError>;

    /// The trial recorded under this key, by this job or another.
    ///
    /// # Errors
    /// Whatever keeps the record from being read.
    fn trial(&mut self, key: &Key) -> Result<Option<Trial>, LedgerError>;

    /// Records a trial as the job's `number`th; called also for one that was found, which only joins the job.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    fn record_trial(&mut self, number: usize, trial: &Trial, facts: &TrialFacts) -> Result<(), LedgerError>;

    /// The certificate recorded for this job.
    ///
    /// # Errors
    /// Whatever keeps the record from being read.
    fn certificate(&mut self) -> Result<Option<Certificate>, LedgerError>;

    /// Records the job's certificate, in place of an earlier one.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    fn record_certificate(&mut self, certificate: &Certificate) -> Result<(), LedgerError>;

    /// Notes something that happened, for people who look later.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    fn event(&mut self, kind: &str, detail: &str) -> Result<(), LedgerError>;
}

/// Why a ledger could not do its work.
pub type LedgerError = Box<dyn std::error::Error + Send + Sync>;

/// What the store keeps of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFacts {
    /// Stable id.
    pub id: String,
    /// Operator.
    pub object_type: String,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Weights and biases.
    pub parameters: u64,
    /// `None` for a group that the starting qconfig leaves in fp32.
    pub sensitivity: Option<GroupSensitivity>,
}

/// What the store keeps of a trial besides its measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialFacts {
    /// Names of [`Trial::fp32_groups`].
    pub fp32_names: Vec<String>,
    /// Where its drop from fp32 lies, at the confidence of the job; `None` for metrics that do not count.
    pub drop: Option<DropInterval>,
    /// The qconfig mapping, as JSON.
    pub qconfig_json: String,
    /// The qconfig written whole, for the output folder.
    pub file: QConfigFile,
}

/// What a run shows while it goes on; nothing of it is a fact.
pub trait Progress: Sync {
    /// A stage begins; `total` units of work when known.
    fn stage(&self, stage: Stage, total: Option<u64>);
    /// Work done in this stage so far, and for an evaluation the share that was right among it.
    fn advance(&self, done: u64, correct: Option<u64>);
    /// The sensitivity analysis is there, worst group first.
    fn sensitivities(&self, groups: &[GroupFacts]);
    /// A trial is recorded.
    fn trial(&self, number: usize, trial: &Trial, facts: &TrialFacts);
    /// How long the search is likely to go on, in seconds ([`Search::seconds_left`](crate::search::Search::seconds_left)).
    fn left(&self, seconds: Option<f64>);
}

/// Stages of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// Reading model and data.
    Import,
    /// Observing the fp32 network.
    Calibrate,
    /// Measuring SQNRs.
    Sensitivity,
    /// Measuring the accuracy of a trial.
    Evaluate {
        /// Its number.
        trial: usize,
        /// The group it takes back to fp32, if one.
        group: Option<String>,
    },
    /// Measuring what a further group in fp32 would win.
    Rank {
        /// Groups that are in fp32 already.
        groups: usize,
    },
    /// Taking the latencies of the trials within the budget in turn.
    Compare {
        /// How many trials.
        trials: usize,
    },
    /// Measuring how many samples a further group in fp32 would win.
    Screen {
        /// Groups that are in fp32 already.
        groups: usize,
    },
    /// Measuring a finalist on the certify split.
    Certify {
        /// Its number; 0 for fp32.
        trial: usize,
    },
    /// Measuring what each group takes.
    Times,
    /// Measuring a recorded trial again.
    Replay,
    /// Taking latencies of a trial.
    Latency {
        /// Its number.
        trial: usize,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All trials, in order; the first is fp32.
    pub trials: Vec<Trial>,
    /// Which of them are on the front.
    pub front: Vec<bool>,
    /// The chosen one.
    pub chosen: usize,
    /// Why the search ended.
    pub finish: Finish,
    /// Whether the chosen one is within the budget and not fp32.
    pub within_budget: bool,
    /// What the certify split says; `None` without one, or without a trial within the budget.
    pub certificate: Option<Certificate>,
}
