//! Convolutions.

use std::sync::Arc;

use super::{
    super::{
        array::Array,
        draft::Lowered,
        site::{Refusal, Site, Weight},
    },
    Outcome, Step,
    window::{Rounding, kernel_shape, steps, window},
};
use crate::graph::{Constant, Conv, Op, Window};

pub(super) fn conv(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [channels, height, width]) = site.picture(0)?;
    let spatial = view.axes.len() - 2;
    let Weight { name: weight_name, array } = site.required_weight(1)?;
    let array = of_pictures(array, spatial)?;
    let Array { dims, data } = array;
    let [out, per_group, height_taps, width_taps] = dims[..] else { return Err(rank(&dims, spatial)) };
    let kernel = [height_taps, width_taps];
    if kernel_shape(site, spatial)?.is_some_and(|given| given != kernel) {
        return Err(format!("kernel_shape is not that of its weight, {:?}", &kernel[2 - spatial..]).into());
    }
    let groups = usize::try_from(site.int("group", 1)?).unwrap_or(0);
    if groups == 0 || per_group.checked_mul(groups) != Some(channels) || out % groups != 0 {
        return Err(format!("a weight of shape {dims:?} in {groups} groups does not fit {channels} channels").into());
    }
    let bias = bias(site, out)?;
    let (window, [out_height, out_width]) = window(site, kernel, [height, width], spatial, Rounding::Floor)?;
    let conv = Conv { weight: Constant { dims, data }, bias, weight_name, groups, window };
    Ok(Outcome::like(view, vec![Step::new(Op::Conv(conv), [out, out_height, out_width])]))
}

/// Each element of the input spreads over a window of the output. That is a convolution of the input with zeros put
/// between its elements, by the window turned around.
pub(super) fn conv_transpose(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, [channels, height, width]) = site.picture(0)?;
    let spatial = view.axes.len() - 2;
    let Weight { name: weight_name, array } = site.required_weight(1)?;
    let array = of_pictures(array, spatial)?;
    let [into, per_group, height_taps, width_taps] = array.dims[..] else { return Err(rank(&array.dims, spatial)) };
    let groups = usize::try_from(site.int("group", 1)?).unwrap_or(0);
    if groups == 0 || into != channels || channels % groups != 0 {
        let dims = &array.dims;
        return Err(format!("a weight of shape {dims:?} in {groups} groups does not fit {channels} channels").into());
    }
    let kernel = [height_taps, width_taps];
    let stride = steps(site, "strides", 1, spatial, 1)?.unwrap_or([1, 1]);
    let dilation = steps(site, "dilations", 1, spatial, 1)?.unwrap_or([1, 1]);
    let beyond = steps(site, "output_padding", 0, spatial, 0)?.unwrap_or([0, 0]);
    let explicit = pads(site, spatial)?;
    let shape: Option<[usize; 2]> = steps(site, "output_shape", 1, spatial, 1)?;
    let auto = site.text("auto_pad")?.unwrap_or("NOTSET");
    let size = [height, width];
    let mut steps_done = Vec::new();
    let mut now = [channels, height, width];
    let (mut before, mut after) = ([0i64; 2], [0i64; 2]);
    for axis in [0, 1] {
        let reach = (dilation[axis] * (kernel[axis] - 1)) as i64;
        let full = ((size[axis] - 1) * stride[axis]) as i64 + reach + 1 + beyond[axis] as i64;
        let wanted = match (shape, auto) {
            (Some(shape), _) => Some(shape[axis] as i64),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some((size[axis] * stride[axis]) as i64),
            (None, "NOTSET" | "" | "VALID") => None,
            (None, other) => return Err(format!("auto_pad `{other}` is not known").into()),
        };
        let [low, high] = match wanted {
            None => [explicit[axis] as i64, explicit[axis + 2] as i64],
            Some(wanted) => {
                let total = full - wanted;
                let half = total.div_euclid(2);
                if auto == "SAME_UPPER" { [half, total - half] } else { [total - half, half] }
            }
        };
        // Without a cut the window may see nothing but zeros at the border.
        (before[axis], after[axis]) = (reach - low, reach - high + beyond[axis] as i64);
        let len = (size[axis] - 1).checked_mul(stride[axis]).and_then(|n| n.checked_add(1));
        let len = len.filter(|&len| len <= 1 << 24).ok_or("its output is too large")?;
        if stride[axis] > 1 {
            site.budget.spend(len)?;
            let taps: Vec<Vec<(usize, f32)>> = (0..len)
                .map(|at| if at % stride[axis] == 0 { vec![(at / stride[axis], 1.0)] } else { Vec::new() })
                .collect();
            now[axis + 1] = len;
            steps_done.push(Step::new(Op::Resample { axis: axis + 1, taps: taps.into() }, now));
        }
        // A pad below 0 cuts.
        let cut = [(-before[axis]).max(0) as usize, (-after[axis]).max(0) as usize];
        if cut != [0, 0] {
            let end = now[axis + 1].checked_sub(cut[1]).filter(|&end| end > cut[0]).ok_or("it leaves nothing")?;
            site.budget.spend(end)?;
            let indices: Vec<usize> = (cut[0]..end).collect();
            now[axis + 1] = indices.len();
            steps_done.push(Step::new(Op::Select { axis: axis + 1, indices: indices.into() }, now));
        }
    }
    let pads = [before[0], before[1], after[0], after[1]].map(|pad| pad.max(0) as usize);
    let window = Window { kernel, stride: [1, 1], dilation, pads };
    let [out_height, out_width] =
        window.output_size([now[1], now[2]]).ok_or("its window is too large for its input")?;
    let out = per_group.checked_mul(groups).ok_or("its output is too large")?;
    site.budget.spend(array.data.len())?;
    let data = turned(&array, groups);
    let dims = vec![out, channels / groups, height_taps, width_taps];
    let conv = Conv { weight: Constant { dims, data }, bias: bias(site, out)?, weight_name, groups, window };
    steps_done.push(Step { op: Lowered::Op(Op::Conv(conv)), shape: vec![out, out_height, out_width] });
    Ok(Outcome::like(view, steps_done))
}

/// The weight `[in, out / groups, height, width]` of a transposed convolution as that of the convolution which does
/// the same: `[out, in / groups, height, width]`, each window turned around.
fn turned(array: &Array<f32>, groups: usize) -> Arc<[f32]> {
    let (into, per_group, taps) = (array.dims[0], array.dims[1], array.dims[2] * array.dims[3]);
    let inputs = into / groups;
    let mut data = Vec::with_capacity(array.data.len());
    for group in 0..groups {
        for out in 0..per_group {
            for input in 0..inputs {
                let start = ((group * inputs + input) * per_group + out) * taps;
                data.extend(array.data[start..start + taps].iter().rev());
            }
        }
    }
    data.into()
}

/// One number an output channel.
fn bias(site: &Site<'_>, out: usize) -> Result<Option<Arc<[f32]>>, Refusal> {
    let bias = site.weight(2)?.map(|bias| bias.array);
    if let Some(bias) = bias.as_ref().filter(|bias| bias.dims != [out]) {
        return Err(format!("a bias of shape {:?} does not fit {out} output channels", bias.dims).into());
    }
    Ok(bias.map(|bias| bias.data))
}

/// Explicit padding: top, left, bottom, right.
fn pads(site: &Site<'_>, spatial: usize) -> Result<[usize; 4], Refusal> {
    let Some(ints) = site.ints("pads")? else { return Ok([0; 4]) };
    super::window::pads(ints, spatial)
}

/// A weight of windows over lengths as one over pictures of one row.
fn of_pictures(mut array: Array<f32>, spatial: usize) -> Result<Array<f32>, Refusal> {
    if spatial == 1 {
        if array.dims.len() != 3 {
            return Err(rank(&array.dims, spatial));
        }
        array.dims.insert(2, 1);
    }
    Ok(array)
}

fn rank(dims: &[usize], spatial: usize) -> Refusal {
    format!("its weight has the shape {dims:?}; {} dimensions are expected", spatial + 2).into()
}
