//! Pools and what else looks at neighbours.

use super::{
    super::{
        site::{Refusal, Site},
        view::View,
    },
    Outcome, Step,
    window::{Rounding, kernel_shape, window},
};
use crate::graph::{Op, Reduction, Window};

pub(super) fn max(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, window, shape) = pool(site)?;
    Ok(unless_trivial(view, window, Op::MaxPool(window), shape))
}

pub(super) fn average(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, window, shape) = pool(site)?;
    let count_include_pad = site.flag("count_include_pad")?;
    if count_include_pad && site.flag("ceil_mode")? {
        let (_, floor, _) = pool_rounded(site, Rounding::Floor)?;
        if window != floor {
            // The overhang does not count where padding does, and one window cannot say both.
            return by_axis(site, view, window, floor.pads, shape);
        }
    }
    Ok(unless_trivial(view, window, Op::AveragePool { window, count_include_pad }, shape))
}

/// A mean over height, then one over width; `padding` counts as zeros, what hangs over further does not count.
fn by_axis(
    site: &Site<'_>,
    view: &View,
    window: Window,
    padding: [usize; 4],
    shape: [usize; 3],
) -> Result<Outcome, Refusal> {
    let (_, mut now) = site.picture(0)?;
    let mut steps = Vec::new();
    for axis in [0, 1] {
        let (len, before, after) = (now[axis + 1], padding[axis], padding[axis + 2]);
        site.budget.spend(shape[axis + 1].saturating_mul(window.kernel[axis]))?;
        let taps = (0..shape[axis + 1]).map(|at| {
            let positions = (0..window.kernel[axis]).map(|tap| at * window.stride[axis] + tap * window.dilation[axis]);
            let counted: Vec<usize> = positions.filter(|&position| position < before + len + after).collect();
            let weight = 1.0 / counted.len().max(1) as f32;
            let seen =
                counted.into_iter().filter_map(|position| position.checked_sub(before).filter(|&from| from < len));
            seen.map(|from| (from, weight)).collect()
        });
        let taps: Vec<Vec<(usize, f32)>> = taps.collect();
        now[axis + 1] = shape[axis + 1];
        steps.push(Step::new(Op::Resample { axis: axis + 1, taps: taps.into() }, now));
    }
    Ok(Outcome::like(view, steps))
}

pub(super) fn global_average(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [channels, ..]) = site.picture(0)?;
    Ok(Outcome::like(view, vec![Step::new(Op::GlobalAveragePool, [channels, 1, 1])]))
}

pub(super) fn global_max(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [channels, ..]) = site.picture(0)?;
    let op = Op::Reduce { kind: Reduction::Max, axes: vec![1, 2] };
    Ok(Outcome::like(view, vec![Step::new(op, [channels, 1, 1])]))
}

pub(super) fn local_response(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.picture(0)?;
    let size = usize::try_from(site.int("size", 0)?).ok().filter(|&size| size > 0).ok_or("its size is not above 0")?;
    let op = Op::LocalResponse {
        size: size.min(2 * shape[0] + 1),
        alpha: site.float("alpha", 1e-4)? * (size.min(2 * shape[0] + 1) as f32 / size as f32),
        beta: site.float("beta", 0.75)?,
        bias: site.float("bias", 1.0)?,
    };
    Ok(Outcome::like(view, vec![Step::new(op, shape)]))
}

fn pool<'a>(site: &'a Site<'_>) -> Result<(&'a View, Window, [usize; 3]), Refusal> {
    pool_rounded(site, if site.flag("ceil_mode")? { Rounding::Ceil } else { Rounding::Floor })
}

fn pool_rounded<'a>(site: &'a Site<'_>, rounding: Rounding) -> Result<(&'a View, Window, [usize; 3]), Refusal> {
    let (view, [channels, height, width]) = site.picture(0)?;
    let spatial = view.axes.len() - 2;
    let kernel = kernel_shape(site, spatial)?.ok_or("attribute `kernel_shape` is missing")?;
    let (window, [out_height, out_width]) = window(site, kernel, [height, width], spatial, rounding)?;
    for (axis, size) in [height, width].into_iter().enumerate() {
        // Less padding than the window reaches, and no input shorter than the distance of its taps: every
        // window has a tap on the input, so that each maximum and mean is one of something.
        let reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
        let padding = window.pads[axis].max(window.pads[axis + 2]);
        if padding >= reach || (padding > 0 && size < window.dilation[axis]) {
            return Err("some of its windows see nothing but padding".into());
        }
    }
    Ok((view, window, [channels, out_height, out_width]))
}

/// A window of one pixel that skips none changes nothing; exporters write it for adaptive pools.
fn unless_trivial(view: &View, window: Window, op: Op, shape: [usize; 3]) -> Outcome {
    let trivial = window.kernel == [1, 1] && window.stride == [1, 1];
    if trivial { Outcome::View(view.clone()) } else { Outcome::like(view, vec![Step::new(op, shape)]) }
}
