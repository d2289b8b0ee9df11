//! Per-channel scale and shift, folded into the convolution or linear layer before it, or behind it.

mod commute;
mod layer;

use std::collections::{HashMap, HashSet};

use super::{
    draft::{Draft, Lowered, Names},
    error::OnnxError,
    rewrite::Rewrite,
    site::{Budget, Refusal},
};
use crate::graph::{Constant, Conv, Function, Node, Op, Value, ValueId};

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

    /// Whether it adds nothing to any channel.
    fn only_scales(&self) -> bool {
        match &self.shift {
            Factors::Same(x) => *x == 0.0,
            Factors::Each(all) => all.iter().all(|x| *x == 0.0),
        }
    }
}

/// The axis of a sample of this rank that channels are: that which is stored last.
pub(super) fn channel_axis(rank: usize) -> usize {
    if rank == 3 { 0 } else { rank.saturating_sub(1) }
}

/// How many operators may stand between a function and its layer: a few moves and a pool.
const REACH: usize = 8;

/// Turns drafts into nodes. Each [`Affine`] goes into the layer that its input comes from, where nothing else reads what
/// is between them and [`commute::before`] knows what it is there; else into the layer that alone reads it
/// ([`layer::absorb_ahead`]). What cannot be folded becomes a function of each element where it is the same for all
/// channels, else a 1×1 depthwise convolution of pictures and of features, else a product and a sum with constants.
///
/// A weight that `integers` names is in integers in the file: scaled, it would be on another grid, so it stays. Gives
/// with each node the file's nodes that it comes from: its own first.
pub(super) fn fold(
    drafts: Vec<Draft>,
    values: &mut Vec<Value>,
    outputs: &[ValueId],
    integers: &HashSet<String>,
    names: &mut Names,
    budget: &Budget,
    rewrites: &mut Vec<Rewrite>,
) -> Result<(Vec<Node>, Vec<Vec<usize>>), OnnxError> {
    let mut readers = vec![Readers::None; values.len()];
    for (at, input) in drafts.iter().enumerate().flat_map(|(at, draft)| draft.inputs.iter().map(move |id| (at, id))) {
        readers[input.0] = readers[input.0].and(Readers::One(at));
    }
    outputs.iter().for_each(|id| readers[id.0] = Readers::Many);
    let mut folding = Folding {
        readers,
        producers: vec![None; values.len()],
        ahead: HashMap::new(),
        nodes: Vec::with_capacity(drafts.len()),
        origins: Vec::with_capacity(drafts.len()),
        values,
        integers,
        names,
        budget,
        rewrites,
    };
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    for at in 0..drafts.len() {
        let Some(Draft { origin, name, op_type, op, inputs, output }) = drafts[at].take() else { continue };
        let from = From { origin, name, op_type };
        match op {
            Lowered::Op(op) | Lowered::Also(op, _) => folding.operator(from, op, inputs, output),
            Lowered::Affine(affine) => {
                if !folding.behind(&from, &affine, inputs[0], output)?
                    && !folding.ahead(&drafts, &from, &affine, &inputs, output)
                {
                    folding.alone(from, affine, inputs, output)?;
                }
            }
        }
    }
    Ok((folding.nodes, folding.origins))
}

/// Who reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    None,
    /// This draft, once.
    One(usize),
    /// Several, or an output of the network.
    Many,
}

impl Readers {
    fn and(self, other: Readers) -> Readers {
        if self == Readers::None { other } else { Readers::Many }
    }
}

/// What a draft is of the file.
struct From {
    origin: Option<usize>,
    name: String,
    op_type: String,
}

impl From {
    fn refuse(&self, refusal: Refusal) -> OnnxError {
        let reason = match refusal {
            Refusal::Error(error) => return error,
            Refusal::Reason(reason) => reason,
            _ => "it cannot be folded".to_owned(),
        };
        OnnxError::Node { node: self.name.clone(), op_type: self.op_type.clone(), reason }
    }
}

/// A function that the layer behind it is to take: what it reads, and its node of the file.
struct Ahead {
    affine: Affine,
    input: ValueId,
    origin: Option<usize>,
}

/// Nodes, while they are made of drafts.
struct Folding<'a> {
    readers: Vec<Readers>,
    /// The node that writes a value.
    producers: Vec<Option<usize>>,
    /// By what would be written.
    ahead: HashMap<ValueId, Ahead>,
    nodes: Vec<Node>,
    origins: Vec<Vec<usize>>,
    values: &'a mut Vec<Value>,
    integers: &'a HashSet<String>,
    names: &'a mut Names,
    budget: &'a Budget,
    rewrites: &'a mut Vec<Rewrite>,
}

impl Folding<'_> {
    /// A draft that is an operator already.
    fn operator(&mut self, from: From, mut op: Op, mut inputs: Vec<ValueId>, output: ValueId) {
        let mut origins: Vec<usize> = from.origin.into_iter().collect();
        if let Some(Ahead { affine, input, origin }) = inputs.first().and_then(|id| self.ahead.remove(id)) {
            layer::absorb_ahead(&mut op, &affine);
            inputs = vec![input];
            match origin {
                Some(origin) => origins.push(origin),
                None => origins.clear(),
            }
        }
        self.producers[output.0] = Some(self.nodes.len());
        self.nodes.push(Node { name: from.name, op_type: from.op_type, op, inputs, output });
        self.origins.push(origins);
    }

    /// Folds a function into the layer that its input comes from, where there is one that can take it.
    fn behind(&mut self, from: &From, affine: &Affine, input: ValueId, output: ValueId) -> Result<bool, OnnxError> {
        let Some((at, affine)) = self.layer_of(affine, input) else { return Ok(false) };
        let Some(last) = self.producers[input.0] else { return Ok(false) };
        let rank = self.values[self.nodes[at].output.0].shape.len();
        if !layer::absorb(&mut self.nodes[at].op, &affine, rank, self.budget).map_err(|refusal| from.refuse(refusal))? {
            return Ok(false);
        }
        let kind = if at == last { "folded into the layer before it" } else { "folded into an earlier layer" };
        self.rewrites.push(Rewrite { kind, node: from.name.clone() });
        self.nodes[last].output = output;
        self.producers[output.0] = Some(last);
        match from.origin {
            Some(origin) if !self.origins[at].is_empty() => self.origins[at].push(origin),
            _ => self.origins[at].clear(),
        }
        Ok(true)
    }

    /// The layer that `value` comes from, and what `affine` is right behind that; nobody else reads what is between.
    fn layer_of(&self, affine: &Affine, value: ValueId) -> Option<(usize, Affine)> {
        let (mut affine, mut value) = (affine.clone(), value);
        for between in 0..REACH {
            let Readers::One(_) = self.readers[value.0] else { return None };
            let at = self.producers[value.0]?;
            let node = &self.nodes[at];
            if layer::is_layer(&node.op) {
                // A product of its own has no place for a sum in the file: only an Add right behind it is one.
                let holds = between == 0 || node.op_type != "MatMul" || affine.only_scales();
                return (holds && self.may_scale(&node.op, &affine)).then_some((at, affine));
            }
            let &[input] = &node.inputs[..] else { return None };
            let shapes = [&self.values[input.0].shape[..], &self.values[value.0].shape[..]];
            affine = commute::before(&node.op, affine, shapes, self.budget)?;
            value = input;
        }
        None
    }

    /// Whether a layer's weight may be changed as this function would.
    fn may_scale(&self, op: &Op, affine: &Affine) -> bool {
        let name = match op {
            Op::Conv(conv) => &conv.weight_name,
            Op::Linear(linear) => &linear.weight_name,
            _ => return true,
        };
        affine.scale.is_none() || !self.integers.contains(name)
    }

    /// Leaves a function to the layer that alone reads it, where that can take it.
    fn ahead(
        &mut self,
        drafts: &[Option<Draft>],
        from: &From,
        affine: &Affine,
        inputs: &[ValueId],
        output: ValueId,
    ) -> bool {
        let Readers::One(reader) = self.readers[output.0] else { return false };
        let Some(Some(Draft { op: Lowered::Op(op), inputs: read, op_type, .. })) = drafts.get(reader) else {
            return false;
        };
        let channels = self.values[output.0].shape[channel_axis(self.values[output.0].shape.len())];
        let holds = op_type != "MatMul" || affine.only_scales();
        if read[..] != [output]
            || !holds
            || !self.may_scale(op, affine)
            || !layer::can_absorb_ahead(op, affine, channels)
        {
            return false;
        }
        if let Op::Conv(Conv { weight, .. }) | Op::Linear(crate::graph::Linear { weight, .. }) = op
            && self.budget.spend(weight.data.len()).is_err()
        {
            return false;
        }
        self.rewrites.push(Rewrite { kind: "folded into the layer behind it", node: from.name.clone() });
        self.ahead.insert(output, Ahead { affine: affine.clone(), input: inputs[0], origin: from.origin });
        true
    }

    /// A function as an operator, or several.
    fn alone(&mut self, from: From, affine: Affine, inputs: Vec<ValueId>, output: ValueId) -> Result<(), OnnxError> {
        let refused = |reason: String| from.refuse(Refusal::Reason(reason));
        let input = inputs[0];
        let shape = self.values[input.0].shape.clone();
        let channels = shape[channel_axis(shape.len())];
        let (values, names) = (&mut *self.values, &mut *self.names);
        let mut stage = |suffix: &str, shape: Vec<usize>, names: &mut Names| {
            values.push(Value { name: names.value(&format!("{}/{suffix}", values[output.0].name)), shape });
            ValueId(values.len() - 1)
        };
        let (nodes, origins) = (&mut self.nodes, &mut self.origins);
        let mut push = |name: String, op: Op, inputs: Vec<ValueId>, output: ValueId| {
            nodes.push(Node { name, op_type: from.op_type.clone(), op, inputs, output });
            origins.push(from.origin.into_iter().collect());
        };
        let name = from.name.clone();
        if let Some((scale, shift)) = affine.uniform() {
            let (scale, shift) = (scale as f32, shift as f32);
            if !scale.is_finite() || !shift.is_finite() {
                return Err(refused("its scale or shift is infinite".to_owned()));
            }
            push(name, Op::Map(Function::Affine { scale, shift }), inputs, output);
        } else if shape.len() == 3 {
            push(name, Op::Conv(layer::depthwise(affine, channels).map_err(refused)?), inputs, output);
        } else if shape.len() == 1 {
            // Features become a picture of one pixel and back.
            let conv = Op::Conv(layer::depthwise(affine, channels).map_err(refused)?);
            let (before, after) =
                (stage("pixel", vec![channels, 1, 1], names), stage("scaled", vec![channels, 1, 1], names));
            push(names.node(&format!("{name}/before")), Op::Reshape, inputs, before);
            push(name.clone(), conv, vec![before], after);
            push(names.node(&format!("{name}/after")), Op::Reshape, vec![after], output);
        } else {
            let mut row = vec![1; shape.len()];
            row[shape.len() - 1] = channels;
            let Conv { weight, bias, .. } = layer::depthwise(affine, channels).map_err(refused)?;
            let product = stage("scaled", shape, names);
            let (scale, shift) = (stage("scale", row.clone(), names), stage("shift", row.clone(), names));
            let constant = |data| Op::Constant(Constant { dims: row.clone(), data });
            let zeros = || vec![0.0; channels].into();
            push(names.node(&format!("{name}/scale")), constant(weight.data), vec![input], scale);
            push(names.node(&format!("{name}/shift")), constant(bias.unwrap_or_else(zeros)), vec![input], shift);
            push(names.node(&format!("{name}/mul")), Op::Mul, vec![input, scale], product);
            push(name, Op::Add, vec![product, shift], output);
        }
        Ok(())
    }
}
