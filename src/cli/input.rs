//! What a command feeds a model that comes without a job.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};

use super::inspect;
use crate::{
    dataset::{Array, read_named_numbers, read_numbers},
    engine::{EngineError, Inputs},
    graph::Graph,
    onnx::Model,
};

/// The samples in a file, as the graph reads them: one array as the model's file reads it, in a `.npy` file, or one for
/// each input by its name, in a `.npz` file.
pub(super) fn read(path: &Path, model: &Model) -> Result<Inputs> {
    let names: Vec<&str> = model.graph.inputs.iter().map(|&input| model.graph.value(input).name.as_str()).collect();
    let place = || path.display().to_string();
    let arrays = if path.extension().is_some_and(|end| end == "npz") {
        read_named_numbers(path, &names)?
    } else if let [_, _, ..] = names[..] {
        let names = names.join("`, `");
        bail!("{}: expected a .npz file with an array for each of the model's inputs, `{names}`", path.display());
    } else {
        vec![read_numbers(path)?]
    };
    let batch = arrays.first().and_then(|array| array.dims.first().copied()).unwrap_or(0);
    let tensors = arrays.into_iter().enumerate().map(|(index, array)| tensor(array, (model, index), batch));
    let tensors = tensors.collect::<Result<_>>().with_context(place)?;
    Inputs::from_file(model, tensors).with_context(place)
}

fn tensor(Array { dims, data }: Array, (model, index): (&Model, usize), batch: usize) -> Result<Tensor> {
    let expected = model.file_shape(index);
    if dims.split_first() != Some((&batch, &expected)) || batch == 0 {
        let of = match model.graph.inputs[..] {
            [_] => String::new(),
            _ => format!(" for input `{}`", model.graph.value(model.graph.inputs[index]).name),
        };
        let batch = if index == 0 { "batch".to_owned() } else { batch.to_string() };
        let (expected, found) = (inspect::shape(&expected), inspect::shape(&dims));
        bail!("expected an array of {batch}×{expected}{of}, found {found}");
    }
    Ok(Tensor::from_vec(data, dims, &Device::Cpu)?)
}

/// Numbers between −2 and 2, about what normalized pictures are.
pub(super) fn noise(graph: &Graph, batch: usize, seed: u64) -> Result<Inputs, EngineError> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let tensor = |&input: &_| {
        let mut numbers = |len: usize| (0..len).map(|_| random.random_range(-2.0..2.0)).collect::<Vec<f32>>();
        match graph.value(input).shape[..] {
            [c, h, w] => {
                let nhwc = Tensor::from_vec(numbers(batch * c * h * w), (batch, h, w, c), &Device::Cpu)?;
                Ok(nhwc.permute((0, 3, 1, 2))?)
            }
            ref shape => {
                let dims: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
                Ok(Tensor::from_vec(numbers(dims.iter().product()), dims, &Device::Cpu)?)
            }
        }
    };
    graph.inputs.iter().map(tensor).collect()
}
