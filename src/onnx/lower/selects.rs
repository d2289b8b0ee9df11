//! Slices of an axis, and what is put around a sample.

use super::{
    super::{
        array::{count, from_end, slice_indices},
        site::{Form, Refusal, Site, axis},
    },
    Outcome, Step,
};
use crate::graph::Op;

/// Ends from here on mean the end of an axis, whose length may not be known: ONNX says to write INT_MAX, tf2onnx writes
/// this. No axis is as long.
const TO_THE_END: i64 = 1_000_000_000;

/// The value's axis that axis `at` of input 0 is; where it is none, the input is brought in order once.
fn along(site: &Site<'_>, at: usize) -> Result<usize, Refusal> {
    let (view, shape) = site.view(0)?;
    match view.single(at) {
        Some(axis) => Ok(axis),
        None if view.is_plain(shape.len()) => Err("it takes a part of the batch".into()),
        None => Err(Refusal::Rearrange(0, Form::Plain)),
    }
}

/// The step that takes these slices; none where they are all in order.
fn select(site: &Site<'_>, shape: &mut [usize], axis: usize, indices: Vec<usize>) -> Result<Option<Step>, Refusal> {
    if indices.is_empty() {
        return Err("it leaves nothing".into());
    }
    if indices.iter().copied().eq(0..shape[axis]) {
        return Ok(None);
    }
    site.budget.spend(indices.len())?;
    shape[axis] = indices.len();
    Ok(Some(Step::new(Op::Select { axis, indices: indices.into() }, shape)))
}

pub(super) fn slice(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let mut shape = shape.to_vec();
    let mut steps = Vec::new();
    for (at, start, end, step) in site.slices(view.axes.len())? {
        // All of an axis, whichever it is.
        if start == 0 && end >= TO_THE_END && step == 1 {
            continue;
        }
        let axis = along(site, at)?;
        let indices = slice_indices(shape[axis], start, end, step).ok_or("its step is 0")?;
        steps.extend(select(site, &mut shape, axis, indices)?);
    }
    Ok(Outcome::with_axes(view, steps, view.axes.clone()))
}

/// Slices at constant indices.
pub(super) fn gather(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let indices = site.numbers(1)?.ok_or("input 1 is missing")?;
    let (view, shape) = site.view(0)?;
    let at = axis(site.int("axis", 0)?, view.axes.len())?;
    let axis = along(site, at)?;
    let mut shape = shape.to_vec();
    let chosen: Option<Vec<usize>> = indices.data.iter().map(|&index| from_end(index, shape[axis])).collect();
    let chosen = chosen.ok_or("an index is outside its axis")?;
    let mut axes = view.axes.clone();
    match indices.dims.len() {
        0 => drop(axes.remove(at)),
        1 => {}
        _ => {
            let (value, _) = site.value(0)?;
            let mut to = shape[..axis].to_vec();
            to.extend(&indices.dims);
            to.extend(&shape[axis + 1..]);
            let mut steps: Vec<Step> = select(site, &mut shape, axis, chosen)?.into_iter().collect();
            steps.push(Step::new(Op::Reshape, to));
            return Ok(Outcome::chain(value, steps));
        }
    }
    if axes.len() < 2 {
        return Err("it leaves no dimension but the batch, which is not supported".into());
    }
    let steps = select(site, &mut shape, axis, chosen)?.into_iter().collect();
    Ok(Outcome::with_axes(view, steps, axes))
}

/// Parts of an axis, one an output.
pub(super) fn split(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let at = axis(site.int("axis", 0)?, view.axes.len())?;
    let axis = along(site, at)?;
    let len = shape[axis];
    let given = if site.opset < 13 {
        site.ints("split")?.map(<[i64]>::to_vec)
    } else {
        site.numbers(1)?.map(|a| a.data.to_vec())
    };
    let outputs = site.node.output.len();
    let sizes: Vec<usize> = match given {
        Some(sizes) => sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect(),
        None => {
            // Equal parts; the last is smaller where they are not.
            let part = len.div_ceil(outputs.max(1));
            (0..outputs).map(|i| part.min(len.saturating_sub(i * part))).collect()
        }
    };
    if sizes.len() < outputs || sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(len) {
        return Err(format!("parts of {sizes:?} are not its axis of {len}").into());
    }
    let mut start = 0;
    let mut parts = Vec::new();
    for size in sizes {
        let mut shape = shape.to_vec();
        let steps = select(site, &mut shape, axis, (start..start + size).collect())?.into_iter().collect();
        parts.push(Outcome::with_axes(view, steps, view.axes.clone()));
        start += size;
    }
    Ok(Outcome::Several(parts))
}

/// Copies one after the other.
pub(super) fn tile(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let repeats = site.numbers(1)?.ok_or("input 1 is missing")?;
    let (view, shape) = site.view(0)?;
    let mut shape = shape.to_vec();
    let mut steps = Vec::new();
    for (at, &times) in repeats.data.iter().enumerate().filter(|(_, times)| **times != 1) {
        if at >= view.axes.len() {
            return Err("it repeats an axis that is not there".into());
        }
        let axis = along(site, at)?;
        let times = usize::try_from(times).map_err(|_| "it repeats less than no times")?;
        let len = shape[axis].checked_mul(times).ok_or("its output is too large")?;
        site.budget.spend(len)?;
        let indices = (0..shape[axis]).cycle().take(len).collect();
        steps.extend(select(site, &mut shape, axis, indices)?);
    }
    Ok(Outcome::with_axes(view, steps, view.axes.clone()))
}

/// A number around each sample, or a repetition of what is at its border; negative pads cut.
pub(super) fn pad(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let rank = view.axes.len();
    let pads = match site.opset {
        ..11 => site.ints("pads")?.map(<[i64]>::to_vec),
        _ => site.numbers(1)?.map(|pads| pads.data.to_vec()),
    };
    let pads = pads.ok_or("its pads are missing")?;
    let value = if site.opset < 11 { site.float("value", 0.0)? } else { site.float_input(2)?.unwrap_or(0.0) };
    let axes = match site.numbers(3)? {
        Some(axes) => axes.data.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("it has {} pads for {} axes", pads.len(), axes.len()).into());
    }
    let mode = site.text("mode")?.unwrap_or("constant");
    let mut added = vec![[0usize; 2]; shape.len()];
    let mut shape = shape.to_vec();
    let mut steps = Vec::new();
    for (i, &at) in axes.iter().enumerate() {
        let [before, after] = [pads[i], pads[i + axes.len()]];
        if [before, after] == [0, 0] {
            continue;
        }
        let axis = along(site, at)?;
        let len = shape[axis] as i64;
        if [before, after].iter().any(|pad| pad.checked_abs().is_none_or(|pad| pad > 1 << 16)) {
            return Err(format!("pads of {before} and {after} are too large").into());
        }
        // What is cut, and in all modes but `constant` also what is added.
        let [low, high] = [before, after].map(|pad| if mode == "constant" { pad.min(0) } else { pad });
        let indices: Option<Vec<usize>> = (-low..len + high).map(|at| inside(at, len, mode)).collect();
        steps.extend(select(site, &mut shape, axis, indices.ok_or_else(|| format!("mode `{mode}` does not fit"))?)?);
        if mode == "constant" {
            added[axis] = [before.max(0) as usize, after.max(0) as usize];
        }
    }
    if added.iter().any(|pads| *pads != [0, 0]) {
        for (dim, [before, after]) in shape.iter_mut().zip(&added) {
            *dim += before + after;
        }
        count(&shape).ok_or("its output is too large")?;
        steps.push(Step::new(Op::Pad { pads: added, value }, shape));
    }
    Ok(Outcome::with_axes(view, steps, view.axes.clone()))
}

/// The element that stands at position `at` of an axis of `len` elements, which may be outside.
fn inside(at: i64, len: i64, mode: &str) -> Option<usize> {
    let index = match mode {
        "edge" => at.clamp(0, len - 1),
        "wrap" => at.rem_euclid(len),
        "reflect" if len == 1 => 0,
        "reflect" => {
            let period = 2 * (len - 1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        }
        "constant" => at,
        _ => return None,
    };
    usize::try_from(index).ok().filter(|&index| (index as i64) < len)
}
