//! Normalizations.

use std::sync::Arc;

use super::{
    super::{
        affine::{Affine, Factors, channel_axis},
        draft::Lowered,
        site::{Form, Refusal, Site, axis},
    },
    Outcome, Step,
};
use crate::graph::{Normalize, Op};

/// The inference form, `scale·(x − mean) / √(variance + epsilon) + bias` for each channel.
pub(super) fn batch(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    if site.flag("training_mode")? {
        return Err("it is in training mode".into());
    }
    if site.opset < 9 && site.int("spatial", 1)? != 1 {
        return Err("statistics for each pixel (spatial = 0) are not supported".into());
    }
    let rank = view.axes.len();
    if !(2..=4).contains(&rank) {
        return Err(format!("it normalizes {rank} dimensions; 2 to 4 are supported").into());
    }
    if view.single(1) != Some(channel_axis(shape.len())) {
        return Err(Refusal::Rearrange(0, if rank == 3 { Form::Row } else { Form::Plain }));
    }
    let channels = shape[channel_axis(shape.len())];
    let mut parameters = Vec::new();
    for index in 1..=4 {
        let weight = site.required_weight(index)?;
        if weight.array.dims != [channels] {
            let dims = &weight.array.dims;
            return Err(format!("input {index} of shape {dims:?} does not fit {channels} channels").into());
        }
        parameters.push(weight);
    }
    let epsilon = f64::from(site.float("epsilon", 1e-5)?);
    let wide = |which: usize, channel: usize| f64::from(parameters[which].array.data[channel]);
    let mut scale = Vec::with_capacity(channels);
    let mut shift = Vec::with_capacity(channels);
    for channel in 0..channels {
        let factor = wide(0, channel) / (wide(3, channel) + epsilon).sqrt();
        if !factor.is_finite() {
            return Err(format!("the variance of channel {channel} with epsilon is not above 0").into());
        }
        scale.push(factor);
        shift.push(wide(1, channel) - wide(2, channel) * factor);
    }
    let weight_name = parameters.swap_remove(0).name;
    let affine = Affine { scale: Some(Factors::Each(scale)), shift: Factors::Each(shift), weight_name };
    Ok(Outcome::like(view, vec![Step { op: Lowered::Affine(affine), shape: shape.to_vec() }]))
}

/// `LayerNormalization` and `RMSNormalization`: over the last axes together.
pub(super) fn layer(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let rank = view.axes.len();
    let first = axis(site.int("axis", -1)?, rank)?;
    let epsilon = site.float("epsilon", 1e-5)?;
    let centered = site.node.op_type == "LayerNormalization";
    // One number an element, or one for all.
    let parameter = |index: usize, elements: usize| -> Result<Option<Arc<[f32]>>, Refusal> {
        let Some(weight) = site.weight(index)? else { return Ok(None) };
        let wanted = weight.array.data.len();
        match wanted {
            1 => Ok(Some(vec![weight.array.data[0]; elements].into())),
            _ if wanted == elements => Ok(Some(weight.array.data)),
            _ => Err(format!("input {index} of shape {:?} does not fit {elements} elements", weight.array.dims).into()),
        }
    };
    let normalize = |axis: usize, elements: usize| -> Result<Op, Refusal> {
        let (scale, shift) = (parameter(1, elements)?, parameter(2, elements)?);
        Ok(Op::Normalize(Normalize { axis, epsilon, centered, scale, shift }))
    };
    if first + 1 == rank {
        return match (view.single(first), shape) {
            (Some(0), &[channels, ..]) if shape.len() == 3 => {
                Ok(Outcome::like(view, vec![Step::new(normalize(0, channels)?, shape)]))
            }
            (Some(last), _) if shape.len() != 3 && last + 1 == shape.len() => {
                Ok(Outcome::like(view, vec![Step::new(normalize(last, shape[last])?, shape)]))
            }
            (None, _) if view.is_plain(shape.len()) => Err("its axis is the batch, which is not supported".into()),
            _ => Err(Refusal::Rearrange(0, Form::Rows)),
        };
    }
    let (value, shape) = site.value(0)?;
    let before = first.checked_sub(1).ok_or("it normalizes over the batch, which is not supported")?;
    let rows = [shape[..before].iter().product::<usize>(), shape[before..].iter().product()];
    Ok(Outcome::chain(
        value,
        vec![Step::new(Op::Reshape, rows), Step::new(normalize(1, rows[1])?, rows), Step::new(Op::Reshape, shape)],
    ))
}

/// Each channel of each sample by itself.
pub(super) fn instance(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (_, [channels, ..]) = site.picture(0)?;
    in_groups(site, channels, 1)
}

/// Channels in groups.
pub(super) fn group(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (_, [channels, ..]) = site.picture(0)?;
    let groups = usize::try_from(site.int("num_groups", 0)?).unwrap_or(0);
    if groups == 0 || channels % groups != 0 {
        return Err(format!("{groups} groups do not divide {channels} channels").into());
    }
    // Before operator set 21, scale and bias were of the groups.
    in_groups(site, groups, if site.opset < 21 { channels / groups } else { 1 })
}

/// Standardizes groups of channels, then scales and shifts each channel; `repeat` channels share a parameter.
fn in_groups(site: &Site<'_>, groups: usize, repeat: usize) -> Result<Outcome, Refusal> {
    let (view, [channels, height, width]) = site.picture(0)?;
    let epsilon = site.float("epsilon", 1e-5)?;
    let (scale, shift) = (site.required_weight(1)?, site.required_weight(2)?);
    let fits = |len: usize| len.checked_mul(repeat) == Some(channels);
    if !fits(scale.array.data.len()) || !fits(shift.array.data.len()) {
        return Err(format!("its scale or bias does not fit {channels} channels").into());
    }
    let each = |data: &[f32]| Factors::Each((0..channels).map(|channel| f64::from(data[channel / repeat])).collect());
    let affine =
        Affine { scale: Some(each(&scale.array.data)), shift: each(&shift.array.data), weight_name: scale.name };
    let (rows, whole) = ([groups, channels / groups * height * width], [channels, height, width]);
    let normalize = Normalize { axis: 1, epsilon, centered: true, scale: None, shift: None };
    Ok(Outcome::like(
        view,
        vec![
            Step::new(Op::Reshape, rows),
            Step::new(Op::Normalize(normalize), rows),
            Step::new(Op::Reshape, whole),
            Step { op: Lowered::Affine(affine), shape: whole.to_vec() },
        ],
    ))
}
