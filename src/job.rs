//! A job: one YAML file, every field checked.
//!
//! [`load`] reads a file. What is wrong is said in one sentence that names the file, the place in it and what was
//! expected. Files that the job reads are relative to the job's own folder; the folder that it writes to is relative
//! to the folder it is run in.

mod check;
mod duration;
mod load;
mod lock;
mod schema;
mod walk;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    dataset::{DataSpec, Source, SplitSpec},
    evaluate::{Call, Measures, Metric, Program},
    export::Target,
    onnx::{Reading, SampleShapes},
    quant::{QConfigMapping, Repair},
    search::{Budget, DropKind, Limits, StrategyKind, Until},
    sensitivity::RankBy,
};

pub use check::is_target_name;
pub use load::{JobError, Place, load, parse};
pub use lock::{JobLock, LockedHashes};
pub use schema::schema;

/// A job that was read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What the file says.
    pub spec: JobSpec,
    /// What the relative paths of files that are read start from.
    pub folder: PathBuf,
    /// Everything that is read must lie below this folder, where there is one.
    pub root: Option<PathBuf>,
}

impl Job {
    /// The path of a file that the job names.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Where its commands are run: `measure.programs.folder`, or the job's own; `None` for a job without commands.
    pub fn program_folder(&self) -> Option<PathBuf> {
        let measure = &self.spec.measure;
        let has_command = measure.latency.command.is_some() || measure.metric.command.is_some();
        has_command.then(|| self.resolve(measure.programs.folder.as_deref().unwrap_or(Path::new(""))))
    }

    /// The folder that results are written to: `output`, or `qtuned-out/NAME`, in the current folder.
    pub fn output(&self) -> PathBuf {
        self.spec.output.clone().unwrap_or_else(|| Path::new("qtuned-out").join(&self.spec.name))
    }
}

/// A job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Name for people; not unique.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// The trained network.
    pub model: ModelSpec,
    /// The labelled samples.
    pub data: DataSpec,
    /// The starting qconfig; the preset `onednn` when absent.
    #[serde(default = "default_qconfig")]
    pub qconfig: QConfigMapping,
    /// What must be kept.
    pub budget: BudgetSpec,
    /// How groups are ranked.
    #[serde(default)]
    pub sensitivity: SensitivitySpec,
    /// How qconfigs are proposed.
    #[serde(default)]
    pub search: SearchSpec,
    /// What is measured besides the metric.
    #[serde(default)]
    pub measure: MeasureSpec,
    /// Folder that results are written to, relative to the folder that the job is run in; `qtuned-out/NAME` when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
}

/// `model:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The ONNX file, relative to the job file.
    #[schemars(extend("minLength" = 1))]
    pub onnx: PathBuf,
    /// The one input that samples go to; all that are not `fixed` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Shape of one sample in the order of the file, without the batch, where the file leaves sizes open: [3, 224, 224]. Of
    /// several inputs by their names: `{ids: [128], mask: [128]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<SampleShapes>,
    /// All other inputs, each filled with a number: {training: 0}. Their sizes that are open are 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, f64>,
    /// The output that the metric reads; the first when absent. What only other outputs need is left out of trials and
    /// latencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl ModelSpec {
    /// How the file is read.
    pub fn reading(&self) -> Reading {
        let ModelSpec { onnx: _, input, shape, fixed, output } = self.clone();
        Reading { input, shape, fixed, output }
    }
}

/// `budget:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "if" = {"properties": {"metric": {"const": "score"}, "drop": {"const": "absolute"}}, "required": ["metric"]},
    "else" = {"properties": {"max_drop": {"exclusiveMaximum": 1}}}
))]
pub struct BudgetSpec {
    /// What is measured.
    #[serde(default)]
    pub metric: Metric,
    /// Largest drop from fp32: a fraction, or for the metric `score` in its own unit; for all metrics but `sqnr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub max_drop: Option<f64>,
    /// What the drop is a fraction of.
    #[serde(default)]
    pub drop: DropKind,
    /// Least SQNR of the output, in dB; for the metric `sqnr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1000, max = 1000))]
    pub min_db: Option<f64>,
    /// Confidence of the intervals that are shown.
    #[serde(default = "default_confidence")]
    #[schemars(extend("exclusiveMinimum" = 0.5, "exclusiveMaximum" = 1))]
    pub confidence: f64,
}

/// `sensitivity:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SensitivitySpec {
    /// Which SQNR ranks the groups.
    pub rank_by: RankBy,
    /// How many samples of the calibrate split are used, at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub samples: usize,
}

/// `search:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpec {
    /// How qconfigs are proposed.
    pub strategy: StrategyKind,
    /// Whether groups that went back to fp32 are tried in int8 again.
    pub refine: bool,
    /// Changes of the qconfig that are tried on all groups before any goes back to fp32: the first, the first two, and so
    /// on; the search goes on from the best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
    /// When the search ends.
    pub until: Until,
    /// Trials at most, fp32 included.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub max_trials: usize,
    /// Seconds of measuring at most; in YAML a number, or a text such as `10m` or `1h30m`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<duration::Written>")]
    pub max_time: Option<f64>,
    /// Of the order in which the samples of the search split are seen.
    pub seed: u64,
}

/// `measure:` of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureSpec {
    /// How latency is taken.
    pub latency: LatencySpec,
    /// What measures the metric.
    #[serde(skip_serializing_if = "is_default")]
    pub metric: MetricSpec,
    /// How programs of the user's are run.
    #[serde(skip_serializing_if = "is_default")]
    pub programs: ProgramsSpec,
}

/// `measure.metric:` of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricSpec {
    /// A program and its arguments, which measures the metric in place of the engine: it gets the exported network for
    /// `{model}` and a folder of samples for `{data}`, and prints which samples are right, or for the metrics `score` and
    /// `sqnr` a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The same of a program that is registered where the job is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `measure.programs:` of a job: how the programs of `measure.latency` and `measure.metric` are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProgramsSpec {
    /// Seconds that one run may take; in YAML a number, or a text such as `10m` or `1h30m`.
    #[serde(deserialize_with = "duration::seconds")]
    #[schemars(with = "duration::Written")]
    pub timeout: f64,
    /// How often a program is run again when it fails.
    #[schemars(range(min = 0, max = 100))]
    pub retries: usize,
    /// Where commands are run; the folder of the job file when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Whose rules the exported network follows.
    pub export_for: Target,
}

/// `measure.latency:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatencySpec {
    /// Samples in one run.
    #[schemars(range(min = 1, max = 4_096))]
    pub batch: usize,
    /// Threads of one run.
    #[schemars(range(min = 1, max = 1_024))]
    pub threads: usize,
    /// Runs thrown away before the first that counts.
    #[schemars(range(min = 0, max = 100_000))]
    pub warmup: usize,
    /// Runs that count, of the candidate and of fp32 each.
    #[schemars(range(min = 1, max = 100_000))]
    pub runs: usize,
    /// A program and its arguments, which measures in place of the engine, with the exported network for `{model}`; how
    /// it warms up and repeats is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The same of a program that is registered where the job is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Default for SensitivitySpec {
    fn default() -> Self {
        SensitivitySpec { rank_by: RankBy::default(), samples: 64 }
    }
}

impl Default for SearchSpec {
    fn default() -> Self {
        SearchSpec {
            strategy: StrategyKind::default(),
            refine: true,
            repairs: Vec::new(),
            until: Until::default(),
            max_trials: 100,
            max_time: None,
            seed: 0,
        }
    }
}

impl Default for LatencySpec {
    fn default() -> Self {
        LatencySpec { batch: 1, threads: 1, warmup: 10, runs: 50, command: None, target: None }
    }
}

impl Default for ProgramsSpec {
    fn default() -> Self {
        ProgramsSpec { timeout: 600.0, retries: 0, folder: None, export_for: Target::default() }
    }
}

impl MeasureSpec {
    /// The program that measures this, if one does. A checked job names one at most.
    pub fn program(&self, measures: Measures) -> Option<Program> {
        let (command, target) = match measures {
            Measures::Latency => (&self.latency.command, &self.latency.target),
            Measures::Metric => (&self.metric.command, &self.metric.target),
        };
        let call = command.clone().map(Call::Command).or_else(|| target.clone().map(Call::Target))?;
        let ProgramsSpec { timeout, retries, ref folder, .. } = self.programs;
        Some(Program { call, timeout: Duration::from_secs_f64(timeout), retries, folder: folder.clone() })
    }

    /// Where the job brings a program of its own: the place in it.
    pub fn own_program(&self) -> Option<&'static str> {
        let places = [
            ("measure.latency.command", self.latency.command.is_some()),
            ("measure.metric.command", self.metric.command.is_some()),
            ("measure.programs.folder", self.programs.folder.is_some()),
        ];
        places.into_iter().find(|(_, is_there)| *is_there).map(|(place, _)| place)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl JobSpec {
    /// Every file or folder that the job reads, with its place in the job.
    pub fn files_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let mut files = vec![("model.onnx", &mut self.model.onnx)];
        for (place, source) in std::iter::once(("data.images", &mut self.data.images))
            .chain(self.data.calibration_images.as_mut().map(|source| ("data.calibration_images", source)))
        {
            match source {
                Source::Csv(path) | Source::ImageFolder(path) => files.push((place, path)),
                Source::Idx(idx) => files.extend([(place, &mut idx.images), (place, &mut idx.labels)]),
                Source::Npy(npy) => files.extend([(place, &mut npy.images), (place, &mut npy.labels)]),
                Source::NpyInputs(npy) => {
                    files.extend(npy.inputs.values_mut().chain([&mut npy.labels]).map(|path| (place, path)));
                }
                Source::Npz(npz) => files.push((place, &mut npz.file)),
                Source::Safetensors(safetensors) => files.push((place, &mut safetensors.file)),
                Source::SafetensorsInputs(safetensors) => files.push((place, &mut safetensors.file)),
                Source::Parquet(parquet) => files.push((place, &mut parquet.path)),
            }
        }
        files.extend(self.data.label_map.as_mut().map(|path| ("data.label_map", path)));
        if let SplitSpec::File(path) = &mut self.data.split {
            files.push(("data.split.file", path));
        }
        files
    }
}

impl BudgetSpec {
    /// What the trials must reach. A checked job has the limit that its metric needs.
    pub fn budget(&self) -> Budget {
        match self.metric {
            Metric::Sqnr => Budget::MinDb(self.min_db.unwrap_or(f64::INFINITY)),
            Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Score => {
                Budget::Drop { max_drop: self.max_drop.unwrap_or(0.0), kind: self.drop }
            }
        }
    }
}

impl SearchSpec {
    /// When the search stops.
    pub fn limits(&self) -> Limits {
        Limits { until: self.until, max_trials: self.max_trials, max_seconds: self.max_time }
    }
}

fn default_qconfig() -> QConfigMapping {
    QConfigMapping::preset(crate::quant::Preset::default())
}

fn default_confidence() -> f64 {
    0.95
}
