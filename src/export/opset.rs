//! Old operator sets to one that has what quantization needs.
//!
//! Scales for each channel came with operator set 13. Between the oldest that is imported, 7,
//! and 13 these operators changed in a way that a file shows, and are rewritten:
//!
//! | operator | since | change |
//! |---|---|---|
//! | BatchNormalization | 9 | `spatial` is gone; 1 is what it means now |
//! | Slice | 10 | starts, ends and axes are inputs |
//! | Clip | 11 | bounds are inputs |
//! | Pad | 11 | pads and value are inputs |
//! | Dropout | 12 | ratio is an input |
//! | Softmax | 13 | one axis in place of all from it on |
//! | Squeeze, Unsqueeze, ReduceSum | 13 | axes are an input |
//! | Split | 13 | sizes are an input |

use super::{ExportError, tensors};
use crate::{
    graph::Op,
    onnx::{
        Model, Names,
        proto::{AttributeProto, ModelProto, NodeProto, TensorProto, attribute_type},
    },
};

/// The operator set with scales for each channel.
const PER_CHANNEL: i64 = 13;

/// IR version of operator set 13.
const IR_VERSION: i64 = 7;

/// Operators that mean the same from operator set 7 to 13, attributes and all.
#[rustfmt::skip]
const UNCHANGED: &[&str] = &[
    "Abs", "Add", "ArgMax", "AveragePool", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Conv", "Div",
    "Elu", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "Identity", "LRN", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pow",
    "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Where",
];

/// Raises an older operator set to the one with scales for each channel.
pub(super) fn raise(proto: &mut ModelProto, model: &Model) -> Result<(), ExportError> {
    if model.opset >= PER_CHANNEL {
        return Ok(());
    }
    let graph = proto.graph.as_mut().ok_or(ExportError::Source)?;
    let values = graph.node.iter().flat_map(|node| &node.output).chain(graph.initializer.iter().map(|t| &t.name));
    let values = values.chain(graph.input.iter().map(|input| &input.name));
    let mut names = Names::new(values.map(String::as_str));
    for (index, node) in graph.node.iter_mut().enumerate() {
        let known = UNCHANGED.contains(&node.op_type.as_str());
        let foreign = !matches!(node.domain.as_str(), "" | "ai.onnx");
        let mut step = Step { node, opset: model.opset, names: &mut names, initializers: &mut graph.initializer };
        if !foreign && !known && step.rewrite(|| softmax_axis(model, index)).is_none() {
            return Err(ExportError::Opset {
                from: model.opset,
                to: PER_CHANNEL,
                node: node.name.clone(),
                op_type: node.op_type.clone(),
            });
        }
    }
    for set in proto.opset_import.iter_mut().filter(|set| matches!(set.domain.as_str(), "" | "ai.onnx")) {
        set.version = PER_CHANNEL;
    }
    proto.ir_version = proto.ir_version.max(IR_VERSION);
    Ok(())
}

/// The single axis of a Softmax, the batch counted, as it was imported.
fn softmax_axis(model: &Model, file_node: usize) -> Option<i64> {
    let node = model.origins.iter().position(|origin| origin.first() == Some(&file_node))?;
    match model.graph.nodes.get(node)?.op {
        Op::Softmax { axis, log: false } => i64::try_from(axis + 1).ok(),
        _ => None,
    }
}

/// One node on its way to the new operator set.
struct Step<'a> {
    node: &'a mut NodeProto,
    opset: i64,
    names: &'a mut Names,
    initializers: &'a mut Vec<TensorProto>,
}

impl Step<'_> {
    /// Rewrites the node; `None` when it is not known how.
    fn rewrite(&mut self, softmax_axis: impl FnOnce() -> Option<i64>) -> Option<()> {
        let opset = self.opset;
        let op_type = self.node.op_type.clone();
        match op_type.as_str() {
            "BatchNormalization" if opset < 9 => {
                if self.take("spatial").is_some_and(|spatial| spatial.i != 1) {
                    return None;
                }
            }
            "Clip" if opset < 11 => {
                let (min, max) = (self.take("min"), self.take("max"));
                self.float(min.as_ref(), "min", 1);
                self.float(max.as_ref(), "max", 2);
            }
            "Dropout" if opset < 12 => {
                let ratio = self.take("ratio");
                self.float(ratio.as_ref(), "ratio", 1);
            }
            "Pad" if opset < 11 => {
                let (pads, value) = (self.take("pads")?, self.take("value"));
                self.ints(&pads.ints, "pads", 1);
                self.float(value.as_ref(), "value", 2);
            }
            "Slice" if opset < 10 => {
                let (starts, ends, axes) = (self.take("starts")?, self.take("ends")?, self.take("axes"));
                self.ints(&starts.ints, "starts", 1);
                self.ints(&ends.ints, "ends", 2);
                if let Some(axes) = axes {
                    self.ints(&axes.ints, "axes", 3);
                }
            }
            "Softmax" if opset < 13 => {
                let axis = softmax_axis()?;
                self.take("axis");
                self.node.attribute.push(tensors::int("axis", axis));
            }
            "Squeeze" | "Unsqueeze" | "ReduceSum" if opset < 13 => {
                if let Some(axes) = self.take("axes") {
                    self.ints(&axes.ints, "axes", 1);
                }
            }
            "Split" if opset < 13 => {
                if let Some(sizes) = self.take("split") {
                    self.ints(&sizes.ints, "split", 1);
                }
            }
            // Changed before this operator set: it is as in 13 already.
            "BatchNormalization" | "Clip" | "Dropout" | "Pad" | "Slice" => {}
            _ => return None,
        }
        Some(())
    }

    /// Takes an attribute off the node.
    fn take(&mut self, name: &str) -> Option<AttributeProto> {
        let at = self.node.attribute.iter().position(|a| a.name == name)?;
        Some(self.node.attribute.remove(at))
    }

    fn float(&mut self, attribute: Option<&AttributeProto>, name: &str, at: usize) {
        if let Some(attribute) = attribute.filter(|a| a.r#type == attribute_type::FLOAT) {
            let name = self.input(name, at);
            self.initializers.push(tensors::floats(name, vec![], &[attribute.f]));
        }
    }

    fn ints(&mut self, ints: &[i64], name: &str, at: usize) {
        let name = self.input(name, at);
        self.initializers.push(tensors::longs(name, vec![ints.len() as i64], ints));
    }

    /// Makes input `at` a constant that is yet to be added; gives its name.
    fn input(&mut self, name: &str, at: usize) -> String {
        let output = self.node.output.first().map_or("", String::as_str);
        let name = self.names.value(&format!("{output}_{name}"));
        self.node.input.resize(self.node.input.len().max(at + 1), String::new());
        self.node.input[at].clone_from(&name);
        name
    }
}
