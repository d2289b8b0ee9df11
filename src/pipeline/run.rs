//! The flow: open, calibrate, rank, then measure what the search proposes until it has ended.

use candle_core::Tensor;
use sha2::{Digest, Sha256};

use super::{GroupFacts, Ledger, LedgerError, Outcome, Progress, Stage, TrialFacts};
use crate::{
    cancel::{Cancel, Cancelled},
    dataset::{Dataset, DatasetError, Part},
    engine::{GroupQuantization, Plan, input_tensor},
    evaluate::{self, EvaluateError, Gate, Latency, LatencyError, Metric, Protocol, Samples},
    graph::{GroupId, Groups},
    job::{Job, JobSpec, LockedHashes},
    kernels::{KernelError, Kernels, NUMERICS_VERSION},
    onnx::{self, Model, OnnxError},
    pareto,
    ptq::{self, Calibrated, CalibrationError, Converted, SampleError},
    quant::{GroupParameters, MappingError, QConfig, QConfigFile},
    search::{Finish, Greedy, Key, Proposal, Trial},
    sensitivity::{self, GroupSensitivity, SensitivityError},
};

/// A job whose model and data have been read and fit together.
pub struct Opened {
    spec: JobSpec,
    model: Model,
    dataset: Dataset,
    groups: Groups,
    qconfigs: Vec<Option<QConfig>>,
    hashes: LockedHashes,
    search_digest: [u8; 32],
    calibrate_digest: [u8; 32],
}

/// What keeps a job from coming to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The model cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The data cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The starting qconfig does not fit the model.
    #[error("qconfig: {0}")]
    Mapping(#[from] MappingError),
    /// The samples are not what the model reads.
    #[error("samples of {height}×{width} pixels with {channels} channels do not fit the model's input [{}]", input.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Shape {
        /// Of the samples, after preprocessing.
        height: usize,
        /// Of the samples.
        width: usize,
        /// Of the samples.
        channels: usize,
        /// The model's input without the batch.
        input: Vec<usize>,
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
stage_error!(Calibration, CalibrationError);
stage_error!(Sensitivity, SensitivityError);
stage_error!(Evaluate, EvaluateError);
stage_error!(Latency, LatencyError);

/// Reads a job's model and data and checks that they, and the qconfig, fit together.
///
/// # Errors
/// The first thing that does not.
pub fn open(job: &Job) -> Result<Opened, PipelineError> {
    let model = onnx::load(&job.resolve(&job.spec.model.onnx))?;
    let dataset = Dataset::open(&job.spec.data, &job.folder)?;
    let [height, width, channels] = dataset.shape();
    let input = &model.graph.value(model.graph.input).shape;
    if input[..] != [channels, height, width] {
        return Err(PipelineError::Shape { height, width, channels, input: input.clone() });
    }
    let groups = Groups::of(&model.graph);
    let qconfigs = job.spec.qconfig.resolve(&groups)?;
    if qconfigs.iter().all(Option::is_none) {
        return Err(PipelineError::NothingToQuantize);
    }
    let (calibrate_digest, search_digest) = (dataset.digest(Part::Calibrate)?, dataset.digest(Part::Search)?);
    let hashes = LockedHashes {
        model: Key(model.digest).to_string(),
        calibrate: Key(calibrate_digest).to_string(),
        search: Key(search_digest).to_string(),
        certify: Key(dataset.digest(Part::Certify)?).to_string(),
    };
    let spec = job.spec.clone();
    Ok(Opened { spec, model, dataset, groups, qconfigs, hashes, search_digest, calibrate_digest })
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

    /// SHA-256 of what the job reads.
    pub fn hashes(&self) -> &LockedHashes {
        &self.hashes
    }
}

/// One part of the data as the network reads it.
pub struct SplitSamples<'a> {
    /// The data.
    pub dataset: &'a Dataset,
    /// Which part of it.
    pub part: Part,
}

impl Samples for SplitSamples<'_> {
    fn len(&self) -> usize {
        self.dataset.len(self.part)
    }

    fn load(&self, index: usize) -> Result<(Tensor, u32), SampleError> {
        let sample = self.dataset.load(self.part, index)?;
        let x = input_tensor(sample.input, 1, [sample.height, sample.width, sample.channels])?;
        Ok((x, sample.label))
    }

    fn name(&self, index: usize) -> String {
        self.dataset.labels(self.part).nth(index).map_or_else(|| index.to_string(), |(name, _)| name.to_owned())
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
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome, PipelineError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| PipelineError::Threads { threads, source })?;
    let kernels = Kernels::detect()?;
    let calibrate = SplitSamples { dataset: &opened.dataset, part: Part::Calibrate };
    let load = |index: usize| calibrate.load(index).map(|(x, _)| x);
    let advance = |done: u64| progress.advance(done, None);

    let prepared = ptq::prepare(opened.model.graph.clone(), kernels);
    progress.stage(Stage::Calibrate, Some(calibrate.len() as u64));
    let calibrated = {
        let _gate = Gate::compute(cancel)?;
        pool.install(|| prepared.calibrate(calibrate.len(), &load, cancel, &advance))?
    };

    let start = calibrated.convert(&opened.qconfigs);
    let samples = opened.spec.sensitivity.samples.min(calibrate.len());
    let key = sensitivity_key(opened, &start, samples);
    let sensitivities = match ledger.sensitivities(&key)? {
        Some(known) => known,
        None => {
            progress.stage(Stage::Sensitivity, Some(samples as u64));
            let _gate = Gate::compute(cancel)?;
            let measured =
                pool.install(|| sensitivity::analyze(&calibrated, &opened.qconfigs, samples, &load, cancel, &advance))?;
            ledger.record_sensitivities(&key, &group_facts(&opened.groups, &measured))?;
            measured
        }
    };
    let ranking = sensitivity::rank(&sensitivities, opened.spec.sensitivity.rank_by);
    let mut ranked = group_facts(&opened.groups, &sensitivities);
    let place = |g: &GroupFacts| ranking.iter().position(|id| opened.groups.get(*id).id == g.id).unwrap_or(usize::MAX);
    ranked.sort_by_key(place);
    progress.sensitivities(&ranked);

    let budget = opened.spec.budget.budget();
    let search = Greedy { ranking: ranking.clone(), budget, limits: opened.spec.search.limits() };
    let bench = Bench { opened, pool: &pool, kernels, calibrated: &calibrated, progress, cancel };
    let mut reference: Option<Vec<Vec<f32>>> = None;
    let mut trials: Vec<Trial> = Vec::new();
    let finish = loop {
        let fp32 = match search.propose(&trials) {
            Proposal::Measure(fp32) => fp32,
            Proposal::Finished(finish) => break finish,
        };
        cancel.check()?;
        let number = trials.len();
        let back = if number >= 2 { ranking.get(number - 2).copied() } else { None };
        let trial = bench.trial(number, &fp32, back, ledger, &mut reference)?;
        trials.push(trial);
    };
    let front = pareto::front(&trials);
    let chosen = pareto::choose(&trials, &budget).unwrap_or(0);
    let within_budget = chosen != 0;
    ledger.event("finished", &finish_text(finish))?;
    Ok(Outcome { trials, front, chosen, finish, within_budget })
}

/// What all trials of a run share.
struct Bench<'a> {
    opened: &'a Opened,
    pool: &'a rayon::ThreadPool,
    kernels: Kernels,
    calibrated: &'a Calibrated,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Bench<'_> {
    /// Measures the starting qconfig with `fp32` in fp32, or finds it in the ledger, and records it.
    fn trial(
        &self,
        number: usize,
        fp32: &[GroupId],
        back: Option<GroupId>,
        ledger: &mut dyn Ledger,
        reference: &mut Option<Vec<Vec<f32>>>,
    ) -> Result<Trial, PipelineError> {
        let groups = &self.opened.groups;
        let converted = self.calibrated.convert_without(&self.opened.qconfigs, fp32);
        let key = trial_key(self.opened, &converted);
        let known = ledger.trial(&key)?;
        let mut trial = match known {
            Some(known) => Trial { fp32_groups: fp32.to_vec(), ..known },
            None => {
                let name = back.map(|id| groups.get(id).id.clone());
                let total = self.opened.dataset.len(Part::Search) as u64;
                self.progress.stage(Stage::Evaluate { trial: number, group: name }, Some(total));
                Trial {
                    key,
                    fp32_groups: fp32.to_vec(),
                    int8_groups: converted.quantization.iter().flatten().count(),
                    evaluation: self.evaluate(&converted.plan, reference)?,
                    latency: None,
                    weight_bytes: converted.plan.weight_bytes(),
                    activation_bytes: converted.plan.activation_bytes(),
                }
            }
        };
        let protocol = protocol(&self.opened.spec);
        let here = evaluate::fingerprint(self.kernels, protocol);
        // Latencies taken elsewhere do not compare with those of this run; the store keeps them.
        if trial.latency.as_ref().is_none_or(|l| l.fingerprint != here) {
            self.progress.stage(Stage::Latency { trial: number }, None);
            trial.latency = self.latency(&converted.plan, protocol)?;
        }
        let facts = self.facts(number, &trial, &converted);
        ledger.record_trial(number, &trial, &facts)?;
        self.progress.trial(number, &trial, &facts);
        Ok(trial)
    }

    fn evaluate(
        &self,
        plan: &Plan,
        reference: &mut Option<Vec<Vec<f32>>>,
    ) -> Result<evaluate::Evaluation, PipelineError> {
        let samples = SplitSamples { dataset: &self.opened.dataset, part: Part::Search };
        let metric = self.opened.spec.budget.metric;
        let _gate = Gate::compute(self.cancel)?;
        if matches!(metric, Metric::Agreement | Metric::Sqnr) && reference.is_none() {
            let fp32 = self.calibrated.engine().fp32_plan();
            *reference = Some(self.pool.install(|| evaluate::outputs(&fp32, &samples, self.cancel))?);
        }
        let advance = |done: u64, correct: Option<u64>| self.progress.advance(done, correct);
        let reference = reference.as_deref();
        Ok(self.pool.install(|| evaluate::evaluate(plan, &samples, metric, reference, self.cancel, &advance))?)
    }

    fn latency(&self, candidate: &Plan, protocol: Protocol) -> Result<Option<Latency>, PipelineError> {
        let sample = self.opened.dataset.load(Part::Calibrate, 0)?;
        let shape = [sample.height, sample.width, sample.channels];
        let several = sample.input.repeat(protocol.batch);
        let x = input_tensor(several, protocol.batch, shape).map_err(LatencyError::from)?;
        let fp32 = self.calibrated.engine().fp32_plan();
        Ok(evaluate::latency(candidate, &fp32, &x, self.kernels, protocol, self.cancel)?)
    }

    fn facts(&self, number: usize, trial: &Trial, converted: &Converted) -> TrialFacts {
        let groups = &self.opened.groups;
        let mapping = self.opened.spec.qconfig.with_fp32(groups, &trial.fp32_groups);
        let parameters = groups.ids().map(|id| match (&self.opened.qconfigs[id.0], &converted.quantization[id.0]) {
            (Some(qconfig), Some(q)) => {
                let weight = self.calibrated.engine().quantized_weight(id, q);
                let scales = weight.as_ref().map(|w| &w.scales.scales[..]);
                GroupParameters::int8(&groups.get(id).id, qconfig, &q.inputs, &q.output, scales)
            }
            _ => GroupParameters::fp32(&groups.get(id).id),
        });
        TrialFacts {
            fp32_names: trial.fp32_groups.iter().map(|id| groups.get(*id).id.clone()).collect(),
            // A mapping of names to plain values always has a JSON form.
            qconfig_json: serde_json::to_string(&mapping).unwrap_or_default(),
            file: QConfigFile {
                job: self.opened.spec.name.clone(),
                model_sha256: self.opened.hashes.model.clone(),
                trial: number,
                score: trial.evaluation.score.value(),
                mapping: mapping.clone(),
                groups: parameters.collect(),
            },
        }
    }
}

fn protocol(spec: &JobSpec) -> Protocol {
    let latency = &spec.measure.latency;
    Protocol { batch: latency.batch, threads: latency.threads, warmup: latency.warmup, runs: latency.runs }
}

fn group_facts(groups: &Groups, sensitivities: &[GroupSensitivity]) -> Vec<GroupFacts> {
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

/// Identity of a trial: model, ordered samples with their preprocessing, every group's parameters, metric, and
/// the version of the numerics. Budget and limits are not in it.
fn trial_key(opened: &Opened, converted: &Converted) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(b"qtuned trial 1\0");
    hasher.update(opened.search_digest);
    hasher.update([opened.spec.budget.metric as u8]);
    hash_network(&mut hasher, opened, converted);
    Key(hasher.finalize().into())
}

/// Identity of a sensitivity analysis: as of a trial, with the samples that it sees.
fn sensitivity_key(opened: &Opened, start: &Converted, samples: usize) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(b"qtuned sensitivity 1\0");
    hasher.update(opened.calibrate_digest);
    hasher.update((samples as u64).to_le_bytes());
    hash_network(&mut hasher, opened, start);
    Key(hasher.finalize().into())
}

fn hash_network(hasher: &mut Sha256, opened: &Opened, converted: &Converted) {
    hasher.update(NUMERICS_VERSION.to_le_bytes());
    hasher.update(opened.model.digest);
    for quantization in &converted.quantization {
        let Some(GroupQuantization { inputs, output, weight, .. }) = quantization else {
            hasher.update([0]);
            continue;
        };
        hasher.update([1, inputs.len() as u8, weight.qscheme as u8]);
        let (low, high) = weight.range();
        hasher.update(low.to_le_bytes());
        hasher.update(high.to_le_bytes());
        for grid in inputs.iter().chain([output]) {
            hasher.update(grid.scale.to_le_bytes());
            hasher.update([grid.zero_point, grid.quant_min, grid.quant_max]);
        }
    }
}
