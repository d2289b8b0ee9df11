//! How a file is read where it leaves something open.

use std::{collections::BTreeMap, fmt, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Model, OnnxError,
    array::{Array, Int, Known, count},
    import,
    proto::{DimensionProto, GraphProto, TensorTypeProto, ValueInfoProto, data_type, dimension_proto},
    tensor::MAX_RANK,
};
use crate::graph::SampleShape;

/// What is asked for where a file leaves the shape open.
const ASK: &str = "model.shape says the shape of a sample";

/// Most elements that one number may fill.
const MAX_FILLED: usize = 1 << 24;

/// What a file leaves open, said by whoever reads it: which of several inputs the samples go to, sizes that are no
/// numbers, which of several outputs counts. By default nothing, which is enough for most files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The only input that samples go to; when not given, all that are not in `fixed`.
    pub input: Option<String>,
    /// What samples give each input.
    pub shape: Option<SampleShapes>,
    /// The other inputs, each filled with a number: a constant from then on. A size that is open is 1.
    pub fixed: BTreeMap<String, f64>,
    /// The output that the network is read up to; what only other outputs need is left out. All when not given.
    pub output: Option<String>,
}

/// Sizes of one sample, in the order of the file and without the batch. Written by `Debug` as plain lists and maps, which
/// keys of trials are made of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected sizes such as [3, 224, 224], or sizes by names of inputs: {ids: [128], mask: [128]}"
)]
pub enum SampleShapes {
    /// Of the one input.
    One(Sizes),
    /// Of several, by their names.
    Each(BTreeMap<String, Sizes>),
}

/// Largest size that may be said.
const MAX_SIZE: usize = 1 << 20;

/// Sizes of one sample.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sizes(#[schemars(length(min = 1, max = 7), inner(range(min = 1, max = MAX_SIZE)))] pub Vec<usize>);

impl fmt::Debug for SampleShapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SampleShapes::One(sizes) => sizes.fmt(f),
            SampleShapes::Each(shapes) => shapes.fmt(f),
        }
    }
}

impl fmt::Debug for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Sizes {
    /// Says what is wrong where there are none or too many, or one is 0 or too large.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self) -> Result<(), String> {
        let Sizes(sizes) = self;
        if !(1..MAX_RANK).contains(&sizes.len()) {
            let expected = "expected the 1 to 7 sizes of a sample, without the batch, such as [3, 224, 224]";
            return Err(expected.to_owned());
        }
        match sizes.iter().find(|size| !(1..=MAX_SIZE).contains(size)) {
            Some(size) => Err(format!("expected a whole number from 1 to {MAX_SIZE}, found {size}")),
            None => Ok(()),
        }
    }
}

impl SampleShapes {
    /// [`Sizes::check`] of each.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self) -> Result<(), String> {
        match self {
            SampleShapes::One(sizes) => sizes.check(),
            SampleShapes::Each(shapes) => shapes.values().try_for_each(Sizes::check),
        }
    }
}

/// Inputs that are constants from here on: their names and values.
pub(super) type Fixed = Vec<(String, Known)>;

impl Reading {
    /// Reads and imports an ONNX file; external data must lie in the file's folder.
    ///
    /// # Errors
    /// A file that cannot be read, is no model, or is one that is not supported; or one in which a name is not there.
    pub fn load(&self, path: &Path) -> Result<Model, OnnxError> {
        let bytes = std::fs::read(path).map_err(|source| OnnxError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.import(&bytes, Some(folder)).map_err(|error| error.in_file(path))
    }

    /// Imports a model from bytes in memory.
    ///
    /// External data is read from `folder` and nowhere else; without a folder, a tensor that needs it is an
    /// error. The leading dimension of the graph's input is the batch, whether the file gives it a symbol or
    /// a number.
    ///
    /// # Errors
    /// As for [`Reading::load`].
    pub fn import(&self, bytes: &[u8], folder: Option<&Path>) -> Result<Model, OnnxError> {
        import::import(bytes, folder, self)
    }

    /// Leaves the one output that is wanted, where one is.
    pub(super) fn choose_output(&self, file: &mut GraphProto) -> Result<(), OnnxError> {
        let Some(wanted) = &self.output else { return Ok(()) };
        if !file.output.iter().any(|output| output.name == *wanted) {
            let reason = format!("the graph has no output `{wanted}`; it has {}", listed("output", &file.output));
            return Err(OnnxError::Model(reason));
        }
        file.output.retain(|output| output.name == *wanted);
        Ok(())
    }

    /// Of a graph's inputs those that samples go to, and what the others are.
    pub(super) fn choose_inputs<'a>(
        &self,
        inputs: &[&'a ValueInfoProto],
    ) -> Result<(Vec<&'a ValueInfoProto>, Fixed), OnnxError> {
        let refuse = |reason: String| Err(OnnxError::Model(reason));
        let named = |name: &str| inputs.iter().find(|input| input.name == name).copied();
        let listed = || listed("input", inputs.iter().copied());
        let absent = |name: &str| format!("the graph has no input `{name}`; it has {}", listed());
        let mut fixed = Vec::new();
        for (name, &number) in &self.fixed {
            let Some(input) = named(name) else { return refuse(absent(name)) };
            let known = filled(input, number);
            fixed.push((name.clone(), known.map_err(|e| OnnxError::Model(format!("input `{name}` {e}")))?));
        }
        let open: Vec<&ValueInfoProto> =
            inputs.iter().filter(|input| !self.fixed.contains_key(&input.name)).copied().collect();
        if open.is_empty() {
            return refuse(format!("the graph has no input for samples; it has {}", listed()));
        }
        if let Some(SampleShapes::Each(shapes)) = &self.shape {
            match shapes.keys().find(|name| !open.iter().any(|input| input.name == **name)) {
                Some(name) if named(name).is_some() => {
                    return refuse(format!("input `{name}` is fixed; it takes no shape of samples"));
                }
                Some(name) => return refuse(absent(name)),
                None => {}
            }
        }
        let Some(name) = &self.input else {
            return match (&self.shape, &open[..]) {
                (Some(SampleShapes::One(_)), [_, _, ..]) => refuse(format!(
                    "samples go to {} inputs; model.shape is of one, expected shapes by the names of inputs",
                    open.len()
                )),
                _ => Ok((open, fixed)),
            };
        };
        let chosen = match open.iter().find(|input| input.name == *name) {
            Some(input) => *input,
            None if named(name).is_some() => {
                return refuse(format!("input `{name}` is fixed; samples cannot go there"));
            }
            None => return refuse(absent(name)),
        };
        match open.iter().find(|input| input.name != chosen.name) {
            Some(other) => refuse(format!(
                "input `{}` has no value: samples go to `{}`, and every other input needs a number (model.fixed)",
                other.name, chosen.name
            )),
            None => Ok((vec![chosen], fixed)),
        }
    }

    /// What a sample gives an input: what the file says, and what is said here where that is open.
    pub(super) fn sample_shape(&self, name: &str, tensor: &TensorTypeProto) -> Result<SampleShape, String> {
        let written = tensor.shape.as_ref().map(|shape| &shape.dim[..]);
        let given = match &self.shape {
            None => None,
            Some(SampleShapes::One(sizes)) => Some(&sizes.0[..]),
            Some(SampleShapes::Each(shapes)) => shapes.get(name).map(|sizes| &sizes.0[..]),
        };
        let sizes: Vec<Result<usize, String>> = match (written, given) {
            (Some(dims), _) => dims
                .split_first()
                .ok_or("has no dimensions, and so no batch; model.fixed gives it a number")?
                .1
                .iter()
                .map(size)
                .collect(),
            (None, Some(shape)) => shape.iter().map(|_| Err("unknown".to_owned())).collect(),
            (None, None) => return Err(format!("has no shape; {ASK}")),
        };
        if sizes.is_empty() || sizes.len() >= MAX_RANK {
            let all = sizes.len() + 1;
            return Err(format!("has {all} dimensions; the batch and 1 to {} more are supported", MAX_RANK - 1));
        }
        if let Some(shape) = given.filter(|shape| shape.len() != sizes.len()) {
            let (shape, own) = (times(shape), sizes.len());
            return Err(format!("has {own} dimensions besides the batch; model.shape is {shape}"));
        }
        let size = |(index, found): (usize, Result<usize, String>)| match (found, given.map(|shape| shape[index])) {
            (Ok(own), Some(wanted)) if own != wanted => {
                let given = times(given.unwrap_or_default());
                Err(format!("has dimension {} of {own} in the file; model.shape is {given}", index + 1))
            }
            (Ok(size), _) | (Err(_), Some(size)) => Ok(size),
            (Err(found), None) => {
                let place = index + 1;
                Err(format!("has dimension {place} {found}; all but the leading batch must be positive numbers: {ASK}"))
            }
        };
        sizes.into_iter().enumerate().map(size).collect()
    }
}

/// A size, or what stands in its place.
fn size(dim: &DimensionProto) -> Result<usize, String> {
    match &dim.value {
        Some(dimension_proto::Value::DimValue(number)) => {
            usize::try_from(*number).ok().filter(|&size| size > 0).ok_or_else(|| number.to_string())
        }
        Some(dimension_proto::Value::DimParam(symbol)) => Err(format!("`{symbol}`")),
        None => Err("unknown".to_owned()),
    }
}

/// An input filled with a number, in its element type.
fn filled(input: &ValueInfoProto, number: f64) -> Result<Known, String> {
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).ok_or("is not a tensor")?;
    let dims: Vec<usize> =
        tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim).iter().map(|dim| size(dim).unwrap_or(1)).collect();
    let elements = count(&dims).filter(|&n| n <= MAX_FILLED && dims.len() <= MAX_RANK).ok_or("is too large")?;
    if data_type::FLOATS.contains(&tensor.elem_type) {
        return Ok(Known::Floats(Array { dims, data: vec![number as f32; elements].into() }));
    }
    if tensor.elem_type != data_type::BOOL && !data_type::INTS.contains(&tensor.elem_type) {
        return Err(format!("has elements of type {}; only numbers are supported", tensor.elem_type));
    }
    if number.fract() != 0.0 || number.abs() >= 9e15 {
        return Err(format!("holds integers; {number} is none"));
    }
    Ok(Known::Ints(Array { dims, data: vec![Int::Fixed(number as i64); elements].into() }))
}

/// How many there are, and their names.
fn listed<'a>(what: &str, values: impl IntoIterator<Item = &'a ValueInfoProto>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = values.into_iter().map(|value| format!("`{}`", value.name)).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    match names.len() {
        0 => format!("no {what}s"),
        1 => format!("one {what}: {}", names[0]),
        count => format!("{count} {what}s: {}{more}", names[..count.min(SHOWN)].join(", ")),
    }
}

fn times(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}
