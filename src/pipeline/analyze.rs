//! Sensitivities alone, without a search.

use super::{
    GroupFacts, Opened, PipelineError, Progress, Stage,
    run::{calibration, group_facts, pool},
};
use crate::{
    cancel::Cancel,
    evaluate::{Gate, Samples},
    graph::Graph,
    kernels::Kernels,
    ptq::{self, Calibrated, LoadSample},
    quant::QConfig,
    sensitivity::{self, Analysis, GroupSensitivity, RankBy},
};

/// A network, how it is quantized, and what it is calibrated and measured on.
pub struct Subject<'a> {
    /// The network.
    pub graph: &'a Graph,
    /// The qconfig of each group; those without one stay in fp32 and are not measured.
    pub qconfigs: &'a [Option<QConfig>],
    /// What the groups are to be ranked by.
    pub rank_by: RankBy,
    /// Gives a sample, from 0.
    pub load: &'a LoadSample<'a>,
    /// Samples that the observers see.
    pub calibrate: usize,
    /// The first of them that the SQNRs are measured on, at most all.
    pub samples: usize,
}

/// Calibrates a network and measures the four SQNRs of its groups on `threads` threads; the groups come in topological
/// order. Nothing is recorded.
///
/// # Errors
/// A sample that cannot be read, a network that cannot be run, or a value that is not finite;
/// [`PipelineError::Cancelled`] when it was asked to stop.
pub fn analyze(
    subject: &Subject<'_>,
    threads: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<GroupFacts>, PipelineError> {
    let pool = pool(threads)?;
    let &Subject { graph, qconfigs, rank_by, load, calibrate, samples } = subject;
    let calibrated = observe(graph, Kernels::detect()?, calibrate, load, &pool, progress, cancel)?;
    let analysis = Analysis { qconfigs, samples: samples.min(calibrate), rank_by };
    let measured = measure(&calibrated, analysis, load, &pool, progress, cancel)?;
    Ok(group_facts(calibrated.engine().groups(), &measured))
}

/// As [`analyze`], of a job: its starting qconfig, on its calibrate split.
///
/// # Errors
/// As for [`analyze`].
pub fn analyze_job(
    opened: &Opened,
    threads: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<GroupFacts>, PipelineError> {
    let calibrate = calibration(opened);
    let subject = Subject {
        graph: &opened.model.graph,
        qconfigs: &opened.qconfigs,
        rank_by: opened.spec.sensitivity.rank_by,
        load: &|index| calibrate.load(index).map(|(x, _)| x),
        calibrate: calibrate.len(),
        samples: opened.spec.sensitivity.samples,
    };
    analyze(&subject, threads, progress, cancel)
}

/// Observes a network in fp32 on the first `samples` samples.
pub(super) fn observe(
    graph: &Graph,
    kernels: Kernels,
    samples: usize,
    load: &LoadSample<'_>,
    pool: &rayon::ThreadPool,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Calibrated, PipelineError> {
    let prepared = ptq::prepare(graph.clone(), kernels);
    progress.stage(Stage::Calibrate, Some(samples as u64));
    let _gate = Gate::compute(cancel)?;
    let observe = || prepared.calibrate(samples, load, cancel, &|done| progress.advance(done, None));
    Ok(pool.install(observe)?)
}

/// Measures the SQNRs of a calibrated network.
pub(super) fn measure(
    calibrated: &Calibrated,
    analysis: Analysis<'_>,
    load: &LoadSample<'_>,
    pool: &rayon::ThreadPool,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<GroupSensitivity>, PipelineError> {
    progress.stage(Stage::Sensitivity, Some(analysis.samples as u64));
    let _gate = Gate::compute(cancel)?;
    let advance = |done: u64| progress.advance(done, None);
    Ok(pool.install(|| sensitivity::analyze(calibrated, analysis, load, cancel, &advance))?)
}
