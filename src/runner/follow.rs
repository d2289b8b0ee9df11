//! Following a job from anywhere, by its record.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::{JobEvent, JobId, JobRow, Store, StoreError};

/// Events read at once.
const PAGE: u32 = 500;

/// Something new about a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// Something happened.
    Event(JobEvent),
    /// The job is now so: its state or its progress changed.
    Job(Box<JobRow>),
}

/// A reader of one job's record that tells what is new.
pub struct Follower {
    store: Store,
    job: JobId,
    after: i64,
    last: Option<JobRow>,
}

impl Follower {
    /// Of a job, from after the event with this number.
    pub fn new(store: Store, job: JobId, after: i64) -> Follower {
        Follower { store, job, after, last: None }
    }

    /// What is new since the last look: events first, then the job if it changed. At first everything is.
    ///
    /// # Errors
    /// A job that is not there any more, or whatever keeps it from being read.
    pub async fn news(&mut self) -> Result<Vec<Update>, StoreError> {
        // The job is read first: all events up to its state are then told before it.
        let job = self.store.job(self.job).await?;
        let mut news = Vec::new();
        loop {
            let events = self.store.events(self.job, self.after, PAGE).await?;
            let Some(last) = events.last() else { break };
            self.after = last.id;
            news.extend(events.into_iter().map(Update::Event));
        }
        if self.last.as_ref() != Some(&job) {
            self.last = Some(job.clone());
            news.push(Update::Job(Box::new(job)));
        }
        Ok(news)
    }

    /// Whether the job has ended, and all of it was told.
    pub fn is_over(&self) -> bool {
        self.last.as_ref().is_some_and(|job| job.state.is_final())
    }
}
