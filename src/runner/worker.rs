//! Workers that take jobs from the queue.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use utoipa::ToSchema;

use super::{EXIT_FAILED, Processes, Run, RunError, Stopped, bury_the_gone, one_line, progress::Silent, this_process};
use crate::{
    cancel::Cancel,
    evaluate::Programs,
    job::{Job, JobLock},
    pipeline::{self, Ledger, Opened, Outcome, PipelineError, Progress, Stage},
    store::{JobEnd, JobId, Store, StoreError, is_full},
};

/// How often an idle worker looks into the queue.
const IDLE: Duration = Duration::from_millis(500);
/// How long the queue pauses after the record could not be read or written.
const PAUSE: Duration = Duration::from_secs(5);

/// A job that was read, with what identifies it.
pub struct Prepared {
    /// Its model and data.
    pub opened: Opened,
    /// What identifies it.
    pub lock: JobLock,
    /// What the importer says of its model, in JSON.
    pub model: String,
}

/// Reads a job's model and data and locks it. Blocks.
///
/// # Errors
/// A model, data or qconfig that cannot be used, or that it was asked to stop.
pub fn prepare(job: &Job, cancel: &Cancel) -> Result<Prepared, PipelineError> {
    let opened = pipeline::open(job, cancel)?;
    let lock = JobLock::new(job, opened.hashes().clone());
    let model = pipeline::model_facts(opened.model(), opened.groups()).to_string();
    Ok(Prepared { opened, lock, model })
}

/// As [`prepare`], for a job that is submitted. Without `output` its results go to `qtuned-out/NAME-` and the first
/// digits of what identifies it: jobs of one name may run at the same time.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_submitted(job: &Job, cancel: &Cancel) -> Result<Prepared, PipelineError> {
    let mut prepared = prepare(job, cancel)?;
    if job.spec.output.is_none() {
        let identity = prepared.lock.identity().map(|key| key.to_string()).unwrap_or_default();
        let mut folder = job.output().into_os_string();
        folder.push(format!("-{}", identity.get(..8).unwrap_or_default()));
        prepared.lock.job.output = std::path::absolute(&folder).ok().or(Some(folder.into()));
    }
    Ok(prepared)
}

/// A job whose files are no longer those that were submitted.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not what it was when the job was submitted; submit it again")]
struct Changed {
    what: &'static str,
}

/// The flow of a job that was read.
///
/// # Errors
/// That it was asked to stop, or whatever keeps it from its outcome.
pub fn search(
    opened: &Opened,
    threads: usize,
    ledger: &mut dyn Ledger,
    programs: &dyn Programs,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, Stopped> {
    pipeline::run(opened, threads, ledger, programs, progress, cancel).map_err(stopped)
}

/// The flow of a job that was submitted: reads its files again first.
fn search_locked(
    lock: &JobLock,
    threads: usize,
    ledger: &mut dyn Ledger,
    programs: &dyn Programs,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, Stopped> {
    progress.stage(Stage::Import, None);
    let opened = open_locked(lock, cancel)?;
    search(&opened, threads, ledger, programs, progress, cancel)
}

/// Reads the files of a locked job again.
///
/// # Errors
/// Files that cannot be read, or that are no longer those that were locked.
pub fn open_locked(lock: &JobLock, cancel: &Cancel) -> Result<Opened, Stopped> {
    let job = Job { spec: lock.job.clone(), folder: PathBuf::from("/"), root: None };
    let opened = pipeline::open(&job, cancel).map_err(stopped)?;
    let (now, then) = (opened.hashes(), &lock.sha256);
    let parts = [
        ("model.onnx", &now.model, &then.model),
        ("the calibrate split of data.images", &now.calibrate, &then.calibrate),
        ("the search split of data.images", &now.search, &then.search),
        ("the certify split of data.images", &now.certify, &then.certify),
    ];
    if let Some((what, ..)) = parts.into_iter().find(|(_, now, then)| now != then) {
        return Err(Stopped::Failed(Box::new(Changed { what })));
    }
    Ok(opened)
}

fn stopped(error: PipelineError) -> Stopped {
    match error {
        PipelineError::Cancelled(_) => Stopped::Cancelled,
        error => Stopped::Failed(Box::new(error)),
    }
}

/// How the workers are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// Jobs that run here.
    pub busy: usize,
    /// Why no job is taken: the record cannot be written, such as on a full disk; `null` when all is well.
    pub paused: Option<String>,
    /// Whether the process was asked to stop.
    pub stopping: bool,
}

/// Where jobs of a queue are worked on.
pub struct Workshop {
    store: Store,
    threads: usize,
    programs: Processes,
    stop: Cancel,
    wake: Notify,
    busy: AtomicUsize,
    paused: Mutex<Option<String>>,
}

impl Workshop {
    /// For workers with `threads` threads each, until `stop` is set. `programs` run those that jobs measure with.
    pub fn new(store: Store, threads: usize, programs: Processes, stop: Cancel) -> Arc<Workshop> {
        let (busy, paused) = (AtomicUsize::new(0), Mutex::new(None));
        Arc::new(Workshop { store, threads, programs, stop, wake: Notify::new(), busy, paused })
    }

    /// Makes an idle worker look into the queue at once.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// How the workers are.
    pub fn health(&self) -> Health {
        Health {
            busy: self.busy.load(Ordering::Relaxed),
            paused: self.paused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            stopping: self.stop.is_cancelled(),
        }
    }

    /// Takes one job after another until it is asked to stop. A record that cannot be written, such as on a full
    /// disk, pauses it: jobs stay in the queue.
    pub async fn work(&self) {
        // A search that did not stop in time still computes: the next waits for it.
        let lane = Arc::new(Semaphore::new(1));
        // A job whose end could not be recorded.
        let mut open_end = None;
        while !self.stop.is_cancelled() {
            let Ok(Ok(permit)) = timeout(IDLE, Arc::clone(&lane).acquire_owned()).await else { continue };
            let worked = self.step(permit, &mut open_end).await;
            let problem = worked.as_ref().err().map(|error| one_line(error));
            if let Some(problem) = &problem {
                tracing::error!(error = problem, "the queue pauses");
            }
            self.set_paused(problem);
            match worked {
                Ok(true) => {}
                // Who was woken or has waited long enough looks again.
                Ok(false) => drop(timeout(IDLE, self.wake.notified()).await),
                Err(_) => self.pause().await,
            }
        }
    }

    /// Runs the next job of the queue, if there is one. An error is one of the record, not of the job.
    async fn step(&self, permit: OwnedSemaphorePermit, open_end: &mut Option<JobId>) -> Result<bool, RunError> {
        if let Some(id) = *open_end {
            match self.store.end_job(id, &this_process(), &JobEnd::Interrupted, EXIT_FAILED).await {
                Ok(()) | Err(StoreError::Lost { .. }) => *open_end = None,
                Err(error) => return Err(error.into()),
            }
        }
        bury_the_gone(&self.store).await?;
        let claimed = match self.store.claim(&this_process()).await {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(false),
            // The job is recorded as failed.
            Err(StoreError::Corrupt { what, problem }) => {
                tracing::error!("{what} cannot be read: {problem}");
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        // What was claimed was written: the queue goes on, before the job has ended.
        self.set_paused(None);
        let (id, lock, threads) = (claimed.job.id, claimed.lock.clone(), self.threads);
        let programs = self.programs.clone();
        tracing::info!(job = id.0, name = lock.job.name, continued = claimed.job.continued, "starts");
        self.busy.fetch_add(1, Ordering::Relaxed);
        let flow = move |ledger: &mut dyn Ledger, progress: &dyn Progress, cancel: &Cancel| {
            let _permit = permit;
            search_locked(&lock, threads, ledger, &programs, progress, cancel)
        };
        let ran = match Run::claimed(&self.store, claimed).await {
            Ok(run) => run.go(Arc::new(Silent), &self.stop, flow).await,
            Err(error) => Err(error),
        };
        self.busy.fetch_sub(1, Ordering::Relaxed);
        match ran {
            Ok(ran) => tracing::info!(job = id.0, exit = ?ran.exit, folder = %Path::display(&ran.folder), "ended"),
            Err(error) if is_full(&error) => {
                *open_end = Some(id);
                return Err(error);
            }
            Err(error) => tracing::error!(job = id.0, error = one_line(&error), "failed"),
        }
        Ok(true)
    }

    fn set_paused(&self, problem: Option<String>) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    async fn pause(&self) {
        let until = Instant::now() + PAUSE;
        while Instant::now() < until && !self.stop.is_cancelled() {
            sleep(IDLE.min(PAUSE)).await;
        }
    }
}
