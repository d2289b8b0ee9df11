//! The output folder: what a run leaves for people and for other programs.
//!
//! ```text
//! job.lock.yaml          the job with every default filled in, and hashes of model and data
//! best.qconfig.yaml      the best qconfig so far: mapping, scales, zero points
//! qconfig_mapping.json   its mapping, with the keys of PyTorch's QConfigMapping.to_dict
//! front/*.qconfig.yaml   every qconfig on the front
//! trials.csv             every trial
//! report.html            the job in pictures
//! ```
//!
//! A file is written beside its place and then renamed, so that whoever reads it finds it whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Map, Value, json};

use crate::{
    job::JobLock,
    quant::{QConfig, QConfigFile, QConfigMapping},
    store::TrialSummary,
};

/// End of the names of qconfig files.
const SUFFIX: &str = ".qconfig.yaml";

/// The folder of one job.
#[derive(Clone, Debug)]
pub struct OutputFolder {
    path: PathBuf,
}

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file or folder cannot be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value that the format cannot hold.
    #[error("failed to write {} as {format}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// YAML, JSON or CSV.
        format: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl OutputFolder {
    /// Makes the folder where there is none.
    ///
    /// # Errors
    /// Whatever keeps it from being made.
    pub fn create(path: &Path) -> Result<OutputFolder, OutputError> {
        let folder = OutputFolder { path: path.to_owned() };
        folder.make(path)?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `job.lock.yaml`.
    ///
    /// # Errors
    /// Whatever keeps it from being written.
    pub fn write_lock(&self, lock: &JobLock) -> Result<(), OutputError> {
        let path = self.path.join("job.lock.yaml");
        let yaml = lock.to_yaml().map_err(|e| format_error(&path, "YAML", e))?;
        write(&path, yaml.as_bytes())
    }

    /// Writes the best qconfig so far: `best.qconfig.yaml` and `qconfig_mapping.json`.
    ///
    /// # Errors
    /// Whatever keeps them from being written.
    pub fn write_best(&self, best: &QConfigFile) -> Result<(), OutputError> {
        self.write_qconfig(&self.path.join(format!("best{SUFFIX}")), best)?;
        let path = self.path.join("qconfig_mapping.json");
        let dict = torch_dict(&best.mapping).map_err(|e| format_error(&path, "JSON", e))?;
        let text = serde_json::to_string_pretty(&dict).map_err(|e| format_error(&path, "JSON", e))?;
        write(&path, format!("{text}\n").as_bytes())
    }

    /// Writes `trials.csv` and the folder `front`, from which the files of earlier fronts are taken. The qconfigs
    /// are those of the trials, in the same order.
    ///
    /// # Errors
    /// Whatever keeps them from being written.
    pub fn write_trials(&self, trials: &[TrialSummary], qconfigs: &[&QConfigFile]) -> Result<(), OutputError> {
        let path = self.path.join("trials.csv");
        let table = trials_csv(trials).map_err(|e| format_error(&path, "CSV", e))?;
        write(&path, &table)?;

        let folder = self.path.join("front");
        self.make(&folder)?;
        let mut kept = Vec::new();
        for (trial, qconfig) in trials.iter().zip(qconfigs).filter(|(trial, _)| trial.on_front) {
            let name = format!("trial-{:03}{SUFFIX}", trial.number);
            self.write_qconfig(&folder.join(&name), qconfig)?;
            kept.push(name);
        }
        let unreadable = |source| OutputError::Write { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
            let ours = name.starts_with("trial-") && name.ends_with(SUFFIX);
            if ours && !kept.contains(&name) {
                fs::remove_file(folder.join(&name)).map_err(unreadable)?;
            }
        }
        Ok(())
    }

    fn write_qconfig(&self, path: &Path, file: &QConfigFile) -> Result<(), OutputError> {
        let yaml = serde_yaml::to_string(file).map_err(|e| format_error(path, "YAML", e))?;
        write(path, yaml.as_bytes())
    }

    fn make(&self, path: &Path) -> Result<(), OutputError> {
        fs::create_dir_all(path).map_err(|source| OutputError::Write { path: path.to_owned(), source })
    }
}

fn format_error(
    path: &Path,
    format: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OutputError {
    OutputError::Format { path: path.to_owned(), format, source: source.into() }
}

/// Writes a file whole: beside its place, to the disk, then renamed.
///
/// # Errors
/// Whatever keeps it from being written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let ordinal = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".{name}.{}-{ordinal}", std::process::id()));
    let written = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| {
        // Nothing more can be done about a file that cannot be removed either.
        let _ = fs::remove_file(&beside);
        OutputError::Write { path: path.to_owned(), source }
    })
}

/// The mapping with the keys of PyTorch's `QConfigMapping.to_dict`, each section a list of tuples.
fn torch_dict(mapping: &QConfigMapping) -> Result<Value, serde_json::Error> {
    let named = |list: &[(String, Option<QConfig>)]| -> Result<Value, serde_json::Error> {
        list.iter().map(|(name, q)| Ok(json!([name, serde_json::to_value(q)?]))).collect()
    };
    let mut dict = Map::new();
    dict.insert(String::new(), serde_json::to_value(mapping.global)?);
    dict.insert("object_type".to_owned(), named(&mapping.object_type)?);
    dict.insert("module_name_regex".to_owned(), named(&mapping.module_name_regex)?);
    dict.insert("module_name".to_owned(), named(&mapping.module_name)?);
    let orders = serde_json::to_value(&mapping.module_name_object_type_order)?;
    dict.insert("module_name_object_type_order".to_owned(), orders);
    Ok(Value::Object(dict))
}

/// The table of trials as it is in `trials.csv`.
///
/// # Errors
/// Whatever keeps it from being formatted.
pub fn trials_csv<'a>(trials: impl IntoIterator<Item = &'a TrialSummary>) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "number",
        "key",
        "int8_groups",
        "fp32_group_count",
        "fp32_groups",
        "repairs",
        "score",
        "correct",
        "total",
        "complete",
        "score_drop",
        "drop_low",
        "drop_high",
        "q1_ns",
        "median_ns",
        "q3_ns",
        "fp32_median_ns",
        "speed_up",
        "weight_bytes",
        "activation_bytes",
        "on_front",
        "chosen",
    ])?;
    let text = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
    for trial in trials {
        table.write_record([
            trial.number.to_string(),
            trial.key.clone(),
            trial.int8_groups.to_string(),
            trial.fp32_groups.len().to_string(),
            trial.fp32_groups.join(" "),
            trial.repairs.iter().map(|repair| repair.name()).collect::<Vec<_>>().join(" "),
            trial.score.to_string(),
            trial.correct.map(|c| c.to_string()).unwrap_or_default(),
            trial.total.to_string(),
            trial.complete.to_string(),
            text(trial.score_drop),
            text(trial.drop_low),
            text(trial.drop_high),
            text(trial.q1_ns),
            text(trial.median_ns),
            text(trial.q3_ns),
            text(trial.fp32_median_ns),
            text(trial.speed_up),
            trial.weight_bytes.to_string(),
            trial.activation_bytes.to_string(),
            trial.on_front.to_string(),
            trial.chosen.to_string(),
        ])?;
    }
    table.into_inner().map_err(|error| io::Error::other(error.to_string()).into())
}

#[cfg(test)]
mod tests;
