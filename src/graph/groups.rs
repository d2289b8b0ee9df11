//! Groups: what is switched between int8 and fp32 as one.

use std::collections::HashSet;

use super::{Graph, Node, NodeId, Op, ValueId, ids::module_path};

/// Index of a [`Group`] among its graph's groups, in topological order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub usize);

/// A quantizable operator with the activation that fuses into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The PyTorch module path when one can be read, else the node's name; unique.
    pub id: String,
    /// Other names that mean this group: those of its nodes, its weight and its output.
    pub aliases: Vec<String>,
    /// The operator's type as ONNX names it: `Conv`, `Gemm`, `Add`, ...
    pub object_type: String,
    /// The quantizable operator.
    pub anchor: NodeId,
    /// The activation behind it, when it can be fused.
    pub activation: Option<NodeId>,
    /// Values read; without weights.
    pub inputs: Vec<ValueId>,
    /// For an addition of one shape, by operand: the layer that writes it for this addition alone, a dense convolution or a
    /// linear layer.
    pub fed_by: [Option<GroupId>; 2],
    /// The value written by the last node of the group.
    pub output: ValueId,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Weights and biases.
    pub parameters: u64,
}

/// The groups of a graph, and which group each node belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    groups: Vec<Group>,
    of_node: Vec<Option<GroupId>>,
}

/// The longest reduction whose s32 sum, bias included, cannot overflow: `(2³¹ − 1 − 2³⁰) / (255 · 127)`.
const MAX_REDUCTION: usize = ((1 << 30) - 1) / (255 * 127);

impl Groups {
    /// Forms the groups of a graph: every convolution, linear layer, addition, product, concatenation, activation and
    /// average pool, with a [`Op::Clip`] behind it when that is the only reader.
    ///
    /// An addition or product of shapes that [`broadcast`] knows not, and a layer whose reduction is so long that its s32 sum could overflow, form no group and stay fp32.
    pub fn of(graph: &Graph) -> Groups {
        let consumers = graph.consumers();
        let mut groups = Vec::new();
        let mut of_node = vec![None; graph.nodes.len()];
        let mut taken: HashSet<String> = HashSet::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let weight_name = match &node.op {
                Op::Conv(conv) if conv.weight.dims[1..].iter().product::<usize>() <= MAX_REDUCTION => &conv.weight_name,
                Op::Linear(linear) if linear.weight.dims[1] <= MAX_REDUCTION => &linear.weight_name,
                Op::AveragePool { .. } | Op::GlobalAveragePool | Op::Concat { .. } => "",
                Op::Add | Op::Mul if broadcast(graph, node).is_some() => "",
                Op::Map(function) if function.is_activation() => "",
                _ => continue,
            };
            let anchor = NodeId(index);
            let activation = match consumers[node.output.0][..] {
                [next] if !graph.outputs.contains(&node.output) => {
                    matches!(graph.node(next).op, Op::Clip { .. }).then_some(next)
                }
                _ => None,
            };
            let last = graph.node(activation.unwrap_or(anchor));
            let path = module_path(weight_name, if weight_name.is_empty() { "" } else { &node.name });
            let id = unique(path.unwrap_or_else(|| node.name.clone()), &node.name, &mut taken);
            let mut aliases = vec![node.name.clone(), weight_name.to_owned()];
            aliases.extend(activation.map(|a| graph.node(a).name.clone()));
            aliases.push(graph.value(node.output).name.clone());
            aliases.push(graph.value(last.output).name.clone());
            aliases.retain(|alias| !alias.is_empty() && *alias != id);
            aliases.sort();
            aliases.dedup();
            let group = GroupId(groups.len());
            of_node[index] = Some(group);
            if let Some(activation) = activation {
                of_node[activation.0] = Some(group);
            }
            groups.push(Group {
                id,
                aliases,
                object_type: node.op_type.clone(),
                anchor,
                activation,
                inputs: node.inputs.clone(),
                fed_by: fed_by(graph, node, &consumers, &groups),
                output: last.output,
                macs: graph.macs(anchor),
                parameters: graph.parameters(anchor),
            });
        }
        Groups { groups, of_node }
    }

    /// All groups, in topological order.
    pub fn all(&self) -> &[Group] {
        &self.groups
    }

    /// The group at `id`.
    pub fn get(&self, id: GroupId) -> &Group {
        &self.groups[id.0]
    }

    /// Ids of all groups, in topological order.
    pub fn ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len()).map(GroupId)
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is nothing to quantize.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group a node belongs to.
    pub fn of_node(&self, node: NodeId) -> Option<GroupId> {
        self.of_node[node.0]
    }

    /// The group with this id, or with this alias when only one group has it.
    pub fn find(&self, name: &str) -> Option<GroupId> {
        let by_id = self.groups.iter().position(|g| g.id == name);
        let by_alias = || {
            let mut hits = (0..self.groups.len()).filter(|&i| self.groups[i].aliases.iter().any(|a| a == name));
            hits.next().filter(|_| hits.next().is_none())
        };
        by_id.or_else(by_alias).map(GroupId)
    }
}

/// See [`Group::fed_by`].
fn fed_by(graph: &Graph, node: &Node, consumers: &[Vec<NodeId>], groups: &[Group]) -> [Option<GroupId>; 2] {
    let (&Op::Add, &[a, b], Some(Broadcast::None)) = (&node.op, &node.inputs[..], broadcast(graph, node)) else {
        return [None; 2];
    };
    [a, b].map(|value| {
        let alone = consumers[value.0].len() == 1 && !graph.outputs.contains(&value);
        let layer = groups.iter().rposition(|group| group.output == value).filter(|_| alone)?;
        let dense = match &graph.node(groups[layer].anchor).op {
            Op::Conv(conv) => conv.groups == 1 || conv.groups != conv.weight.dims[0] || conv.weight.dims[1] != 1,
            Op::Linear(_) => true,
            _ => false,
        };
        dense.then_some(GroupId(layer))
    })
}

/// How the operands of a sum or product lie beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// They have one shape.
    None,
    /// The operand of this index has one number a channel, or one a feature; the other one has the output's shape.
    PerChannel(usize),
}

/// How the operands of a sum or product lie, where that is a way that its kernels know.
pub fn broadcast(graph: &Graph, node: &Node) -> Option<Broadcast> {
    let [a, b] = node.inputs[..] else { return None };
    let (output, shapes) = (&graph.value(node.output).shape, [&graph.value(a).shape, &graph.value(b).shape]);
    if shapes == [output; 2] {
        return Some(Broadcast::None);
    }
    // Channels of pictures are the axis that is stored last.
    let channel = if output.len() == 3 { 0 } else { output.len().checked_sub(1)? };
    let row = |shape: &[usize]| {
        shape.len() == output.len()
            && shape.iter().enumerate().all(|(axis, &dim)| dim == if axis == channel { output[axis] } else { 1 })
    };
    (0..2).find(|&i| row(shapes[i]) && shapes[1 - i] == output).map(Broadcast::PerChannel)
}

/// `id`, or when another group has it already, the node's name, or that with a number.
fn unique(id: String, node_name: &str, taken: &mut HashSet<String>) -> String {
    let candidates = [id, node_name.to_owned()];
    let numbered = (2..).map(|n| format!("{}#{n}", candidates[0]));
    let chosen = candidates.iter().cloned().chain(numbered).find(|c| !c.is_empty() && !taken.contains(c));
    let chosen = chosen.unwrap_or_default();
    taken.insert(chosen.clone());
    chosen
}
