//! What `validate` and `run` check before anything is measured.

use anyhow::{Result, ensure};

use super::JobFile;
use crate::{
    dataset::{Dataset, Part},
    graph::Groups,
    job::{self, Job, JobLock, LockedHashes},
    onnx::{self, Model},
    quant::QConfig,
    store::hex,
};

/// A job whose model and data are there and fit each other.
pub(super) struct Checked {
    pub(super) job: Job,
    pub(super) model: Model,
    pub(super) groups: Groups,
    /// The qconfig of each group.
    pub(super) qconfigs: Vec<Option<QConfig>>,
    pub(super) dataset: Dataset,
}

/// Reads a job, its model and its lists of samples, and checks that they fit.
pub(super) fn check(file: &JobFile) -> Result<Checked> {
    let job = job::load(&file.path, &file.set)?;
    let model = onnx::load(&job.resolve(&job.spec.model.onnx))?;
    let groups = Groups::of(&model.graph);
    let qconfigs = job.spec.qconfig.resolve(&groups)?;
    let dataset = Dataset::open(&job.spec.data, &job.folder)?;
    let [height, width, channels] = dataset.shape();
    let expected = &model.graph.value(model.graph.input).shape;
    let given = [channels, height, width];
    ensure!(
        expected[..] == given,
        "the model reads inputs of {}, preprocessing gives {} (channels×height×width)",
        super::inspect::shape(expected),
        super::inspect::shape(&given),
    );
    Ok(Checked { job, model, groups, qconfigs, dataset })
}

impl Checked {
    /// The job with the hashes of everything that it reads; reads every sample.
    pub(super) fn lock(&self) -> Result<JobLock> {
        let part = |part| self.dataset.digest(part).map(|digest| hex(&digest));
        let sha256 = LockedHashes {
            model: hex(&self.model.digest),
            calibrate: part(Part::Calibrate)?,
            search: part(Part::Search)?,
            certify: part(Part::Certify)?,
        };
        Ok(JobLock::new(&self.job, sha256))
    }
}
