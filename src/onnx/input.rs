//! The inputs of a file's graph that samples go to.

use std::collections::HashSet;

use super::{
    array::count,
    error::OnnxError,
    proto::{GraphProto, ValueInfoProto, data_type, dimension_proto},
    reading::{Fixed, Reading},
    tensor::MAX_ELEMENTS,
    view::{Axes, Factor, plain},
};
use crate::graph::{SampleShape, Value};

/// Where samples enter.
pub(super) struct Entry {
    /// The value, without the batch.
    pub(super) value: Value,
    /// How the file's tensor lies in it: pictures whose channels come last in the file have them first here.
    pub(super) axes: Axes,
    /// Its name in the file.
    pub(super) name: String,
    /// Whether it holds integers in the file.
    pub(super) integer: bool,
    /// The number that the file gives the batch, when it gives one. Any batch can be run all the same: a
    /// network exported for one picture at a time computes each picture alone.
    pub(super) batch: Option<i64>,
}

/// Finds the inputs that samples go to, and the values of those that are fixed; a constant that is listed as an input too
/// is none.
pub(super) fn entries(file: &GraphProto, reading: &Reading) -> Result<(Vec<Entry>, Fixed), OnnxError> {
    let constants: HashSet<&str> = file.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs: Vec<&ValueInfoProto> =
        file.input.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    let (chosen, fixed) = reading.choose_inputs(&inputs)?;
    let entries: Vec<Entry> = chosen.into_iter().map(|input| entry(file, input, reading)).collect::<Result<_, _>>()?;
    let mut numbers = entries.iter().filter_map(|entry| Some((&entry.name, entry.batch?)));
    if let Some((first, batch)) = numbers.next()
        && let Some((other, another)) = numbers.find(|(_, number)| *number != batch)
    {
        let reason = format!(
            "input `{first}` has a batch of {batch}, and input `{other}` one of {another}: samples go to inputs whose \
             leading dimension is the batch, others are a number each (model.fixed)"
        );
        return Err(OnnxError::Model(reason));
    }
    Ok((entries, fixed))
}

fn entry(file: &GraphProto, input: &ValueInfoProto, reading: &Reading) -> Result<Entry, OnnxError> {
    if input.name.is_empty() {
        return Err(OnnxError::Model("the graph's input has no name".to_owned()));
    }
    let (batch, shape) =
        typed(input, reading).map_err(|reason| OnnxError::Model(format!("input `{}` {reason}", input.name)))?;
    let (shape, axes) = channels_first(shape, is_turned(file, &input.name));
    let element = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).map(|tensor| tensor.elem_type);
    let integer = element.is_some_and(|element| data_type::INTS.contains(&element));
    let name = input.name.clone();
    Ok(Entry { value: Value { name: name.clone(), shape }, name, integer, axes, batch })
}

/// Pictures whose channels come last in the file have them first in the value: those that the file itself turns, and
/// those that look like it.
fn channels_first(shape: SampleShape, turned: bool) -> (SampleShape, Axes) {
    const CHANNELS: [usize; 3] = [1, 3, 4];
    match shape[..] {
        [h, w, c] if turned || (CHANNELS.contains(&c) && h >= 8 && w >= 8) => {
            let axis = |axis| vec![Factor::Axis(axis)];
            (vec![c, h, w], vec![vec![Factor::Batch], axis(1), axis(2), axis(0)])
        }
        _ => {
            let axes = plain(shape.len());
            (shape, axes)
        }
    }
}

/// Whether a node transposes the input from channels last to channels first.
fn is_turned(file: &GraphProto, input: &str) -> bool {
    file.node.iter().any(|node| {
        node.op_type == "Transpose"
            && node.input.first().is_some_and(|name| name == input)
            && node.attributes().get("perm").is_some_and(|perm| perm.ints == [0, 3, 1, 2])
    })
}

fn typed(input: &ValueInfoProto, reading: &Reading) -> Result<(Option<i64>, SampleShape), String> {
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).ok_or("is not a tensor")?;
    let known = data_type::FLOATS.iter().chain(&data_type::INTS).chain([&data_type::BOOL]);
    if !known.clone().any(|&known| known == tensor.elem_type) {
        return Err(format!("has elements of type {}; only numbers are supported", tensor.elem_type));
    }
    let shape = reading.sample_shape(&input.name, tensor)?;
    if count(&shape).is_none_or(|elements| elements > MAX_ELEMENTS) {
        return Err("is too large".to_owned());
    }
    let batch = tensor.shape.as_ref().and_then(|shape| shape.dim.first()?.value.as_ref());
    let batch = match batch {
        Some(dimension_proto::Value::DimValue(number)) if *number > 0 => Some(*number),
        _ => None,
    };
    Ok((batch, shape))
}
