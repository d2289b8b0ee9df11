//! What a plan reads.

use candle_core::{Device, Tensor};

use super::{
    EngineError,
    workspace::{logical, stored},
};
use crate::onnx::Model;

/// A batch of samples: one f32 tensor of logical shape `[batch, …]` for each input of a graph, in the order of
/// [`Graph::inputs`](crate::graph::Graph::inputs).
#[derive(Clone, Debug)]
pub struct Inputs(Vec<Tensor>);

impl From<Tensor> for Inputs {
    /// For a graph of one input.
    fn from(tensor: Tensor) -> Inputs {
        Inputs(vec![tensor])
    }
}

impl FromIterator<Tensor> for Inputs {
    fn from_iter<I: IntoIterator<Item = Tensor>>(tensors: I) -> Inputs {
        Inputs(tensors.into_iter().collect())
    }
}

impl Inputs {
    /// A batch of pictures, each in height, width, channel order, for a graph of one input: its logical shape is
    /// `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When the number of elements is not that of the shape.
    pub fn pictures(
        samples: Vec<f32>,
        batch: usize,
        [height, width, channels]: [usize; 3],
    ) -> Result<Inputs, EngineError> {
        let nhwc = Tensor::from_vec(samples, (batch, height, width, channels), &Device::Cpu)?;
        Ok(Inputs::from(nhwc.permute((0, 3, 1, 2))?))
    }

    /// A batch in the order of a model's file, one tensor of shape `[batch, …]` for each of the graph's inputs.
    ///
    /// # Errors
    /// A failure in candle, such as of a picture that has not four dimensions.
    pub fn from_file(model: &Model, tensors: Vec<Tensor>) -> Result<Inputs, EngineError> {
        let arranged = |(index, x): (usize, Tensor)| {
            let last = model.inputs.get(index).is_some_and(|input| input.channels_last);
            let x = if last { x.permute((0, 3, 1, 2))? } else { x };
            // As it is stored while a plan runs, so that no run has to.
            Ok(logical(&stored(&x)?)?)
        };
        tensors.into_iter().enumerate().map(arranged).collect()
    }

    /// The tensors in the order of a model's file, contiguous.
    ///
    /// # Errors
    /// A failure in candle.
    pub fn to_file(&self, model: &Model) -> Result<Vec<Tensor>, EngineError> {
        let arranged = |(index, x): (usize, &Tensor)| {
            let last = model.inputs.get(index).is_some_and(|input| input.channels_last);
            Ok(if last { x.permute((0, 2, 3, 1))?.contiguous()? } else { x.contiguous()? })
        };
        self.0.iter().enumerate().map(arranged).collect()
    }

    /// One tensor an input.
    pub fn tensors(&self) -> &[Tensor] {
        &self.0
    }

    /// Samples in the batch.
    pub fn batch(&self) -> usize {
        self.0.first().and_then(|tensor| tensor.dims().first().copied()).unwrap_or(0)
    }

    /// One sample of the batch, as a batch of one.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn sample(&self, index: usize) -> Result<Inputs, EngineError> {
        self.0.iter().map(|tensor| Ok(tensor.narrow(0, index, 1)?)).collect()
    }

    /// The batch, `times` times over.
    ///
    /// # Errors
    /// A failure in candle.
    pub fn repeated(&self, times: usize) -> Result<Inputs, EngineError> {
        let repeated = |x: &Tensor| Ok(logical(&Tensor::cat(&vec![stored(x)?; times], 0)?)?);
        self.0.iter().map(repeated).collect()
    }
}
