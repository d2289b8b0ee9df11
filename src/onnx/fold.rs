//! Operators on constants, evaluated while importing: what exporters leave around shapes, bounds and weights.

mod moves;
mod numbers;

use sha2::{Digest, Sha256};

pub(super) use moves::{squeezed, unsqueezed};

use super::{
    array::{Array, Int, Known},
    external::External,
    site::{Refusal, Site},
    tensor,
};

/// Evaluates a node whose inputs are all constant; `None` is a use that is not supported.
pub(super) type Folding = fn(&Site<'_>) -> Result<Option<Known>, Refusal>;

/// How to evaluate an operator on constants.
pub(super) fn folding(op_type: &str) -> Option<Folding> {
    if let Some(folding) = numbers::folding(op_type) {
        return Some(folding);
    }
    Some(match op_type {
        "Concat" => moves::concat,
        "Constant" => constant,
        "ConstantOfShape" => moves::constant_of_shape,
        "Expand" => moves::expand,
        "Flatten" => moves::flatten,
        "Gather" => moves::gather,
        "Identity" => |site| Ok(site.known(0)?.cloned()),
        "Range" => moves::range,
        "Reshape" => moves::reshape,
        "ScatterND" => moves::scatter,
        "Shape" => |site| match site.known(0)? {
            Some(known) => shape(site, known.dims().iter().map(|&dim| Int::Fixed(dim as i64)).collect()),
            None => Ok(None),
        },
        "Size" => |site| Ok(site.known(0)?.map(|known| Known::Ints(Array::scalar(Int::Fixed(known.len() as i64))))),
        "Slice" => moves::slice,
        "Squeeze" => moves::squeeze,
        "Tile" => moves::tile,
        "Transpose" => moves::transpose,
        "Unsqueeze" => moves::unsqueeze,
        _ => return None,
    })
}

/// The entries of a shape that `Shape` gives: all, or from `start` to `end`.
pub(super) fn shape(site: &Site<'_>, dims: Vec<Int>) -> Result<Option<Known>, Refusal> {
    let (start, end) = (site.int("start", 0)?, site.int("end", i64::MAX)?);
    let chosen = super::array::slice_indices(dims.len(), start, end, 1).unwrap_or_default();
    Ok(Array::list(dims).selected(0, &chosen).map(Known::Ints))
}

fn constant(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    if let Some(proto) = site.tensor("value")? {
        let name = site.node.output.first().map_or("", String::as_str);
        // A Constant's data is part of the node: the format has no external data here.
        let known = tensor::known(proto, &mut External::new(None, Sha256::new()));
        return known.map(Some).map_err(|error| Refusal::Error(error.of(name)));
    }
    if let Some(floats) = site.floats("value_floats")? {
        return Ok(Some(Known::Floats(Array::list(floats.to_vec()))));
    }
    if let Some(ints) = site.ints("value_ints")? {
        return Ok(Some(Known::Ints(Array::list(ints.iter().map(|&int| Int::Fixed(int)).collect()))));
    }
    if site.has_attribute("value_float") {
        return Ok(Some(Known::Floats(Array::scalar(site.float("value_float", 0.0)?))));
    }
    if site.has_attribute("value_int") {
        return Ok(Some(Known::Ints(Array::scalar(Int::Fixed(site.int("value_int", 0)?)))));
    }
    Err("it has no value of a supported type".into())
}
