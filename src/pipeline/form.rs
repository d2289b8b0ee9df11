//! How the samples of a data set become what a network reads.

use candle_core::{Device, Tensor};

use crate::{
    dataset::{Dataset, Form, Sample},
    engine::{EngineError, Inputs},
    graph::ValueId,
    onnx::Model,
};

/// What keeps a data set from being read by a model.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// Pictures have another shape than the model reads.
    #[error("samples of {height}×{width} pixels with {channels} channels do not fit the model's input [{}]", input.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Shape {
        /// Of the samples, after preprocessing.
        height: usize,
        /// Of the samples.
        width: usize,
        /// Of the samples.
        channels: usize,
        /// The model's input without the batch.
        input: Vec<usize>,
    },
    /// Samples are pictures, and the model reads more than one thing.
    #[error(
        "samples are pictures, one input each, and the model has the inputs {}; expected `inputs` of npy or safetensors \
         data, or model.input and model.fixed",
        names(inputs)
    )]
    SeveralInputs {
        /// Names of the model's inputs.
        inputs: Vec<String>,
    },
    /// The samples give an input nothing.
    #[error("samples have no array for the model's input `{name}`; model.fixed can give it a number")]
    NoArray {
        /// The input.
        name: String,
    },
    /// The samples have an array for an input that the model has not, or that is fixed.
    #[error("samples have an array for `{name}`; the model's inputs for samples are {}", names(inputs))]
    NoInput {
        /// In the data.
        name: String,
        /// Names of the model's inputs.
        inputs: Vec<String>,
    },
    /// An array has another shape than the model reads.
    #[error("arrays of {found:?} a sample do not fit the model's input `{name}` of {input:?}")]
    ArrayShape {
        /// The input.
        name: String,
        /// Of one sample.
        found: Vec<usize>,
        /// The model's input in the order of its file, without the batch.
        input: Vec<usize>,
    },
}

fn names(inputs: &[String]) -> String {
    inputs.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Checks that samples of this form are what a model reads.
///
/// # Errors
/// The first thing that it reads otherwise.
pub fn check_form(model: &Model, form: &Form) -> Result<(), FormError> {
    let inputs = &model.graph.inputs;
    let name = |input: &ValueId| model.graph.value(*input).name.clone();
    let arrays = match form {
        &Form::Picture { height, width, channels } => {
            let &[input] = &inputs[..] else {
                return Err(FormError::SeveralInputs { inputs: inputs.iter().map(name).collect() });
            };
            let input = &model.graph.value(input).shape;
            return match input[..] == [channels, height, width] {
                true => Ok(()),
                false => Err(FormError::Shape { height, width, channels, input: input.clone() }),
            };
        }
        Form::Arrays(arrays) => arrays,
    };
    if let Some((given, _)) = arrays.iter().find(|(given, _)| !inputs.iter().any(|input| name(input) == *given)) {
        return Err(FormError::NoInput { name: given.clone(), inputs: inputs.iter().map(name).collect() });
    }
    for (index, input) in inputs.iter().enumerate() {
        let (name, input) = (name(input), model.file_shape(index));
        match arrays.iter().find(|(given, _)| *given == name) {
            None => return Err(FormError::NoArray { name }),
            Some((_, found)) if *found != input => {
                return Err(FormError::ArrayShape { name, found: found.clone(), input });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A sample as the network reads it, a batch of one. The data set has been checked against the model.
pub(super) fn inputs(dataset: &Dataset, model: &Model, sample: Sample) -> Result<Inputs, EngineError> {
    let mut arrays = sample.inputs;
    let named = match dataset.form() {
        Form::Picture { height, width, channels } => {
            let pixels = arrays.pop().map(|array| array.data).unwrap_or_default();
            return Inputs::pictures(pixels, 1, [*height, *width, *channels]);
        }
        Form::Arrays(named) => named,
    };
    let tensor = |&input: &ValueId| {
        let name = &model.graph.value(input).name;
        let at = named.iter().position(|(given, _)| given == name);
        let Some(array) = at.and_then(|at| arrays.get_mut(at)) else {
            return Err(EngineError::Inputs { got: named.len(), expected: model.graph.inputs.len() });
        };
        let dims: Vec<usize> = std::iter::once(1).chain(array.dims.iter().copied()).collect();
        Ok(Tensor::from_vec(std::mem::take(&mut array.data), dims, &Device::Cpu)?)
    };
    let tensors = model.graph.inputs.iter().map(tensor).collect::<Result<_, _>>()?;
    Inputs::from_file(model, tensors)
}
