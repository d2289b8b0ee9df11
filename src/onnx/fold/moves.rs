//! Constants whose elements move.

use super::super::{
    array::{Array, Int, Known, broadcast, count, from_end, slice_indices},
    site::{Refusal, Site, axis},
    tensor,
};

/// Longest list of integers joined from others, and made from a length. Shapes have a few entries; joining lists to
/// themselves doubles them.
const MAX_JOINED: usize = 1 << 12;

/// The dimensions after dropping those of size 1 at `axes`, or all such; `None` where another is dropped.
pub(in super::super) fn squeezed<T: Copy>(
    dims: &[T],
    is_one: impl Fn(&T) -> bool,
    axes: Option<&[i64]>,
) -> Option<Vec<T>> {
    let mut dropped: Vec<bool> = dims.iter().map(|dim| axes.is_none() && is_one(dim)).collect();
    for &axis in axes.unwrap_or_default() {
        let axis = from_end(axis, dims.len()).filter(|&axis| is_one(&dims[axis]))?;
        dropped[axis] = true;
    }
    Some(dims.iter().zip(dropped).filter(|(_, dropped)| !dropped).map(|(&dim, _)| dim).collect())
}

/// The dimensions with ones inserted, so that they come to be at `axes`.
pub(in super::super) fn unsqueezed<T: Clone>(dims: &[T], one: &T, axes: &[i64]) -> Option<Vec<T>> {
    let rank = dims.len().checked_add(axes.len()).filter(|&rank| rank <= tensor::MAX_RANK)?;
    let mut inserted = vec![false; rank];
    for &axis in axes {
        let seen = &mut inserted[from_end(axis, rank)?];
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    let mut rest = dims.iter();
    inserted.into_iter().map(|inserted| if inserted { Some(one.clone()) } else { rest.next().cloned() }).collect()
}

/// What a move makes of either kind of array.
fn each(
    site: &Site<'_>,
    elements: usize,
    floats: impl FnOnce(&Array<f32>) -> Option<Array<f32>>,
    ints: impl FnOnce(&Array<Int>) -> Option<Array<Int>>,
) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    site.budget.spend(elements)?;
    Ok(match known {
        Known::Floats(array) => floats(array).map(Known::Floats),
        Known::Ints(array) => ints(array).map(Known::Ints),
    })
}

/// A number of elements that a node may make.
fn affordable(site: &Site<'_>, dims: &[usize]) -> Result<usize, Refusal> {
    let elements = count(dims).filter(|&n| n <= tensor::MAX_ELEMENTS).ok_or("its output is too large")?;
    if dims.len() > tensor::MAX_RANK {
        return Err("its output has too many dimensions".into());
    }
    site.budget.spend(elements)?;
    Ok(elements)
}

pub(super) fn concat(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (mut floats, mut ints, mut elements) = (Vec::new(), Vec::new(), 0);
    for index in 0..site.inputs.len() {
        let Some(known) = site.known(index)? else { return Ok(None) };
        elements += known.len();
        match known {
            Known::Floats(array) => floats.push(array.clone()),
            Known::Ints(array) => ints.push(array.clone()),
        }
    }
    site.budget.spend(elements)?;
    let along = |rank: usize| axis(site.int("axis", 0)?, rank);
    Ok(match (&floats[..], &ints[..]) {
        ([first, ..], []) => Array::concatenated(&floats, along(first.dims.len())?).map(Known::Floats),
        ([], [first, ..]) if elements <= MAX_JOINED => {
            Array::concatenated(&ints, along(first.dims.len())?).map(Known::Ints)
        }
        _ => None,
    })
}

pub(super) fn constant_of_shape(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(dims) = site.numbers(0)? else { return Ok(None) };
    let dims = tensor::dims(&dims.data).map_err(|error| Refusal::from(error.to_string()))?;
    let elements = affordable(site, &dims)?;
    let known = match site.tensor("value")? {
        None => Known::Floats(Array::scalar(0.0)),
        Some(proto) => tensor::known(proto, &mut super::External::new(None, sha2::Digest::new()))
            .map_err(|error| Refusal::from(error.to_string()))?,
    };
    Ok(match known {
        Known::Floats(one) => one.data.first().map(|&x| Known::Floats(Array { dims, data: vec![x; elements].into() })),
        Known::Ints(one) => one.data.first().map(|&x| Known::Ints(Array { dims, data: vec![x; elements].into() })),
    })
}

pub(super) fn expand(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(target)) = (site.known(0)?, site.ints_input(1)?) else { return Ok(None) };
    let Some(target) = target.fixed() else { return Ok(None) };
    let target = tensor::dims(&target.data).map_err(|error| Refusal::from(error.to_string()))?;
    let Some(dims) = broadcast(known.dims(), &target) else { return Ok(None) };
    let elements = affordable(site, &dims)?;
    each(site, elements, |array| array.expanded(&dims), |array| array.expanded(&dims))
}

pub(super) fn flatten(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    let dims = known.dims();
    let given = site.int("axis", 1)?;
    let at = if given == dims.len() as i64 { dims.len() } else { axis(given, dims.len())? };
    Ok(count(&dims[..at]).zip(count(&dims[at..])).and_then(|(a, b)| known.reshaped(vec![a, b])))
}

pub(super) fn gather(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(indices)) = (site.known(0)?, site.numbers(1)?) else { return Ok(None) };
    let along = axis(site.int("axis", 0)?, known.dims().len())?;
    let inner: usize = known.dims()[along + 1..].iter().product();
    let outer: usize = known.dims()[..along].iter().product();
    let elements = indices.data.len().checked_mul(inner).and_then(|n| n.checked_mul(outer));
    let elements = elements.ok_or("its output is too large")?;
    each(site, elements, |array| array.gathered(along, &indices), |array| array.gathered(along, &indices))
}

pub(super) fn range(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let one = |index| -> Result<Option<i64>, Refusal> {
        Ok(site.numbers(index)?.filter(|array| array.data.len() == 1).map(|array| array.data[0]))
    };
    if let Some(Known::Floats(_)) = site.known(0)? {
        return float_range(site);
    }
    let (Some(start), Some(limit), Some(delta)) = (one(0)?, one(1)?, one(2)?) else { return Ok(None) };
    let steps = i128::from(limit) - i128::from(start);
    let delta = i128::from(delta);
    if delta == 0 {
        return Ok(None);
    }
    // Rounded up: the last one is before the limit.
    let len = (steps + delta - delta.signum()) / delta;
    if len > MAX_JOINED as i128 {
        return Ok(None);
    }
    let at = |i: i128| Int::Fixed((i128::from(start) + i * delta) as i64);
    Ok(Some(Known::Ints(Array::list((0..len.max(0)).map(at).collect()))))
}

/// `start + i·delta` below the limit, in f32; as many as `ceil((limit − start) / delta)` says.
fn float_range(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let one = |index| -> Result<Option<f32>, Refusal> {
        Ok(site.floats_input(index)?.and_then(|numbers| <[f32; 1]>::try_from(numbers).ok()).map(|[number]| number))
    };
    let (Some(start), Some(limit), Some(delta)) = (one(0)?, one(1)?, one(2)?) else { return Ok(None) };
    let len = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil();
    if len.is_nan() || len > MAX_JOINED as f64 {
        return Ok(None);
    }
    let numbers = (0..len.max(0.0) as usize).map(|i| start + i as f32 * delta).collect();
    Ok(Some(Known::Floats(Array::list(numbers))))
}

pub(super) fn reshape(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
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

/// Slices of a constant replaced; not added to what is there, or the like.
pub(super) fn scatter(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    if site.text("reduction")?.is_some_and(|reduction| reduction != "none") {
        return Ok(None);
    }
    let (Some(known), Some(indices), Some(updates)) = (site.known(0)?, site.numbers(1)?, site.known(2)?) else {
        return Ok(None);
    };
    site.budget.spend(known.len() + indices.data.len())?;
    Ok(match (known, updates) {
        (Known::Floats(array), Known::Floats(updates)) => array.scattered(&indices, updates).map(Known::Floats),
        (Known::Ints(array), Known::Ints(updates)) => array.scattered(&indices, updates).map(Known::Ints),
        _ => None,
    })
}

pub(super) fn slice(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    let mut known = known.clone();
    for (along, start, end, step) in site.slices(known.dims().len())? {
        site.budget.spend(known.len())?;
        let Some(chosen) = slice_indices(known.dims()[along], start, end, step) else { return Ok(None) };
        let sliced = match &known {
            Known::Floats(array) => array.selected(along, &chosen).map(Known::Floats),
            Known::Ints(array) => array.selected(along, &chosen).map(Known::Ints),
        };
        match sliced {
            Some(sliced) => known = sliced,
            None => return Ok(None),
        }
    }
    Ok(Some(known))
}

pub(super) fn squeeze(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let axes = site.axes(13, 1)?;
    let Some(known) = site.known(0)? else { return Ok(None) };
    Ok(squeezed(known.dims(), |&dim| dim == 1, axes.as_deref()).and_then(|dims| known.reshaped(dims)))
}

pub(super) fn tile(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(repeats)) = (site.known(0)?, site.numbers(1)?) else { return Ok(None) };
    let mut known = known.clone();
    for (along, &times) in repeats.data.iter().enumerate().take(known.dims().len()) {
        let (len, times) = (known.dims()[along], usize::try_from(times).map_err(|_| "it repeats less than no times")?);
        let len_after = len.checked_mul(times).ok_or("its output is too large")?;
        let mut dims = known.dims().to_vec();
        dims[along] = len_after;
        affordable(site, &dims)?;
        let chosen: Vec<usize> = (0..len).cycle().take(len_after).collect();
        let tiled = match &known {
            Known::Floats(array) => array.selected(along, &chosen).map(Known::Floats),
            Known::Ints(array) => array.selected(along, &chosen).map(Known::Ints),
        };
        match tiled {
            Some(tiled) => known = tiled,
            None => return Ok(None),
        }
    }
    Ok(Some(known))
}

pub(super) fn transpose(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    let order = match site.ints("perm")? {
        Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect(),
        None => Some((0..known.dims().len()).rev().collect::<Vec<_>>()),
    };
    let Some(order) = order else { return Ok(None) };
    each(site, known.len(), |array| array.transposed(&order), |array| array.transposed(&order))
}

pub(super) fn unsqueeze(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(known), Some(axes)) = (site.known(0)?, site.axes(13, 1)?) else { return Ok(None) };
    Ok(unsqueezed(known.dims(), &1, &axes).and_then(|dims| known.reshaped(dims)))
}
