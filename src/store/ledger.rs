//! The store as the pipeline's ledger.

use tokio::runtime::Handle;

use super::{JobId, Store, StoreError};
use crate::{
    evaluate::Metric,
    pipeline::{Certificate, GroupFacts, Ledger, LedgerError, TrialFacts},
    search::{GroupTime, Key, Trial},
    sensitivity::GroupSensitivity,
};

/// The record of one job. Its calls block: use it on a thread that is not the runtime's, such as
/// [`tokio::task::spawn_blocking`] gives.
#[derive(Clone)]
pub struct StoreLedger {
    store: Store,
    job: JobId,
    metric: Metric,
    runtime: Handle,
}

impl StoreLedger {
    /// The record of `job`, which measures `metric`.
    pub fn new(store: Store, job: JobId, metric: Metric, runtime: Handle) -> StoreLedger {
        StoreLedger { store, job, metric, runtime }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, LedgerError> {
        self.runtime.block_on(work).map_err(Into::into)
    }
}

impl Ledger for StoreLedger {
    fn sensitivities(&mut self, key: &Key) -> Result<Option<Vec<GroupSensitivity>>, LedgerError> {
        self.wait(async {
            let Some(groups) = self.store.groups(key).await? else { return Ok(None) };
            self.store.use_sensitivities(self.job, key).await?;
            Ok(Some(groups.into_iter().filter_map(|group| group.sensitivity).collect()))
        })
    }

    fn record_sensitivities(&mut self, key: &Key, groups: &[GroupFacts]) -> Result<(), LedgerError> {
        self.wait(async {
            self.store.record_groups(key, groups).await?;
            self.store.use_sensitivities(self.job, key).await
        })
    }

    fn group_times(&mut self, key: &Key) -> Result<Option<Vec<GroupTime>>, LedgerError> {
        self.wait(self.store.group_times(key))
    }

    fn record_group_times(&mut self, key: &Key, times: &[GroupTime]) -> Result<(), LedgerError> {
        self.wait(self.store.record_group_times(key, times))
    }

    fn trial(&mut self, key: &Key) -> Result<Option<Trial>, LedgerError> {
        self.wait(self.store.trial(self.job, key))
    }

    fn record_trial(&mut self, number: usize, trial: &Trial, facts: &TrialFacts) -> Result<(), LedgerError> {
        self.wait(self.store.record_trial(self.job, number, self.metric, trial, facts))
    }

    fn certificate(&mut self) -> Result<Option<Certificate>, LedgerError> {
        self.wait(self.store.certificate(self.job))
    }

    fn record_certificate(&mut self, certificate: &Certificate) -> Result<(), LedgerError> {
        self.wait(self.store.record_certificate(self.job, certificate))
    }

    fn event(&mut self, kind: &str, detail: &str) -> Result<(), LedgerError> {
        self.wait(self.store.event(self.job, kind, detail))
    }
}
