//! What a command feeds a model that comes without a job.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};

use super::inspect;
use crate::{
    dataset::{Array, read_numbers},
    engine::{EngineError, input_tensor},
    graph::Graph,
    onnx::Model,
};

/// The samples in a file: an array as the model's file reads it, given as the graph reads it.
pub(super) fn read(path: &Path, model: &Model) -> Result<Tensor> {
    tensor(read_numbers(path)?, model).with_context(|| path.display().to_string())
}

fn tensor(array: Array, model: &Model) -> Result<Tensor> {
    let Array { dims, data } = array;
    let shape = &model.graph.value(model.graph.input).shape;
    let expected = match shape[..] {
        [c, h, w] if model.channels_last => vec![h, w, c],
        _ => shape.clone(),
    };
    if dims.first().is_none_or(|&batch| batch == 0) || dims.get(1..) != Some(&expected) {
        bail!("expected an array of batch×{}, found {}", inspect::shape(&expected), inspect::shape(&dims));
    }
    let tensor = Tensor::from_vec(data, dims, &Device::Cpu)?;
    Ok(if model.channels_last { tensor.permute((0, 3, 1, 2))? } else { tensor })
}

/// Numbers between −2 and 2, about what normalized pictures are.
pub(super) fn noise(graph: &Graph, batch: usize, seed: u64) -> Result<Tensor, EngineError> {
    let shape = &graph.value(graph.input).shape;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let numbers = |len: usize| (0..len).map(|_| random.random_range(-2.0..2.0)).collect::<Vec<f32>>();
    match shape[..] {
        [c, h, w] => input_tensor({ numbers }(batch * c * h * w), batch, [h, w, c]),
        _ => {
            let dims: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
            Ok(Tensor::from_vec({ numbers }(dims.iter().product()), dims, &Device::Cpu)?)
        }
    }
}
