//! Measuring by a program of the user's: the files that it is handed, and what becomes of its answer.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use npyz::WriterBuilder;
use tempfile::TempDir;

use super::{
    Opened, PipelineError,
    bench::{Bench, SplitSamples},
};
use crate::{
    dataset::Part,
    evaluate::{self, Evaluation, Files, Fingerprint, Gate, Latency, Measures, Metric, Program, Samples, Score},
    export::{self, Source},
    job::JobSpec,
    ptq::Converted,
    quant::QConfigFile,
};

/// Files that programs are handed, below a folder that goes with this value.
#[derive(Default)]
pub(super) struct Handed(Mutex<Folders>);

#[derive(Default)]
struct Folders {
    /// Made when it is needed.
    root: Option<TempDir>,
    /// The folders of samples that are written.
    data: HashMap<&'static str, PathBuf>,
}

/// What tells a program from others, in keys and beside latencies: itself, and whose rules its network follows.
pub(super) fn identity(spec: &JobSpec, program: &Program) -> String {
    match spec.measure.programs.export_for {
        export::Target::OnnxRuntime => program.call.identity(),
        other => format!("{} for {}", program.call.identity(), serde_json::to_string(&other).unwrap_or_default()),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> PipelineError + use<> {
    let path = path.to_owned();
    move |source| PipelineError::Hand { path: path.clone(), source }
}

impl Handed {
    fn root(folders: &mut Folders) -> Result<PathBuf, PipelineError> {
        if folders.root.is_none() {
            let made = tempfile::Builder::new().prefix("qtuned-").tempdir();
            folders.root = Some(made.map_err(failed(&std::env::temp_dir()))?);
        }
        let path = folders.root.as_ref().map(TempDir::path).unwrap_or(Path::new(""));
        // Programs are run elsewhere.
        std::path::absolute(path).map_err(failed(path))
    }

    /// Writes a model under this name, in place of an earlier one.
    fn model(&self, name: &str, exported: &export::Exported) -> Result<PathBuf, PipelineError> {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = Handed::root(&mut folders)?.join(name);
        if let Some(data) = &exported.data {
            let beside = path.with_file_name(data_name(name));
            fs::write(&beside, data).map_err(failed(&beside))?;
        }
        fs::write(&path, &exported.model).map_err(failed(&path))?;
        Ok(path)
    }

    /// The folder of these samples, written by `write` the first time.
    fn data(
        &self,
        part: Part,
        write: impl FnOnce(&Path) -> Result<(), PipelineError>,
    ) -> Result<PathBuf, PipelineError> {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = folders.data.get(part.name()) {
            return Ok(written.clone());
        }
        let path = Handed::root(&mut folders)?.join(part.name());
        fs::create_dir_all(&path).map_err(failed(&path))?;
        write(&path)?;
        folders.data.insert(part.name(), path.clone());
        Ok(path)
    }
}

fn data_name(model: &str) -> String {
    format!("{model}.data")
}

impl Bench<'_> {
    /// The network with every group in fp32.
    pub(super) fn fp32(&self) -> Converted {
        self.calibrated.convert(&vec![None; self.opened.groups.len()])
    }

    /// Exports a network to a file of this name.
    fn export(&self, network: &Converted, name: &str) -> Result<PathBuf, PipelineError> {
        let Opened { spec, path, model, groups, .. } = self.opened;
        let bytes = fs::read(path).map_err(failed(path))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = QConfigFile {
            job: spec.name.clone(),
            model_sha256: self.opened.hashes.model.clone(),
            trial: 0,
            score: 0.0,
            mapping: spec.qconfig.clone(),
            groups: self.parameters(network),
        };
        let source = Source { bytes: &bytes, folder, model, groups };
        let exported = export::qdq(&source, &file, network, spec.measure.programs.export_for, &data_name(name));
        self.handed.model(name, &exported.map_err(PipelineError::Export)?)
    }

    /// The metric of a network over these samples, as a program finds it. It sees all of them: a program that counts says
    /// of each whether it was right, so that drops are paired as those of the engine are.
    pub(super) fn evaluate_by_program(
        &self,
        program: &Program,
        samples: &SplitSamples<'_>,
        network: &Converted,
        fp32: Option<&[Vec<f32>]>,
    ) -> Result<Evaluation, PipelineError> {
        let start = Instant::now();
        let model = self.export(network, "candidate.onnx")?;
        let data = self.handed.data(samples.part, |folder| self.write_data(samples, fp32, folder))?;
        let files = Files { model: &model, data: Some(&data) };
        let total = samples.len() as u64;
        let read = |said: &str| match self.opened.spec.budget.metric {
            Metric::Sqnr => Ok((Score::Number { value: evaluate::decibel(said)?, total }, Vec::new())),
            Metric::Score => Ok((Score::Number { value: evaluate::number(said)?, total }, Vec::new())),
            Metric::Top1 | Metric::Top5 | Metric::Agreement => {
                let correct = evaluate::outcomes(said, samples.len())?;
                let right = correct.iter().filter(|right| **right).count() as u64;
                Ok((Score::Count { correct: right, total }, correct))
            }
        };
        let (score, correct) = program.measure(self.programs, Measures::Metric, files, self.cancel, read)?;
        let right = match score {
            Score::Count { correct, .. } => Some(correct),
            Score::Number { .. } => None,
        };
        self.progress.advance(total, right);
        Ok(Evaluation { score, correct, seconds: start.elapsed().as_secs_f64() })
    }

    /// Latencies of a network and of fp32 as a program finds them, in turn: which is first changes from trial to trial.
    pub(super) fn latency_by_program(
        &self,
        program: &Program,
        trial: usize,
        network: &Converted,
        fingerprint: Fingerprint,
    ) -> Result<Latency, PipelineError> {
        let candidate = self.export(network, "candidate.onnx")?;
        let fp32 = self.export(&self.fp32(), "fp32.onnx")?;
        let measure = |model: &Path| {
            let files = Files { model, data: None };
            program.measure(self.programs, Measures::Latency, files, self.cancel, evaluate::latency_ns)
        };
        // The program may run on this machine.
        let _gate = Gate::latency(self.cancel)?;
        let (candidate_ns, fp32_ns) = if trial.is_multiple_of(2) {
            let candidate_ns = measure(&candidate)?;
            (candidate_ns, measure(&fp32)?)
        } else {
            let fp32_ns = measure(&fp32)?;
            (measure(&candidate)?, fp32_ns)
        };
        Ok(Latency { candidate_ns, fp32_ns, fingerprint })
    }

    /// Writes `inputs.npy`, f32 `[n, …]` as the model's file reads them, or `inputs.npz` with such an array for each of
    /// several inputs, by its name; and `labels.npy`, s64 `[n]`: the right class, or for the metric `agreement` the one that
    /// fp32 answers. For `sqnr` also `outputs.npy`, f32 `[n, k]`, of fp32.
    fn write_data(
        &self,
        samples: &SplitSamples<'_>,
        fp32: Option<&[Vec<f32>]>,
        folder: &Path,
    ) -> Result<(), PipelineError> {
        let (n, model) = (samples.len() as u64, &self.opened.model);
        let shape = |index: usize| -> Vec<u64> {
            std::iter::once(n).chain(model.file_shape(index).into_iter().map(|length| length as u64)).collect()
        };
        if model.inputs.len() == 1 {
            let path = folder.join("inputs.npy");
            self.write_input(samples, 0, array::<f32>(&path, &shape(0))?, &path)?;
        } else {
            let path = folder.join("inputs.npz");
            let mut archive = npyz::npz::NpzWriter::create(&path).map_err(failed(&path))?;
            for (index, &input) in model.graph.inputs.iter().enumerate() {
                let options = archive.array::<f32>(&model.graph.value(input).name, Default::default());
                let array = options.and_then(|array| array.default_dtype().shape(&shape(index)).begin_nd());
                self.write_input(samples, index, array.map_err(failed(&path))?, &path)?;
            }
        }
        let mut labels: Vec<i64> =
            self.opened.dataset.labels(samples.part).map(|(_, label)| i64::from(label)).collect();
        if let Some(order) = samples.order {
            labels = order.iter().map(|&at| labels[at]).collect();
        }
        if self.opened.spec.budget.metric == Metric::Agreement
            && let Some(fp32) = fp32
        {
            labels = fp32.iter().map(|y| evaluate::largest(y).unwrap_or(0) as i64).collect();
        }
        let path = folder.join("labels.npy");
        write(&path, &[n], labels)?;
        if self.opened.spec.budget.metric == Metric::Sqnr
            && let Some(fp32) = fp32
        {
            let outputs = fp32.first().map_or(0, Vec::len) as u64;
            write(&folder.join("outputs.npy"), &[n, outputs], fp32.iter().flatten().copied())?;
        }
        Ok(())
    }

    /// Writes what the samples give one input.
    fn write_input<W: io::Write>(
        &self,
        samples: &SplitSamples<'_>,
        index: usize,
        mut array: npyz::NpyWriter<f32, W>,
        path: &Path,
    ) -> Result<(), PipelineError> {
        for sample in 0..samples.len() {
            self.cancel.check()?;
            let values = samples.in_file_order(sample, index)?;
            array.extend(values).map_err(failed(path))?;
        }
        array.finish().map_err(failed(path))
    }
}

type Array<T> = npyz::NpyWriter<T, BufWriter<File>>;

/// Begins an array in NumPy's format.
fn array<T: npyz::AutoSerialize>(path: &Path, shape: &[u64]) -> Result<Array<T>, PipelineError> {
    let file = BufWriter::new(File::create(path).map_err(failed(path))?);
    npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().map_err(failed(path))
}

fn write<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) -> Result<(), PipelineError> {
    let mut array = array(path, shape)?;
    array.extend(values).map_err(failed(path))?;
    array.finish().map_err(failed(path))
}
