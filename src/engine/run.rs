//! Running a plan.

use candle_core::{DType, Tensor};

use super::{EngineError, Plan, Representation, Slot, SlotId, Step, kind::Kind};
use crate::graph::{NodeId, ValueId};

/// A value that a step has written.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Which.
    pub value: ValueId,
    /// Its tensor, u8 or f32 as the representation says; pictures as `[n, c, h, w]` over NHWC storage.
    pub tensor: &'a Tensor,
    /// How it is stored.
    pub representation: Representation,
}

impl Seen<'_> {
    /// The elements as f32 in storage order (NHWC).
    ///
    /// # Errors
    /// A failure in candle.
    pub fn to_floats(&self) -> Result<Vec<f32>, EngineError> {
        let flat = storage_order(self.tensor)?;
        Ok(match self.representation {
            Representation::Float => flat.to_vec1()?,
            Representation::Quantized(grid) => flat.to_vec1::<u8>()?.into_iter().map(|q| grid.dequantize(q)).collect(),
        })
    }
}

/// The elements of a tensor in the order they are stored: NHWC for pictures.
fn storage_order(x: &Tensor) -> candle_core::Result<Tensor> {
    if x.rank() == 4 { x.permute((0, 2, 3, 1))?.flatten_all() } else { x.flatten_all() }
}

impl Plan {
    /// Runs the plan on a batch (see [`super::input_tensor`]); gives the outputs as f32. `parallel` uses the
    /// current rayon pool inside each step. Neither it nor the batch changes a bit.
    ///
    /// # Errors
    /// An input of another shape, or a failure in candle.
    pub fn run(&self, x: &Tensor, parallel: bool) -> Result<Vec<Tensor>, EngineError> {
        self.run_seen(x, parallel, &mut |_| Ok(()))
    }

    /// As [`Plan::run`], showing each value that a node writes, and first the input.
    ///
    /// # Errors
    /// As for [`Plan::run`], and those of `see`.
    pub fn run_seen(
        &self,
        x: &Tensor,
        parallel: bool,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let expected = &self.graph.value(self.graph.input).shape;
        if x.dtype() != DType::F32 || x.dims().get(1..) != Some(&expected[..]) {
            return Err(EngineError::Input { got: x.dims().to_vec(), expected: expected.clone() });
        }
        see(Seen { value: self.graph.input, tensor: x, representation: Representation::Float })?;
        self.execute(0, &|value| (value == self.graph.input).then(|| x.clone()), parallel, see)
    }

    /// Runs the steps from node `first` on, taking values written before it from `known` in f32. The result is
    /// that of a full run, bit for bit, when `known` gives what the steps left out would have computed in fp32.
    ///
    /// # Errors
    /// As for [`Plan::run_seen`].
    pub fn run_from(
        &self,
        first: NodeId,
        known: &dyn Fn(ValueId) -> Option<Tensor>,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let start = self.steps.iter().position(|s| s.node >= first).unwrap_or(self.steps.len());
        self.execute(start, known, false, see)
    }

    fn execute(
        &self,
        start: usize,
        known: &dyn Fn(ValueId) -> Option<Tensor>,
        parallel: bool,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let mut slots: Vec<Option<Tensor>> = vec![None; self.slots.len()];
        let read = |slots: &mut Vec<Option<Tensor>>, slot: SlotId| -> candle_core::Result<Tensor> {
            if let Some(tensor) = &slots[slot.0] {
                return Ok(tensor.clone());
            }
            let Slot { value, representation } = self.slots[slot.0];
            let Some(tensor) = known(value) else {
                candle_core::bail!("value `{}` is read before it is written", self.graph.value(value).name)
            };
            let tensor = match representation {
                Representation::Float => tensor,
                Representation::Quantized(grid) => {
                    let shape = &self.graph.value(value).shape;
                    Kind::Quantize(grid).run(self.kernels, &[tensor], shape, true, false)?
                }
            };
            slots[slot.0] = Some(tensor.clone());
            Ok(tensor)
        };
        for step in &self.steps[start..] {
            let inputs = step.inputs.iter().map(|&s| read(&mut slots, s)).collect::<candle_core::Result<Vec<_>>>();
            let output = inputs.and_then(|inputs| self.step(step, &inputs, parallel));
            let output = output.map_err(|source| EngineError::Step {
                node: self.graph.node(step.node).name.clone(),
                source: Box::new(source),
            })?;
            if step.is_node {
                let Slot { value, representation } = self.slots[step.output.0];
                see(Seen { value, tensor: &output, representation })?;
            }
            slots[step.output.0] = Some(output);
            step.release.iter().for_each(|s| slots[s.0] = None);
        }
        Ok(self.outputs.iter().map(|&s| read(&mut slots, s)).collect::<candle_core::Result<_>>()?)
    }

    fn step(&self, step: &Step, inputs: &[Tensor], parallel: bool) -> candle_core::Result<Tensor> {
        let Slot { value, representation } = self.slots[step.output.0];
        let shape = &self.graph.value(value).shape;
        step.kind.run(self.kernels, inputs, shape, representation != Representation::Float, parallel)
    }
}
