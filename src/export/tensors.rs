//! Messages that the export adds to a file.

use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto, attribute_type, data_type};

/// A tensor of f32.
pub(super) fn floats(name: String, dims: Vec<i64>, data: &[f32]) -> TensorProto {
    tensor(name, dims, data_type::FLOAT, data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A tensor of s64.
pub(super) fn longs(name: String, dims: Vec<i64>, data: &[i64]) -> TensorProto {
    tensor(name, dims, data_type::INT64, data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A tensor of s32.
pub(super) fn ints(name: String, dims: Vec<i64>, data: &[i32]) -> TensorProto {
    tensor(name, dims, data_type::INT32, data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A tensor of bytes of this type.
pub(super) fn bytes(name: String, dims: Vec<i64>, data_type: i32, data: Vec<u8>) -> TensorProto {
    tensor(name, dims, data_type, data)
}

fn tensor(name: String, dims: Vec<i64>, data_type: i32, raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name, dims, data_type, raw_data, ..Default::default() }
}

/// A node with one output.
pub(super) fn node(name: String, op_type: &str, input: Vec<String>, output: String) -> NodeProto {
    NodeProto { name, op_type: op_type.to_owned(), input, output: vec![output], ..Default::default() }
}

/// An integer attribute.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: attribute_type::INT, i, ..Default::default() }
}
