//! Builds small ONNX files.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{fs, path::Path};

use prost::Message;
use qtuned::onnx::proto::*;

/// A dimension: a number or a symbol.
#[derive(Clone, Copy)]
pub(crate) enum Dim {
    Number(i64),
    Open(&'static str),
}
pub(crate) use Dim::{Number, Open};

pub(crate) const BATCH: Dim = Open("N");

pub(crate) fn value(name: &str, elem_type: i32, dims: &[Dim]) -> ValueInfoProto {
    let dim = |dim: &Dim| {
        let value = match dim {
            Number(number) => dimension_proto::Value::DimValue(*number),
            Open(symbol) => dimension_proto::Value::DimParam((*symbol).to_owned()),
        };
        DimensionProto { value: Some(value), ..Default::default() }
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let r#type = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }), ..Default::default() });
    ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INTS, ints: values.to_vec(), ..Default::default() }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INT, i, ..Default::default() }
}

/// A model under construction.
#[derive(Clone)]
pub(crate) struct Build {
    pub(crate) model: ModelProto,
}

impl Build {
    pub(crate) fn new(inputs: &[ValueInfoProto], outputs: &[&str]) -> Build {
        let output = |name: &&str| ValueInfoProto { name: (*name).to_owned(), ..Default::default() };
        let graph = GraphProto {
            name: "small".to_owned(),
            input: inputs.to_vec(),
            output: outputs.iter().map(output).collect(),
            ..Default::default()
        };
        let set = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let opset_import = vec![set("", 13), set("odd", 1)];
        Build { model: ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() } }
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    pub(crate) fn node(mut self, op_type: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) -> Build {
        let (domain, op_type) = op_type.split_once("::").unwrap_or(("", op_type));
        self.graph().node.push(NodeProto {
            name: format!("make_{output}"),
            domain: domain.to_owned(),
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attributes.to_vec(),
            ..Default::default()
        });
        self
    }

    pub(crate) fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Build {
        self.graph().initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: data_type::FLOAT,
            float_data: data.to_vec(),
            ..Default::default()
        });
        self
    }

    pub(crate) fn longs(mut self, name: &str, data: &[i64]) -> Build {
        self.graph().initializer.push(TensorProto {
            name: name.to_owned(),
            dims: vec![data.len() as i64],
            data_type: data_type::INT64,
            int64_data: data.to_vec(),
            ..Default::default()
        });
        self
    }

    /// A 3×3 convolution of 2 output channels with padding, ReLU, and the mean of each channel: `y`, or another name.
    pub(crate) fn classifier(self, input: &str, channels: usize, output: &str) -> Build {
        let names = ["w", "r", "c", "p"].map(|name| format!("{output}_{name}"));
        let [w, r, c, p] = names.each_ref().map(String::as_str);
        self.floats(w, &[2, channels as i64, 3, 3], &weight(channels))
            .node("Conv", &[input, w], c, &[ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])])
            .node("Relu", &[c], r, &[])
            .node("GlobalAveragePool", &[r], p, &[])
            .node("Flatten", &[p], output, &[int("axis", 1)])
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>) {
        fs::write(path, self.model.encode_to_vec()).unwrap();
    }
}

pub(crate) fn weight(channels: usize) -> Vec<f32> {
    (0..2 * channels * 9).map(|i| ((i * 7) % 11) as f32 / 8.0 - 0.5).collect()
}
