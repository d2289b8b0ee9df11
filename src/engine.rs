//! Execution: a graph and the quantization of its groups compile to a [`Plan`], which runs on candle tensors.
//!
//! Activations are channels-last: a tensor of logical shape `[n, c, h, w]` whose storage is `[n, h, w, c]`.
//! Integer steps are candle custom ops on U8 tensors with exact u8 × s8 → s32 products. A step writes what the
//! next one reads, u8 or f32, so that a precision boundary costs no pass of its own.

mod attention;
mod compile;
mod inputs;
mod kind;
mod run;
mod tensors;
mod weights;
mod workspace;

use std::sync::Arc;

pub use inputs::Inputs;
pub use run::Seen;
pub use weights::QuantizedWeight;

use crate::{
    graph::{Graph, Group, GroupId, Groups, NodeId, ValueId},
    kernels::Kernels,
    quant::{Affine, Rounding, WeightSpec},
};

/// How one group runs in integers.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupQuantization {
    /// Grids of its inputs, in order; `None` for the operand of an addition that is the sum of a layer in f32.
    pub inputs: Vec<Option<Affine>>,
    /// Grid of its output; `None` where the sum of a layer is not rounded, since an addition takes it as it is.
    pub output: Option<Affine>,
    /// How its weight is quantized; unused by groups without one.
    pub weight: WeightSpec,
    /// Scales of its weight, one or one an output channel, where they are given; else they follow from the weight.
    pub scales: Option<Arc<[f32]>>,
    /// One entry an output channel, in place of the layer's own; `None` for that.
    pub bias: Option<Arc<[f32]>>,
}

/// A graph, its groups and their packed weights: what all plans share.
#[derive(Debug)]
pub struct Engine {
    graph: Arc<Graph>,
    groups: Arc<Groups>,
    kernels: Kernels,
    weights: weights::PackedWeights,
    workspaces: Arc<workspace::Workspaces>,
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Representation {
    /// As f32.
    Float,
    /// As u8 on this grid.
    Quantized(Affine),
}

impl From<Option<Affine>> for Representation {
    fn from(grid: Option<Affine>) -> Representation {
        grid.map_or(Representation::Float, Representation::Quantized)
    }
}

/// One value in one representation.
#[derive(Clone, Copy, Debug)]
struct Slot {
    value: ValueId,
    representation: Representation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SlotId(usize);

/// One kernel call.
#[derive(Clone, Debug)]
struct Step {
    /// The node it belongs to; a conversion belongs to the node that asked for it.
    node: NodeId,
    /// The last node that it does: the addition, where a convolution does one.
    end: NodeId,
    kind: kind::Kind,
    inputs: Vec<SlotId>,
    output: SlotId,
    /// Whether it writes its node's value, rather than converting one.
    is_node: bool,
    /// Slots that no later step reads.
    release: Vec<SlotId>,
}

/// Steps in order, and the buffers that they write.
#[derive(Debug)]
struct Program {
    steps: Vec<Step>,
    buffers: workspace::Buffers,
}

/// A graph compiled for one quantization: an ordered list of steps with packed weights, and the buffers that they
/// write. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Plan {
    graph: Arc<Graph>,
    kernels: Kernels,
    slots: Arc<[Slot]>,
    /// What runs.
    program: Arc<Program>,
    /// What runs where every value is to be seen: additions are steps of their own. The bits are the same.
    shown: Arc<Program>,
    outputs: Vec<SlotId>,
    weight_bytes: u64,
    workspaces: Arc<workspace::Workspaces>,
}

/// One step of a plan, for people who read plans and their times.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFacts {
    /// The node it belongs to; a conversion belongs to the node that asked for it.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// How its output is stored.
    pub output: Representation,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
}

/// What keeps a plan from running.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// More or fewer tensors than the graph has inputs.
    #[error("expected one tensor for each of {expected} inputs, found {got}")]
    Inputs {
        /// As given.
        got: usize,
        /// Inputs of the graph.
        expected: usize,
    },
    /// A tensor that is not what the graph reads.
    #[error("input `{name}` has shape {got:?}, expected f32 of [{batch}, {}]", expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Input {
        /// Its name.
        name: String,
        /// Samples in the batch, as the first input says.
        batch: usize,
        /// As given.
        got: Vec<usize>,
        /// Without the batch.
        expected: Vec<usize>,
    },
    /// A failure in candle.
    #[error("running node `{node}` failed")]
    Step {
        /// The node.
        node: String,
        /// Candle's reason.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// A failure in candle outside any node.
    #[error("preparing a tensor failed")]
    Tensor(#[source] Box<candle_core::Error>),
}

impl From<candle_core::Error> for EngineError {
    fn from(source: candle_core::Error) -> Self {
        EngineError::Tensor(Box::new(source))
    }
}

impl Engine {
    /// An engine for a graph, on these kernels.
    pub fn new(graph: Arc<Graph>, groups: Arc<Groups>, kernels: Kernels) -> Engine {
        let weights = weights::PackedWeights::new(kernels, graph.nodes.len());
        Engine { graph, groups, kernels, weights, workspaces: Arc::default() }
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Its groups.
    pub fn groups(&self) -> &Arc<Groups> {
        &self.groups
    }

    /// The kernels in use.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Compiles the graph with each group in int8 where `quantization` has an entry, else in fp32.
    ///
    /// # Panics
    /// When there is not one entry a group.
    pub fn plan(&self, quantization: &[Option<GroupQuantization>]) -> Plan {
        let mut grids = quantization.iter().flatten().flat_map(|q| q.inputs.iter().chain([&q.output]).flatten());
        self.plan_as(quantization, grids.next().map_or(Rounding::default(), |grid| grid.rounding))
    }

    /// The same, with sums of floats in the order of the engine that `rounding` follows: also where nothing is in int8, so that
    /// they are those of a network in which something is.
    ///
    /// # Panics
    /// When there is not one entry a group.
    pub fn plan_as(&self, quantization: &[Option<GroupQuantization>], rounding: Rounding) -> Plan {
        compile::compile(self, quantization, rounding)
    }

    /// The plan with every group in fp32.
    pub fn fp32_plan(&self) -> Plan {
        self.plan(&vec![None; self.groups.len()])
    }

    /// A group's weight as it is quantized; `None` for groups without one.
    pub fn quantized_weight(&self, group: GroupId, q: &GroupQuantization) -> Option<Arc<QuantizedWeight>> {
        let anchor = self.groups.get(group).anchor;
        self.weights.integer(self.graph.node(anchor), anchor, q)
    }

    /// Output channels of a group that has a weight.
    pub fn quantized_channels(&self, group: &Group) -> Option<usize> {
        weights::layer(self.graph.node(group.anchor)).map(|layer| layer.geometry.out_channels)
    }

    /// The bias of a group moved by what the rounding of its weight adds to each output channel on average, when each
    /// input channel has this mean: the analytic correction of Nagel et al., "Data-free quantization through weight
    /// equalization and bias correction" (2019), with means that were measured. Padding counts as if it had the mean too.
    /// `None` for groups without a weight.
    pub fn corrected_bias(
        &self,
        group: GroupId,
        spec: &WeightSpec,
        input_scale: f32,
        means: &[f64],
    ) -> Option<Vec<f32>> {
        weights::corrected_bias(self.graph.node(self.groups.get(group).anchor), spec, input_scale, means)
    }
}

impl Plan {
    /// Bytes of all weights, biases and scales as this plan's precisions store them: f32 weights 4 bytes, s8
    /// weights 1, biases 4, scales 4.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of the buffers that one sample needs while it runs: values alive at the same time have their own.
    pub fn activation_bytes(&self) -> u64 {
        self.program.buffers.bytes()
    }

    /// What each step is, in the order they run.
    pub fn steps(&self) -> Vec<StepFacts> {
        let facts = |step: &Step| StepFacts {
            node: step.node,
            name: self.graph.node(step.node).name.clone(),
            kind: step.kind.name(),
            output: self.slots[step.output.0].representation,
            macs: if step.is_node { self.graph.macs(step.node) } else { 0 },
        };
        self.program.steps.iter().map(facts).collect()
    }
}
