//! Measuring one qconfig: its metric, its latency, and what is recorded of them.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
};

use super::{
    Ledger, Opened, PipelineError, Progress, Stage, TrialFacts,
    by_program::{Handed, identity},
    form::inputs,
    keys::{stopped_key, trial_key},
    run::pool,
};
use crate::{
    cancel::Cancel,
    dataset::{Dataset, DatasetError, Part, Sample},
    engine::{EngineError, Inputs, Plan},
    evaluate::{
        self, Enough, EvaluateError, Evaluation, Gate, Latency, LatencyError, Measures, Programs, Protocol, Samples,
        Score,
    },
    graph::GroupId,
    job::JobSpec,
    kernels::Kernels,
    onnx::Model,
    pareto,
    ptq::{Calibrated, Converted, LoadSample, SampleError},
    quant::{GroupParameters, QConfigFile, Rounding},
    search::{Budget, Candidate, DropInterval, DropKind, GroupTime, Key, Trial},
    sensitivity::{self, Contested, Gain, Won},
};

/// One part of the data as the network reads it.
pub struct SplitSamples<'a> {
    /// The data.
    pub dataset: &'a Dataset,
    /// The model that they fit ([`check_form`](super::check_form)).
    pub model: &'a Model,
    /// Which part of it.
    pub part: Part,
    /// Places in the part, in the order they are seen; `None` for its own order.
    pub order: Option<&'a [usize]>,
}

impl SplitSamples<'_> {
    fn place(&self, index: usize) -> usize {
        self.order.and_then(|order| order.get(index).copied()).unwrap_or(index)
    }

    /// The `index`th of them, as it is in the data.
    fn sample(&self, index: usize) -> Result<Sample, DatasetError> {
        self.dataset.load(self.part, self.place(index))
    }

    /// What the `index`th of them gives the network's input `input`, in the order of the model's file.
    pub(super) fn in_file_order(&self, index: usize, input: usize) -> Result<Vec<f32>, PipelineError> {
        let sample = self.sample(index)?;
        let values = || -> Result<Vec<f32>, EngineError> {
            let tensors = inputs(self.dataset, self.model, sample)?.to_file(self.model)?;
            Ok(tensors[input].flatten_all()?.to_vec1()?)
        };
        Ok(values().map_err(EvaluateError::from)?)
    }

    /// A sample that is read once and then no more: it takes no room from those that are read in every trial.
    pub(super) fn load_once(&self, index: usize) -> Result<Inputs, SampleError> {
        Ok(inputs(self.dataset, self.model, self.dataset.load_once(self.part, self.place(index))?)?)
    }
}

impl Samples for SplitSamples<'_> {
    fn len(&self) -> usize {
        self.dataset.len(self.part)
    }

    fn load(&self, index: usize) -> Result<(Inputs, u32), SampleError> {
        let sample = self.sample(index)?;
        let label = sample.label;
        Ok((inputs(self.dataset, self.model, sample)?, label))
    }

    fn name(&self, index: usize) -> String {
        let index = self.place(index);
        self.dataset.labels(self.part).nth(index).map_or_else(|| index.to_string(), |(name, _)| name.to_owned())
    }
}

/// Trials whose latencies are compared at the end, at most.
const RIVALS: usize = 4;

/// What evaluations showed and the ledger does not keep.
#[derive(Default)]
pub(super) struct Seen {
    /// Outputs of fp32 on the search split, where the metric compares with them.
    pub(super) reference: Option<Vec<Vec<f32>>>,
    /// Margins of the samples that a trial saw, by its qconfig; none where a program measured it.
    pub(super) margins: HashMap<Candidate, Vec<f32>>,
}

/// What all trials of a run share.
pub(super) struct Bench<'a> {
    pub(super) opened: &'a Opened,
    pub(super) pool: &'a rayon::ThreadPool,
    pub(super) kernels: Kernels,
    pub(super) calibrated: &'a Calibrated,
    /// In which the samples of the search split are seen.
    pub(super) order: &'a [usize],
    /// What runs the programs that a job measures with, and where their files are.
    pub(super) programs: &'a dyn Programs,
    pub(super) handed: &'a Handed,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
}

impl Bench<'_> {
    /// Measures a qconfig, or finds it in the ledger, and records it as the next trial.
    ///
    /// The first two trials, fp32 and all of the starting qconfig, see every sample, for they are what others are
    /// compared with. The others end as soon as they are surely outside the budget, and then have no latency.
    pub(super) fn trial(
        &self,
        trials: &[Trial],
        candidate: Candidate,
        ledger: &mut dyn Ledger,
        seen: &mut Seen,
    ) -> Result<Trial, PipelineError> {
        let (number, spec) = (trials.len(), &self.opened.spec.budget);
        let (budget, confidence) = (spec.budget(), spec.confidence);
        let converted = self.convert(&candidate);
        let whole = trial_key(self.opened, &converted);
        let stopped = stopped_key(&whole, &budget, confidence);
        let baseline = trials.first().map(|trial| &trial.evaluation);
        let may_stop = baseline.filter(|_| number >= 2);
        let mut known = ledger.trial(&whole)?;
        if known.is_none() && may_stop.is_some() {
            known = ledger.trial(&stopped)?;
        }
        let mut trial = match known {
            Some(known) => Trial { repairs: candidate.repairs, fp32_groups: candidate.fp32, ..known },
            None => {
                let group = back(trials, &candidate).map(|id| self.opened.groups.get(id).id.clone());
                self.progress.stage(Stage::Evaluate { trial: number, group }, Some(self.order.len() as u64));
                let outside =
                    |seen: &[bool]| may_stop.is_some_and(|baseline| budget.surely_outside(baseline, seen, confidence));
                let enough: Option<&Enough<'_>> = if may_stop.is_some() { Some(&outside) } else { None };
                let (evaluation, margins) = self.evaluate(&converted, &mut seen.reference, enough)?;
                seen.margins.insert(candidate.clone(), margins);
                let all_seen = evaluation.score.total() == self.order.len() as u64;
                Trial {
                    key: if all_seen { whole } else { stopped },
                    repairs: candidate.repairs,
                    fp32_groups: candidate.fp32,
                    int8_groups: converted.quantization.iter().flatten().count(),
                    evaluation,
                    latency: None,
                    weight_bytes: converted.plan.weight_bytes(),
                    activation_bytes: converted.plan.activation_bytes(),
                }
            }
        };
        if number == 0 {
            check_baseline(&budget, &trial.evaluation.score)?;
        }
        let program = self.opened.spec.measure.program(Measures::Latency);
        let protocol = protocol(&self.opened.spec);
        let mut here = evaluate::fingerprint(self.kernels, protocol);
        if let Some(program) = &program {
            here.kernel = identity(&self.opened.spec, program);
        }
        // Latencies taken elsewhere do not compare with those of this run; the store keeps them.
        let elsewhere = trial.latency.as_ref().is_none_or(|l| l.fingerprint != here);
        if elsewhere && trial.evaluation.score.total() == self.order.len() as u64 {
            self.progress.stage(Stage::Latency { trial: number }, None);
            trial.latency = match &program {
                Some(program) => Some(self.latency_by_program(program, number, &converted, here)?),
                None => self.latency(&converted.plan, protocol)?,
            };
        }
        let drop = budget.drop_interval(baseline.unwrap_or(&trial.evaluation), &trial.evaluation, confidence);
        let facts = self.facts(number, &trial, drop, &converted);
        ledger.record_trial(number, &trial, &facts)?;
        self.progress.trial(number, &trial, &facts);
        Ok(trial)
    }

    /// Takes the latencies of the trials within the budget again, in turn with each other: what was taken minutes apart
    /// compares only roughly. The fastest few are enough.
    pub(super) fn compare(&self, trials: &mut [Trial], ledger: &mut dyn Ledger) -> Result<(), PipelineError> {
        if self.opened.spec.measure.program(Measures::Latency).is_some() {
            return Ok(());
        }
        let speed_up = |i: &usize| trials[*i].latency.as_ref().and_then(Latency::speed_up);
        let mut rivals = pareto::within(trials, &self.opened.spec.budget.budget());
        rivals.retain(|i| speed_up(i).is_some());
        // Those that were taken in turn share the times of fp32: a run that goes on finds them so.
        let fp32_ns = |i: &usize| trials[*i].latency.as_ref().map(|latency| &latency.fp32_ns);
        let shared = |i: &&usize| rivals.iter().any(|other| other != *i && fp32_ns(other) == fp32_ns(i));
        let compared = rivals.iter().filter(shared).count();
        rivals.sort_by(|a, b| speed_up(b).partial_cmp(&speed_up(a)).unwrap_or(Ordering::Equal));
        rivals.truncate(RIVALS);
        rivals.sort_unstable();
        if rivals.len() < 2 || compared >= rivals.len() {
            return Ok(());
        }
        self.progress.stage(Stage::Compare { trials: rivals.len() }, None);
        let networks: Vec<Converted> = rivals.iter().map(|&i| self.convert(&trials[i].candidate())).collect();
        let plans: Vec<&Plan> = networks.iter().map(|network| &network.plan).collect();
        let (fp32, protocol) = (self.calibrated.engine().fp32_plan(), protocol(&self.opened.spec));
        let x = self.latency_input(protocol)?;
        let Some(taken) = evaluate::latencies(&plans, &fp32, &x, self.kernels, protocol, self.cancel)? else {
            return Ok(());
        };
        let (baseline, spec) = (trials[0].evaluation.clone(), &self.opened.spec.budget);
        for ((&number, latency), network) in rivals.iter().zip(taken).zip(&networks) {
            let trial = &mut trials[number];
            trial.latency = Some(latency);
            let drop = spec.budget().drop_interval(&baseline, &trial.evaluation, spec.confidence);
            ledger.record_trial(number, trial, &self.facts(number, trial, drop, network))?;
        }
        Ok(())
    }

    /// What each group takes in all of the starting qconfig and in fp32, measured or found in the ledger. A step that does
    /// an addition for a convolution counts for the convolution.
    pub(super) fn group_times(
        &self,
        start: &Converted,
        key: &Key,
        ledger: &mut dyn Ledger,
    ) -> Result<Vec<GroupTime>, PipelineError> {
        if let Some(known) = ledger.group_times(key)? {
            return Ok(known);
        }
        self.progress.stage(Stage::Times, None);
        let (fp32, protocol) = (self.calibrated.engine().fp32_plan(), protocol(&self.opened.spec));
        let x = self.latency_input(protocol)?;
        let measure = || evaluate::step_times(&[&start.plan, &fp32], &x, protocol, self.cancel);
        let pool = pool(protocol.threads)?;
        let times = pool.install(measure)?;
        let mut of_groups = vec![GroupTime { int8_ns: 0.0, fp32_ns: 0.0 }; self.opened.groups.len()];
        for (index, (plan, times)) in [&start.plan, &fp32].into_iter().zip(&times).enumerate() {
            for (step, ns) in plan.steps().iter().zip(times) {
                let Some(id) = self.opened.groups.of_node(step.node) else { continue };
                let time = &mut of_groups[id.0];
                *(if index == 0 { &mut time.int8_ns } else { &mut time.fp32_ns }) += ns;
            }
        }
        ledger.record_group_times(key, &of_groups)?;
        Ok(of_groups)
    }

    /// The network in a qconfig.
    pub(super) fn convert(&self, candidate: &Candidate) -> Converted {
        self.calibrated.convert(&self.opened.qconfigs_of(candidate))
    }

    /// What each group that is still quantized wins when it is in fp32 beside those of `base`.
    pub(super) fn gains(
        &self,
        base: &Candidate,
        samples: usize,
        load: &LoadSample<'_>,
    ) -> Result<Vec<Gain>, PipelineError> {
        let base = self.opened.qconfigs_of(base);
        let _gate = Gate::compute(self.cancel)?;
        let mut gains = self.pool.install(|| sensitivity::gains(self.calibrated, &base, samples, load, self.cancel))?;
        gains.retain(|gain| !self.is_summed_in_fp32(gain.group));
        Ok(gains)
    }

    /// Whether a group is an addition that OpenVINO sums in fp32 anyway: it takes the sum of a layer as it is and is
    /// quantized with what reads it, whatever the qconfig says. Nothing can be won by it; the engine, which rounds that sum
    /// where the addition is in fp32, would only measure something else.
    pub(super) fn is_summed_in_fp32(&self, group: GroupId) -> bool {
        Rounding::of(&self.opened.qconfigs).is_openvino()
            && self.opened.groups.get(group).fed_by.iter().any(Option::is_some)
    }

    /// How many samples each group that is still quantized wins when it is in fp32 beside those of `trial`: most first,
    /// ties in the order of `ranking`. Empty where a program measures the metric, which gives no margins.
    pub(super) fn screen(
        &self,
        trial: &Trial,
        ranking: &[GroupId],
        seen: &mut Seen,
    ) -> Result<Vec<Won>, PipelineError> {
        let base = self.opened.qconfigs_of(&trial.candidate());
        let Seen { reference, margins } = seen;
        let margins = match margins.entry(trial.candidate()) {
            Entry::Occupied(known) => known.into_mut(),
            // The trial comes from the ledger, which has no margins.
            Entry::Vacant(unknown) => {
                let total = trial.evaluation.score.total() as usize;
                let as_many = |seen: &[bool]| seen.len() >= total;
                unknown.insert(self.evaluate(&self.calibrated.convert(&base), reference, Some(&as_many))?.1)
            }
        };
        if margins.is_empty() {
            return Ok(Vec::new());
        }
        let metric = self.opened.spec.budget.metric;
        let contested =
            Contested { samples: &self.search_split(), metric, fp32: reference.as_deref(), margins: &margins[..] };
        let is_candidate = |id: &GroupId| base[id.0].is_some() && !self.is_summed_in_fp32(*id);
        let candidates: Vec<GroupId> = ranking.iter().copied().filter(is_candidate).collect();
        let _gate = Gate::compute(self.cancel)?;
        let screen = || sensitivity::screen(self.calibrated, &base, &candidates, contested, self.cancel);
        Ok(self.pool.install(screen)?)
    }

    fn search_split(&self) -> SplitSamples<'_> {
        let Opened { dataset, model, .. } = self.opened;
        SplitSamples { dataset, model, part: Part::Search, order: Some(self.order) }
    }

    /// The metric over the search split, to the last sample or until `enough` are seen.
    pub(super) fn evaluate(
        &self,
        network: &Converted,
        reference: &mut Option<Vec<Vec<f32>>>,
        enough: Option<&Enough<'_>>,
    ) -> Result<(Evaluation, Vec<f32>), PipelineError> {
        self.evaluate_on(&self.search_split(), network, reference, enough)
    }

    /// The metric over these samples, and their margins; `reference` keeps the outputs of fp32 on them, where the metric needs them.
    pub(super) fn evaluate_on(
        &self,
        samples: &SplitSamples<'_>,
        network: &Converted,
        reference: &mut Option<Vec<Vec<f32>>>,
        enough: Option<&Enough<'_>>,
    ) -> Result<(Evaluation, Vec<f32>), PipelineError> {
        let metric = self.opened.spec.budget.metric;
        let gate = Gate::compute(self.cancel)?;
        if metric.compares() && reference.is_none() {
            let fp32 = self.calibrated.engine().fp32_plan();
            *reference = Some(self.pool.install(|| evaluate::outputs(&fp32, samples, self.cancel))?);
        }
        let reference = reference.as_deref();
        if let Some(program) = self.opened.spec.measure.program(Measures::Metric) {
            drop(gate);
            let evaluation = self.evaluate_by_program(&program, samples, network, reference)?;
            return Ok((evaluation, Vec::new()));
        }
        let advance = |done: u64, correct: Option<u64>| self.progress.advance(done, correct);
        let plan = &network.plan;
        let measure = || evaluate::evaluate(plan, samples, metric, reference, enough, self.cancel, &advance);
        Ok(self.pool.install(measure)?)
    }

    /// What latencies are taken on: the first sample that calibrates, repeated.
    fn latency_input(&self, protocol: Protocol) -> Result<Inputs, PipelineError> {
        let Opened { dataset, model, .. } = self.opened;
        let one = inputs(dataset, model, dataset.load(Part::Calibrate, 0)?).map_err(LatencyError::from)?;
        Ok(one.repeated(protocol.batch).map_err(LatencyError::from)?)
    }

    fn latency(&self, candidate: &Plan, protocol: Protocol) -> Result<Option<Latency>, PipelineError> {
        let x = self.latency_input(protocol)?;
        let fp32 = self.calibrated.engine().fp32_plan();
        Ok(evaluate::latency(candidate, &fp32, &x, self.kernels, protocol, self.cancel)?)
    }

    fn facts(&self, number: usize, trial: &Trial, drop: Option<DropInterval>, converted: &Converted) -> TrialFacts {
        let groups = &self.opened.groups;
        let mapping = self.opened.spec.qconfig.clone().repaired(&trial.repairs).with_fp32(groups, &trial.fp32_groups);
        TrialFacts {
            fp32_names: trial.fp32_groups.iter().map(|id| groups.get(*id).id.clone()).collect(),
            drop,
            // A mapping of names to plain values always has a JSON form.
            qconfig_json: serde_json::to_string(&mapping).unwrap_or_default(),
            file: QConfigFile {
                job: self.opened.spec.name.clone(),
                model_sha256: self.opened.hashes.model.clone(),
                trial: number,
                score: trial.evaluation.score.value(),
                mapping: mapping.clone(),
                groups: self.parameters(converted),
            },
        }
    }

    /// What quantizes each group of a network.
    pub(super) fn parameters(&self, network: &Converted) -> Vec<GroupParameters> {
        let groups = &self.opened.groups;
        let of = |id: GroupId| match (&network.qconfigs[id.0], &network.quantization[id.0]) {
            (Some(qconfig), Some(q)) => {
                let weight = self.calibrated.engine().quantized_weight(id, q);
                let scales = weight.as_ref().map(|w| &w.scales.scales[..]);
                GroupParameters::int8(
                    &groups.get(id).id,
                    qconfig,
                    &q.inputs,
                    q.output.as_ref(),
                    scales,
                    q.bias.as_deref(),
                )
            }
            _ => GroupParameters::fp32(&groups.get(id).id),
        };
        groups.ids().map(of).collect()
    }
}

/// The group by which a candidate differs from the last trial, if it is one more in fp32.
fn back(trials: &[Trial], Candidate { repairs, fp32 }: &Candidate) -> Option<GroupId> {
    let before = &trials.get(1..)?.last().filter(|trial| trial.repairs == *repairs)?.fp32_groups;
    let more: Vec<GroupId> = fp32.iter().copied().filter(|id| !before.contains(id)).collect();
    let grown = before.iter().all(|id| fp32.contains(id));
    more.first().copied().filter(|_| grown && more.len() == 1)
}

/// Least share of samples that fp32 must get right for a drop relative to it.
const LEAST_BASELINE: f64 = 0.01;

/// A drop relative to a score near 0 is noise over noise, and to one below 0 nothing.
fn check_baseline(budget: &Budget, fp32: &Score) -> Result<(), PipelineError> {
    match (budget, *fp32) {
        (Budget::Drop { kind: DropKind::Relative, .. }, Score::Count { correct, total })
            if (correct as f64) < LEAST_BASELINE * total as f64 || correct == 0 =>
        {
            Err(PipelineError::Baseline { correct, total })
        }
        (Budget::Drop { kind: DropKind::Relative, .. }, Score::Number { value, .. }) if value <= 0.0 => {
            Err(PipelineError::BaselineScore(value))
        }
        _ => Ok(()),
    }
}

fn protocol(spec: &JobSpec) -> Protocol {
    let latency = &spec.measure.latency;
    Protocol { batch: latency.batch, threads: latency.threads, warmup: latency.warmup, runs: latency.runs }
}
