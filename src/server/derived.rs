//! Trials with everything derived, worked out once for all who ask while nothing is written.
//!
//! Medians come from every latency that was taken, thousands a trial in some jobs; many clients ask for the same.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Mutex;

use crate::store::{Changes, JobId, Store, StoreError, TrialSummary};

/// The trials of jobs as of the latest write.
pub(super) struct Derived {
    kept: Mutex<Kept>,
}

struct Kept {
    changes: Changes,
    version: Option<i64>,
    trials: HashMap<JobId, Arc<Vec<TrialSummary>>>,
}

impl Derived {
    /// Nothing yet; `changes` tells when what is kept is no longer so.
    pub(super) fn new(changes: Changes) -> Derived {
        Derived { kept: Mutex::new(Kept { changes, version: None, trials: HashMap::new() }) }
    }

    /// The trials of a job, in order. Whoever asks meanwhile waits for the same answer.
    pub(super) async fn trials(&self, store: &Store, job: JobId) -> Result<Arc<Vec<TrialSummary>>, StoreError> {
        let mut kept = self.kept.lock().await;
        let version = kept.changes.version().await?;
        if version.is_none() || version != kept.version {
            kept.trials.clear();
            kept.version = version;
        }
        if let Some(trials) = kept.trials.get(&job) {
            return Ok(Arc::clone(trials));
        }
        // What is written from here on changes the version, and is seen by the next who asks.
        let trials = Arc::new(store.summaries(job).await?);
        kept.trials.insert(job, Arc::clone(&trials));
        Ok(trials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SystemClock;

    #[tokio::test]
    async fn what_was_written_is_seen_at_once_and_else_nothing_is_worked_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qtuned.db");
        let store = Store::open(&path, Arc::new(SystemClock)).await.unwrap();
        let derived = Derived::new(Changes::open(&path).await.unwrap());
        let job = JobId(1);
        let first = derived.trials(&store, job).await.unwrap();
        assert!(Arc::ptr_eq(&first, &derived.trials(&store, job).await.unwrap()));
        store.vacuum().await.unwrap();
        let second = derived.trials(&store, job).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second), "a write went unseen");
        assert!(Arc::ptr_eq(&second, &derived.trials(&store, job).await.unwrap()));
    }
}
