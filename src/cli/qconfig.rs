//! What `--qconfig` names.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    engine::Engine,
    onnx::Model,
    ptq::{self, Converted},
    quant::{QConfigFile, QConfigMapping},
    search::Key,
};

/// What `--qconfig` can hold.
pub(super) enum Qconfig {
    File(QConfigFile),
    Mapping(QConfigMapping),
}

pub(super) fn read(path: &Path) -> Result<Qconfig> {
    let place = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(place)?;
    let yaml: serde_yaml::Value = serde_yaml::from_str(&text).with_context(place)?;
    let is_file = yaml.get("mapping").is_some() && yaml.get("groups").is_some();
    Ok(match is_file {
        true => Qconfig::File(serde_yaml::from_value(yaml).with_context(place)?),
        false => Qconfig::Mapping(serde_yaml::from_value(yaml).with_context(place)?),
    })
}

/// The network as a file with grids says, which must be a file about this network.
pub(super) fn restore(engine: &Engine, model: &Model, file: &QConfigFile, path: &Path) -> Result<Converted> {
    if file.model_sha256 != Key(model.digest).to_string() {
        bail!("{}: this qconfig was measured on another model", path.display());
    }
    ptq::restore(engine, file).with_context(|| path.display().to_string())
}
