//! ONNX Runtime, from a library that is loaded when it is asked for: qtuned is built and starts without it.

use std::{collections::BTreeMap, fmt::Display, path::Path};

use ort::{
    environment::Environment,
    session::{HasSelectedOutputs, OutputSelector, RunOptions, builder::GraphOptimizationLevel},
    value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, ValueType},
};

use super::VerifyError;
use crate::{
    engine::{EngineError, Inputs},
    onnx::{Model, Reading},
};

/// A loaded library.
pub struct OnnxRuntime {
    environment: Environment,
    build: String,
}

/// A file of a network and how it is read: which inputs samples go to, what the others are, which output counts.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    /// The file.
    pub path: &'a Path,
    /// The network as it was imported; inputs and outputs of the file have the same names.
    pub model: &'a Model,
    /// How.
    pub reading: &'a Reading,
}

/// A network in ONNX Runtime.
pub struct Session<'a> {
    session: ort::session::Session,
    network: Network<'a>,
    /// The output that counts.
    output: String,
    options: RunOptions<HasSelectedOutputs>,
    fixed: Vec<(String, DynValue)>,
}

/// What a session reads, by the names of its inputs.
pub(super) struct Feed(Vec<(String, DynValue)>);

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

    /// Opens a network with all optimizations, on the CPU.
    ///
    /// # Errors
    /// A file that it refuses, or with an input that has no value.
    pub fn session<'a>(&self, network: Network<'a>, threads: usize) -> Result<Session<'a>, VerifyError> {
        let session = ort::session::Session::builder(&self.environment)
            .map_err(failed)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(failed)?
            .with_intra_threads(threads)
            .map_err(failed)?
            .commit_from_file(network.path)
            .map_err(failed)?;
        let graph = &network.model.graph;
        let output = graph.outputs.first().map(|&output| graph.value(output).name.clone());
        let output = output.ok_or_else(|| failed("the model has no output"))?;
        let options = RunOptions::new().map_err(failed)?.with_outputs(OutputSelector::no_default().with(&output));
        let fixed = fixed(&session, &network.reading.fixed)?;
        Ok(Session { session, network, output, options, fixed })
    }
}

/// The inputs that samples do not go to.
fn fixed(
    session: &ort::session::Session,
    numbers: &BTreeMap<String, f64>,
) -> Result<Vec<(String, DynValue)>, VerifyError> {
    let mut fixed = Vec::new();
    for input in session.inputs() {
        let (Some(&number), ValueType::Tensor { ty, shape, .. }) = (numbers.get(input.name()), input.dtype()) else {
            continue;
        };
        // As where the file is imported: a size that is open is 1.
        let dims: Vec<usize> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(1).max(1)).collect();
        let numbers = vec![number; dims.iter().product()];
        fixed.push((input.name().to_owned(), tensor(input.name(), *ty, dims, &numbers)?));
    }
    Ok(fixed)
}

/// A tensor of these elements, which are exact in its type.
fn tensor(name: &str, ty: TensorElementType, dims: Vec<usize>, numbers: &[f64]) -> Result<DynValue, VerifyError> {
    fn of<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
        dims: Vec<usize>,
        data: impl Iterator<Item = T>,
    ) -> Result<DynValue, VerifyError> {
        Ok(Tensor::from_array((dims, data.collect::<Vec<T>>())).map_err(failed)?.into_dyn())
    }
    let numbers = numbers.iter().copied();
    match ty {
        TensorElementType::Float32 => of(dims, numbers.map(|x| x as f32)),
        TensorElementType::Float64 => of(dims, numbers),
        TensorElementType::Bool => of(dims, numbers.map(|x| x != 0.0)),
        TensorElementType::Uint8 => of(dims, numbers.map(|x| x as u8)),
        TensorElementType::Uint16 => of(dims, numbers.map(|x| x as u16)),
        TensorElementType::Uint32 => of(dims, numbers.map(|x| x as u32)),
        TensorElementType::Uint64 => of(dims, numbers.map(|x| x as u64)),
        TensorElementType::Int8 => of(dims, numbers.map(|x| x as i8)),
        TensorElementType::Int16 => of(dims, numbers.map(|x| x as i16)),
        TensorElementType::Int32 => of(dims, numbers.map(|x| x as i32)),
        TensorElementType::Int64 => of(dims, numbers.map(|x| x as i64)),
        other => {
            Err(failed(format!("its input `{name}` holds {other}; expected 32 or 64 bit floats, integers or bool")))
        }
    }
}

impl Session<'_> {
    /// A batch, as the session reads it.
    ///
    /// # Errors
    /// An input of a type that is not supported, or that has no value.
    pub(super) fn feed(&self, x: &Inputs) -> Result<Feed, VerifyError> {
        let graph = &self.network.model.graph;
        let mut given = BTreeMap::new();
        for (&input, x) in graph.inputs.iter().zip(x.to_file(self.network.model)?) {
            let numbers: Vec<f32> = x.flatten_all().and_then(|x| x.to_vec1()).map_err(EngineError::from)?;
            given.insert(graph.value(input).name.as_str(), (x.dims().to_vec(), numbers));
        }
        let mut feed = Vec::new();
        for input in self.session.inputs() {
            let name = input.name();
            let (Some((dims, numbers)), ValueType::Tensor { ty, .. }) = (given.remove(name), input.dtype()) else {
                match self.fixed.iter().any(|(fixed, _)| fixed == name) {
                    true => continue,
                    false => return Err(failed(format!("its input `{name}` has no value"))),
                }
            };
            let numbers: Vec<f64> = numbers.into_iter().map(f64::from).collect();
            feed.push((name.to_owned(), tensor(name, *ty, dims, &numbers)?));
        }
        Ok(Feed(feed))
    }

    fn all<'a>(fixed: &'a [(String, DynValue)], Feed(feed): &'a Feed) -> Vec<(&'a str, &'a DynValue)> {
        feed.iter().chain(fixed).map(|(name, value)| (name.as_str(), value)).collect()
    }

    /// The output that counts.
    ///
    /// # Errors
    /// Whatever ONNX Runtime says.
    pub(super) fn run(&mut self, feed: &Feed) -> Result<Vec<f32>, VerifyError> {
        let inputs = Self::all(&self.fixed, feed);
        let outputs = self.session.run_with_options(inputs, &self.options).map_err(failed)?;
        let output = outputs.get(&self.output).ok_or_else(|| failed(format!("no output `{}`", self.output)))?;
        let (_, y) = output.try_extract_tensor::<f32>().map_err(failed)?;
        Ok(y.to_vec())
    }

    /// The named outputs, of bytes; signed ones are shifted by 128.
    pub(super) fn integers<'a>(
        &mut self,
        feed: &Feed,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Vec<u8>>, VerifyError> {
        let outputs = self.session.run(Self::all(&self.fixed, feed)).map_err(failed)?;
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
