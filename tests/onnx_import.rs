//! A model written by another tool: its shapes are those that the `onnx` package infers.

use std::{collections::HashMap, path::Path};

use prost::Message;
use qtuned::{
    graph::{Groups, Op},
    onnx::{
        load,
        proto::{ModelProto, dimension_proto::Value},
    },
};

fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/idioms.onnx"))
}

/// Sample shapes by value name, as the file states them; those that are not all numbers are left out.
fn stated_shapes() -> HashMap<String, Vec<usize>> {
    let file = ModelProto::decode(&std::fs::read(model()).unwrap()[..]).unwrap().graph.unwrap();
    let values = file.value_info.into_iter().chain(file.input).chain(file.output);
    let shape = |value: qtuned::onnx::proto::ValueInfoProto| {
        let dims = value.r#type?.tensor_type?.shape?.dim;
        let number = |value: Option<Value>| match value {
            Some(Value::DimValue(number)) => usize::try_from(number).ok(),
            _ => None,
        };
        let sample = dims.into_iter().skip(1).map(|dim| number(dim.value)).collect::<Option<Vec<_>>>()?;
        Some((value.name, sample))
    };
    values.filter_map(shape).collect()
}

#[test]
fn shapes_are_those_that_onnx_infers() {
    let graph = load(model()).unwrap().graph;
    let stated = stated_shapes();
    let mut compared = 0;
    for value in &graph.values {
        if let Some(shape) = stated.get(&value.name) {
            assert_eq!(&value.shape, shape, "{}", value.name);
            compared += 1;
        }
    }
    // All but the flattened features, whose size ONNX leaves open when the batch is a symbol.
    assert!(compared + 1 >= graph.values.len(), "{compared} of {}", graph.values.len());
}

#[test]
fn idioms_become_few_operators() {
    let model = load(model()).unwrap();
    assert_eq!((model.opset, model.producer.as_str()), (17, "idioms.py"));
    let nodes: Vec<&str> = model.graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(
        nodes,
        [
            "/stem/stem.0/Conv",
            "/stem/stem.2/Clip",
            "/block/dw/Conv",
            "/block/Clip",
            "/block/bn/BatchNormalization",
            "/block/Add",
            "/pool/MaxPool",
            "/pool2/AveragePool",
            "/Reshape",
            "/fc1/MatMul",
            "/relu/Relu",
            "/fc2/Gemm",
            "/Softmax",
        ]
    );
    let Op::Conv(depthwise) = &model.graph.nodes[2].op else { panic!() };
    assert_eq!((depthwise.groups, depthwise.window.pads), (8, [2, 2, 2, 2]));
    let groups = Groups::of(&model.graph);
    let ids: Vec<&str> = groups.all().iter().map(|group| group.id.as_str()).collect();
    assert_eq!(ids[..3], ["stem.0", "block.dw", "block.bn"]);
    assert_eq!(model.graph.value(model.graph.outputs[0]).name, "probabilities");
}
