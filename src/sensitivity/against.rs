//! A network that was quantized elsewhere, against the network in fp32 that it was made of.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    SensitivityError,
    probe::{Known, at_once, flat},
};
use crate::{
    cancel::Cancel,
    engine::{Engine, EngineError, GroupQuantization, Plan, Seen},
    graph::{Group, GroupId, Op},
    ptq::LoadSample,
    sqnr::Energies,
};

/// What quantization did to one group, in dB; +inf where nothing is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLoss {
    /// The group in the quantized network.
    pub group: GroupId,
    /// The same in the network in fp32.
    pub original: GroupId,
    /// Whether it runs in int8.
    pub is_int8: bool,
    /// SQNR of the dequantized weight against the folded one; `None` for groups without a weight, and where it has
    /// another shape.
    pub weight: Option<f64>,
    /// SQNR of the output when the group is fed what it is fed in fp32.
    pub local: f64,
    /// SQNR of the output in the whole quantized network.
    pub accumulated: f64,
}

/// A quantized network against fp32.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// Of each group that both networks have, in the order of the quantized one.
    pub groups: Vec<GroupLoss>,
    /// Groups of the quantized network that the other has not, or with another number of elements.
    pub unmatched: Vec<GroupId>,
    /// SQNR of the network's outputs, in dB.
    pub output: f64,
}

/// A group in both networks, and the quantized one with it alone as it is there.
struct Pair<'a> {
    quantized: &'a Group,
    original: &'a Group,
    alone: Plan,
}

/// Measures what quantization did to every group, over the first `samples` samples: weight, local and accumulated as
/// [`super::GroupSensitivity`] defines them, with the grids and the weights that the quantized network has. `engine` is of
/// its file, whose weights are those that it dequantizes, `quantization` says which of its groups run in int8, and
/// `original` is of the file in fp32.
///
/// Groups are the same when their operator and its node have the same name, or else when their ids are the same.
///
/// # Errors
/// A sample that cannot be read, a network that cannot be run, or an SQNR that is not a number.
pub fn against(
    engine: &Engine,
    quantization: &[Option<GroupQuantization>],
    original: &Engine,
    samples: usize,
    load: &LoadSample<'_>,
    cancel: &Cancel,
) -> Result<Losses, SensitivityError> {
    let (mut pairs, mut unmatched) = (Vec::new(), Vec::new());
    for id in engine.groups().ids() {
        let quantized = engine.groups().get(id);
        let Some(found) = partner(engine, quantized, original) else {
            unmatched.push(id);
            continue;
        };
        let mut alone = vec![None; quantization.len()];
        alone[id.0] = quantization[id.0].clone();
        pairs.push((id, found, Pair { quantized, original: original.groups().get(found), alone: engine.plan(&alone) }));
    }
    let (plan, fp32) = (engine.plan(quantization), original.fp32_plan());
    let none = || vec![Energies::default(); pairs.len()];
    let (mut local, mut accumulated, mut output) = (none(), none(), Energies::default());

    let measure = |sample: usize| -> Result<(Vec<Energies>, Vec<Energies>, Energies), SensitivityError> {
        cancel.check()?;
        let x = load(sample).map_err(SensitivityError::Sample)?;
        let (known, expected) = Known::of(&fp32, &x, &mut |_| Ok(()))?;
        let floats = |pair: &Pair<'_>| -> Result<Vec<f32>, EngineError> {
            known.value(pair.original.output).map_or(Ok(Vec::new()), |y| flat(&[y]))
        };
        let mut accumulated = none();
        let outputs = plan.run_seen(&x, false, &mut |seen| {
            for (at, (.., pair)) in pairs.iter().enumerate().filter(|(_, (.., p))| p.quantized.output == seen.value) {
                accumulated[at] = Energies::of(&floats(pair)?, &in_order(&seen)?);
            }
            Ok(())
        })?;
        let alone = |(.., pair): &(GroupId, GroupId, Pair<'_>)| -> Result<Energies, EngineError> {
            let mut energies = Energies::default();
            // What the group reads in fp32, under the names that the quantized network has for it.
            let fed = |value| {
                let at = pair.quantized.inputs.iter().position(|input| *input == value)?;
                known.value(pair.original.inputs[at])
            };
            pair.alone.run_node(pair.quantized.anchor, &fed, &mut |seen| {
                energies = Energies::of(&floats(pair)?, &in_order(&seen)?);
                Ok(())
            })?;
            Ok(energies)
        };
        let local: Vec<Energies> = pairs.iter().map(alone).collect::<Result<_, _>>()?;
        Ok((local, accumulated, Energies::of(&expected, &flat(&outputs)?)))
    };
    for first in (0..samples).step_by(at_once()) {
        let several: Vec<_> = (first..samples.min(first + at_once())).into_par_iter().map(measure).collect();
        for sample in several {
            let (of_local, of_accumulated, of_output) = sample?;
            local.iter_mut().zip(of_local).for_each(|(sum, e)| sum.pool(e));
            accumulated.iter_mut().zip(of_accumulated).for_each(|(sum, e)| sum.pool(e));
            output.pool(of_output);
        }
    }

    let loss = |(at, (group, found, pair)): (usize, &(GroupId, GroupId, Pair<'_>))| {
        let weights =
            [(engine, pair.quantized), (original, pair.original)].map(|(engine, group)| weight(engine, group));
        let weight = match weights {
            [Some(quantized), Some(original)] if quantized.len() == original.len() => {
                Some(Energies::of(original, quantized).sqnr())
            }
            _ => None,
        };
        let (local, accumulated) = (local[at].sqnr(), accumulated[at].sqnr());
        for (kind, db) in [("weight", weight.unwrap_or(0.0)), ("local", local), ("accumulated", accumulated)] {
            if db.is_nan() {
                return Err(SensitivityError::NotFinite { group: pair.quantized.id.clone(), kind });
            }
        }
        let is_int8 = quantization[group.0].is_some();
        Ok(GroupLoss { group: *group, original: *found, is_int8, weight, local, accumulated })
    };
    let groups = pairs.iter().enumerate().map(loss).collect::<Result<_, _>>()?;
    Ok(Losses { groups, unmatched, output: output.sqnr() })
}

/// Elements as [`flat`] gives those of a tensor.
fn in_order(seen: &Seen<'_>) -> Result<Vec<f32>, EngineError> {
    let tensor: Tensor = seen.to_tensor()?;
    flat(&[tensor])
}

/// The group of the network in fp32 that this one was made of.
fn partner(engine: &Engine, group: &Group, original: &Engine) -> Option<GroupId> {
    let name = &engine.graph().node(group.anchor).name;
    let elements = |engine: &Engine, group: &Group| engine.graph().value(group.output).shape.iter().product::<usize>();
    let groups = original.groups();
    let same = |id: &GroupId| {
        let found = groups.get(*id);
        let op = (&engine.graph().node(group.anchor).op, &original.graph().node(found.anchor).op);
        std::mem::discriminant(op.0) == std::mem::discriminant(op.1)
            && found.inputs.len() == group.inputs.len()
            && elements(original, found) == elements(engine, group)
    };
    let by_node = groups.ids().find(|id| original.graph().node(groups.get(*id).anchor).name == *name && same(id));
    by_node.or_else(|| groups.find(&group.id).filter(same))
}

/// The folded weight of a group.
fn weight<'a>(engine: &'a Engine, group: &Group) -> Option<&'a [f32]> {
    match &engine.graph().node(group.anchor).op {
        Op::Conv(conv) => Some(&conv.weight.data),
        Op::Linear(linear) => Some(&linear.weight.data),
        _ => None,
    }
}
