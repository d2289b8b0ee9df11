//! `Resize` and `Upsample`: each axis by itself.

use super::{
    super::{
        array::Int,
        site::{Refusal, Site, axis},
    },
    Outcome, Step,
};
use crate::graph::Op;

/// What one axis becomes.
struct Axis {
    /// Elements before and after.
    len: usize,
    to: usize,
    /// Factor.
    scale: f64,
}

pub(super) fn resize(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let rank = view.axes.len();
    let upsample = site.node.op_type == "Upsample";
    let mode = site.text("mode")?.unwrap_or("nearest");
    let coordinates = site.text("coordinate_transformation_mode")?.unwrap_or(match (upsample, site.opset) {
        (true, _) | (_, 10) => "asymmetric",
        _ => "half_pixel",
    });
    let nearest =
        site.text("nearest_mode")?.unwrap_or(if upsample || site.opset == 10 { "floor" } else { "round_prefer_floor" });
    if site.flag("antialias")? {
        return Err("antialias is not supported".into());
    }
    if site.text("keep_aspect_ratio_policy")?.unwrap_or("stretch") != "stretch" {
        return Err("only keep_aspect_ratio_policy `stretch` is supported".into());
    }
    let axes = match site.ints("axes")? {
        Some(axes) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let scales = match (upsample, site.opset) {
        (true, ..9) => site.floats("scales")?.map(<[f32]>::to_vec),
        (true, _) | (_, ..11) => site.floats_input(1)?,
        _ => site.floats_input(2)?.filter(|scales| !scales.is_empty()),
    };
    let sizes = if site.opset < 11 { None } else { site.ints_input(3)?.filter(|sizes| !sizes.data.is_empty()) };
    let given = scales.as_ref().map(Vec::len).or(sizes.map(|sizes| sizes.data.len()));
    if given != Some(axes.len()) {
        return Err("it has not one scale or size an axis".into());
    }
    let mut shape = shape.to_vec();
    let mut steps = Vec::new();
    for (i, &at) in axes.iter().enumerate() {
        let same = match (&scales, sizes) {
            (Some(scales), _) => scales[i] == 1.0,
            (None, Some(sizes)) => {
                sizes.data[i] == site.dims(0)?[at]
                    || matches!((sizes.data[i], site.batch), (Int::Fixed(n), Some(b)) if at == 0 && n == b)
            }
            (None, None) => true,
        };
        if same {
            continue;
        }
        let Some(axis) = view.single(at) else {
            site.value(0)?;
            return Err("it resizes the batch".into());
        };
        let len = shape[axis];
        let one = match (&scales, sizes) {
            (Some(scales), _) => {
                let scale = f64::from(scales[i]);
                Axis { len, to: (len as f64 * scale).floor() as usize, scale }
            }
            (None, sizes) => match sizes.map(|sizes| sizes.data[i]) {
                Some(Int::Fixed(to)) if to > 0 => Axis { len, to: to as usize, scale: to as f64 / len as f64 },
                _ => return Err("a size is not a positive number".into()),
            },
        };
        if one.to == 0 || one.to > 1 << 24 {
            return Err(format!("it makes {} of {len}", one.to).into());
        }
        site.budget.spend(one.to.saturating_mul(if mode == "cubic" { 4 } else { 2 }))?;
        let taps = taps(&one, mode, coordinates, nearest, site)?;
        shape[axis] = one.to;
        steps.push(Step::new(Op::Resample { axis, taps: taps.into() }, shape.clone()));
    }
    Ok(Outcome::with_axes(view, steps, view.axes.clone()))
}

/// For each element of the output, which elements of the input, and their weights.
fn taps(
    axis: &Axis,
    mode: &str,
    coordinates: &str,
    nearest: &str,
    site: &Site<'_>,
) -> Result<Vec<Vec<(usize, f32)>>, Refusal> {
    let &Axis { len, to, scale } = axis;
    let source = |x: f64| -> Result<f64, Refusal> {
        Ok(match coordinates {
            "half_pixel" => (x + 0.5) / scale - 0.5,
            "half_pixel_symmetric" => {
                let adjustment = to as f64 / (scale * len as f64);
                let center = len as f64 / 2.0;
                center * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
            }
            "pytorch_half_pixel" if to > 1 => (x + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            // The size that the scale means, which may not be whole.
            "align_corners" if to > 1 => x * (len as f64 - 1.0) / (len as f64 * scale - 1.0),
            "align_corners" => 0.0,
            "asymmetric" => x / scale,
            other => return Err(format!("coordinate_transformation_mode `{other}` is not supported").into()),
        })
    };
    let within = |at: f64| at.clamp(0.0, len as f64 - 1.0) as usize;
    (0..to)
        .map(|x| {
            let at = source(x as f64)?;
            Ok(match mode {
                "nearest" => {
                    let index = match nearest {
                        "round_prefer_floor" => (at - 0.5).ceil(),
                        "round_prefer_ceil" => (at + 0.5).floor(),
                        "floor" => at.floor(),
                        "ceil" => at.ceil(),
                        other => return Err(format!("nearest_mode `{other}` is not known").into()),
                    };
                    vec![(within(index), 1.0)]
                }
                "linear" | "bilinear" => {
                    let (low, part) = (at.floor(), at - at.floor());
                    vec![(within(low), (1.0 - part) as f32), (within(low + 1.0), part as f32)]
                }
                "cubic" => {
                    cubic(at, len, f64::from(site.float("cubic_coeff_a", -0.75)?), site.flag("exclude_outside")?)
                }
                other => return Err(format!("mode `{other}` is not known").into()),
            })
        })
        .collect()
}

/// Keys' cubic convolution; elements outside are those at the border, or none.
fn cubic(at: f64, len: usize, a: f64, exclude_outside: bool) -> Vec<(usize, f32)> {
    let low = at.floor();
    let part = at - low;
    let near = |t: f64| ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
    let weights = [far(1.0 + part), near(part), near(1.0 - part), far(2.0 - part)];
    let positions = (0..4).map(|tap| low + f64::from(tap) - 1.0);
    let seen: Vec<(f64, f64)> = positions
        .zip(weights)
        .filter(|(position, _)| !exclude_outside || (0.0..=len as f64 - 1.0).contains(position))
        .collect();
    let sum: f64 = if exclude_outside { seen.iter().map(|(_, weight)| weight).sum() } else { 1.0 };
    seen.into_iter().map(|(at, w)| (at.clamp(0.0, len as f64 - 1.0) as usize, (w / sum) as f32)).collect()
}
