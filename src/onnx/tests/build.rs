//! Builds small models.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use prost::Message;

use crate::{
    engine::{Engine, Inputs},
    graph::{Graph, Groups, Node},
    kernels::Kernels,
    onnx::{import, proto::*},
};

/// A model under construction.
#[derive(Clone)]
pub(super) struct Build {
    pub(super) model: ModelProto,
}

impl Build {
    /// A model of one operator set, with one input `x` of `[N, shape...]`.
    pub(super) fn new(opset: i64, shape: &[i64]) -> Build {
        let set = OperatorSetIdProto { domain: String::new(), version: opset };
        let graph = GraphProto { name: "test".to_owned(), ..Default::default() };
        let mut build = Build {
            model: ModelProto { ir_version: 8, opset_import: vec![set], graph: Some(graph), ..Default::default() },
        };
        let batch = dimension_proto::Value::DimParam("N".to_owned());
        let rest = shape.iter().map(|&dim| dimension_proto::Value::DimValue(dim));
        let dim = std::iter::once(batch)
            .chain(rest)
            .map(|value| DimensionProto { value: Some(value), ..Default::default() })
            .collect();
        build.graph().input.push(tensor_value("x", data_type::FLOAT, dim));
        build
    }

    pub(super) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    /// Makes the leading dimension a number.
    pub(super) fn batch(mut self, number: i64) -> Build {
        let tensor = self.graph().input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        tensor.shape.as_mut().unwrap().dim[0].value = Some(dimension_proto::Value::DimValue(number));
        self
    }

    pub(super) fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Build {
        self.graph().initializer.push(floats(name, dims, data));
        self
    }

    /// Floats that are all different and exact in binary.
    pub(super) fn weight(self, name: &str, dims: &[i64]) -> Build {
        let count: i64 = dims.iter().product();
        let data: Vec<f32> = (0..count).map(|i| (i as f32 - 3.0) / 16.0).collect();
        self.floats(name, dims, &data)
    }

    pub(super) fn ints(mut self, name: &str, dims: &[i64], data: &[i64]) -> Build {
        self.graph().initializer.push(ints(name, dims, data));
        self
    }

    /// A node without a name; an empty input is one left out.
    pub(super) fn node(self, op: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) -> Build {
        self.named("", op, inputs, output, attributes)
    }

    pub(super) fn named(
        mut self,
        name: &str,
        op_type: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[AttributeProto],
    ) -> Build {
        self.graph().node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            attribute: attributes.to_vec(),
            ..Default::default()
        });
        self
    }

    pub(super) fn output(mut self, name: &str) -> Build {
        self.graph().output.push(ValueInfoProto { name: name.to_owned(), ..Default::default() });
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// The graph, with `y` as output.
    pub(super) fn import(self) -> Graph {
        import(&self.output("y").bytes(), None).map_err(|error| chain(&error)).unwrap().graph
    }

    /// The only node and the shape of `y`.
    pub(super) fn single(self) -> (Node, Vec<usize>) {
        let graph = self.import();
        assert_eq!(graph.nodes.len(), 1, "{:?}", graph.nodes);
        (graph.nodes[0].clone(), shape(&graph))
    }

    /// The error, with `y` as output.
    pub(super) fn error(self) -> String {
        error(&self.output("y").bytes())
    }
}

/// The error that these bytes are.
pub(super) fn error(bytes: &[u8]) -> String {
    chain(&import(bytes, None).unwrap_err())
}

/// An error and its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Shape of the first output.
pub(super) fn shape(graph: &Graph) -> Vec<usize> {
    graph.value(graph.outputs[0]).shape.clone()
}

/// What the first output is on made-up numbers.
pub(super) fn computed(graph: Graph) -> Vec<f32> {
    let shape = graph.value(graph.inputs[0]).shape.clone();
    let numbers: Vec<f32> =
        (0..2 * shape.iter().product::<usize>()).map(|i| ((i * 37) % 101) as f32 / 32.0 - 1.5).collect();
    let x = match *shape {
        [c, h, w] => Inputs::pictures(numbers, 2, [h, w, c]).unwrap(),
        _ => {
            let dims: Vec<usize> = std::iter::once(2).chain(shape).collect();
            Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap().into()
        }
    };
    let groups = Arc::new(Groups::of(&graph));
    let engine = Engine::new(Arc::new(graph), groups, Kernels::detect().unwrap());
    let plan = engine.fp32_plan();
    let y = plan.run(&x, false).unwrap().remove(0);
    y.flatten_all().unwrap().to_vec1().unwrap()
}

/// Operators in order.
pub(super) fn op_types(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.op_type.as_str()).collect()
}

pub(super) fn tensor_value(name: &str, elem_type: i32, dim: Vec<DimensionProto>) -> ValueInfoProto {
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) });
    let r#type = Some(TypeProto { tensor_type, ..Default::default() });
    ValueInfoProto { name: name.to_owned(), r#type, ..Default::default() }
}

pub(super) fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: data_type::FLOAT,
        raw_data: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ..Default::default()
    }
}

pub(super) fn ints(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: data_type::INT64,
        int64_data: data.to_vec(),
        ..Default::default()
    }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type, ..Default::default() }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, attribute_type::INT) }
}

pub(super) fn int_list(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, attribute_type::INTS) }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attribute(name, attribute_type::FLOAT) }
}

pub(super) fn float_list(name: &str, floats: &[f32]) -> AttributeProto {
    AttributeProto { floats: floats.to_vec(), ..attribute(name, attribute_type::FLOATS) }
}

pub(super) fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attribute(name, attribute_type::STRING) }
}

pub(super) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), ..attribute(name, attribute_type::TENSOR) }
}
