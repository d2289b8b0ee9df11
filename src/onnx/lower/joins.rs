//! Values joined along an axis, and constants for every sample.

use super::{
    super::{
        array::{Array, Int, Known, broadcast, count},
        external::External,
        site::{Form, Refusal, Site, axis},
        tensor::{self, MAX_ELEMENTS, MAX_RANK},
        view::plain,
    },
    Outcome, Step,
    align::{framed, list},
    is_known,
};
use crate::graph::{Constant, Op, ValueId};

/// Values that differ along one axis alone; constants among them are the same for every sample.
pub(super) fn concat(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let mut computed = Vec::new();
    for index in 0..site.inputs.len() {
        if !is_known(site, index)? {
            computed.push(index);
        }
    }
    let &reference = computed.first().ok_or("all of its inputs are constant")?;
    let (view, shape) = site.view(reference)?;
    let at = axis(site.int("axis", 1)?, view.axes.len())?;
    let Some(along) = view.single(at) else {
        // The batch, or an axis that the value does not have.
        return match view.is_plain(shape.len()) {
            true => Err("it joins along the batch".into()),
            false => Err(Refusal::Rearrange(reference, Form::Plain)),
        };
    };
    let (mut inputs, mut joined) = (Vec::new(), shape.to_vec());
    joined[along] = 0;
    for index in 0..site.inputs.len() {
        if is_known(site, index)? {
            let constant = site.constant(index)?;
            if constant.dims.len() != view.axes.len() {
                return Err(
                    format!("input {index} has {} dimensions, not {}", constant.dims.len(), view.axes.len()).into()
                );
            }
            let array = framed(&constant, view, shape, reference)?;
            site.budget.spend(array.data.len())?;
            return Err(Refusal::Store(index, array, view.axes.clone()));
        }
        let (other, dims) = site.view(index)?;
        if other.axes != view.axes || dims.len() != shape.len() {
            site.value(index)?;
            site.value(reference)?;
        }
        let fits = dims.len() == shape.len() && (0..shape.len()).all(|i| i == along || dims[i] == shape[i]);
        if !fits {
            let (a, b) = (site.dims(reference)?, site.dims(index)?);
            return Err(format!("{} and {} differ in more than axis {at}", list(&a), list(&b)).into());
        }
        joined[along] = joined[along].checked_add(dims[along]).ok_or("its output is too large")?;
        inputs.push(other.value);
    }
    if let [_] = inputs[..] {
        return Ok(Outcome::View(view.clone()));
    }
    let step = Step::new(Op::Concat { axis: along }, joined);
    Ok(Outcome::Steps { inputs, steps: vec![step], axes: Some(view.axes.clone()) })
}

/// A value repeated along axes of size 1; or a constant for every sample, where the target has the batch in front.
pub(super) fn expand(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let target = site.ints_input(1)?.ok_or("input 1 is missing")?.data.clone();
    if is_known(site, 0)? {
        let rest = sample(&target, site.batch)?;
        let constant = site.constant(0)?;
        let missing = target.len().checked_sub(constant.dims.len()).ok_or("its input has more dimensions than it")?;
        let mut dims = vec![1; missing];
        dims.extend(&constant.dims);
        if dims.first() != Some(&1) {
            return Err("its input differs from sample to sample".into());
        }
        let wanted = broadcast(&dims[1..], &rest).ok_or("its input does not broadcast to its shape")?;
        site.budget.spend(count(&wanted).filter(|&n| n <= MAX_ELEMENTS).ok_or("its output is too large")?)?;
        let array = constant.reshaped(dims[1..].to_vec()).and_then(|array| array.expanded(&wanted));
        let array = array.ok_or("its input does not broadcast to its shape")?;
        let axes = plain(wanted.len());
        return Err(Refusal::Store(0, array, axes));
    }
    let (view, shape) = site.view(0)?;
    let dims = view.dims(shape);
    // Nothing grows where each entry is 1 or what is there, as where exporters expand to the batch that is there.
    let rank = dims.len();
    let grows = target.len() > rank
        || target
            .iter()
            .rev()
            .zip(dims.iter().rev())
            .any(|(&to, &from)| to != Int::Fixed(1) && to != from && !same(to, from, site.batch));
    if !grows {
        return Ok(Outcome::View(view.clone()));
    }
    let (value, shape) = site.value(0)?;
    let missing = rank.saturating_sub(target.len());
    let rest: Vec<usize> = if missing > 0 { fixed(&target)? } else { sample(&target, site.batch)? };
    let wanted = broadcast(shape, &rest).ok_or("its input does not broadcast to its shape")?;
    if wanted.len() != shape.len() || wanted.len() >= MAX_RANK {
        return Err("it adds dimensions before the batch".into());
    }
    Ok(Outcome::one(value, Op::Expand, wanted))
}

/// Whether an entry of a target is what is there, the batch by the number that the file gives it.
fn same(to: Int, from: Int, batch: Option<i64>) -> bool {
    matches!((to, from), (Int::Fixed(to), Int::Batch(times)) if batch.and_then(|b| b.checked_mul(times)) == Some(to))
}

fn fixed(ints: &[Int]) -> Result<Vec<usize>, Refusal> {
    let one = |int: &Int| match *int {
        Int::Fixed(dim) => usize::try_from(dim).ok().filter(|&dim| dim > 0),
        Int::Batch(_) => None,
    };
    let all: Option<Vec<usize>> = ints.iter().map(one).collect();
    Ok(all.ok_or_else(|| format!("its shape {} does not have the batch in front, or is not positive", list(ints)))?)
}

/// The dimensions behind a leading batch.
fn sample(target: &[Int], batch: Option<i64>) -> Result<Vec<usize>, Refusal> {
    let Some((first, rest)) = target.split_first() else { return Err("its shape is empty".into()) };
    let leads = match *first {
        Int::Batch(times) => times == 1,
        Int::Fixed(number) => number == 1 || Some(number) == batch,
    };
    if !leads || rest.is_empty() {
        return Err(format!("its shape {} does not have the batch in front and more behind it", list(target)).into());
    }
    fixed(rest)
}

/// One number everywhere, for every sample.
pub(super) fn constant_of_shape(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let target = site.ints_input(0)?.ok_or("input 0 is missing")?.data.clone();
    let dims = sample(&target, site.batch)?;
    let elements = count(&dims).filter(|&n| n <= MAX_ELEMENTS).ok_or("its output is too large")?;
    site.budget.spend(elements)?;
    let number = match site.tensor("value")? {
        None => 0.0,
        Some(proto) => match tensor::known(proto, &mut External::new(None, sha2::Digest::new())) {
            Ok(Known::Floats(Array { data, .. })) if data.len() == 1 => data[0],
            Ok(Known::Ints(Array { data, .. })) => match data[..] {
                [Int::Fixed(x)] => x as f32,
                _ => return Err("its value is not one number".into()),
            },
            _ => return Err("its value is not one number".into()),
        },
    };
    let data = vec![number; elements].into();
    let constant = Constant { dims: dims.clone(), data };
    Ok(Outcome::one(ValueId(0), Op::Constant(constant), dims))
}
