//! The imported network: nodes, values and constants in a small, normalized set of operators.
//!
//! Every importer brings a network into this form; everything after it (grouping, execution, search)
//! knows only this. Normalized means: BatchNormalization is folded, `Relu` and `Relu6` are [`Op::Clip`],
//! `Gemm` is a [`Linear`] whose weight is `[out, in]`, identities are gone, all numbers are f32, the batch is the first
//! dimension of every value.

mod function;
mod groups;
mod ids;
mod op;

use std::sync::Arc;

pub use function::Function;
pub use groups::{Broadcast, Group, GroupId, Groups, broadcast};
pub use ids::module_path;
pub use op::{Binary, Conv, Linear, Normalize, Op, Reduction};

/// Index of a [`Value`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// Index of a [`Node`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// Shape of one sample: every dimension but the leading batch, which stays symbolic. A picture is
/// `[channels, height, width]`.
pub type SampleShape = Vec<usize>;

/// A tensor that flows between nodes: one sample's shape, times any batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the source file.
    pub name: String,
    /// Shape without the batch dimension.
    pub shape: SampleShape,
}

/// A constant tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Elements; their number is the product of `dims`.
    pub data: Arc<[f32]>,
}

/// One operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in the source file; made up (`Conv_12`) when the file has none.
    pub name: String,
    /// The operator's name in the source file (`Conv`, `Gemm`, `Relu`, ...).
    pub op_type: String,
    /// What it computes.
    pub op: Op,
    /// Values read, in the operator's order. Weights are in [`Op`], not here.
    pub inputs: Vec<ValueId>,
    /// The value written.
    pub output: ValueId,
}

/// A sliding window over height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
}

/// A network in topological order: each node comes after the nodes whose values it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Name in the source file.
    pub name: String,
    /// All values.
    pub values: Vec<Value>,
    /// All nodes, in order.
    pub nodes: Vec<Node>,
    /// What a sample gives, in the order of the file: at least one.
    pub inputs: Vec<ValueId>,
    /// The outputs; the first is the one that metrics read.
    pub outputs: Vec<ValueId>,
}

impl Window {
    /// Output height and width for an input of `height × width`:
    /// `floor((size + pads − dilation·(kernel − 1) − 1) / stride) + 1` (ONNX `Conv`, `MaxPool`).
    ///
    /// `None` when the window does not fit, or a size does not fit in a `usize`.
    pub fn output_size(&self, input: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |i: usize| {
            let reach = self.dilation[i].checked_mul(self.kernel[i].checked_sub(1)?)?.checked_add(1)?;
            let padded = input[i].checked_add(self.pads[i])?.checked_add(self.pads[i + 2])?;
            (padded.checked_sub(reach)?.checked_div(self.stride[i])?).checked_add(1)
        };
        Some([axis(0)?, axis(1)?])
    }
}

impl Graph {
    /// The value at `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// The node at `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// For each value, the node that writes it (`None` for the inputs).
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            producers[node.output.0] = Some(NodeId(index));
        }
        producers
    }

    /// For each value, the nodes that read it, in order; a node that reads a value twice is there twice.
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                consumers[input.0].push(NodeId(index));
            }
        }
        consumers
    }

    /// Multiply-accumulates of one node for one sample; 0 for nodes that are no products of matrices.
    pub fn macs(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        let outputs: usize = self.value(node.output).shape.iter().product();
        let per_output = match &node.op {
            Op::Conv(conv) => conv.weight.dims[1..].iter().product(),
            Op::Linear(linear) => linear.weight.dims[1],
            Op::MatMul => node.inputs.first().and_then(|a| self.value(*a).shape.last().copied()).unwrap_or(0),
            // A product with the keys for each score, and one with the values for each element.
            Op::Attention { .. } => match node.inputs[..] {
                [q, _, v] => {
                    let (q, v) = (&self.value(q).shape, &self.value(v).shape);
                    let of = |shape: &[usize], back: usize| shape.len().checked_sub(back).map_or(1, |at| shape[at]);
                    let (depth, count, width) = (of(q, 1), of(v, 2), of(v, 1));
                    return outputs as u64 / width.max(1) as u64 * count as u64 * (depth + width) as u64;
                }
                _ => 0,
            },
            _ => 0,
        };
        outputs as u64 * per_output as u64
    }

    /// Number of weights and biases of one node.
    pub fn parameters(&self, id: NodeId) -> u64 {
        let (weight, bias) = match &self.node(id).op {
            Op::Conv(conv) => (&conv.weight, &conv.bias),
            Op::Linear(linear) => (&linear.weight, &linear.bias),
            _ => return 0,
        };
        (weight.data.len() + bias.as_ref().map_or(0, |b| b.len())) as u64
    }
}
