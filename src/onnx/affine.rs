//! Per-channel scale and shift, folded into the convolution or linear layer before it.

use std::sync::Arc;

use super::{
    draft::{Draft, Lowered, Names},
    error::OnnxError,
    rewrite::Rewrite,
    site::{Budget, Refusal},
};
use crate::graph::{Constant, Conv, Function, Node, Normalize, Op, Value, ValueId, Window};

/// `scale·x + shift` for each channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    /// Factor; `None` is 1 for all.
    pub(super) scale: Option<Factors>,
    /// Summand.
    pub(super) shift: Factors,
    /// Name of the constant it comes from.
    pub(super) weight_name: String,
}

/// A number for each channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Factors {
    /// The same for all.
    Same(f64),
    /// One each.
    Each(Vec<f64>),
}

impl Factors {
    /// The number of a channel.
    fn at(&self, channel: usize) -> f64 {
        match self {
            Factors::Same(x) => *x,
            Factors::Each(all) => all[channel],
        }
    }

    pub(super) fn map(self, f: impl Fn(f64) -> f64) -> Factors {
        match self {
            Factors::Same(x) => Factors::Same(f(x)),
            Factors::Each(all) => Factors::Each(all.into_iter().map(f).collect()),
        }
    }

    pub(super) fn are_finite(&self) -> bool {
        match self {
            Factors::Same(x) => x.is_finite(),
            Factors::Each(all) => all.iter().all(|x| x.is_finite()),
        }
    }
}

impl Affine {
    /// Factor and summand, where they are the same for all channels.
    pub(super) fn uniform(&self) -> Option<(f64, f64)> {
        match (&self.scale, &self.shift) {
            (None, Factors::Same(shift)) => Some((1.0, *shift)),
            (Some(Factors::Same(scale)), Factors::Same(shift)) => Some((*scale, *shift)),
            _ => None,
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_identity(&self) -> bool {
        self.uniform() == Some((1.0, 0.0))
    }

    fn scale(&self, channel: usize) -> f64 {
        self.scale.as_ref().map_or(1.0, |scale| scale.at(channel))
    }
}

/// The axis of a sample of this rank that channels are: that which is stored last.
pub(super) fn channel_axis(rank: usize) -> usize {
    if rank == 3 { 0 } else { rank.saturating_sub(1) }
}

/// Turns drafts into nodes: each [`Affine`] goes into the layer that writes its input, when nothing else
/// reads that. What cannot be folded becomes a function of each element where it is the same for all channels, else a
/// 1×1 depthwise convolution of pictures and of features, else a product and a sum with constants. Gives with each node
/// the file's nodes that it comes from.
pub(super) fn fold(
    drafts: Vec<Draft>,
    values: &mut Vec<Value>,
    outputs: &[ValueId],
    names: &mut Names,
    budget: &Budget,
    rewrites: &mut Vec<Rewrite>,
) -> Result<(Vec<Node>, Vec<Vec<usize>>), OnnxError> {
    let mut readers = vec![0usize; values.len()];
    for id in drafts.iter().flat_map(|draft| &draft.inputs).chain(outputs) {
        readers[id.0] += 1;
    }
    let mut producers = vec![None; values.len()];
    let mut nodes: Vec<Node> = Vec::with_capacity(drafts.len());
    let mut origins: Vec<Vec<usize>> = Vec::with_capacity(drafts.len());
    for Draft { origin, name, op_type, op, inputs, output } in drafts {
        let affine = match op {
            Lowered::Op(op) | Lowered::Also(op, _) => {
                producers[output.0] = Some(nodes.len());
                nodes.push(Node { name, op_type, op, inputs, output });
                origins.push(origin.into_iter().collect());
                continue;
            }
            Lowered::Affine(affine) => affine,
        };
        let refused = |reason: String| OnnxError::Node { node: name.clone(), op_type: op_type.clone(), reason };
        let input = inputs[0];
        if let Some(producer) = producers[input.0].filter(|_| readers[input.0] == 1)
            && fold_into(&mut nodes[producer].op, &affine, values[input.0].shape.len(), budget).map_err(|refusal| {
                match refusal {
                    Refusal::Error(error) => error,
                    Refusal::Reason(reason) => refused(reason),
                    _ => refused("it cannot be folded".to_owned()),
                }
            })?
        {
            rewrites.push(Rewrite { kind: "folded into the layer before it", node: name });
            nodes[producer].output = output;
            match origin {
                Some(origin) => origins[producer].push(origin),
                None => origins[producer].clear(),
            }
            producers[output.0] = Some(producer);
            continue;
        }
        let shape = values[input.0].shape.clone();
        let channels = shape[channel_axis(shape.len())];
        let mut stage = |suffix: &str, shape: Vec<usize>| {
            values.push(Value { name: names.value(&format!("{}/{suffix}", values[output.0].name)), shape });
            ValueId(values.len() - 1)
        };
        let mut push = |name: String, op: Op, inputs: Vec<ValueId>, output: ValueId| {
            nodes.push(Node { name, op_type: op_type.clone(), op, inputs, output });
            origins.push(origin.into_iter().collect());
        };
        if let Some((scale, shift)) = affine.uniform() {
            let (scale, shift) = (scale as f32, shift as f32);
            if !scale.is_finite() || !shift.is_finite() {
                return Err(refused("its scale or shift is infinite".to_owned()));
            }
            push(name, Op::Map(Function::Affine { scale, shift }), inputs, output);
        } else if shape.len() == 3 {
            push(name.clone(), Op::Conv(depthwise(affine, channels).map_err(refused)?), inputs, output);
        } else if shape.len() == 1 {
            // Features become a picture of one pixel and back.
            let conv = Op::Conv(depthwise(affine, channels).map_err(refused)?);
            let (before, after) = (stage("pixel", vec![channels, 1, 1]), stage("scaled", vec![channels, 1, 1]));
            push(names.node(&format!("{name}/before")), Op::Reshape, inputs, before);
            push(name.clone(), conv, vec![before], after);
            push(names.node(&format!("{name}/after")), Op::Reshape, vec![after], output);
        } else {
            let mut row = vec![1; shape.len()];
            row[shape.len() - 1] = channels;
            let Conv { weight, bias, .. } = depthwise(affine, channels).map_err(refused)?;
            let product = stage("scaled", shape);
            let (scale, shift) = (stage("scale", row.clone()), stage("shift", row.clone()));
            let constant = |data| Op::Constant(Constant { dims: row.clone(), data });
            let zeros = || vec![0.0; channels].into();
            push(names.node(&format!("{name}/scale")), constant(weight.data), vec![input], scale);
            push(names.node(&format!("{name}/shift")), constant(bias.unwrap_or_else(zeros)), vec![input], shift);
            push(names.node(&format!("{name}/mul")), Op::Mul, vec![input, scale], product);
            push(name.clone(), Op::Add, vec![product, shift], output);
        }
    }
    Ok((nodes, origins))
}

/// Folds `affine` into what writes samples of this rank, where that scales or shifts its channels too; `false` where
/// not.
fn fold_into(op: &mut Op, affine: &Affine, rank: usize, budget: &Budget) -> Result<bool, Refusal> {
    let (weight, bias) = match op {
        Op::Conv(conv) => (&mut conv.weight, &mut conv.bias),
        Op::Linear(linear) => (&mut linear.weight, &mut linear.bias),
        Op::Normalize(normalize) if normalize.axis == channel_axis(rank) => {
            return Ok(into_normalize(normalize, affine));
        }
        _ => return Ok(false),
    };
    let channels = weight.dims[0];
    if affine.scale.is_some() {
        budget.spend(weight.data.len())?;
        let data = Arc::make_mut(&mut weight.data);
        let row = data.len() / channels;
        for (channel, row) in data.chunks_exact_mut(row).enumerate() {
            for w in row {
                *w = (f64::from(*w) * affine.scale(channel)) as f32;
            }
        }
        if data.iter().any(|w| !w.is_finite()) {
            return Err("folded into the weights before it, it makes them infinite".into());
        }
    }
    let folded = |channel: usize| {
        let before = bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
        (before * affine.scale(channel) + affine.shift.at(channel)) as f32
    };
    let data: Arc<[f32]> = (0..channels).map(folded).collect();
    if data.iter().any(|b| !b.is_finite()) {
        return Err("folded into the bias before it, it makes that infinite".into());
    }
    *bias = Some(data);
    Ok(true)
}

/// Folds `affine` into the scale and shift of a normalization; `false` where it has neither and nothing tells how many
/// there are.
fn into_normalize(normalize: &mut Normalize, affine: &Affine) -> bool {
    let known = |data: &Option<Arc<[f32]>>| data.as_ref().map(|data| data.len());
    let each = |factors: &Factors| match factors {
        Factors::Same(_) => None,
        Factors::Each(all) => Some(all.len()),
    };
    let Some(channels) = known(&normalize.scale)
        .or(known(&normalize.shift))
        .or(affine.scale.as_ref().and_then(each))
        .or(each(&affine.shift))
    else {
        return false;
    };
    let before = |data: &Option<Arc<[f32]>>, channel: usize, none: f64| {
        data.as_ref().map_or(none, |data| f64::from(data[channel]))
    };
    let scale = (0..channels).map(|c| (before(&normalize.scale, c, 1.0) * affine.scale(c)) as f32).collect();
    let shift = (0..channels)
        .map(|c| (before(&normalize.shift, c, 0.0) * affine.scale(c) + affine.shift.at(c)) as f32)
        .collect();
    (normalize.scale, normalize.shift) = (Some(scale), Some(shift));
    true
}

/// The scale as weights of a convolution that sees one channel and one pixel.
fn depthwise(affine: Affine, channels: usize) -> Result<Conv, String> {
    let narrow = |wide: &dyn Fn(usize) -> f64| {
        let narrow: Arc<[f32]> = (0..channels).map(|channel| wide(channel) as f32).collect();
        let finite = narrow.iter().all(|x| x.is_finite());
        finite.then_some(narrow).ok_or_else(|| "its scale or shift is infinite".to_owned())
    };
    let data = narrow(&|channel| affine.scale(channel))?;
    let bias = narrow(&|channel| affine.shift.at(channel))?;
    Ok(Conv {
        weight: Constant { dims: vec![channels, 1, 1, 1], data },
        bias: Some(bias),
        weight_name: affine.weight_name,
        groups: channels,
        window: Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] },
    })
}
