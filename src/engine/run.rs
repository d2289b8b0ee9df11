//! Running a plan.

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};

use super::{
    EngineError, Inputs, Plan, Program, Representation, Slot, SlotId, Step,
    kind::Kind,
    workspace::{Workspace, logical, stored},
};
use crate::graph::{NodeId, Value, ValueId};

/// A value that a step has written, until the next step runs.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Which.
    pub value: ValueId,
    /// How it is stored.
    pub representation: Representation,
    stored: &'a Tensor,
}

impl Seen<'_> {
    /// The elements as f32 in storage order (NHWC for pictures).
    ///
    /// # Errors
    /// A failure in candle.
    pub fn to_floats(&self) -> Result<Vec<f32>, EngineError> {
        let flat = self.stored.flatten_all()?;
        Ok(match self.representation {
            Representation::Float => flat.to_vec1()?,
            Representation::Quantized(grid) => flat.to_vec1::<u8>()?.into_iter().map(|q| grid.dequantize(q)).collect(),
        })
    }

    /// The elements as an f32 tensor of logical shape, `[n, c, h, w]` for pictures.
    ///
    /// # Errors
    /// A failure in candle.
    pub fn to_tensor(&self) -> Result<Tensor, EngineError> {
        Ok(logical(&match self.representation {
            Representation::Float => self.stored.force_contiguous()?,
            Representation::Quantized(_) => {
                Tensor::from_vec(self.to_floats()?, self.stored.dims(), self.stored.device())?
            }
        })?)
    }
}

/// Hears of the steps of a run.
trait Visit {
    /// Called when a step is done.
    fn after(&mut self, plan: &Plan, step: &Step, output: &Tensor) -> Result<(), EngineError>;
}

/// Shows each value that a node writes.
struct Show<'a>(&'a mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>);

impl Visit for Show<'_> {
    fn after(&mut self, plan: &Plan, step: &Step, output: &Tensor) -> Result<(), EngineError> {
        let Slot { value, representation } = plan.slots[step.output.0];
        if step.is_node { self.0(Seen { value, stored: output, representation }) } else { Ok(()) }
    }
}

/// Looks at nothing.
struct Unseen;

impl Visit for Unseen {
    fn after(&mut self, _: &Plan, _: &Step, _: &Tensor) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Takes the time of each step.
struct Clock {
    last: Instant,
    times: Vec<Duration>,
}

impl Visit for Clock {
    fn after(&mut self, _: &Plan, _: &Step, _: &Tensor) -> Result<(), EngineError> {
        let now = Instant::now();
        self.times.push(now - self.last);
        self.last = now;
        Ok(())
    }
}

impl Plan {
    /// Runs the plan on a batch; gives the outputs as f32. `parallel` uses the current rayon pool inside each step. Neither
    /// it nor the batch changes a bit.
    ///
    /// # Errors
    /// Inputs of another number or shape, or a failure in candle.
    pub fn run(&self, x: &Inputs, parallel: bool) -> Result<Vec<Tensor>, EngineError> {
        let x = self.checked(x)?;
        self.execute(&self.program, 0, &|value| self.input(value, &x), (x.batch(), parallel), &mut Unseen)
    }

    /// As [`Plan::run`], showing each value that a node writes, and first the inputs.
    ///
    /// # Errors
    /// As for [`Plan::run`], and those of `see`.
    pub fn run_seen(
        &self,
        x: &Inputs,
        parallel: bool,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let x = self.checked(x)?;
        for (&value, x) in self.graph.inputs.iter().zip(x.tensors()) {
            see(Seen { value, stored: &stored(x)?, representation: Representation::Float })?;
        }
        self.execute(&self.shown, 0, &|value| self.input(value, &x), (x.batch(), parallel), &mut Show(see))
    }

    /// Runs the plan on a batch, and gives the time of each of its steps, in order.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn run_timed(&self, x: &Inputs, parallel: bool) -> Result<Vec<Duration>, EngineError> {
        let x = self.checked(x)?;
        let mut clock = Clock { last: Instant::now(), times: Vec::with_capacity(self.program.steps.len()) };
        self.execute(&self.program, 0, &|value| self.input(value, &x), (x.batch(), parallel), &mut clock)?;
        Ok(clock.times)
    }

    /// Runs the steps from node `first` on, on one sample, taking values written before it from `known` in f32. The
    /// result is that of a full run, bit for bit, when `known` gives what the steps left out would have computed.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn run_from(
        &self,
        first: NodeId,
        known: &dyn Fn(ValueId) -> Option<Tensor>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let steps = &self.program.steps;
        let start = steps.iter().position(|s| s.end >= first).unwrap_or(steps.len());
        self.execute(&self.program, start, known, (1, false), &mut Unseen)
    }

    /// Runs one node alone, on one sample, taking what it reads from `known` in f32; shows the value that it writes.
    ///
    /// # Errors
    /// As for [`Plan::run`], and those of `see`.
    pub fn run_node(
        &self,
        node: NodeId,
        known: &dyn Fn(ValueId) -> Option<Tensor>,
        see: &mut dyn FnMut(Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let program = &self.shown;
        let workspace = self.workspaces.take(&program.buffers, 1)?;
        let values = vec![None; self.slots.len()];
        let mut run = Run { plan: self, program, workspace: &workspace, batch: 1, values, known, parallel: false };
        let of_node = program.steps.iter().filter(|step| step.node == node && step.is_node);
        for step in of_node {
            let output = run.run(step)?;
            Show(see).after(self, step, &output)?;
        }
        self.workspaces.give_back(workspace);
        Ok(())
    }

    fn input(&self, value: ValueId, x: &Inputs) -> Option<Tensor> {
        let at = self.graph.inputs.iter().position(|&input| input == value)?;
        x.tensors().get(at).cloned()
    }

    /// Inputs of the shapes that the graph reads, laid out so that [`stored`] copies nothing.
    fn checked(&self, x: &Inputs) -> Result<Inputs, EngineError> {
        let (tensors, inputs, batch) = (x.tensors(), &self.graph.inputs, x.batch());
        if tensors.len() != inputs.len() {
            return Err(EngineError::Inputs { got: tensors.len(), expected: inputs.len() });
        }
        let check = |(x, &input): (&Tensor, &ValueId)| {
            let Value { name, shape } = self.graph.value(input);
            if x.dtype() != DType::F32 || x.dims().split_first() != Some((&batch, shape)) {
                let (name, expected) = (name.clone(), shape.clone());
                return Err(EngineError::Input { name, batch, got: x.dims().to_vec(), expected });
            }
            Ok(logical(&stored(x)?)?)
        };
        tensors.iter().zip(inputs).map(check).collect()
    }

    fn execute(
        &self,
        program: &Program,
        start: usize,
        known: &dyn Fn(ValueId) -> Option<Tensor>,
        (batch, parallel): (usize, bool),
        visit: &mut dyn Visit,
    ) -> Result<Vec<Tensor>, EngineError> {
        let workspace = self.workspaces.take(&program.buffers, batch)?;
        let values = vec![None; self.slots.len()];
        let mut run = Run { plan: self, program, workspace: &workspace, batch, values, known, parallel };
        for step in &program.steps[start..] {
            let output = run.run(step)?;
            visit.after(self, step, &output)?;
            run.values[step.output.0] = Some(output);
            step.release.iter().for_each(|s| run.values[s.0] = None);
        }
        // A copy, since the buffers are written again.
        let output = |&slot: &SlotId| logical(&run.value(slot)?.force_contiguous()?);
        let outputs = self.outputs.iter().map(output).collect::<candle_core::Result<_>>()?;
        self.workspaces.give_back(workspace);
        Ok(outputs)
    }
}

/// A plan while it runs.
struct Run<'a> {
    plan: &'a Plan,
    program: &'a Program,
    workspace: &'a Workspace,
    batch: usize,
    /// Values alive, in storage order.
    values: Vec<Option<Tensor>>,
    known: &'a dyn Fn(ValueId) -> Option<Tensor>,
    parallel: bool,
}

impl Run<'_> {
    fn value(&mut self, slot: SlotId) -> candle_core::Result<Tensor> {
        if let Some(tensor) = &self.values[slot.0] {
            return Ok(tensor.clone());
        }
        let plan = self.plan;
        let Slot { value, representation } = plan.slots[slot.0];
        let Some(tensor) = (self.known)(value) else {
            candle_core::bail!("value `{}` is read before it is written", plan.graph.value(value).name)
        };
        let mut tensor = stored(&tensor)?;
        if let Representation::Quantized(grid) = representation {
            let quantized = Tensor::zeros(tensor.dims(), DType::U8, tensor.device())?;
            tensor = Kind::Quantize(grid).run(plan.kernels, &[tensor], Some(&quantized), false)?;
        }
        self.values[slot.0] = Some(tensor.clone());
        Ok(tensor)
    }

    fn run(&mut self, step: &Step) -> Result<Tensor, EngineError> {
        let failed = |source| {
            let node = self.plan.graph.node(step.node).name.clone();
            EngineError::Step { node, source: Box::new(source) }
        };
        self.step(step).map_err(failed)
    }

    fn step(&mut self, step: &Step) -> candle_core::Result<Tensor> {
        let inputs = step.inputs.iter().map(|&s| self.value(s)).collect::<candle_core::Result<Vec<_>>>()?;
        let plan = self.plan;
        let shape = &plan.graph.value(plan.slots[step.output.0].value).shape;
        let to = self.workspace.slot(&self.program.buffers, step.output, self.batch, shape)?;
        step.kind.run(plan.kernels, &inputs, to.as_ref(), self.parallel)
    }
}
