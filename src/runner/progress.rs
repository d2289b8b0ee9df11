//! What a running job is doing, for those who look from elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    evaluate::Latency,
    pipeline::{GroupFacts, Progress, Stage, TrialFacts},
    search::Trial,
    store::JobProgress,
};

/// Keeps what the job is doing, logs its steps, and passes everything on to whoever shows it here.
pub(super) struct Announcer {
    shown: Arc<dyn Progress + Send + Sync>,
    doing: Mutex<JobProgress>,
}

impl Announcer {
    pub(super) fn new(shown: Arc<dyn Progress + Send + Sync>) -> Announcer {
        Announcer { shown, doing: Mutex::default() }
    }

    /// What the job is doing now.
    pub(super) fn doing(&self) -> JobProgress {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, JobProgress> {
        // It is plain data: whoever panicked with it left nothing half done.
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Announcer {
    fn stage(&self, stage: Stage, total: Option<u64>) {
        let (name, trial, group) = match &stage {
            Stage::Import => ("import", None, None),
            Stage::Calibrate => ("calibrate", None, None),
            Stage::Sensitivity => ("sensitivity", None, None),
            Stage::Evaluate { trial, group } => ("evaluate", Some(*trial), group.clone()),
            Stage::Times => ("times", None, None),
            Stage::Replay => ("replay", None, None),
            Stage::Rank { .. } => ("rank", None, None),
            Stage::Screen { .. } => ("screen", None, None),
            Stage::Compare { .. } => ("compare", None, None),
            Stage::Certify { trial } => ("certify", Some(*trial), None),
            Stage::Latency { trial } => ("latency", Some(*trial), None),
        };
        match (trial, &group) {
            (Some(trial), Some(group)) => tracing::info!(trial, group, "{name}"),
            (Some(trial), None) => tracing::info!(trial, "{name}"),
            (None, _) => tracing::info!("{name}"),
        }
        {
            let mut doing = self.lock();
            let seconds_left = doing.seconds_left.filter(|_| !is_after_the_search(&stage));
            *doing =
                JobProgress { stage: name.to_owned(), trial, group, total, seconds_left, ..JobProgress::default() };
        }
        self.shown.stage(stage, total);
    }

    fn advance(&self, done: u64, correct: Option<u64>) {
        {
            let mut doing = self.lock();
            (doing.done, doing.correct) = (done, correct);
        }
        self.shown.advance(done, correct);
    }

    fn sensitivities(&self, groups: &[GroupFacts]) {
        tracing::info!(groups = groups.len(), "sensitivities are known");
        self.shown.sensitivities(groups);
    }

    fn trial(&self, number: usize, trial: &Trial, facts: &TrialFacts) {
        let latency = trial.latency.as_ref();
        let median_ns = latency.and_then(Latency::candidate).map(|quartiles| quartiles.median);
        tracing::info!(
            trial = number,
            score = trial.evaluation.score.value(),
            int8_groups = trial.int8_groups,
            fp32_groups = facts.fp32_names.len(),
            median_ns,
            "recorded"
        );
        self.shown.trial(number, trial, facts);
    }

    fn left(&self, seconds: Option<f64>) {
        self.lock().seconds_left = seconds.map(|seconds| seconds.round() as u64);
        self.shown.left(seconds);
    }
}

fn is_after_the_search(stage: &Stage) -> bool {
    matches!(stage, Stage::Compare { .. } | Stage::Certify { .. })
}

/// Shows nothing.
pub(super) struct Silent;

impl Progress for Silent {
    fn stage(&self, _: Stage, _: Option<u64>) {}
    fn advance(&self, _: u64, _: Option<u64>) {}
    fn sensitivities(&self, _: &[GroupFacts]) {}
    fn trial(&self, _: usize, _: &Trial, _: &TrialFacts) {}
    fn left(&self, _: Option<f64>) {}
}
