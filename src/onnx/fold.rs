//! Operators on constants, evaluated while importing: what exporters leave around shapes and bounds.

use sha2::{Digest, Sha256};

use super::{
    array::{Array, Int, Known, count, from_end},
    external::External,
    proto::data_type,
    site::{Refusal, Site},
    tensor,
};

/// Evaluates a node whose inputs are all constant; `None` is a use that is not supported.
pub(super) type Folding = fn(&Site<'_>) -> Result<Option<Known>, Refusal>;

/// How to evaluate an operator on constants.
pub(super) fn folding(op_type: &str) -> Option<Folding> {
    Some(match op_type {
        "Add" => |site| arithmetic(site, i64::checked_add, |a, b| a + b, Some(0)),
        "Sub" => |site| arithmetic(site, i64::checked_sub, |a, b| a - b, Some(0)),
        "Mul" => |site| arithmetic(site, i64::checked_mul, |a, b| a * b, Some(1)),
        "Div" => |site| arithmetic(site, i64::checked_div, |a, b| a / b, Some(1)),
        "Cast" => cast,
        "Concat" => concat,
        "Constant" => constant,
        "Gather" => gather,
        "Identity" => |site| Ok(site.known(0)?.cloned()),
        "Reshape" => reshape,
        "Shape" => |site| match site.known(0)? {
            Some(known) => shape(site, known.dims().iter().map(|&dim| Int::Fixed(dim as i64)).collect()),
            None => Ok(None),
        },
        "Slice" => slice,
        "Squeeze" => squeeze,
        "Transpose" => transpose,
        "Unsqueeze" => unsqueeze,
        _ => return None,
    })
}

/// The entries of a shape that `Shape` gives: all, or from `start` to `end`.
pub(super) fn shape(site: &Site<'_>, dims: Vec<Int>) -> Result<Option<Known>, Refusal> {
    let (start, end) = (site.int("start", 0)?, site.int("end", i64::MAX)?);
    Ok(Array::list(dims).sliced(start, end, 1).map(Known::Ints))
}

/// The dimensions after dropping those of size 1 at `axes`, or all such; `None` where another is dropped.
pub(super) fn squeezed(dims: &[usize], axes: Option<&[i64]>) -> Option<Vec<usize>> {
    let mut dropped: Vec<bool> = dims.iter().map(|&dim| axes.is_none() && dim == 1).collect();
    for &axis in axes.unwrap_or_default() {
        let axis = from_end(axis, dims.len()).filter(|&axis| dims[axis] == 1)?;
        dropped[axis] = true;
    }
    Some(dims.iter().zip(dropped).filter(|(_, dropped)| !dropped).map(|(&dim, _)| dim).collect())
}

/// The dimensions with ones inserted, so that they come to be at `axes`.
pub(super) fn unsqueezed(dims: &[usize], axes: &[i64]) -> Option<Vec<usize>> {
    let rank = dims.len().checked_add(axes.len()).filter(|&rank| rank <= tensor::MAX_RANK)?;
    let mut inserted = vec![false; rank];
    for &axis in axes {
        let seen = &mut inserted[from_end(axis, rank)?];
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    let mut rest = dims.iter();
    inserted.into_iter().map(|inserted| if inserted { Some(1) } else { rest.next().copied() }).collect()
}

/// Any operand but the batch is computed; the batch stays what it is beside the operator's `neutral` number.
fn arithmetic(
    site: &Site<'_>,
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f32, f32) -> f32,
    neutral: Option<i64>,
) -> Result<Option<Known>, Refusal> {
    let commutes = matches!(site.node.op_type.as_str(), "Add" | "Mul");
    let (Some(a), Some(b)) = (site.known(0)?, site.known(1)?) else { return Ok(None) };
    site.budget.spend(a.len().max(b.len()))?;
    Ok(match (a, b) {
        (Known::Floats(a), Known::Floats(b)) => a.zipped(b, |a, b| Some(floats(a, b))).map(Known::Floats),
        (Known::Ints(a), Known::Ints(b)) => {
            let apply = |a, b| match (a, b) {
                (Int::Fixed(a), Int::Fixed(b)) => ints(a, b).map(Int::Fixed),
                (Int::Batch, Int::Fixed(b)) if Some(b) == neutral => Some(Int::Batch),
                (Int::Fixed(a), Int::Batch) if Some(a) == neutral && commutes => Some(Int::Batch),
                _ => None,
            };
            a.zipped(b, apply).map(Known::Ints)
        }
        _ => None,
    })
}

fn cast(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    site.budget.spend(known.len())?;
    let to = site.int("to", 0)?;
    let float = [data_type::FLOAT, data_type::FLOAT16, data_type::DOUBLE].map(i64::from).contains(&to);
    let int = [data_type::INT32, data_type::INT64].map(i64::from).contains(&to);
    Ok(match known {
        Known::Floats(_) if float => Some(known.clone()),
        Known::Ints(_) if int => Some(known.clone()),
        Known::Ints(array) if float => array.fixed().map(|array| {
            Known::Floats(Array { dims: array.dims, data: array.data.iter().map(|&x| x as f32).collect() })
        }),
        Known::Floats(array) if int => {
            // Beyond 2^53 no shape is meant, and the conversion would not be exact.
            let whole = |&x: &f32| (x.abs() < 9e15).then_some(Int::Fixed(x as i64));
            let data = array.data.iter().map(whole).collect::<Option<_>>();
            data.map(|data| Known::Ints(Array { dims: array.dims.clone(), data }))
        }
        _ => None,
    })
}

fn concat(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    if !matches!(site.int("axis", 0)?, 0 | -1) {
        return Ok(None);
    }
    let mut joined = Vec::new();
    for index in 0..site.inputs.len() {
        let Some(Known::Ints(Array { dims, data })) = site.known(index)? else { return Ok(None) };
        if dims.len() != 1 {
            return Ok(None);
        }
        site.budget.spend(data.len())?;
        joined.extend_from_slice(data);
    }
    Ok(Some(Known::Ints(Array::list(joined))))
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

fn gather(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(indices)) = (site.known(0)?, site.numbers(1)?) else { return Ok(None) };
    if !matches!(site.int("axis", 0)?, 0 | -1) {
        return Ok(None);
    }
    site.budget.spend(indices.data.len())?;
    Ok(match known {
        Known::Floats(array) => array.gathered(&indices).map(Known::Floats),
        Known::Ints(array) => array.gathered(&indices).map(Known::Ints),
    })
}

fn reshape(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(target)) = (site.known(0)?, site.numbers(1)?) else { return Ok(None) };
    let old = known.dims();
    let copy_zeros = !site.flag("allowzero")?;
    let mut dims = Vec::new();
    let mut open = None;
    for (index, &dim) in target.data.iter().enumerate().take(tensor::MAX_RANK + 1) {
        dims.push(match dim {
            -1 if open.replace(index).is_none() => 1,
            0 if copy_zeros && index < old.len() => old[index],
            dim => match usize::try_from(dim) {
                Ok(dim) => dim,
                Err(_) => return Ok(None),
            },
        });
    }
    if dims.len() > tensor::MAX_RANK {
        return Ok(None);
    }
    if let (Some(open), Some(rest)) = (open, count(&dims)) {
        dims[open] = known.len().checked_div(rest).unwrap_or(0);
    }
    Ok(known.reshaped(dims))
}

fn slice(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let list = |data: &[i64]| Array::list(data.to_vec());
    let (starts, ends, axes, steps) = if site.opset < 10 {
        (site.ints("starts")?.map(list), site.ints("ends")?.map(list), site.ints("axes")?.map(list), None)
    } else {
        (site.numbers(1)?, site.numbers(2)?, site.numbers(3)?, site.numbers(4)?)
    };
    let one = |array: Option<Array<i64>>| match array.as_ref().map(|array| &array.data[..]) {
        Some(&[number]) => Some(number),
        _ => None,
    };
    let along_first = match axes {
        Some(axes) => matches!(axes.data[..], [0 | -1]),
        None => true,
    };
    let step = if steps.is_some() { one(steps).and_then(|step| usize::try_from(step).ok()) } else { Some(1) };
    let (Some(start), Some(end), Some(step), true) = (one(starts), one(ends), step, along_first) else {
        return Ok(None);
    };
    let Some(known) = site.known(0)? else { return Ok(None) };
    site.budget.spend(known.len())?;
    Ok(match known {
        Known::Floats(array) => array.sliced(start, end, step).map(Known::Floats),
        Known::Ints(array) => array.sliced(start, end, step).map(Known::Ints),
    })
}

fn squeeze(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let axes = site.axes(13, 1)?;
    let Some(known) = site.known(0)? else { return Ok(None) };
    Ok(squeezed(known.dims(), axes.as_deref()).and_then(|dims| known.reshaped(dims)))
}

fn unsqueeze(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(axes)) = (site.known(0)?, site.axes(13, 1)?) else { return Ok(None) };
    Ok(unsqueezed(known.dims(), &axes).and_then(|dims| known.reshaped(dims)))
}

fn transpose(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    let order = match site.ints("perm")? {
        Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect(),
        None => Some((0..known.dims().len()).rev().collect::<Vec<_>>()),
    };
    let Some(order) = order else { return Ok(None) };
    site.budget.spend(known.len())?;
    Ok(match known {
        Known::Floats(array) => array.transposed(&order).map(Known::Floats),
        Known::Ints(array) => array.transposed(&order).map(Known::Ints),
    })
}
