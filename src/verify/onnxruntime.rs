//! ONNX Runtime, from a library that is loaded when it is asked for: qtuned is built and starts without it.

use std::{fmt::Display, path::Path};

use ort::{
    environment::Environment,
    session::builder::GraphOptimizationLevel,
    value::{DynValue, TensorRef},
};

use super::VerifyError;

/// A loaded library.
pub struct OnnxRuntime {
    environment: Environment,
    build: String,
}

/// A model in ONNX Runtime.
pub struct Session(ort::session::Session);

fn failed(error: impl Display) -> VerifyError {
    VerifyError::OnnxRuntime(error.to_string())
}

impl OnnxRuntime {
    /// Loads a library: `libonnxruntime.so`, which the Python package `onnxruntime` has in its folder `capi`.
    ///
    /// # Errors
    /// A file that is none, or too old.
    pub fn load(library: &Path) -> Result<OnnxRuntime, VerifyError> {
        let environment = ort::init_from(library).map_err(failed)?.with_telemetry(false).build().map_err(failed)?;
        let file = library.file_name().unwrap_or_default().to_string_lossy();
        Ok(OnnxRuntime { environment, build: format!("{file}, {}", ort::info()) })
    }

    /// The library's name, and what it says about its build.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// Opens a model with all optimizations, on the CPU.
    ///
    /// # Errors
    /// A model that it refuses.
    pub fn session(&self, path: &Path, threads: usize) -> Result<Session, VerifyError> {
        let session = ort::session::Session::builder(&self.environment)
            .map_err(failed)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(failed)?
            .with_intra_threads(threads)
            .map_err(failed)?
            .commit_from_file(path)
            .map_err(failed)?;
        Ok(Session(session))
    }
}

impl Session {
    /// The first output for one input of these dimensions.
    ///
    /// # Errors
    /// Whatever ONNX Runtime says.
    pub fn run(&mut self, dims: &[usize], x: &[f32]) -> Result<Vec<f32>, VerifyError> {
        let input = TensorRef::from_array_view((dims, x)).map_err(failed)?;
        let outputs = self.0.run(ort::inputs![input]).map_err(failed)?;
        let first = outputs.values().next().ok_or_else(|| failed("the model has no output"))?;
        let (_, y) = first.try_extract_tensor::<f32>().map_err(failed)?;
        Ok(y.to_vec())
    }

    /// The named outputs, of bytes; signed ones are shifted by 128.
    pub(super) fn integers<'a>(
        &mut self,
        dims: &[usize],
        x: &[f32],
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Vec<u8>>, VerifyError> {
        let input = TensorRef::from_array_view((dims, x)).map_err(failed)?;
        let outputs = self.0.run(ort::inputs![input]).map_err(failed)?;
        let bytes = |value: &DynValue| {
            let signed = |q: &[i8]| q.iter().map(|q| (i16::from(*q) + 128) as u8).collect();
            value
                .try_extract_tensor::<u8>()
                .map(|(_, q)| q.to_vec())
                .or_else(|_| value.try_extract_tensor::<i8>().map(|(_, q)| signed(q)))
                .map_err(failed)
        };
        names.map(|name| bytes(outputs.get(name).ok_or_else(|| failed(format!("no output `{name}`")))?)).collect()
    }
}
