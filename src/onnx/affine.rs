//! Per-channel scale and shift, folded into the convolution or linear layer before it.

use std::sync::Arc;

use super::{
    draft::{Draft, Lowered, Names},
    error::OnnxError,
    site::{Budget, Refusal},
};
use crate::graph::{Constant, Conv, Node, Op, Value, ValueId, Window};

/// `scale·x + shift` for each channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    /// Factor of each channel; `None` is 1 for all.
    pub(super) scale: Option<Vec<f64>>,
    /// Summand of each channel.
    pub(super) shift: Vec<f64>,
    /// Name of the constant it comes from.
    pub(super) weight_name: String,
}

/// Turns drafts into nodes: each [`Affine`] goes into the layer that writes its input, when nothing else
/// reads that. What cannot be folded becomes a 1×1 depthwise convolution when it scales; when it only
/// adds a constant it is an error. Gives with each node the file's nodes that it comes from.
pub(super) fn fold(
    drafts: Vec<Draft>,
    values: &mut Vec<Value>,
    outputs: &[ValueId],
    names: &mut Names,
    budget: &Budget,
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
            Lowered::Op(op) => {
                producers[output.0] = Some(nodes.len());
                nodes.push(Node { name, op_type, op, inputs, output });
                origins.push(vec![origin]);
                continue;
            }
            Lowered::Affine(affine) => affine,
        };
        let refused = |reason: String| OnnxError::Node { node: name.clone(), op_type: op_type.clone(), reason };
        let input = inputs[0];
        if let Some(producer) = producers[input.0].filter(|_| readers[input.0] == 1)
            && fold_into(&mut nodes[producer].op, &affine, budget).map_err(|refusal| match refusal {
                Refusal::Error(error) => error,
                Refusal::Reason(reason) => refused(reason),
                Refusal::Unsupported => refused("it cannot be folded".to_owned()),
            })?
        {
            nodes[producer].output = output;
            origins[producer].push(origin);
            producers[output.0] = Some(producer);
            continue;
        }
        let Some(conv) = depthwise(affine) else {
            return Err(refused(
                "it adds a constant to something else than the output of a layer with weights that nothing else \
                 reads, which is not supported"
                    .to_owned(),
            ));
        };
        let conv = Op::Conv(conv.map_err(refused)?);
        let shape = values[input.0].shape.clone();
        if shape.len() == 3 {
            nodes.push(Node { name, op_type, op: conv, inputs, output });
            origins.push(vec![origin]);
            continue;
        }
        // Features become a picture of one pixel and back.
        let mut stage = |suffix: &str| {
            values.push(Value {
                name: names.value(&format!("{}/{suffix}", values[output.0].name)),
                shape: vec![shape[0], 1, 1],
            });
            ValueId(values.len() - 1)
        };
        let (before, after) = (stage("pixel"), stage("scaled"));
        let mut push = |name: String, op: Op, input: ValueId, output: ValueId| {
            nodes.push(Node { name, op_type: op_type.clone(), op, inputs: vec![input], output });
            origins.push(vec![origin]);
        };
        push(names.node(&format!("{name}/before")), Op::Reshape, input, before);
        push(name.clone(), conv, before, after);
        push(names.node(&format!("{name}/after")), Op::Reshape, after, output);
    }
    Ok((nodes, origins))
}

/// Folds `affine` into a layer with weights; `false` when `op` has none.
fn fold_into(op: &mut Op, affine: &Affine, budget: &Budget) -> Result<bool, Refusal> {
    let (weight, bias) = match op {
        Op::Conv(conv) => (&mut conv.weight, &mut conv.bias),
        Op::Linear(linear) => (&mut linear.weight, &mut linear.bias),
        _ => return Ok(false),
    };
    let channels = affine.shift.len();
    if let Some(scale) = &affine.scale {
        budget.spend(weight.data.len())?;
        let data = Arc::make_mut(&mut weight.data);
        let row = data.len() / channels;
        for (row, scale) in data.chunks_exact_mut(row).zip(scale) {
            for w in row {
                *w = (f64::from(*w) * scale) as f32;
            }
        }
        if data.iter().any(|w| !w.is_finite()) {
            return Err("folded into the weights before it, it makes them infinite".into());
        }
    }
    let folded = |channel: usize| {
        let before = bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
        let scale = affine.scale.as_ref().map_or(1.0, |scale| scale[channel]);
        (before * scale + affine.shift[channel]) as f32
    };
    let data: Arc<[f32]> = (0..channels).map(folded).collect();
    if data.iter().any(|b| !b.is_finite()) {
        return Err("folded into the bias before it, it makes that infinite".into());
    }
    *bias = Some(data);
    Ok(true)
}

/// The scale as weights of a convolution that sees one channel and one pixel; `None` without a scale.
fn depthwise(affine: Affine) -> Option<Result<Conv, String>> {
    let scale = affine.scale?;
    let narrow = |wide: Vec<f64>| {
        let narrow: Arc<[f32]> = wide.into_iter().map(|x| x as f32).collect();
        let finite = narrow.iter().all(|x| x.is_finite());
        finite.then_some(narrow).ok_or_else(|| "its scale or shift is infinite".to_owned())
    };
    let channels = scale.len();
    let conv = |(data, bias)| Conv {
        weight: Constant { dims: vec![channels, 1, 1, 1], data },
        bias: Some(bias),
        weight_name: affine.weight_name,
        groups: channels,
        window: Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] },
    };
    Some(narrow(scale).and_then(|scale| Ok((scale, narrow(affine.shift)?))).map(conv))
}
