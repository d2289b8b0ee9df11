//! Runs a job: its facts go to the store and the output folder, and how it ended is recorded.

use std::path::PathBuf;

use tokio::{runtime::Handle, task};

use crate::{
    job::JobLock,
    output::{OutputError, OutputFolder},
    pareto,
    pipeline::{Certificate, GroupFacts, Ledger, LedgerError, Outcome, TrialFacts},
    search::{Budget, Key, Trial},
    sensitivity::GroupSensitivity,
    store::{BegunJob, JobEnd, Store, StoreError, StoreLedger},
};

/// How a process that ran a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked; a search found a quantized qconfig within the budget.
    Success,
    /// The search ended without a quantized qconfig within the budget: fp32 is chosen.
    NothingWithinBudget,
    /// It was asked to stop; the same command continues it.
    Interrupted,
}

impl Exit {
    /// The exit code. 75 is EX_TEMPFAIL of sysexits.h: try again.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::NothingWithinBudget => 3,
            Exit::Interrupted => 75,
        }
    }
}

/// The exit code of a job that failed.
pub const EXIT_FAILED: u8 = 1;

/// What the flow of a job gives when it does not come to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It was asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// It could not go on.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The record cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A result cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The flow failed.
    #[error(transparent)]
    Flow(Box<dyn std::error::Error + Send + Sync>),
    /// The flow broke off, which is a mistake in this program.
    #[error("the search broke off: {0}")]
    Broken(String),
}

/// A job that was started.
pub struct Run {
    store: Store,
    folder: OutputFolder,
    budget: Budget,
    lock: JobLock,
    /// Its number in the store, and whether an earlier run is continued.
    pub job: BegunJob,
}

/// A job that came to an outcome or was asked to stop.
#[derive(Debug)]
pub struct Ran {
    /// How the process ends.
    pub exit: Exit,
    /// The outcome, unless it was asked to stop.
    pub outcome: Option<Outcome>,
    /// Where the results are.
    pub folder: PathBuf,
}

impl Run {
    /// Starts a job, or continues the one with the same lock, and writes its lock to the output folder.
    ///
    /// # Errors
    /// An output folder or database that cannot be written.
    pub async fn begin(store: &Store, lock: &JobLock) -> Result<Run, RunError> {
        let folder = OutputFolder::create(lock.job.output.as_deref().unwrap_or(".".as_ref()))?;
        folder.write_lock(lock)?;
        let job = store.begin_job(lock).await?;
        let budget = lock.job.budget.budget();
        Ok(Run { store: store.clone(), folder, budget, lock: lock.clone(), job })
    }

    /// Runs `flow` on a thread of its own, with the ledger that records this job, and records how it ended.
    ///
    /// # Errors
    /// Whatever made the job fail; the job is then recorded as failed.
    pub async fn go<F>(&self, flow: F) -> Result<Ran, RunError>
    where
        F: FnOnce(&mut dyn Ledger) -> Result<Outcome, Stopped> + Send + 'static,
    {
        let metric = self.lock.job.budget.metric;
        let ledger = StoreLedger::new(self.store.clone(), self.job.id, metric, Handle::current());
        let mut recorder = Recorder { ledger, folder: self.folder.clone(), budget: self.budget, measured: Vec::new() };
        let done = task::spawn_blocking(move || {
            let flowed = flow(&mut recorder);
            (flowed, recorder.measured)
        });
        let ended = match done.await {
            Ok((Ok(outcome), measured)) => self.finish(outcome, &measured).await,
            Ok((Err(Stopped::Cancelled), _)) => self.interrupt().await,
            Ok((Err(Stopped::Failed(error)), _)) => Err(RunError::Flow(error)),
            Err(broken) => Err(RunError::Broken(broken.to_string())),
        };
        if let Err(error) = &ended {
            let end = JobEnd::Failed { error: one_line(error) };
            // The error that made it fail is the one to report.
            let _ = self.store.end_job(self.job.id, &end, EXIT_FAILED).await;
        }
        ended
    }

    /// Records that the job was asked to stop.
    ///
    /// # Errors
    /// Whatever keeps that from being recorded.
    pub async fn interrupt(&self) -> Result<Ran, RunError> {
        let exit = Exit::Interrupted;
        self.store.end_job(self.job.id, &JobEnd::Interrupted, exit.code()).await?;
        Ok(Ran { exit, outcome: None, folder: self.folder.path().to_owned() })
    }

    async fn finish(&self, outcome: Outcome, measured: &[Measured]) -> Result<Ran, RunError> {
        let mut trials = self.store.summaries(self.job.id).await?;
        // The choice is recorded last, when all files are there.
        trials.iter_mut().for_each(|trial| trial.chosen = trial.number == outcome.chosen);
        let qconfigs: Vec<_> = measured.iter().map(|measured| &measured.facts.file).collect();
        self.folder.write_trials(&trials, &qconfigs)?;
        if let Some(chosen) = measured.get(outcome.chosen) {
            self.folder.write_best(&chosen.facts.file)?;
        }
        let exit = if outcome.within_budget { Exit::Success } else { Exit::NothingWithinBudget };
        let (finish, chosen, within_budget) = (outcome.finish, outcome.chosen, outcome.within_budget);
        let end = JobEnd::Succeeded { finish, chosen, within_budget };
        self.store.end_job(self.job.id, &end, exit.code()).await?;
        Ok(Ran { exit, outcome: Some(outcome), folder: self.folder.path().to_owned() })
    }
}

/// An error and its causes in one line.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // A transparent error says what its cause says.
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// A trial with what is told of it.
struct Measured {
    trial: Trial,
    facts: TrialFacts,
}

/// The store's ledger that also keeps the best qconfig so far on disk.
struct Recorder {
    ledger: StoreLedger,
    folder: OutputFolder,
    budget: Budget,
    measured: Vec<Measured>,
}

impl Ledger for Recorder {
    fn sensitivities(&mut self, key: &Key) -> Result<Option<Vec<GroupSensitivity>>, LedgerError> {
        self.ledger.sensitivities(key)
    }

    fn record_sensitivities(&mut self, key: &Key, groups: &[GroupFacts]) -> Result<(), LedgerError> {
        self.ledger.record_sensitivities(key, groups)
    }

    fn trial(&mut self, key: &Key) -> Result<Option<Trial>, LedgerError> {
        self.ledger.trial(key)
    }

    fn record_trial(&mut self, number: usize, trial: &Trial, facts: &TrialFacts) -> Result<(), LedgerError> {
        self.ledger.record_trial(number, trial, facts)?;
        self.measured.truncate(number);
        self.measured.push(Measured { trial: trial.clone(), facts: facts.clone() });
        let trials: Vec<Trial> = self.measured.iter().map(|m| m.trial.clone()).collect();
        if let Some(best) = pareto::choose(&trials, &self.budget) {
            self.folder.write_best(&self.measured[best].facts.file)?;
        }
        Ok(())
    }

    fn certificate(&mut self) -> Result<Option<Certificate>, LedgerError> {
        self.ledger.certificate()
    }

    fn record_certificate(&mut self, certificate: &Certificate) -> Result<(), LedgerError> {
        self.ledger.record_certificate(certificate)
    }

    fn event(&mut self, kind: &str, detail: &str) -> Result<(), LedgerError> {
        self.ledger.event(kind, detail)
    }
}

#[cfg(test)]
mod tests;
