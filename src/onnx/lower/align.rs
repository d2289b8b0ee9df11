//! Operands that lie in their values alike.

use super::super::{
    array::{Array, Int, broadcast},
    site::{Form, Refusal, Site},
    tensor::MAX_RANK,
    view::{Axes, View},
};
use super::is_known;
use crate::graph::ValueId;

/// Operands whose values lie alike, so that an operator can work on the values.
pub(super) struct Aligned {
    pub(super) inputs: Vec<ValueId>,
    /// What the values broadcast to.
    pub(super) shape: Vec<usize>,
    pub(super) axes: Axes,
}

/// The operands at `indices`, constants among them, aligned; at least one of them is computed.
pub(super) fn aligned(site: &Site<'_>, indices: &[usize]) -> Result<Aligned, Refusal> {
    let mut computed = Vec::new();
    for &index in indices {
        if !is_known(site, index)? {
            computed.push(index);
        }
    }
    let rank = |index: &usize| site.view(*index).map_or(0, |(view, _)| view.axes.len());
    // The first of the highest rank.
    let reference = computed.iter().copied().rev().max_by_key(rank).ok_or("all of its inputs are constant")?;
    for &index in &computed {
        let alike = |site: &Site<'_>| -> Result<bool, Refusal> {
            let ((a, x), (b, y)) = (site.view(index)?, site.view(reference)?);
            Ok(a.axes == b.axes && broadcast(x, y).is_some() && x.len() == y.len())
        };
        if !alike(site)? {
            site.ordered(index)?;
            site.ordered(reference)?;
            site.value(index)?;
            site.value(reference)?;
            let (a, b) = (site.dims(index)?, site.dims(reference)?);
            return Err(format!("its inputs of {} and {} do not broadcast", list(&a), list(&b)).into());
        }
    }
    let (view, shape) = site.view(reference)?;
    let (mut inputs, mut joined) = (Vec::new(), shape.to_vec());
    for &index in indices {
        if is_known(site, index)? {
            let array = framed(&site.constant(index)?, view, shape, reference)?;
            site.budget.spend(array.data.len())?;
            return Err(Refusal::Store(index, array, view.axes.clone()));
        }
        let (view, shape) = site.view(index)?;
        joined = broadcast(&joined, shape).ok_or("its inputs do not broadcast")?;
        inputs.push(view.value);
    }
    Ok(Aligned { inputs, shape: joined, axes: view.axes.clone() })
}

/// A constant turned so that it lies as `view` lies in its value of this shape; the constant may broadcast.
pub(super) fn framed(
    array: &Array<f32>,
    view: &View,
    shape: &[usize],
    reference: usize,
) -> Result<Array<f32>, Refusal> {
    let missing = view.axes.len().checked_sub(array.dims.len());
    let missing = missing.ok_or("a constant has more dimensions than the value beside it")?;
    let mut dims = vec![1; missing];
    dims.extend(&array.dims);
    // The constant's axis for each of the value's; axes of size 1 are left out and come back by the final reshape.
    let mut order = Vec::new();
    let mut size = vec![1; shape.len()];
    for (axis, size) in size.iter_mut().enumerate() {
        if let Some(at) = (0..dims.len()).find(|&at| view.single(at) == Some(axis)) {
            *size = dims[at];
            order.push(at);
        }
    }
    let unseen: Vec<usize> = (0..dims.len()).filter(|at| !order.contains(at)).collect();
    if unseen.iter().any(|&at| dims[at] != 1) {
        // An axis of size 1 that the value has not, or one that has the batch in it.
        if view.is_plain(shape.len()) {
            return Err("a constant differs from sample to sample".into());
        }
        return Err(Refusal::Rearrange(reference, Form::Plain));
    }
    order.extend(unseen);
    if dims.len() > MAX_RANK {
        return Err("a constant has too many dimensions".into());
    }
    let whole = array.reshaped(dims).and_then(|array| array.transposed(&order)).and_then(|array| array.reshaped(size));
    Ok(whole.ok_or("a constant does not fit the value beside it")?)
}

/// Dimensions for people.
pub(super) fn list(dims: &[Int]) -> String {
    let entry = |int: &Int| match int {
        Int::Fixed(number) => number.to_string(),
        Int::Batch(1) => "batch".to_owned(),
        Int::Batch(times) => format!("{times}·batch"),
    };
    format!("[{}]", dims.iter().take(MAX_RANK + 1).map(entry).collect::<Vec<_>>().join(", "))
}
