//! Pairs before 1×1 convolutions with a stride, written so that OpenVINO runs these in integers.
//!
//! OpenVINO moves the stride of such a convolution towards the network's input, past whatever sees one element at a time
//! (`ConvStridesPropagation` in its `strides_optimization.cpp`), and puts a MaxPool where that ends. A DequantizeLinear is
//! read as such operators, so the MaxPool comes to stand within it; what is left is no dequantization any more, and
//! convolution and MaxPool run in f32. Where QuantizeLinear and DequantizeLinear are made one FakeQuantize first, that
//! stops the stride, and the convolution keeps it. The CPU plugin makes them one only where it does not see a constant as
//! scale (`areQuantizeAndDequantizeSupportedForMultiply`). So the scale comes from a DequantizeLinear of the integer 1,
//! which is the same number, and which OpenVINO folds only later.

use std::collections::HashMap;

use super::{rewrite::Rewrite, tensors};
use crate::{
    graph::Op,
    onnx::proto::{NodeProto, data_type},
};

impl Rewrite<'_> {
    /// Has the DequantizeLinear before 1×1 convolutions, all with the same stride, read its scale from another one.
    pub(super) fn keep_strides(&mut self) {
        let strides = self.strides();
        for list in 0..self.before.len() {
            for after in [false, true] {
                let nodes = if after { &mut self.after[list] } else { &mut self.before[list] };
                for mut node in std::mem::take(nodes) {
                    let kept = node.op_type == "DequantizeLinear" && strides.contains_key(&node.output[0]);
                    let scale = kept.then(|| self.scale_of_one(&mut node));
                    let nodes = if after { &mut self.after[list] } else { &mut self.before[list] };
                    nodes.extend(scale.into_iter().chain([node]));
                }
            }
        }
    }

    /// The values that 1×1 convolutions with one stride read, and nothing else does.
    fn strides(&self) -> HashMap<String, [usize; 2]> {
        let mut convolutions = HashMap::new();
        for group in self.source.groups.all() {
            let main = self.source.model.origins.get(group.anchor.0).and_then(|nodes| nodes.first());
            if let (Op::Conv(conv), Some(&main)) = (&self.source.model.graph.node(group.anchor).op, main)
                && self.file.node.get(main).is_some_and(|node| node.op_type == "Conv")
                && (conv.groups, conv.window.kernel) == (1, [1, 1])
                && conv.window.stride != [1, 1]
            {
                convolutions.insert(main, conv.window.stride);
            }
        }
        let mut strides: HashMap<&String, Option<[usize; 2]>> = HashMap::new();
        let kept = self.file.node.iter().enumerate().filter(|(at, _)| !self.removed.contains(at));
        let own = kept.map(|(at, node)| (node, convolutions.get(&at).copied()));
        let added = self.before.iter().chain(&self.after).flatten().map(|node| (node, None));
        for (node, stride) in own.chain(added) {
            for (at, name) in node.input.iter().enumerate() {
                // A weight does not move.
                let stride = stride.filter(|_| at == 0);
                let known = strides.entry(name).or_insert(stride);
                *known = known.filter(|known| Some(*known) == stride);
            }
        }
        for output in &self.file.output {
            strides.remove(&output.name);
        }
        strides.into_iter().filter_map(|(name, stride)| Some((name.clone(), stride?))).collect()
    }

    /// Has a node read as its scale what the node that this gives writes: 1 times its scale. Each has an integer of its
    /// own: OpenVINO reads one that several share as a constant.
    fn scale_of_one(&mut self, node: &mut NodeProto) -> NodeProto {
        let scale = node.input[1].clone();
        let one = self.names.value(&format!("{scale}_quantized"));
        self.initializers.push(tensors::bytes(one.clone(), vec![], data_type::INT8, vec![1]));
        node.input[1] = self.names.value(&format!("{scale}_DequantizeLinear_Output"));
        let name = self.names.node(&format!("{scale}_DequantizeLinear"));
        tensors::node(name, "DequantizeLinear", vec![one, scale], node.input[1].clone())
    }
}
