//! Operators that move no element, or only read them in another order.

use super::{
    super::{
        array::{Int, count},
        fold::{squeezed, unsqueezed},
        site::{Refusal, Site, axis},
        tensor::MAX_RANK,
        view::{Factor, View, reshaped},
    },
    Outcome, Step,
    align::list,
};
use crate::graph::Op;

pub(super) fn transpose(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, _) = site.view(0)?;
    let rank = view.axes.len();
    let order = match site.ints("perm")? {
        Some(perm) => perm.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    Ok(Outcome::View(view.transposed(&order).ok_or("its perm is no permutation of its axes")?))
}

pub(super) fn flatten(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let dims = site.dims(0)?;
    let given = site.int("axis", 1)?;
    let at = if given == dims.len() as i64 { dims.len() } else { axis(given, dims.len())? };
    let product = |dims: &[Int]| {
        dims.iter().try_fold(Int::Fixed(1), |product, &dim| match (product, dim) {
            (Int::Fixed(a), Int::Fixed(b)) => a.checked_mul(b).map(Int::Fixed),
            (Int::Fixed(a), Int::Batch(b)) | (Int::Batch(a), Int::Fixed(b)) => a.checked_mul(b).map(Int::Batch),
            (Int::Batch(_), Int::Batch(_)) => None,
        })
    };
    let target = [product(&dims[..at]), product(&dims[at..])];
    let [Some(outer), Some(inner)] = target else { return Err("its output is too large".into()) };
    to(site, &[outer, inner])
}

pub(super) fn reshape(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let target = if site.opset < 5 { None } else { site.ints_input(1)? };
    let target = target.ok_or("input 1 is missing")?;
    let dims = site.dims(0)?;
    let copies = !site.flag("allowzero")?;
    let entry = |(at, int): (usize, &Int)| match int {
        Int::Fixed(0) if copies => dims.get(at).copied(),
        int => Some(*int),
    };
    let entries = target.data.iter().take(MAX_RANK + 1).enumerate().map(entry).collect::<Option<Vec<_>>>();
    let entries = entries.filter(|entries| entries.len() <= MAX_RANK).ok_or_else(|| misfit(site, &target.data))?;
    to(site, &entries)
}

fn misfit(site: &Site<'_>, target: &[Int]) -> Refusal {
    let dims = site.dims(0).unwrap_or_default();
    format!("{} cannot become {} with one batch in it", list(&dims), list(target)).into()
}

/// The input under other dimensions.
fn to(site: &Site<'_>, target: &[Int]) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    if view.dims(shape) == target {
        return Ok(Outcome::View(view.clone()));
    }
    // Matrices are read under other axes; a picture or a row of features is made one that lies as it is read.
    let says = site.batch.is_none() || target.iter().any(|int| matches!(int, Int::Batch(_)));
    if let Some(view) = view.regrouped(shape, target).filter(|_| shape.len() > 3 && says) {
        return Ok(Outcome::View(view));
    }
    let (view, shape) = site.ordered(0)?;
    let factors: Vec<Factor> = view.axes.iter().flatten().copied().collect();
    let before = factors.iter().position(|&factor| factor == Factor::Batch).ok_or("its input has no batch")?;
    let new = reshaped(&shape[..before], &shape[before..], target, site.batch).ok_or_else(|| misfit(site, target))?;
    if new.shape.is_empty() {
        return Err("it leaves no dimension but the batch, which is not supported".into());
    }
    let steps = if new.shape == shape { Vec::new() } else { vec![Step::new(Op::Reshape, new.shape)] };
    Ok(Outcome::with_axes(view, steps, new.axes))
}

pub(super) fn squeeze(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let axes = site.axes(13, 1)?;
    if axes.is_none() && site.batch == Some(1) {
        return Err("it has no axes, and the batch is 1 in the file: it would be dropped too".into());
    }
    let dims = view.dims(shape);
    let kept: Vec<usize> = (0..dims.len()).collect();
    let is_one = |&at: &usize| dims[at] == Int::Fixed(1);
    let kept = squeezed(&kept, is_one, axes.as_deref()).ok_or("it drops a dimension that is not 1")?;
    if kept.len() < 2 {
        return Err("it leaves no dimension but the batch, which is not supported".into());
    }
    let axes = kept.into_iter().map(|at| view.axes[at].clone()).collect();
    Ok(Outcome::View(View { value: view.value, axes }))
}

pub(super) fn unsqueeze(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, _) = site.view(0)?;
    let axes = site.axes(13, 1)?.ok_or("its axes are missing")?;
    let axes = unsqueezed(&view.axes, &Vec::new(), &axes).ok_or_else(|| format!("axes {axes:?} do not fit"))?;
    Ok(Outcome::View(View { value: view.value, axes }))
}

/// Channels become pixels, in blocks.
pub(super) fn depth_to_space(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [c, h, w]) = site.picture(0)?;
    let block = usize::try_from(site.int("blocksize", 0)?).unwrap_or(0);
    let area = block.checked_mul(block).filter(|&area| area > 0 && c % area == 0);
    let depth = c / area.ok_or("its blocksize does not divide the channels")?;
    let (split, order) = match site.text("mode")?.unwrap_or("DCR") {
        "DCR" => ([block, block, depth, h, w], [2, 3, 0, 4, 1]),
        "CRD" => ([depth, block, block, h, w], [0, 3, 1, 4, 2]),
        other => return Err(format!("mode `{other}` is not known").into()),
    };
    moved(site, view.value, &split, &order, [depth, h * block, w * block])
}

/// The inverse.
pub(super) fn space_to_depth(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [c, h, w]) = site.picture(0)?;
    let block = usize::try_from(site.int("blocksize", 0)?).unwrap_or(0);
    if block == 0 || h % block != 0 || w % block != 0 {
        return Err("its blocksize does not divide height and width".into());
    }
    let channels = c.checked_mul(block).and_then(|c| c.checked_mul(block)).ok_or("its output is too large")?;
    let split = [c, h / block, block, w / block, block];
    let order = match site.text("mode")?.unwrap_or("DCR") {
        "DCR" => [2, 4, 0, 1, 3],
        "CRD" => [0, 2, 4, 1, 3],
        other => return Err(format!("mode `{other}` is not known").into()),
    };
    moved(site, view.value, &split, &order, [channels, h / block, w / block])
}

/// Dimensions split, exchanged and joined again.
fn moved(
    site: &Site<'_>,
    value: crate::graph::ValueId,
    split: &[usize],
    order: &[usize],
    to: [usize; 3],
) -> Result<Outcome, Refusal> {
    count(&to).ok_or("its output is too large")?;
    let turned: Vec<usize> = order.iter().map(|&axis| split[axis]).collect();
    if site.dims(0)?.len() != 4 {
        return Err("only [batch, channels, height, width] is supported".into());
    }
    Ok(Outcome::chain(
        value,
        vec![
            Step::new(Op::Reshape, split),
            Step::new(Op::Transpose { order: order.to_vec() }, turned),
            Step::new(Op::Reshape, to),
        ],
    ))
}
