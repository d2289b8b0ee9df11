//! The attributes that say where a window moves.

use super::super::site::{Refusal, Site};
use crate::graph::Window;

/// Largest step, distance between taps, and padding. Sane networks stay far below; limits keep every
/// index computed from a window within its type.
const MAX_STEP: i64 = 1 << 16;

/// How far the last window may hang over the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Not at all.
    Floor,
    /// As far as it has its first tap within the input or the padding before it.
    Ceil,
}

/// The window of a convolution or pool of this kernel over `size`, and the size of what it writes. With one spatial
/// axis the attributes have one number where they have two, and the window is over pictures of one row.
///
/// `auto_pad` becomes explicit padding, and so does the overhang of [`Rounding::Ceil`].
pub(super) fn window(
    site: &Site<'_>,
    kernel: [usize; 2],
    size: [usize; 2],
    spatial: usize,
    rounding: Rounding,
) -> Result<(Window, [usize; 2]), Refusal> {
    let stride = steps(site, "strides", 1, spatial, 1)?.unwrap_or([1, 1]);
    let dilation = steps(site, "dilations", 1, spatial, 1)?.unwrap_or([1, 1]);
    let explicit = site.ints("pads")?.map(|ints| pads(ints, spatial)).transpose()?.unwrap_or([0; 4]);
    let too_large = || Refusal::from("its window is too large for its input");
    let reach = |axis: usize| dilation[axis].checked_mul(kernel[axis] - 1)?.checked_add(1);
    let reach = [reach(0).ok_or_else(too_large)?, reach(1).ok_or_else(too_large)?];
    let mut window = Window { kernel, stride, dilation, pads: explicit };
    let auto = site.text("auto_pad")?.unwrap_or("NOTSET");
    if auto != "NOTSET" && explicit != [0; 4] {
        return Err(format!("it has both pads and auto_pad `{auto}`").into());
    }
    match auto {
        "NOTSET" | "" | "VALID" => {}
        "SAME_UPPER" | "SAME_LOWER" => {
            for axis in [0, 1] {
                let last = (size[axis].div_ceil(stride[axis]) - 1) * stride[axis];
                let total = last.checked_add(reach[axis]).ok_or_else(too_large)?.saturating_sub(size[axis]);
                let (small, large) = (total / 2, total.div_ceil(2));
                let (before, after) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
                window.pads[axis] = before;
                window.pads[axis + 2] = after;
            }
        }
        other => return Err(format!("auto_pad `{other}` is not known").into()),
    }
    let mut output = window.output_size(size).ok_or_else(too_large)?;
    if rounding == Rounding::Ceil {
        for axis in [0, 1] {
            // One more window, unless it would start beyond the input. The padding it needs is the rest of it.
            let start = output[axis] * stride[axis];
            let covered = size[axis] + window.pads[axis];
            let rest = covered + window.pads[axis + 2] - reach[axis] - (start - stride[axis]);
            if rest > 0 && start < covered {
                window.pads[axis + 2] = start + reach[axis] - covered;
                output[axis] += 1;
            }
        }
    }
    Ok((window, output))
}

/// The attribute `kernel_shape`, when given.
pub(super) fn kernel_shape(site: &Site<'_>, spatial: usize) -> Result<Option<[usize; 2]>, Refusal> {
    steps(site, "kernel_shape", 1, spatial, 1)
}

/// `spatial` numbers of at least `least`; with one alone, the other is `row`.
pub(super) fn steps(
    site: &Site<'_>,
    name: &str,
    least: i64,
    spatial: usize,
    row: usize,
) -> Result<Option<[usize; 2]>, Refusal> {
    let Some(ints) = site.ints(name)? else { return Ok(None) };
    let numbers = numbers(ints, name, least, spatial)?;
    Ok(match numbers[..] {
        [width] => Some([row, width]),
        [height, width] => Some([height, width]),
        _ => None,
    })
}

/// The numbers of `pads`: top, left, bottom, right.
pub(super) fn pads(ints: &[i64], spatial: usize) -> Result<[usize; 4], Refusal> {
    Ok(match numbers(ints, "pads", 0, 2 * spatial)?[..] {
        [left, right] => [0, left, 0, right],
        [top, left, bottom, right] => [top, left, bottom, right],
        _ => [0; 4],
    })
}

fn numbers(ints: &[i64], name: &str, least: i64, wanted: usize) -> Result<Vec<usize>, Refusal> {
    if let Some(int) = ints.iter().find(|int| !(least..=MAX_STEP).contains(int)) {
        return Err(format!("attribute `{name}` has {int}, which is not within {least}..={MAX_STEP}").into());
    }
    if ints.len() != wanted {
        return Err(format!("attribute `{name}` has {} numbers, not {wanted}", ints.len()).into());
    }
    Ok(ints.iter().map(|&int| int as usize).collect())
}
