//! The life of a job in a process: it is begun or claimed, runs on a blocking thread while its lease is renewed and
//! what is asked of it is heard, its facts go to the store and the output folder, and how it ended is recorded and drawn.

mod follow;
mod log;
mod owner;
mod process;
mod progress;
mod upkeep;
mod worker;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task,
    time::{Instant, interval, sleep},
};

pub use follow::{Follower, Update};
pub use log::{GATHER, JobLines, JobLog, job_log};
pub use owner::this_process;
pub use process::Processes;
pub use upkeep::forget_old;
pub use worker::{Health, Prepared, Workshop, open_locked, prepare, prepare_submitted, search};

use crate::{
    cancel::Cancel,
    job::JobLock,
    output::{self, OutputError, OutputFolder},
    pareto,
    pipeline::{Certificate, GroupFacts, Ledger, LedgerError, Outcome, Progress, TrialFacts},
    report::{Document, JobReport, ReportError},
    search::{Budget, GroupTime, Key, Trial},
    sensitivity::GroupSensitivity,
    store::{BegunJob, ClaimedJob, JobEnd, JobProgress, LEASE, Store, StoreError, StoreLedger, Word, is_full},
};
use owner::Liveness;
use progress::Announcer;

/// How often a job's process looks whether something is asked of it.
const LOOK: Duration = Duration::from_millis(200);
/// How often it says what the job is doing.
const TELL: Duration = Duration::from_secs(1);
/// How often it renews the lease in any case.
const BEAT: Duration = Duration::from_secs(5);
/// How long a search that was cancelled may take to reach its next sample before it is recorded as cancelled.
const CANCEL_PATIENCE: Duration = Duration::from_millis(1500);
/// The same for one whose process was asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// How a process that ran a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked; a search found a quantized qconfig within the budget.
    Success,
    /// The search ended without a quantized qconfig within the budget: fp32 is chosen.
    NothingWithinBudget,
    /// It was asked to stop; the same command continues it.
    Interrupted,
    /// The job was cancelled.
    Cancelled,
    /// A trial that was measured again is not as recorded.
    Differs,
}

impl Exit {
    /// The exit code. 75 is EX_TEMPFAIL of sysexits.h: try again.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::NothingWithinBudget => 3,
            Exit::Interrupted => 75,
            Exit::Cancelled | Exit::Differs => EXIT_FAILED,
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
    /// Its report cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
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
    owner: String,
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

/// What a flow leaves behind: its end, and what it measured.
type Flowed = (Result<Outcome, Stopped>, Vec<Measured>);

/// Why a flow was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The process stops.
    Stop,
    /// Somebody cancelled the job.
    Cancel,
    /// Another process has it.
    Lost,
}

impl Run {
    /// Starts a job, or continues the one with the same lock, and writes its lock to the output folder. A process
    /// elsewhere that has the job is given the time of its lease for a sign of life.
    ///
    /// # Errors
    /// An output folder or database that cannot be written, or a job that another process runs.
    pub async fn begin(store: &Store, lock: &JobLock) -> Result<Run, RunError> {
        let folder = output_folder(lock)?;
        let owner = this_process();
        bury_the_gone(store).await?;
        let patient_until = Instant::now() + LEASE + TELL;
        let job = loop {
            match store.begin_job(lock, &owner).await {
                Err(StoreError::Running { id, owner })
                    if owner::liveness(&owner) == Liveness::Unknown && Instant::now() < patient_until =>
                {
                    tracing::info!(job = id.0, "waiting for the lease of a process elsewhere");
                    sleep(TELL).await;
                }
                begun => break begun?,
            }
        };
        Ok(Run::new(store, owner, folder, lock.clone(), job))
    }

    /// Goes on with a job that was claimed. One whose output folder cannot be written has failed.
    ///
    /// # Errors
    /// An output folder or database that cannot be written.
    pub async fn claimed(store: &Store, claimed: ClaimedJob) -> Result<Run, RunError> {
        let owner = this_process();
        let ClaimedJob { job, lock } = claimed;
        match output_folder(&lock) {
            Ok(folder) => Ok(Run::new(store, owner, folder, lock, job)),
            Err(error) => {
                let error = RunError::Output(error);
                record_failure(store, &job, &owner, &error).await;
                Err(error)
            }
        }
    }

    fn new(store: &Store, owner: String, folder: OutputFolder, lock: JobLock, job: BegunJob) -> Run {
        Run { store: store.clone(), owner, folder, budget: lock.job.budget.budget(), lock, job }
    }

    /// Runs `flow` on a thread of its own, with the ledger that records this job, and records how it ended. The flow
    /// is asked to stop when `stop` is set, when the job is cancelled and when another process took it over; one that
    /// does not hear in time is left behind: what it recorded is on disk.
    ///
    /// # Errors
    /// Whatever made the job fail; the job is then recorded as failed, or as interrupted when the disk is full.
    pub async fn go<F>(&self, shown: Arc<dyn Progress + Send + Sync>, stop: &Cancel, flow: F) -> Result<Ran, RunError>
    where
        F: FnOnce(&mut dyn Ledger, &dyn Progress, &Cancel) -> Result<Outcome, Stopped> + Send + 'static,
    {
        let metric = self.lock.job.budget.metric;
        let ledger = StoreLedger::new(self.store.clone(), self.job.id, metric, Handle::current());
        let mut recorder = Recorder { ledger, folder: self.folder.clone(), budget: self.budget, measured: Vec::new() };
        let (announcer, cancel) = (Arc::new(Announcer::new(shown)), Cancel::default());
        let (reports, asked) = (Arc::clone(&announcer), cancel.clone());
        let span = tracing::info_span!("run", job = self.job.id.0);
        let thread = task::spawn_blocking(move || {
            let flowed = span.in_scope(|| flow(&mut recorder, &*reports, &asked));
            (flowed, recorder.measured)
        });
        let (flowed, asked) = self.attend(thread, &announcer, &cancel, stop).await;
        let ended = match (flowed, asked) {
            (Some(Ok((Ok(outcome), measured))), _) => self.finish(outcome, &measured).await,
            (Some(Ok((Err(Stopped::Failed(error)), _))), _) => Err(RunError::Flow(error)),
            (Some(Err(broken)), _) => Err(RunError::Broken(broken.to_string())),
            (_, Some(Asked::Cancel)) => self.stopped(&JobEnd::Cancelled, Exit::Cancelled).await,
            (_, Some(Asked::Lost)) => Err(StoreError::Lost { id: self.job.id }.into()),
            (_, Some(Asked::Stop) | None) => self.stopped(&JobEnd::Interrupted, Exit::Interrupted).await,
        };
        match &ended {
            Ok(_) => self.write_report().await?,
            Err(error) => record_failure(&self.store, &self.job, &self.owner, error).await,
        }
        ended
    }

    /// Writes the job in pictures, as it is recorded now.
    async fn write_report(&self) -> Result<(), RunError> {
        let report = JobReport::read(&self.store, self.store.job(self.job.id).await?).await?;
        let path = self.folder.path().join(Document::Html.file_name());
        Ok(output::write(&path, &Document::Html.of(&report)?)?)
    }

    /// Waits for the flow, renews the lease, tells its progress and passes on what is asked of it. `None` when it did
    /// not stop in time.
    async fn attend(
        &self,
        mut thread: task::JoinHandle<Flowed>,
        announcer: &Announcer,
        cancel: &Cancel,
        stop: &Cancel,
    ) -> (Option<Result<Flowed, task::JoinError>>, Option<Asked>) {
        let mut look = interval(LOOK);
        let mut asked: Option<(Asked, Instant)> = None;
        let (mut told, mut told_at) = (JobProgress::default(), Instant::now());
        loop {
            tokio::select! {
                flowed = &mut thread => return (Some(flowed), asked.map(|(asked, _)| asked)),
                _ = look.tick() => {}
            }
            if asked.is_none_or(|(asked, _)| asked == Asked::Stop)
                && let Some(new) = self.ask(stop).await
                && asked.is_none_or(|(asked, _)| asked != new)
            {
                cancel.cancel();
                asked = Some((new, Instant::now()));
            }
            if let Some((asked, since)) = asked {
                let patience = if asked == Asked::Cancel { CANCEL_PATIENCE } else { STOP_PATIENCE };
                if since.elapsed() > patience {
                    return (None, Some(asked));
                }
            }
            let doing = announcer.doing();
            let quiet = told_at.elapsed();
            if quiet >= BEAT || quiet >= TELL && doing != told {
                // Without a beat the lease goes on for a while; the next may succeed.
                if let Err(error) = self.store.beat(self.job.id, &self.owner, &doing).await {
                    tracing::warn!(error = one_line(&error), "the job's sign of life could not be recorded");
                }
                (told, told_at) = (doing, Instant::now());
            }
        }
    }

    async fn ask(&self, stop: &Cancel) -> Option<Asked> {
        match self.store.hear(self.job.id, &self.owner).await {
            Ok(Word::Cancel) => Some(Asked::Cancel),
            Ok(Word::Lost) => Some(Asked::Lost),
            Ok(Word::GoOn) | Err(_) => stop.is_cancelled().then_some(Asked::Stop),
        }
    }

    async fn stopped(&self, end: &JobEnd, exit: Exit) -> Result<Ran, RunError> {
        self.store.end_job(self.job.id, &self.owner, end, exit.code()).await?;
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
        self.store.end_job(self.job.id, &self.owner, &end, exit.code()).await?;
        Ok(Ran { exit, outcome: Some(outcome), folder: self.folder.path().to_owned() })
    }
}

/// Makes the folder of a job's results, with its lock.
fn output_folder(lock: &JobLock) -> Result<OutputFolder, OutputError> {
    let folder = OutputFolder::create(lock.job.output.as_deref().unwrap_or(".".as_ref()))?;
    folder.write_lock(lock)?;
    Ok(folder)
}

/// Ends the leases of processes that are known to be gone, so that their jobs can go on at once.
async fn bury_the_gone(store: &Store) -> Result<(), StoreError> {
    for owner in store.owners().await? {
        if owner::liveness(&owner) == Liveness::Gone {
            store.bury(&owner).await?;
        }
    }
    Ok(())
}

async fn record_failure(store: &Store, job: &BegunJob, owner: &str, error: &RunError) {
    let end = match is_full(error) {
        true => JobEnd::Interrupted,
        false => JobEnd::Failed { error: one_line(error) },
    };
    // The error that made it fail is the one to report; a job that is lost is not this process's to fail.
    let _ = store.end_job(job.id, owner, &end, EXIT_FAILED).await;
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

    fn group_times(&mut self, key: &Key) -> Result<Option<Vec<GroupTime>>, LedgerError> {
        self.ledger.group_times(key)
    }

    fn record_group_times(&mut self, key: &Key, times: &[GroupTime]) -> Result<(), LedgerError> {
        self.ledger.record_group_times(key, times)
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
