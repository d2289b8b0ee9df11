//! Operators that move no element: the batch must stay in front.

use super::{
    super::{
        array::{Int, count},
        fold::{squeezed, unsqueezed},
        site::{Refusal, Site},
        tensor::MAX_RANK,
    },
    Outcome,
};

pub(super) fn flatten(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let rank = shape.len() as i64 + 1;
    let axis = site.int("axis", 1)?;
    let axis = if axis < 0 { axis.saturating_add(rank) } else { axis };
    // Dimensions between the batch and the axis join the batch; there may be none but ones.
    let before = usize::try_from(axis - 1).ok().and_then(|before| shape.get(..before));
    if before.is_none_or(|before| before.iter().any(|&dim| dim != 1)) {
        return Err(format!("axis {} joins other dimensions to the batch", site.int("axis", 1)?).into());
    }
    Outcome::reshaped(input, shape, vec![shape.iter().product()])
}

pub(super) fn reshape(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let target = &site.ints_input(1)?.ok_or("input 1 is missing")?.data;
    match target_shape(target, shape, site.batch, site.flag("allowzero")?) {
        Some(new) => Outcome::reshaped(input, shape, new),
        None => {
            let entry = |int: &Int| match int {
                Int::Fixed(number) => number.to_string(),
                Int::Batch => "batch".to_owned(),
            };
            let old = shape.iter().map(|&dim| Int::Fixed(dim as i64));
            let list = |ints: &[Int]| ints.iter().take(MAX_RANK + 1).map(entry).collect::<Vec<_>>().join(", ");
            let old = list(&std::iter::once(Int::Batch).chain(old).collect::<Vec<_>>());
            Err(format!("[{old}] cannot become [{}] with the batch in front", list(target)).into())
        }
    }
}

pub(super) fn squeeze(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let axes = site.axes(13, 1)?;
    if axes.is_none() && site.batch == Some(1) {
        return Err("it has no axes, and the batch is 1 in the file: it would be dropped too".into());
    }
    // A batch of 0 stands for a dimension that is never dropped; no other dimension is 0.
    let new = squeezed(&with_batch(shape), axes.as_deref()).ok_or("it drops a dimension that is not 1")?;
    Outcome::reshaped(input, shape, new[1..].to_vec())
}

pub(super) fn unsqueeze(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let axes = site.axes(13, 1)?.ok_or("its axes are missing")?;
    let new = unsqueezed(&with_batch(shape), &axes).filter(|new| new[0] == 0);
    let new = new.ok_or_else(|| format!("axes {axes:?} do not fit, or come before the batch"))?;
    Outcome::reshaped(input, shape, new[1..].to_vec())
}

fn with_batch(shape: &[usize]) -> Vec<usize> {
    std::iter::once(0).chain(shape.iter().copied()).collect()
}

/// The sample shape that `target` means for a value of sample shape `old`; `None` when it does not fit,
/// or does not keep the batch in front.
///
/// The leading entry is the batch when it is the batch itself, a zero (copied), the number that the file
/// gives the batch, or the open one while the rest accounts for all elements of a sample.
fn target_shape(target: &[Int], old: &[usize], batch: Option<i64>, zero_is_zero: bool) -> Option<Vec<usize>> {
    let (lead, rest) = target.split_first()?;
    if rest.len() >= MAX_RANK {
        return None;
    }
    let elements = count(old)?;
    let mut open = None;
    let mut new = Vec::with_capacity(rest.len());
    for (at, entry) in rest.iter().enumerate() {
        new.push(match entry {
            Int::Fixed(-1) if open.replace(at).is_none() => 1,
            Int::Fixed(0) if !zero_is_zero => *old.get(at)?,
            Int::Fixed(number) => usize::try_from(*number).ok().filter(|&dim| dim > 0)?,
            Int::Batch => return None,
        });
    }
    let leads = match lead {
        Int::Batch => true,
        Int::Fixed(-1) => open.is_none(),
        Int::Fixed(0) => !zero_is_zero,
        Int::Fixed(number) => Some(*number) == batch,
    };
    let given = count(&new)?;
    if let Some(open) = open {
        new[open] = elements.checked_div(given)?;
    }
    (leads && count(&new)? == elements).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_stays_in_front() {
        let shape = |target: &[i64], old: &[usize], batch| {
            let target: Vec<Int> = target.iter().map(|&int| Int::Fixed(int)).collect();
            target_shape(&target, old, batch, false)
        };
        assert_eq!(shape(&[0, -1], &[8, 1, 1], None), Some(vec![8]));
        assert_eq!(shape(&[-1, 8], &[8, 1, 1], None), Some(vec![8]));
        assert_eq!(shape(&[-1, 4], &[8, 1, 1], None), None);
        assert_eq!(shape(&[-1, -1], &[8], None), None);
        assert_eq!(shape(&[1, -1], &[8, 1, 1], Some(1)), Some(vec![8]));
        assert_eq!(shape(&[1, -1], &[8, 1, 1], None), None);
        assert_eq!(shape(&[0, 0, -1], &[8, 2, 3], None), Some(vec![8, 6]));
        assert_eq!(shape(&[0, 3, -1], &[8], None), None);
        assert_eq!(shape(&[0, 8, 0], &[8], None), None);
        assert_eq!(shape(&[0, -2], &[8], None), None);
        assert_eq!(shape(&[0, i64::MAX, i64::MAX], &[8], None), None);
        assert_eq!(shape(&[], &[8], None), None);
        assert_eq!(shape(&[-1], &[1], None), Some(vec![]));
        assert_eq!(target_shape(&[Int::Batch, Int::Fixed(8)], &[2, 4], None, false), Some(vec![8]));
        assert_eq!(target_shape(&[Int::Fixed(8), Int::Batch], &[2, 4], None, false), None);
        assert_eq!(target_shape(&[Int::Fixed(0), Int::Fixed(8)], &[8], None, true), None);
    }
}
