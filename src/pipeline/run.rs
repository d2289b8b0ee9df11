//! The flow: open, calibrate, rank, then measure what the search proposes until it has ended.

use std::{io, path::PathBuf};

use super::{
    Certificate, GroupFacts, Ledger, LedgerError, Outcome, Progress, Resolution, Stage,
    analyze::{measure, observe},
    bench::{Bench, Seen, SplitSamples},
    by_program::Handed,
    form::{FormError, check_form},
    keys::sensitivity_key,
};
use crate::{
    cancel::{Cancel, Cancelled},
    dataset::{Dataset, DatasetError, Part, permutation},
    evaluate::{EvaluateError, LatencyError, ProgramError, Programs, Samples},
    export::ExportError,
    graph::{GroupId, Groups},
    job::{Job, JobSpec, LockedHashes},
    kernels::{KernelError, Kernels},
    onnx::{Model, OnnxError},
    pareto,
    ptq::{Calibrated, CalibrationError, LoadSample},
    quant::{MappingError, QConfig, Repair},
    search::{
        Candidate, Findings, Finish, Key, Proposal, Ranked, Screened, Search, StrategyKind, Trial, by_noise_for_time,
    },
    sensitivity::{self, Analysis, GroupSensitivity, SensitivityError},
};

/// A job whose model and data have been read and fit together.
pub struct Opened {
    pub(super) spec: JobSpec,
    /// The model's file.
    pub(super) path: PathBuf,
    pub(super) model: Model,
    pub(super) dataset: Dataset,
    pub(super) groups: Groups,
    pub(super) qconfigs: Vec<Option<QConfig>>,
    pub(super) hashes: LockedHashes,
    pub(super) search_digest: [u8; 32],
    pub(super) calibrate_digest: [u8; 32],
}

/// What keeps a job from coming to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The model cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The data cannot be read.
    #[error(transparent)]
    Dataset(DatasetError),
    /// The starting qconfig does not fit the model.
    #[error("qconfig: {0}")]
    Mapping(#[from] MappingError),
    /// The samples are not what the model reads.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The model's inputs are not one of pictures, so that there is nothing to guess of a job.
    #[error("the model reads {}, not one picture of channels, height and width: a job cannot be guessed for it", inputs.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>().join(" and "))]
    NoPictures {
        /// The model's inputs without the batch.
        inputs: Vec<Vec<usize>>,
    },
    /// The starting qconfig leaves every group in fp32, or the model has none.
    #[error("qconfig: the model has no group that this qconfig quantizes")]
    NothingToQuantize,
    /// No kernel can run.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The thread pool could not be started.
    #[error("starting {threads} threads failed")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// Calibration failed.
    #[error("calibration failed")]
    Calibration(#[source] CalibrationError),
    /// The sensitivity analysis failed.
    #[error("the sensitivity analysis failed")]
    Sensitivity(#[source] SensitivityError),
    /// An evaluation failed.
    #[error("evaluating a trial failed")]
    Evaluate(#[source] EvaluateError),
    /// A latency could not be taken.
    #[error("measuring latency failed")]
    Latency(#[source] LatencyError),
    /// A network could not be exported for the program that measures it.
    #[error("exporting a trial for the program that measures it failed")]
    Export(#[source] ExportError),
    /// What a program reads could not be written.
    #[error("writing `{}` for a program failed", path.display())]
    Hand {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program did not measure.
    #[error("measuring with a program failed")]
    Program(#[source] ProgramError),
    /// fp32 is right so seldom that a drop relative to it means nothing.
    #[error("budget.drop: relative to fp32, which is right on {correct} of {total} samples only; use `absolute`")]
    Baseline {
        /// Samples that fp32 gets right.
        correct: u64,
        /// Samples of the search split.
        total: u64,
    },
    /// No drop can be relative to the score of fp32.
    #[error("budget.drop: relative to fp32, whose score is {0}, and not above 0; use `absolute`")]
    BaselineScore(f64),
    /// The budget is finer than the samples can tell.
    #[error("budget.max_drop: {0}")]
    Unresolvable(Resolution),
    /// A fact could not be recorded.
    #[error("recording a result failed")]
    Ledger(#[source] LedgerError),
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<LedgerError> for PipelineError {
    fn from(source: LedgerError) -> Self {
        PipelineError::Ledger(source)
    }
}

/// Being asked to stop is no failure of the stage that heard it.
macro_rules! stage_error {
    ($stage:ident, $error:ident) => {
        impl From<$error> for PipelineError {
            fn from(source: $error) -> Self {
                match source {
                    $error::Cancelled(cancelled) => PipelineError::Cancelled(cancelled),
                    source => PipelineError::$stage(source),
                }
            }
        }
    };
}
stage_error!(Dataset, DatasetError);
stage_error!(Calibration, CalibrationError);
stage_error!(Sensitivity, SensitivityError);
stage_error!(Evaluate, EvaluateError);
stage_error!(Latency, LatencyError);
stage_error!(Program, ProgramError);

/// Reads a job's model and data and checks that they, and the qconfig, fit together.
///
/// # Errors
/// The first thing that does not; [`PipelineError::Cancelled`] when it was asked to stop.
pub fn open(job: &Job, cancel: &Cancel) -> Result<Opened, PipelineError> {
    let path = job.resolve(&job.spec.model.onnx);
    let model = job.spec.model.reading().load(&path)?;
    cancel.check()?;
    let dataset = Dataset::open(&job.spec.data, &job.folder, job.root.as_deref(), cancel)?;
    check_form(&model, dataset.form())?;
    let groups = Groups::of(&model.graph);
    let qconfigs = job.spec.qconfig.resolve(&groups)?;
    if qconfigs.iter().all(Option::is_none) {
        return Err(PipelineError::NothingToQuantize);
    }
    let digest = |part| dataset.digest(part, cancel);
    let (calibrate_digest, search_digest) = (digest(Part::Calibrate)?, digest(Part::Search)?);
    let hashes = LockedHashes {
        model: Key(model.digest).to_string(),
        calibrate: Key(calibrate_digest).to_string(),
        search: Key(search_digest).to_string(),
        certify: Key(digest(Part::Certify)?).to_string(),
    };
    let mut spec = job.spec.clone();
    spec.measure.programs.folder = job.program_folder();
    Ok(Opened { spec, path, model, dataset, groups, qconfigs, hashes, search_digest, calibrate_digest })
}

impl Opened {
    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The samples.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The starting qconfig of each group.
    pub fn qconfigs(&self) -> &[Option<QConfig>] {
        &self.qconfigs
    }

    /// The qconfig of each group in a candidate.
    pub(super) fn qconfigs_of(&self, Candidate { repairs, fp32 }: &Candidate) -> Vec<Option<QConfig>> {
        let mut qconfigs = self.qconfigs.clone();
        for qconfig in qconfigs.iter_mut().flatten() {
            *qconfig = qconfig.repaired(repairs);
        }
        fp32.iter().for_each(|id| qconfigs[id.0] = None);
        qconfigs
    }

    /// The repairs of the job that change a qconfig, after those before them.
    fn repairs(&self) -> Vec<Repair> {
        let mut repairs = Candidate::default();
        for &repair in &self.spec.search.repairs {
            let before = self.qconfigs_of(&repairs);
            repairs.repairs.push(repair);
            if self.qconfigs_of(&repairs) == before {
                repairs.repairs.pop();
            }
        }
        repairs.repairs
    }

    /// SHA-256 of what the job reads.
    pub fn hashes(&self) -> &LockedHashes {
        &self.hashes
    }
}

/// Runs a job to its outcome on `threads` threads: calibrates, measures sensitivities, and measures the qconfigs
/// that the search proposes. Facts that the ledger has are taken from it, so a run that was cut off continues.
///
/// # Errors
/// Whatever keeps it from its outcome; [`PipelineError::Cancelled`] when it was asked to stop.
pub fn run(
    opened: &Opened,
    threads: usize,
    ledger: &mut dyn Ledger,
    programs: &dyn Programs,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, PipelineError> {
    let pool = pool(threads)?;
    let kernels = Kernels::detect()?;
    let calibrated = calibrate(opened, &pool, kernels, progress, cancel)?;
    let calibrate = calibration(opened);
    let load = |index: usize| calibrate.load(index).map(|(x, _)| x);

    let start = calibrated.convert(&opened.qconfigs);
    let samples = opened.spec.sensitivity.samples.min(calibrate.len());
    let rank_by = opened.spec.sensitivity.rank_by;
    let analysis = Analysis { qconfigs: &opened.qconfigs, samples, rank_by };
    let key = sensitivity_key(opened, &start, &analysis);
    let sensitivities = match ledger.sensitivities(&key)? {
        Some(known) => known,
        None => {
            let measured = measure(&calibrated, analysis, &load, &pool, progress, cancel)?;
            ledger.record_sensitivities(&key, &group_facts(&opened.groups, &measured))?;
            measured
        }
    };
    let ranking = sensitivity::rank(&sensitivities, rank_by);
    let mut ranked = group_facts(&opened.groups, &sensitivities);
    let place = |g: &GroupFacts| ranking.iter().position(|id| opened.groups.get(*id).id == g.id).unwrap_or(usize::MAX);
    ranked.sort_by_key(place);
    progress.sensitivities(&ranked);

    let seen = permutation(opened.dataset.len(Part::Search), opened.spec.search.seed);
    let handed = Handed::default();
    let bench = Bench {
        opened,
        pool: &pool,
        kernels,
        calibrated: &calibrated,
        order: &seen,
        programs,
        handed: &handed,
        progress,
        cancel,
    };
    let mut order = match opened.spec.search.strategy {
        StrategyKind::LatencyAware => by_noise_for_time(&sensitivities, &bench.group_times(&start, &key, ledger)?),
        StrategyKind::Greedy | StrategyKind::Bisect | StrategyKind::Adaptive => ranking,
    };
    order.sort_by_key(|&group| bench.is_summed_in_fp32(group));
    let (mut trials, finish) = search(&bench, order, samples, &load, ledger)?;
    bench.compare(&mut trials, ledger)?;
    let budget = opened.spec.budget.budget();
    let front = pareto::front(&trials);
    let finalists = pareto::finalists(&trials, &budget);
    let certificate = bench.certify(&trials, &finalists, ledger)?;
    let certified = certificate.as_ref().and_then(Certificate::holds);
    let chosen = certified.or(finalists.first().copied()).unwrap_or(0);
    let within_budget = chosen != 0;
    ledger.event("finished", &finish_text(finish))?;
    Ok(Outcome { trials, front, chosen, finish, within_budget, certificate })
}

/// Threads for everything but latencies.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, PipelineError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|source| PipelineError::Threads { threads, source })
}

pub(super) fn calibration(opened: &Opened) -> SplitSamples<'_> {
    SplitSamples { dataset: &opened.dataset, model: &opened.model, part: Part::Calibrate, order: None }
}

/// Observes the fp32 network on the calibrate split.
pub(super) fn calibrate(
    opened: &Opened,
    pool: &rayon::ThreadPool,
    kernels: Kernels,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Calibrated, PipelineError> {
    let calibrate = calibration(opened);
    let load = |index: usize| calibrate.load_once(index);
    observe(&opened.model.graph, kernels, calibrate.len(), &load, pool, progress, cancel)
}

/// Measures what the search proposes until it has ended.
fn search(
    bench: &Bench<'_>,
    ranking: Vec<GroupId>,
    samples: usize,
    load: &LoadSample<'_>,
    ledger: &mut dyn Ledger,
) -> Result<(Vec<Trial>, Finish), PipelineError> {
    let spec = &bench.opened.spec.search;
    let search = Search {
        ranking: ranking.clone(),
        budget: bench.opened.spec.budget.budget(),
        limits: spec.limits(),
        strategy: spec.strategy,
        repairs: bench.opened.repairs(),
        refine: spec.refine,
    };
    let (mut findings, mut seen) = (Findings::default(), Seen::default());
    loop {
        bench.cancel.check()?;
        match search.propose(&findings) {
            Proposal::Measure(candidate) => {
                let trial = bench.trial(&findings.trials, candidate, ledger, &mut seen)?;
                findings.trials.push(trial);
                bench.progress.left(search.seconds_left(&findings));
            }
            Proposal::Rank(base) => {
                bench.progress.stage(Stage::Rank { groups: base.fp32.len() }, None);
                let gains = bench.gains(&base, samples, load)?;
                findings.ranked.push(Ranked { base, gains });
            }
            Proposal::Screen(base) => {
                bench.progress.stage(Stage::Screen { groups: base.fp32.len() }, None);
                let trial = findings.trials.iter().find(|trial| trial.candidate() == base);
                let won = trial.map(|trial| bench.screen(trial, &ranking, &mut seen)).transpose()?.unwrap_or_default();
                findings.screened.push(Screened { base, won });
            }
            Proposal::Finished(finish) => return Ok((findings.trials, finish)),
        }
    }
}

pub(super) fn group_facts(groups: &Groups, sensitivities: &[GroupSensitivity]) -> Vec<GroupFacts> {
    let facts = |id: GroupId| {
        let group = groups.get(id);
        GroupFacts {
            id: group.id.clone(),
            object_type: group.object_type.clone(),
            macs: group.macs,
            parameters: group.parameters,
            sensitivity: sensitivities.iter().find(|s| s.group == id).cloned(),
        }
    };
    groups.ids().map(facts).collect()
}

fn finish_text(finish: Finish) -> String {
    match finish {
        Finish::WithinBudget => "a trial is within the budget",
        Finish::Exhausted => "every group is back in fp32",
        Finish::MaxTrials => "max_trials was reached",
        Finish::MaxTime => "max_time was reached",
    }
    .to_owned()
}
