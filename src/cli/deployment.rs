//! What is deployed: a model, and a qconfig that was measured on it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use super::{Global, reading::ReadingArgs, source::source};
use crate::{
    engine::Engine,
    export::{self, Source},
    graph::Groups,
    job::{JobLock, JobSpec},
    kernels::Kernels,
    onnx::{Model, Reading},
    ptq::{self, Converted},
    quant::{QConfigFile, QConfigMapping},
    search::Key,
};

/// A job, or a model and a qconfig.
#[derive(Args, Debug)]
pub(super) struct DeploymentArgs {
    /// A job, by its id, its name or the folder of its results; the latest when none is given. Or a model and its
    /// qconfig, or a model that is quantized already
    #[arg(value_name = "JOB | MODEL.onnx [QCONFIG.yaml]", num_args = 0..=2)]
    what: Vec<String>,

    /// Number of the trial of a job; the chosen one when not given
    #[arg(long, value_name = "N")]
    trial: Option<usize>,

    #[command(flatten)]
    reading: ReadingArgs,
}

/// A qconfig, and where its model is.
pub(super) struct Named {
    /// The qconfig written whole, in YAML.
    pub(super) qconfig: String,
    /// Where that comes from, for people.
    place: String,
    model: PathBuf,
    reading: Reading,
    /// The job that measured it, where one was named.
    spec: Option<JobSpec>,
}

/// A model and a qconfig of it.
pub(super) struct Deployment {
    /// The model's file.
    pub(super) path: PathBuf,
    /// How it is read.
    pub(super) reading: Reading,
    bytes: Vec<u8>,
    pub(super) model: Model,
    pub(super) groups: Arc<Groups>,
    pub(super) qconfig: QConfigFile,
    /// SHA-256 of the qconfig's file.
    pub(super) qconfig_sha256: String,
    /// The job that measured it, where one was named.
    pub(super) spec: Option<JobSpec>,
}

impl DeploymentArgs {
    /// Finds what is named.
    pub(super) fn find(&self, global: &Global) -> Result<Named> {
        let is_model = |what: &String| Path::new(what).extension().is_some_and(|end| end == "onnx");
        let of_job = self.what.len() < 2 && !self.what.first().is_some_and(is_model);
        if let Some(flag) = self.reading.given().filter(|_| of_job) {
            bail!("{flag} is for a model; a job says itself how its model is read");
        }
        match &self.what[..] {
            [model, qconfig] => match self.trial {
                Some(_) => bail!("--trial is for a job; {qconfig} holds one qconfig alone"),
                None => Named::file(Path::new(qconfig), model.into(), self.reading.reading()?, None),
            },
            [model] if is_model(model) => match self.trial {
                Some(_) => bail!("--trial is for a job; {model} holds one qconfig alone"),
                None => Named::quantized(Path::new(model), self.reading.reading()?),
            },
            [folder] if Path::new(folder).join("job.lock.yaml").is_file() => self.of_folder(folder.as_ref()),
            job => self.of_job(global, job.first().map(String::as_str)),
        }
    }

    fn of_folder(&self, folder: &Path) -> Result<Named> {
        let lock: JobLock = read_yaml(&folder.join("job.lock.yaml"))?;
        let qconfig = match self.trial {
            None => folder.join("best.qconfig.yaml"),
            Some(number) => folder.join("front").join(format!("trial-{number:03}.qconfig.yaml")),
        };
        if let Some(number) = self.trial.filter(|_| !qconfig.is_file()) {
            bail!("trial {number} is not on the front in {}; name the job instead of its folder", folder.display());
        }
        Named::file(&qconfig, lock.job.model.onnx.clone(), lock.job.model.reading(), Some(lock.job))
    }

    fn of_job(&self, global: &Global, name: Option<&str>) -> Result<Named> {
        let source = source(global)?;
        let detail = source.job(name)?;
        let job = detail.job;
        let Some(trial) = self.trial.or(job.chosen) else {
            bail!("job {} has not chosen a trial yet; --trial names one of its {}", job.id, job.trials);
        };
        let spec: JobSpec = serde_json::from_value(detail.spec)
            .with_context(|| format!("job {}: what it was run with cannot be read", job.id))?;
        Ok(Named {
            qconfig: source.qconfig(job.id, trial)?,
            place: format!("trial {trial} of job {}", job.id),
            model: spec.model.onnx.clone(),
            reading: spec.model.reading(),
            spec: Some(spec),
        })
    }
}

impl Named {
    fn file(path: &Path, model: PathBuf, reading: Reading, spec: Option<JobSpec>) -> Result<Named> {
        let qconfig = fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(Named { qconfig, place: path.display().to_string(), model, reading, spec })
    }

    /// The qconfig in a file of QuantizeLinear and DequantizeLinear.
    fn quantized(path: &Path, reading: Reading) -> Result<Named> {
        let (bytes, model) = read_model(path, &reading)?;
        let digest = Key(model.digest).to_string();
        let Some(found) = export::imported(&bytes, &model, &Groups::of(&model.graph), &digest)? else {
            bail!("{} has no qconfig in it: it quantizes nothing", path.display());
        };
        let place = path.display().to_string();
        let qconfig = serde_yaml::to_string(&found)?;
        Ok(Named { qconfig, place, model: path.to_owned(), reading, spec: None })
    }

    /// Reads the model, and checks that the qconfig is one of it.
    pub(super) fn read(self) -> Result<Deployment> {
        let Named { qconfig: text, place, model: path, reading, spec } = self;
        let (bytes, model) = read_model(&path, &reading)?;
        let qconfig: QConfigFile = parse_yaml(&text, &place)?;
        if qconfig.model_sha256 != Key(model.digest).to_string() {
            bail!("{place}: this qconfig was measured on another model than {}", path.display());
        }
        let groups = Arc::new(Groups::of(&model.graph));
        let qconfig_sha256 = Key(Sha256::digest(&text).into()).to_string();
        Ok(Deployment { path, reading, bytes, model, groups, qconfig, qconfig_sha256, spec })
    }
}

impl Deployment {
    /// An engine for the model, and the network in the qconfig.
    pub(super) fn restore(&self) -> Result<(Engine, Converted)> {
        let graph = Arc::new(self.model.graph.clone());
        let engine = Engine::new(graph, Arc::clone(&self.groups), Kernels::detect()?);
        let restored = ptq::restore(&engine, &self.qconfig)?;
        Ok((engine, restored))
    }

    /// The file to export.
    pub(super) fn source(&self) -> Source<'_> {
        Source { bytes: &self.bytes, folder: folder_of(&self.path), model: &self.model, groups: &self.groups }
    }
}

/// A qconfig that something starts from.
pub(super) enum Qconfig {
    /// Written whole, by a run.
    File(QConfigFile),
    /// A mapping, as in `qconfig:` of a job.
    Mapping(QConfigMapping),
}

impl Qconfig {
    /// Reads either from YAML.
    pub(super) fn read(path: &Path) -> Result<Qconfig> {
        let yaml: serde_yaml::Value = read_yaml(path)?;
        let is_file = yaml.get("mapping").is_some() && yaml.get("groups").is_some();
        let place = || path.display().to_string();
        Ok(match is_file {
            true => Qconfig::File(serde_path_to_error::deserialize(yaml).with_context(place)?),
            false => Qconfig::Mapping(serde_yaml::from_value(yaml).with_context(place)?),
        })
    }

    /// Which group gets which qconfig.
    pub(super) fn mapping(self) -> QConfigMapping {
        match self {
            Qconfig::File(file) => file.mapping,
            Qconfig::Mapping(mapping) => mapping,
        }
    }
}

/// A model and the bytes of its file.
pub(super) fn read_model(path: &Path, reading: &Reading) -> Result<(Vec<u8>, Model)> {
    let bytes = fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let model = reading
        .import(&bytes, Some(folder_of(path)))
        .with_context(|| format!("failed to import `{}`", path.display()))?;
    Ok((bytes, model))
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A YAML file; an error names the file and the place in it.
fn read_yaml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    parse_yaml(&text, &path.display().to_string())
}

fn parse_yaml<T: serde::de::DeserializeOwned>(text: &str, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).with_context(|| place.to_owned())
}
