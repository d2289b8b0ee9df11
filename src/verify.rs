//! The certificate of a deployment: that an exported network behaves, in the engine that will run it, as the network
//! that was measured.

mod onnxruntime;

use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use onnxruntime::{Network, OnnxRuntime, Session};

use crate::{
    cancel::Cancel,
    engine::{EngineError, Inputs, Plan, Representation},
    evaluate::{EvaluateError, Gate, LatencyError, Protocol, Quartiles, Samples, Score, largest},
    export::Exported,
    graph::Groups,
    ptq::{Converted, SampleError},
    sqnr::Energies,
};

/// The file of a certificate, beside the other results of a job.
pub const FILE: &str = "certificate.json";

/// Form of [`Certificate`].
pub const SCHEMA: u32 = 1;

/// What was compared, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of qtuned.
    pub qtuned: String,
    /// Job that measured the qconfig.
    pub job: String,
    /// Number of the trial.
    pub trial: usize,
    /// SHA-256 of what was compared.
    pub sha256: Hashes,
    /// CPU, kernels and threads.
    pub fingerprint: crate::evaluate::Fingerprint,
    /// Share of the samples that fp32 gets right, by qtuned.
    pub fp32: Accuracy,
    /// Share of the samples that the qconfig gets right, by qtuned.
    pub int8: Accuracy,
    /// The exported file, read again by qtuned.
    pub reread: Reread,
    /// The exported file in another engine.
    pub engine: Option<Comparison>,
    /// What does not hold; none when the engines behave the same.
    pub problems: Vec<String>,
    /// What may differ elsewhere.
    pub warnings: Vec<String>,
}

/// SHA-256, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hashes {
    /// The original model.
    pub model: String,
    /// The qconfig file.
    pub qconfig: String,
    /// The exported model.
    pub exported: String,
    /// The samples of the certify split, with their preprocessing, in order.
    pub certify: String,
}

/// A share of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Samples whose largest output is the label's.
    pub correct: u64,
    /// Samples seen.
    pub total: u64,
    /// Their ratio.
    pub top1: f64,
    /// Where the ratio lies with 95 % confidence.
    pub interval: Option<(f64, f64)>,
}

/// The exported file, read again and run by qtuned, against the original in the qconfig.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reread {
    /// Samples whose outputs are the same, bit for bit.
    pub same: u64,
    /// Samples seen.
    pub total: u64,
}

impl Reread {
    /// Of these outputs and those that they should be.
    pub fn of(outputs: &[Vec<f32>], expected: &[Vec<f32>]) -> Reread {
        let same = outputs.iter().zip(expected).filter(|(a, b)| a == b).count() as u64;
        Reread { same, total: expected.len() as u64 }
    }
}

/// Another engine against qtuned's, on the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name.
    pub name: String,
    /// Version and build, as it says itself.
    pub build: String,
    /// Share of the samples that it gets right.
    pub accuracy: Accuracy,
    /// Samples for which both have the same largest output.
    pub agree: u64,
    /// Share of these.
    pub agreement: f64,
    /// Names of samples for which they have not, the first twenty.
    pub disagree: Vec<String>,
    /// Largest difference of two outputs.
    pub largest_difference: f32,
    /// SQNR of its outputs against qtuned's, in dB; `None` where nothing differs.
    pub sqnr_db: Option<f64>,
    /// What int8 groups write, in topological order.
    pub layers: Vec<LayerComparison>,
    /// Median time of one run by qtuned, in ns.
    pub qtuned_ns: Option<f64>,
    /// Median time of one run by the other engine, taken in turn, in ns.
    pub engine_ns: Option<f64>,
}

/// The integers that one group writes, in both engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerComparison {
    /// Id of the group.
    pub group: String,
    /// Share of the elements that are the same.
    pub equal: f64,
    /// Largest difference, in steps.
    pub largest_step: u8,
}

/// How much may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Least share of samples with the same largest output.
    pub agreement: f64,
    /// Largest difference of accuracies.
    pub accuracy: f64,
}

/// Samples whose layers are compared.
const LAYER_SAMPLES: usize = 4;

/// The least share of equal elements in a layer where only rounding differs.
const ROUNDING: f64 = 0.98;

/// What keeps two engines from being compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// qtuned's engine could not be run.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// qtuned's engine could not be run.
    #[error("running the network failed")]
    Engine(#[from] EngineError),
    /// A sample could not be read.
    #[error("reading a sample failed")]
    Sample(#[source] SampleError),
    /// Latency could not be taken.
    #[error("measuring latency failed")]
    Latency(#[from] LatencyError),
    /// ONNX Runtime cannot be used.
    #[error("ONNX Runtime: {0}")]
    OnnxRuntime(String),
    /// The exported file cannot be read again, which is a mistake in this program.
    #[error("the exported file cannot be read")]
    Exported(#[source] prost::DecodeError),
}

impl Accuracy {
    /// Of these outputs, whose labels are those of `labels`.
    pub fn of<'a>(outputs: impl IntoIterator<Item = &'a [f32]>, labels: &[u32]) -> Accuracy {
        let right = outputs.into_iter().zip(labels).filter(|(y, label)| largest(y) == Some(**label as usize));
        let (correct, total) = (right.count() as u64, labels.len() as u64);
        let score = Score::Count { correct, total };
        Accuracy { correct, total, top1: score.value(), interval: score.interval(0.95) }
    }
}

/// Runs the exported network in ONNX Runtime and compares with `ours`, the outputs of `converted` for `samples`.
///
/// # Errors
/// A file that ONNX Runtime refuses, or samples that cannot be read.
pub fn compare(
    runtime: &OnnxRuntime,
    network: Network<'_>,
    samples: &dyn Samples,
    labels: &[u32],
    ours: &[Vec<f32>],
    cancel: &Cancel,
) -> Result<Comparison, VerifyError> {
    let mut session = runtime.session(network, 1)?;
    let mut theirs = Vec::with_capacity(ours.len());
    for index in 0..samples.len() {
        cancel.check().map_err(EvaluateError::from)?;
        let (x, _) = samples.load(index).map_err(VerifyError::Sample)?;
        let feed = session.feed(&x)?;
        theirs.push(session.run(&feed)?);
    }
    let mut energies = Energies::default();
    let (mut agree, mut largest_difference, mut disagree) = (0, 0f32, Vec::new());
    for (index, (x, y)) in ours.iter().zip(&theirs).enumerate() {
        if x.len() != y.len() {
            return Err(VerifyError::OnnxRuntime(format!("it gives {} outputs, not {}", y.len(), x.len())));
        }
        energies.pool(Energies::of(x, y));
        largest_difference = x.iter().zip(y).fold(largest_difference, |most, (a, b)| most.max((a - b).abs()));
        if largest(x) == largest(y) {
            agree += 1;
        } else if disagree.len() < 20 {
            disagree.push(samples.name(index));
        }
    }
    Ok(Comparison {
        name: "ONNX Runtime".to_owned(),
        build: runtime.build().to_owned(),
        accuracy: Accuracy::of(theirs.iter().map(Vec::as_slice), labels),
        agree,
        agreement: agree as f64 / ours.len().max(1) as f64,
        disagree,
        largest_difference,
        sqnr_db: Some(energies.sqnr()).filter(|db| db.is_finite()),
        layers: Vec::new(),
        qtuned_ns: None,
        engine_ns: None,
    })
}

/// Compares what each int8 group writes on a few samples. `probed` is the exported file with the integers of the groups
/// as outputs ([`Exported::probed`]).
///
/// # Errors
/// As for [`compare`].
pub fn compare_layers(
    runtime: &OnnxRuntime,
    probed: Network<'_>,
    exported: &Exported,
    (converted, groups): (&Converted, &Groups),
    samples: &dyn Samples,
) -> Result<Vec<LayerComparison>, VerifyError> {
    let mut session = runtime.session(probed, 1)?;
    let mut equal = vec![(0u64, 0u64, 0u8); exported.probes.len()];
    for index in 0..samples.len().min(LAYER_SAMPLES) {
        let (x, _) = samples.load(index).map_err(VerifyError::Sample)?;
        let feed = session.feed(&x)?;
        let theirs = session.integers(&feed, exported.probes.iter().map(|p| p.value.as_str()))?;
        let mut ours = vec![Vec::new(); exported.probes.len()];
        converted.plan.run_seen(&x, false, &mut |seen| {
            let probe = exported.probes.iter().position(|p| groups.get(p.group).output == seen.value);
            let Some((probe, group)) = probe.map(|at| (at, exported.probes[at].group)) else { return Ok(()) };
            let grid = match (seen.representation, &converted.quantization[group.0]) {
                (Representation::Quantized(grid), _) => grid,
                (Representation::Float, q) => match q.as_ref().and_then(|q| q.output) {
                    Some(grid) => grid,
                    None => return Ok(()),
                },
            };
            // An integer that is dequantized and quantized on the same grid is the same integer.
            let floats = seen.to_tensor()?.flatten_all()?.to_vec1::<f32>()?;
            ours[probe] = floats.into_iter().map(|x| grid.quantize(x)).collect();
            Ok(())
        })?;
        for ((same, all, most), (ours, theirs)) in equal.iter_mut().zip(ours.iter().zip(&theirs)) {
            if ours.len() != theirs.len() {
                return Err(VerifyError::OnnxRuntime("a layer has another number of elements".to_owned()));
            }
            for (&a, &b) in ours.iter().zip(theirs) {
                *same += u64::from(a == b);
                *most = a.abs_diff(b).max(*most);
            }
            *all += ours.len() as u64;
        }
    }
    let layer = |(probe, (same, all, most)): (&crate::export::Probe, (u64, u64, u8))| LayerComparison {
        group: groups.get(probe.group).id.clone(),
        equal: same as f64 / all.max(1) as f64,
        largest_step: most,
    };
    Ok(exported.probes.iter().zip(equal).map(layer).collect())
}

/// Times of runs of `plan` and of the exported file in turn, each first in every other pair, with nothing else of qtuned
/// computing on this machine: medians in ns.
///
/// # Errors
/// A network that cannot be run, or a gate that cannot be had.
pub fn latency(
    runtime: &OnnxRuntime,
    network: Network<'_>,
    plan: &Plan,
    x: &Inputs,
    protocol: Protocol,
    cancel: &Cancel,
) -> Result<[Option<f64>; 2], VerifyError> {
    let threads = protocol.threads;
    let mut session = runtime.session(network, threads)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| LatencyError::Threads { threads, source })?;
    let feed = session.feed(x)?;
    let _gate = Gate::latency(cancel)?;
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..protocol.warmup + protocol.runs {
        cancel.check().map_err(EvaluateError::from)?;
        for engine in if run % 2 == 0 { [0, 1] } else { [1, 0] } {
            let start = Instant::now();
            match engine {
                0 => drop(pool.install(|| plan.run(x, threads > 1))?),
                _ => drop(session.run(&feed)?),
            }
            if run >= protocol.warmup {
                times[engine].push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }
    Ok(times.map(|times| Quartiles::of(&times).map(|q| q.median)))
}

impl Certificate {
    /// Notes what does not hold between the engines.
    pub fn judge(&mut self, tolerance: Tolerance) {
        let Reread { same, total } = self.reread;
        if same != total {
            self.problems
                .push(format!("the exported file, read again, gives the same outputs for {same} of {total} samples"));
        }
        let Some(engine) = &self.engine else { return };
        let difference = (engine.accuracy.top1 - self.int8.top1).abs();
        if engine.agreement < tolerance.agreement {
            self.problems.push(format!(
                "{} has the same largest output on {:.2} % of the samples; at least {:.2} % are wanted",
                engine.name,
                engine.agreement * 100.0,
                tolerance.agreement * 100.0
            ));
        }
        if difference > tolerance.accuracy {
            self.problems.push(format!(
                "the accuracy in {} differs by {:.2} points; at most {:.2} are allowed",
                engine.name,
                difference * 100.0,
                tolerance.accuracy * 100.0
            ));
        }
        if let (false, Some(first)) = (self.problems.is_empty(), engine.first_difference()) {
            self.problems.push(format!(
                "the first layer that differs by more than rounding is `{}`: {:.2} % of its elements are the same, the \
                 largest difference is {} steps",
                first.group,
                first.equal * 100.0,
                first.largest_step
            ));
        }
    }
}

impl Comparison {
    /// The first group that writes something else; a last bit that was rounded otherwise does not count.
    pub fn first_difference(&self) -> Option<&LayerComparison> {
        self.layers.iter().find(|layer| layer.equal < ROUNDING)
    }
}

/// Whether other engines multiply bytes exactly on this CPU. Without VNNI some saturate.
pub fn multiplies_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    let exact = std::is_x86_feature_detected!("avx512vnni") || std::is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    let exact = true;
    exact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_samples() {
        let outputs: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 1.0], &[0.0, 1.0]];
        let accuracy = Accuracy::of(outputs, &[0, 1, 0]);
        assert_eq!((accuracy.correct, accuracy.total), (2, 3));
    }
}
