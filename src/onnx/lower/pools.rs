//! Pools and means.

use super::{
    super::{
        draft::Lowered,
        site::{Refusal, Site, axis},
    },
    Outcome, Step,
    window::{Rounding, kernel_shape, window},
};
use crate::graph::{Op, ValueId, Window};

pub(super) fn max(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, window, shape) = pool(site)?;
    Ok(unless_trivial(input, window, Op::MaxPool(window), shape))
}

pub(super) fn average(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, window, shape) = pool(site)?;
    let count_include_pad = site.flag("count_include_pad")?;
    if count_include_pad && site.flag("ceil_mode")? && window != pool_rounded(site, Rounding::Floor)?.1 {
        // The overhang does not count where padding does, and explicit padding cannot say both.
        return Err("ceil_mode together with count_include_pad is not supported".into());
    }
    Ok(unless_trivial(input, window, Op::AveragePool { window, count_include_pad }, shape))
}

pub(super) fn global_average(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, [channels, ..]) = site.picture(0)?;
    Ok(Outcome::one(input, Op::GlobalAveragePool, [channels, 1, 1]))
}

/// The mean over all pixels, as PyTorch exports `x.mean([2, 3])`.
pub(super) fn reduce_mean(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, [channels, ..]) = site.picture(0)?;
    let axes = site.axes(18, 1)?.unwrap_or_default();
    let mut axes = axes.into_iter().map(|a| axis(a, 4)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    if axes != [2, 3] {
        return Err(format!("it reduces axes {axes:?}; only the mean over height and width is supported").into());
    }
    let mut steps = vec![Step { op: Lowered::Op(Op::GlobalAveragePool), shape: vec![channels, 1, 1] }];
    if site.int("keepdims", 1)? == 0 {
        steps.push(Step { op: Lowered::Op(Op::Reshape), shape: vec![channels] });
    }
    Ok(Outcome::Steps { inputs: vec![input], steps })
}

fn pool(site: &Site<'_>) -> Result<(ValueId, Window, [usize; 3]), Refusal> {
    pool_rounded(site, if site.flag("ceil_mode")? { Rounding::Ceil } else { Rounding::Floor })
}

fn pool_rounded(site: &Site<'_>, rounding: Rounding) -> Result<(ValueId, Window, [usize; 3]), Refusal> {
    let (input, [channels, height, width]) = site.picture(0)?;
    let kernel = kernel_shape(site)?.ok_or("attribute `kernel_shape` is missing")?;
    let (window, [out_height, out_width]) = window(site, kernel, [height, width], rounding)?;
    for (axis, size) in [height, width].into_iter().enumerate() {
        // Less padding than the window reaches, and no input shorter than the distance of its taps: every
        // window has a tap on the input, so that each maximum and mean is one of something.
        let reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
        let padding = window.pads[axis].max(window.pads[axis + 2]);
        if padding >= reach || (padding > 0 && size < window.dilation[axis]) {
            return Err("some of its windows see nothing but padding".into());
        }
    }
    Ok((input, window, [channels, out_height, out_width]))
}

/// A window of one pixel that skips none changes nothing; exporters write it for adaptive pools.
fn unless_trivial(input: ValueId, window: Window, op: Op, shape: [usize; 3]) -> Outcome {
    let trivial = window.kernel == [1, 1] && window.stride == [1, 1];
    if trivial { Outcome::Alias(input) } else { Outcome::one(input, op, shape) }
}
