//! The network in a qconfig as other engines run it: the original ONNX file with QuantizeLinear and DequantizeLinear
//! around what is quantized.
//!
//! What changes in the file is this, and nothing else; whatever is left keeps its name:
//!
//! * A pair of QuantizeLinear and DequantizeLinear stands behind each int8 group, and before it where its input is not on
//!   the wanted grid yet. Where a qconfig uses fewer integers than the type has, a Clip of integers stands in between.
//! * Between a layer and an addition that takes its sum as it is (`residual: fused`) there is no pair, whatever the target.
//! * Layers in fp32 that read integers have a DequantizeLinear of their own, with a scale for each channel, all the same:
//!   ONNX Runtime would quantize their weights otherwise.
//! * For OpenVINO, a DequantizeLinear that only 1×1 convolutions with a stride read has as its scale what another one gives of
//!   the integer 1: OpenVINO would run these convolutions in f32 otherwise.
//! * Weights of int8 groups are s8 and biases s32, each behind a DequantizeLinear.
//! * What the importer folds into an int8 `Conv`, `Gemm` or `MatMul` is folded in the file too: BatchNormalization, sums
//!   and products with constants, also those apart from it, and the factors `alpha` and `beta`. Of what is folded into a
//!   `MatMul`, the first node becomes the addition of its bias.
//! * An operator set that is too old for all this becomes 13. The nodes rewritten for that are those of
//!   `export/opset.rs`; a file with others is refused.
//! * What only the changed nodes read is left out.
//! * Where a qconfig rounds as OpenVINO does, an entry `qtuned.rounding` of the metadata says so: nothing else in a file can.

mod external;
mod imported;
mod layer;
mod lists;
mod opset;
mod rewrite;
mod strides;
mod tensors;

use std::{io, path::Path, path::PathBuf};

use prost::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use imported::imported;
pub use lists::{Tool, list};

use crate::{
    graph::{GroupId, Groups},
    onnx::{
        Model,
        proto::{
            GraphProto, ModelProto, StringStringEntryProto, TensorTypeProto, TypeProto, ValueInfoProto,
            dimension_proto::Value,
        },
    },
    ptq::Converted,
    quant::{QConfigFile, Rounding},
};

/// The file that is exported, and what it was imported as.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file's bytes.
    pub bytes: &'a [u8],
    /// Where its external data is.
    pub folder: &'a Path,
    /// What these bytes were imported as.
    pub model: &'a Model,
    /// Its groups.
    pub groups: &'a Groups,
}

/// A model written for other engines.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The ONNX file.
    pub model: Vec<u8>,
    /// What goes into the file of external data beside it, where the original has external data.
    pub data: Option<Vec<u8>>,
    /// The integers that each int8 group writes.
    pub probes: Vec<Probe>,
    /// Whether every size of every input is a number.
    pub fixed_shapes: bool,
}

/// The integers that an int8 group writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The group.
    pub group: GroupId,
    /// Name of the value.
    pub value: String,
    /// Its type.
    element_type: i32,
}

impl Exported {
    /// The ONNX file with the integers of the groups as further outputs, for comparing engines layer by layer.
    ///
    /// # Errors
    /// Bytes that are no ONNX message.
    pub fn probed(&self) -> Result<Vec<u8>, prost::DecodeError> {
        let mut proto = ModelProto::decode(&self.model[..])?;
        if let Some(graph) = &mut proto.graph {
            graph.output.extend(self.probes.iter().map(|probe| {
                let tensor_type = Some(TensorTypeProto { elem_type: probe.element_type, shape: None });
                let r#type = Some(TypeProto { tensor_type, ..Default::default() });
                ValueInfoProto { name: probe.value.clone(), r#type, ..Default::default() }
            }));
        }
        Ok(proto.encode_to_vec())
    }
}

/// Whose rules the file follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Those of ONNX Runtime, which others accept too: whatever must stay in fp32 is kept from its optimizer. It runs a layer
    /// in integers only where QuantizeLinear is next: one that `residual: fused` leaves unrounded it runs in fp32.
    #[default]
    OnnxRuntime,
    /// OpenVINO's: layers without quantized weights stay in fp32 by themselves. It runs additions of either residual in
    /// integers, and of a sum that has a pair before it takes only the range: what is measured here is what it computes with
    /// its own rounding, `preset: openvino`.
    OpenVino,
    /// TensorRT's: activations in s8 with zero point 0, biases in fp32, and nothing between QuantizeLinear and
    /// DequantizeLinear. Where a qconfig leaves out the lowest integer, the file does not. Of an addition it wants a pair on
    /// the operand that no layer feeds, and none on the other, which is `residual: fused`; with `rounded` it runs layer and
    /// addition apart. That is from its manual: no TensorRT has run these files.
    TensorRt,
}

impl Target {
    /// The engine that a network is for, as far as its qconfig says: OpenVINO where it rounds as that does.
    pub fn of(network: &Converted) -> Target {
        match Rounding::of(&network.qconfigs).is_openvino() {
            true => Target::OpenVino,
            false => Target::default(),
        }
    }
}

/// Key of the metadata that names the rounding.
const ROUNDING: &str = "qtuned.rounding";

/// What keeps a model from being exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The bytes are not what the model was imported from.
    #[error("not an ONNX model, or another one than the qconfig is for")]
    Source,
    /// A node that ONNX cannot quantize as the engine does.
    #[error("node `{node}` (`{op_type}`) {reason}")]
    Node {
        /// Its name in the graph.
        node: String,
        /// Its operator.
        op_type: String,
        /// Why not, and what helps.
        reason: String,
    },
    /// Something of the file as a whole.
    #[error("{0}")]
    Model(String),
    /// A node that is not known to mean the same in a newer operator set.
    #[error(
        "operator set {from} has no scales for each channel, and node `{node}` (`{op_type}`) cannot be carried over to operator set \
         {to}: convert the file with onnx.version_converter first"
    )]
    Opset {
        /// The file's.
        from: i64,
        /// The one that is needed.
        to: i64,
        /// The node.
        node: String,
        /// Its operator.
        op_type: String,
    },
    /// External data could not be read.
    #[error("external data `{}` of tensor `{tensor}` could not be read", path.display())]
    External {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file with the groups quantized as `file` says, which `restored` was made of. `data_name` is the name of the file
/// of external data, used where the original has such data. The file follows the rules of `target`.
///
/// # Errors
/// A node that ONNX cannot express so, an operator set that cannot be raised, or external data that cannot be read.
pub fn qdq(
    source: &Source<'_>,
    file: &QConfigFile,
    restored: &Converted,
    target: Target,
    data_name: &str,
) -> Result<Exported, ExportError> {
    let mut proto = ModelProto::decode(source.bytes).map_err(|_| ExportError::Source)?;
    let quantized = rewrite::quantized(source, file, restored);
    let mut probes = Vec::new();
    if !quantized.is_empty() {
        let nodes = proto.graph.iter().flat_map(|graph| &graph.node);
        if nodes.into_iter().any(|node| node.op_type == "DequantizeLinear") {
            return Err(ExportError::Model("the model is quantized already".to_owned()));
        }
        opset::raise(&mut proto, source.model)?;
        let graph = proto.graph.take().ok_or(ExportError::Source)?;
        let (graph, written) = rewrite::rewrite(source, graph, &quantized, target)?;
        (proto.graph, probes) = (Some(graph), written);
        let rounding = Rounding::of(&restored.qconfigs);
        if rounding != Rounding::default() {
            let entry = StringStringEntryProto { key: ROUNDING.to_owned(), value: rounding.name().to_owned() };
            proto.metadata_props.push(entry);
        }
        // Initializers that are no inputs, and the types of integers, are of IR version 4.
        proto.ir_version = proto.ir_version.max(4);
    }
    let data = external::gather(&mut proto, source.folder, data_name)?;
    let fixed_shapes = proto.graph.as_ref().is_some_and(has_fixed_shapes);
    Ok(Exported { model: proto.encode_to_vec(), data, probes, fixed_shapes })
}

/// Whether every size of an input is a number.
fn is_fixed(input: &ValueInfoProto) -> bool {
    let tensor = input.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref());
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    shape.is_some_and(|shape| shape.dim.iter().all(|size| matches!(size.value, Some(Value::DimValue(_)))))
}

/// Whether every size of every input is a number.
fn has_fixed_shapes(graph: &GraphProto) -> bool {
    let given = graph.input.iter().filter(|input| graph.initializer.iter().all(|tensor| tensor.name != input.name));
    given.into_iter().all(is_fixed)
}
