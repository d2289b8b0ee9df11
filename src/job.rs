//! A job: one YAML file, every field checked.
//!
//! [`load`] reads a file. What is wrong is said in one sentence that names the file, the place in it and what was
//! expected. Files that the job reads are relative to the job's own folder; the folder that it writes to is relative
//! to the folder it is run in.

mod check;
mod duration;
mod load;
mod lock;
mod walk;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    dataset::{DataSpec, Source, SplitSpec},
    evaluate::Metric,
    quant::QConfigMapping,
    search::{Budget, DropKind, Limits, StrategyKind, Until},
    sensitivity::RankBy,
};

pub use load::{JobError, Place, load, parse};
pub use lock::{JobLock, LockedHashes};

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

    /// The folder that results are written to: `output`, or `qtuned-out/NAME`, in the current folder.
    pub fn output(&self) -> PathBuf {
        self.spec.output.clone().unwrap_or_else(|| Path::new("qtuned-out").join(&self.spec.name))
    }
}

/// A job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Name for people; not unique.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The ONNX file, relative to the job file.
    pub onnx: PathBuf,
}

/// `budget:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSpec {
    /// What is measured.
    #[serde(default)]
    pub metric: Metric,
    /// Largest drop from fp32, a fraction; for metrics that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// What the drop is a fraction of.
    #[serde(default)]
    pub drop: DropKind,
    /// Least SQNR of the output, in dB; for the metric `sqnr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_db: Option<f64>,
    /// Confidence of the intervals that are shown.
    #[serde(default = "default_confidence")]
    pub confidence: f64,
}

/// `sensitivity:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SensitivitySpec {
    /// Which SQNR ranks the groups.
    pub rank_by: RankBy,
    /// How many samples of the calibrate split are used, at most.
    pub samples: usize,
}

/// `search:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpec {
    /// How qconfigs are proposed.
    pub strategy: StrategyKind,
    /// Whether groups that went back to fp32 are tried in int8 again.
    pub refine: bool,
    /// When the search ends.
    pub until: Until,
    /// Trials at most, fp32 included.
    pub max_trials: usize,
    /// Seconds of measuring at most; in YAML a number, or a text such as `10m` or `1h30m`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "duration::deserialize")]
    pub max_time: Option<f64>,
    /// Of the order in which the samples of the search split are seen.
    pub seed: u64,
}

/// `measure:` of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureSpec {
    /// How latency is taken.
    pub latency: LatencySpec,
}

/// `measure.latency:` of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatencySpec {
    /// Samples in one run.
    pub batch: usize,
    /// Threads of one run.
    pub threads: usize,
    /// Runs thrown away before the first that counts.
    pub warmup: usize,
    /// Runs that count, of the candidate and of fp32 each.
    pub runs: usize,
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
            until: Until::default(),
            max_trials: 100,
            max_time: None,
            seed: 0,
        }
    }
}

impl Default for LatencySpec {
    fn default() -> Self {
        LatencySpec { batch: 1, threads: 1, warmup: 10, runs: 50 }
    }
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
                Source::Npz(npz) => files.push((place, &mut npz.file)),
                Source::Safetensors(safetensors) => files.push((place, &mut safetensors.file)),
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
            Metric::Top1 | Metric::Top5 | Metric::Agreement => {
                Budget::Drop { max_drop: self.max_drop.unwrap_or(0.0), relative: self.drop }
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
