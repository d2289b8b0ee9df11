//! What a model is, in numbers.

use serde_json::json;

use crate::{
    graph::{Graph, Group, Groups, NodeId, ValueId},
    onnx::{FileInput, Model},
    search::Key,
};

/// What the model is, for the record and for other programs.
pub fn model_facts(model: &Model, groups: &Groups) -> serde_json::Value {
    let graph = &model.graph;
    let group = |group: &Group| {
        json!({
            "id": group.id,
            "aliases": group.aliases,
            "object_type": group.object_type,
            "activation": group.activation.map(|node| graph.node(node).op_type.clone()),
            "inputs": group.inputs.iter().map(|value| &graph.value(*value).shape).collect::<Vec<_>>(),
            "output": graph.value(group.output).shape,
            "macs": group.macs,
            "parameters": group.parameters,
        })
    };
    let input = |(&value, file): (&ValueId, &FileInput)| {
        json!({
            "name": graph.value(value).name,
            "shape": graph.value(value).shape,
            "channels_last": file.channels_last,
            "integer": file.integer,
        })
    };
    json!({
        "name": graph.name,
        "sha256": Key(model.digest).to_string(),
        "bytes": model.bytes,
        "opset": model.opset,
        "ir_version": model.ir_version,
        "producer": model.producer,
        "nodes": graph.nodes.len(),
        "macs": macs(graph),
        "parameters": parameters(graph),
        "inputs": graph.inputs.iter().zip(&model.inputs).map(input).collect::<Vec<_>>(),
        "output_names": graph.outputs.iter().map(|value| &graph.value(*value).name).collect::<Vec<_>>(),
        "outputs": graph.outputs.iter().map(|value| &graph.value(*value).shape).collect::<Vec<_>>(),
        "groups": groups.all().iter().map(group).collect::<Vec<_>>(),
    })
}

/// Multiply-accumulates for one sample.
pub fn macs(graph: &Graph) -> u64 {
    (0..graph.nodes.len()).map(|index| graph.macs(NodeId(index))).sum()
}

/// Weights and biases.
pub fn parameters(graph: &Graph) -> u64 {
    (0..graph.nodes.len()).map(|index| graph.parameters(NodeId(index))).sum()
}
