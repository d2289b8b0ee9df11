//! Files that are quantized already: what QuantizeLinear and DequantizeLinear mean to a network in f32.
//!
//! Constants become the floats that their DequantizeLinear gives. Around values the operators are taken for nothing: on
//! which grids a file quantizes its values is read by [`crate::export::imported`].

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    error::OnnxError,
    external,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_type, data_type},
    tensor,
};

/// Elements of constants that may be read again, for another node.
const READ_AGAIN: usize = 1 << 24;

/// A constant in integers.
struct Integers {
    dims: Vec<i64>,
    data: Vec<i32>,
}

/// Rewrites a graph without its quantization. Every node stays where it is. Gives the names of the constants that are
/// in integers in the file.
pub(super) fn strip(file: &mut GraphProto, folder: Option<&Path>) -> Result<HashSet<String>, OnnxError> {
    let quantizes = |node: &NodeProto| matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear");
    let mut constant_names = HashSet::new();
    if !file.node.iter().any(quantizes) {
        return Ok(constant_names);
    }
    let tensors: HashMap<&str, &TensorProto> = file.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let constants = Constants { tensors, folder };
    let outputs = file.node.iter().flat_map(|node| &node.output);
    let values: HashSet<&str> = outputs.chain(file.input.iter().map(|input| &input.name)).map(String::as_str).collect();
    // A small file must not ask for the same constant over and over until memory is gone.
    let (mut read, mut left) = (HashSet::new(), READ_AGAIN);
    let mut spend = |name: &str, elements: usize| {
        if !read.insert(name.to_owned()) {
            left = left.checked_sub(elements).ok_or("its constant is read too often in this model")?;
        }
        Ok::<(), String>(())
    };
    // Integers by the name of the value, constant or not.
    let mut folded: HashMap<String, Integers> = HashMap::new();
    let mut given: HashSet<&str> = HashSet::new();
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut changes: Vec<(usize, NodeProto)> = Vec::new();
    let mut integers: HashSet<&str> = HashSet::new();
    for (index, node) in file.node.iter().enumerate() {
        let input = node.input.first().map_or("", String::as_str);
        let output = node.output.first().map_or("", String::as_str);
        let refused =
            |reason: String| OnnxError::Node { node: node.name.clone(), op_type: node.op_type.clone(), reason };
        match node.op_type.as_str() {
            "QuantizeLinear" => {
                integers.insert(output);
                if let Some(tensor) = constants.tensors.get(input) {
                    let floats = constants.floats(tensor).map_err(&refused)?;
                    spend(input, floats.len()).map_err(&refused)?;
                    let steps = constants.steps(node, &tensor.dims).map_err(&refused)?;
                    let (low, high) = steps.limits;
                    let quantize = |(at, &x): (usize, &f32)| {
                        let (scale, zero) = steps.at(at);
                        ((x / scale).round_ties_even() as i32).saturating_add(zero).clamp(low, high)
                    };
                    let data = floats.iter().enumerate().map(quantize).collect();
                    folded.insert(output.to_owned(), Integers { dims: tensor.dims.clone(), data });
                }
                changes.push((index, identity(node)));
            }
            "Clip" if integers.contains(input) => {
                integers.insert(output);
                changes.push((index, identity(node)));
            }
            "DequantizeLinear" => {
                let own;
                let constant = match (constants.tensors.get(input), folded.get(input)) {
                    (Some(tensor), _) => {
                        own = constants.integers(tensor).map_err(&refused)?;
                        Some(&own)
                    }
                    (None, folded) => folded,
                };
                let Some(constant) = constant else {
                    changes.push((index, identity(node)));
                    continue;
                };
                spend(input, constant.data.len()).map_err(&refused)?;
                let steps = constants.steps(node, &constant.dims).map_err(&refused)?;
                let dequantize = |(at, &q): (usize, &i32)| {
                    let (scale, zero) = steps.at(at);
                    (q.wrapping_sub(zero)) as f32 * scale
                };
                let data: Vec<u8> =
                    constant.data.iter().enumerate().map(dequantize).flat_map(f32::to_le_bytes).collect();
                // A weight goes on having the name that it had before it was quantized.
                let original = input.strip_suffix("_quantized").unwrap_or(output);
                let taken =
                    constants.tensors.contains_key(original) || values.contains(original) || !given.insert(original);
                let name = if taken { output } else { original };
                constant_names.insert(name.to_owned());
                if name != output {
                    renamed.insert(output.to_owned(), name.to_owned());
                }
                changes.push((index, floats(node, name, constant.dims.clone(), data)));
            }
            _ => {}
        }
    }
    for (index, node) in changes {
        file.node[index] = node;
    }
    for input in file.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(name) = renamed.get(input) {
            input.clone_from(name);
        }
    }
    Ok(constant_names)
}

/// The node as one that gives what it reads.
fn identity(node: &NodeProto) -> NodeProto {
    NodeProto {
        op_type: "Identity".to_owned(),
        input: node.input.iter().take(1).cloned().collect(),
        attribute: Vec::new(),
        ..node.clone()
    }
}

/// The node as a constant.
fn floats(node: &NodeProto, name: &str, dims: Vec<i64>, raw_data: Vec<u8>) -> NodeProto {
    let tensor = TensorProto { dims, data_type: data_type::FLOAT, raw_data, ..Default::default() };
    let value = AttributeProto {
        name: "value".to_owned(),
        r#type: attribute_type::TENSOR,
        t: Some(tensor),
        ..Default::default()
    };
    NodeProto {
        op_type: "Constant".to_owned(),
        input: Vec::new(),
        output: vec![name.to_owned()],
        attribute: vec![value],
        ..node.clone()
    }
}

/// The initializers of a file.
struct Constants<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    folder: Option<&'a Path>,
}

/// Scales and zero points over the elements of a tensor.
struct Steps {
    scales: Vec<f32>,
    zeros: Vec<i32>,
    /// Elements from one channel to the next.
    stride: usize,
    /// Of the integer type.
    limits: (i32, i32),
}

impl Steps {
    fn at(&self, element: usize) -> (f32, i32) {
        let channel = element / self.stride % self.scales.len();
        (self.scales[channel], self.zeros.get(channel).copied().unwrap_or(0))
    }
}

impl Constants<'_> {
    fn steps(&self, node: &NodeProto, dims: &[i64]) -> Result<Steps, String> {
        let constant = |at: usize, what: &str| {
            let name = node.input.get(at).filter(|name| !name.is_empty());
            let found = name.map(|name| self.tensors.get(name.as_str()).copied());
            match found {
                None => Ok(None),
                Some(Some(tensor)) => Ok(Some(tensor)),
                Some(None) => Err(format!("its {what} is not a constant of the file")),
            }
        };
        let scale = constant(1, "scale")?.ok_or("its scale is missing")?;
        let scales = self.floats(scale)?;
        let zero = constant(2, "zero point")?;
        let zeros = zero.map(|tensor| self.integers(tensor)).transpose()?.map_or_else(Vec::new, |z| z.data);
        let limits =
            if zero.is_some_and(|tensor| tensor.data_type == data_type::INT8) { (-128, 127) } else { (0, 255) };
        if scales.is_empty() || (!zeros.is_empty() && zeros.len() != scales.len()) {
            return Err("its scales and zero points are not as many".to_owned());
        }
        if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err("a scale is not above 0".to_owned());
        }
        let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(1, |a| a.i);
        let axis = if axis < 0 { axis.saturating_add(dims.len() as i64) } else { axis };
        let mut stride = 1usize;
        if scales.len() > 1 {
            let at = usize::try_from(axis).ok().filter(|&at| at < dims.len());
            let at = at.ok_or_else(|| format!("axis {axis} is outside its {} dimensions", dims.len()))?;
            if usize::try_from(dims[at]).ok() != Some(scales.len()) {
                return Err(format!("{} scales do not fit {} channels", scales.len(), dims[at]));
            }
            for &dim in &dims[at + 1..] {
                stride = usize::try_from(dim).ok().and_then(|dim| stride.checked_mul(dim)).ok_or("it is too large")?;
            }
        }
        Ok(Steps { scales, zeros, stride: stride.max(1), limits })
    }

    fn floats(&self, tensor: &TensorProto) -> Result<Vec<f32>, String> {
        if tensor.data_type != data_type::FLOAT {
            return Err(format!("`{}` has elements of type {}, not 32-bit floats", tensor.name, tensor.data_type));
        }
        if tensor.raw_data.is_empty() && tensor.data_location != 1 {
            check(tensor, tensor.float_data.len())?;
            return Ok(tensor.float_data.clone());
        }
        let bytes = self.bytes(tensor, 4)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    fn integers(&self, tensor: &TensorProto) -> Result<Integers, String> {
        let width = match tensor.data_type {
            data_type::UINT8 | data_type::INT8 => 1,
            data_type::INT32 => 4,
            other => {
                return Err(format!("`{}` has elements of type {other}, not 8-bit or 32-bit integers", tensor.name));
            }
        };
        let dims = tensor.dims.clone();
        if tensor.raw_data.is_empty() && tensor.data_location != 1 {
            check(tensor, tensor.int32_data.len())?;
            return Ok(Integers { dims, data: tensor.int32_data.clone() });
        }
        let bytes = self.bytes(tensor, width)?;
        let data = match tensor.data_type {
            data_type::UINT8 => bytes.iter().map(|&b| i32::from(b)).collect(),
            data_type::INT8 => bytes.iter().map(|&b| i32::from(b as i8)).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect(),
        };
        Ok(Integers { dims, data })
    }

    /// The bytes of a tensor, as many as its dimensions say.
    fn bytes(&self, tensor: &TensorProto, width: usize) -> Result<Vec<u8>, String> {
        if tensor.data_location != 1 {
            check(tensor, tensor.raw_data.len() / width)?;
            return Ok(tensor.raw_data.clone());
        }
        let folder = self.folder.ok_or("its data is in another file, and there is no folder to look in")?;
        let data = external::region(folder, tensor).and_then(|region| region.read());
        let data = data.map_err(|error| format!("tensor `{}`: {error}", tensor.name))?;
        check(tensor, data.len() / width)?;
        Ok(data)
    }
}

/// Whether a tensor has as many elements as its dimensions say.
fn check(tensor: &TensorProto, found: usize) -> Result<(), String> {
    let dims = tensor::dims(&tensor.dims).map_err(|error| format!("tensor `{}`: {error}", tensor.name))?;
    match super::array::count(&dims) {
        Some(count) if count == found => Ok(()),
        _ => Err(format!("tensor `{}` has {found} elements, which its dimensions do not say", tensor.name)),
    }
}
