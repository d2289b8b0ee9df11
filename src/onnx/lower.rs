//! ONNX operators to the graph's: one function each, from a node and what is known around it.
//!
//! The functions only look; [`super::import`] makes the values and nodes that they ask for.

mod layers;
mod pointwise;
mod pools;
mod shapes;
mod window;

use super::{
    array::{Int, Known},
    draft::Lowered,
    fold,
    proto::data_type,
    site::{Refusal, Site, Slot},
};
use crate::graph::{Op, SampleShape, ValueId};

/// What becomes of a node.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Nothing can be said: an input comes from an operator that is not supported.
    Unknown,
    /// Its output is another name for a value.
    Alias(ValueId),
    /// Its output is known now.
    Known(Known),
    /// It is computed in steps: the first reads `inputs`, each other one the step before it.
    Steps { inputs: Vec<ValueId>, steps: Vec<Step> },
}

/// One operator, and the shape it writes.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) op: Lowered,
    pub(super) shape: SampleShape,
}

/// Lowers a node at least one of whose inputs is computed.
pub(super) type Lowering = fn(&Site<'_>) -> Result<Outcome, Refusal>;

/// How to lower an operator.
pub(super) fn lowering(op_type: &str) -> Option<Lowering> {
    Some(match op_type {
        "Add" => pointwise::add,
        "AveragePool" => pools::average,
        "BatchNormalization" => layers::batch_normalization,
        "Cast" => cast,
        "Clip" => pointwise::clip,
        "Conv" => layers::conv,
        "Dropout" => dropout,
        "Flatten" => shapes::flatten,
        "Gemm" => layers::gemm,
        "GlobalAveragePool" => pools::global_average,
        "Identity" => |site| Ok(Outcome::Alias(site.value(0)?.0)),
        "MatMul" => layers::mat_mul,
        "MaxPool" => pools::max,
        "ReduceMean" => pools::reduce_mean,
        "Relu" => pointwise::relu,
        "Reshape" => shapes::reshape,
        "Shape" => shape,
        "Softmax" => pointwise::softmax,
        "Squeeze" => shapes::squeeze,
        "Unsqueeze" => shapes::unsqueeze,
        _ => return None,
    })
}

impl Outcome {
    /// A single operator that reads one value.
    fn one(input: ValueId, op: Op, shape: impl Into<SampleShape>) -> Outcome {
        Outcome::Steps { inputs: vec![input], steps: vec![Step { op: Lowered::Op(op), shape: shape.into() }] }
    }

    /// The same elements in another shape; nothing at all when the shape is the same.
    fn reshaped(input: ValueId, old: &[usize], new: Vec<usize>) -> Result<Outcome, Refusal> {
        if new.is_empty() {
            return Err("it leaves no dimension but the batch, which is not supported".into());
        }
        Ok(if new == old { Outcome::Alias(input) } else { Outcome::one(input, Op::Reshape, new) })
    }
}

/// All values are f32, whatever float they are in the file: a conversion between floats is nothing.
fn cast(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let floats = [data_type::FLOAT, data_type::FLOAT16, data_type::DOUBLE].map(i64::from);
    if !floats.contains(&site.int("to", 0)?) {
        return Err(Refusal::Unsupported);
    }
    Ok(Outcome::Alias(site.value(0)?.0))
}

/// Dropout in inference does nothing.
fn dropout(site: &Site<'_>) -> Result<Outcome, Refusal> {
    if site.numbers(2)?.is_some_and(|mode| mode.data.iter().any(|&mode| mode != 0)) {
        return Err("it is in training mode".into());
    }
    Ok(Outcome::Alias(site.value(0)?.0))
}

/// The shape of a value is known now, but for the batch.
fn shape(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (_, shape) = site.value(0)?;
    let rest = shape.iter().map(|&dim| Int::Fixed(dim as i64));
    let dims = std::iter::once(Int::Batch).chain(rest).collect();
    fold::shape(site, dims)?.map(Outcome::Known).ok_or(Refusal::Unsupported)
}

/// Whether an input is constant, for operators that take one in either place.
fn is_known(site: &Site<'_>, index: usize) -> Result<bool, Refusal> {
    Ok(matches!(site.slot(index)?, Slot::Known(..)))
}
