//! Functions of one element, and softmax.

use super::{
    super::{
        draft::Lowered,
        site::{Form, Refusal, Site, axis},
    },
    Outcome, Step,
};
use crate::graph::{Function, Op};

pub(super) fn relu(site: &Site<'_>) -> Result<Outcome, Refusal> {
    each(site, Op::Clip { min: 0.0, max: f32::INFINITY })
}

/// Bounds are attributes up to operator set 10 and inputs from then on; each may be left out.
pub(super) fn clip(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (min, max) = if site.opset < 11 {
        (site.float("min", f32::NEG_INFINITY)?, site.float("max", f32::INFINITY)?)
    } else {
        (site.float_input(1)?.unwrap_or(f32::NEG_INFINITY), site.float_input(2)?.unwrap_or(f32::INFINITY))
    };
    if min.is_nan() || max.is_nan() {
        return Err("a bound is NaN".into());
    }
    // The extremes of f32 are how a bound is left out where there is no other way.
    let min = if min == f32::MIN { f32::NEG_INFINITY } else { min };
    let max = if max == f32::MAX { f32::INFINITY } else { max };
    if min == f32::NEG_INFINITY && max == f32::INFINITY {
        return Ok(Outcome::View(site.view(0)?.0.clone()));
    }
    each(site, Op::Clip { min, max })
}

pub(super) fn map(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let function = function(site)?.ok_or(Refusal::Unsupported)?;
    each(site, Op::Map(function))
}

/// A function of every element: how the tensor lies does not matter.
fn each(site: &Site<'_>, op: Op) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    Ok(Outcome::like(view, vec![Step { op: Lowered::Op(op), shape: shape.to_vec() }]))
}

/// Whether an operator is a function of one element that [`function`] knows.
pub(super) fn is_function(op_type: &str) -> bool {
    matches!(
        op_type,
        "Abs"
            | "Ceil"
            | "Celu"
            | "Cos"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Floor"
            | "Gelu"
            | "HardSigmoid"
            | "HardSwish"
            | "LeakyRelu"
            | "Log"
            | "Mish"
            | "Neg"
            | "Not"
            | "Reciprocal"
            | "Round"
            | "Selu"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tanh"
            | "ThresholdedRelu"
    )
}

/// The function that a node applies to every element, with ONNX's defaults for its attributes.
pub(in super::super) fn function(site: &Site<'_>) -> Result<Option<Function>, Refusal> {
    let alpha = |default| site.float("alpha", default);
    Ok(Some(match site.node.op_type.as_str() {
        "Abs" => Function::Abs,
        "Ceil" => Function::Ceil,
        "Celu" => Function::Elu { alpha: alpha(1.0)?, gamma: 1.0, divisor: alpha(1.0)? },
        "Cos" => Function::Cos,
        "Elu" => Function::Elu { alpha: alpha(1.0)?, gamma: 1.0, divisor: 1.0 },
        "Erf" => Function::Erf,
        "Exp" => Function::Exp,
        "Floor" => Function::Floor,
        "Gelu" => match site.text("approximate")?.unwrap_or("none") {
            "none" => Function::Gelu,
            "tanh" => Function::GeluTanh,
            other => return Err(format!("approximate `{other}` is not known").into()),
        },
        "HardSigmoid" => Function::HardSigmoid { alpha: alpha(0.2)?, beta: site.float("beta", 0.5)? },
        "HardSwish" => Function::HardSwish,
        "LeakyRelu" => Function::LeakyRelu { alpha: alpha(0.01)? },
        "Log" => Function::Log,
        "Mish" => Function::Mish,
        "Neg" => Function::Affine { scale: -1.0, shift: 0.0 },
        "Not" => Function::Not,
        "Reciprocal" => Function::Reciprocal,
        "Round" => Function::Round,
        "Selu" => Function::Elu { alpha: alpha(1.673_263_2)?, gamma: site.float("gamma", 1.050_701)?, divisor: 1.0 },
        "Sigmoid" => Function::Sigmoid,
        "Sign" => Function::Sign,
        "Sin" => Function::Sin,
        "Softplus" => Function::Softplus,
        "Softsign" => Function::Softsign,
        "Sqrt" => Function::Sqrt,
        "Swish" => Function::Swish { alpha: alpha(1.0)? },
        "Tanh" => Function::Tanh,
        "ThresholdedRelu" => Function::Threshold { alpha: alpha(1.0)? },
        _ => return Ok(None),
    }))
}

pub(super) fn softmax(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let log = site.node.op_type == "LogSoftmax";
    let (view, shape) = site.view(0)?;
    let rank = view.axes.len();
    let given = axis(site.int("axis", if site.opset < 13 { 1 } else { -1 })?, rank)?;
    if given == 0 && view.sample(shape).is_some() {
        return Err("its axis is the batch, which is not supported".into());
    }
    // Before operator set 13 all dimensions from the axis on count as one: the same as a single axis when the others
    // are 1.
    if site.opset < 13 {
        let (value, shape) = site.value(0)?;
        let first = given.checked_sub(1).ok_or("its axis is the batch, which is not supported")?;
        let mut wide = (first..shape.len()).filter(|&at| shape[at] != 1);
        let one = wide.next().unwrap_or(first);
        if wide.next().is_none() {
            return Ok(Outcome::one(value, Op::Softmax { axis: one, log }, shape));
        }
        let joined = [shape[..first].iter().product::<usize>(), shape[first..].iter().product()];
        return Ok(Outcome::chain(
            value,
            vec![
                Step::new(Op::Reshape, joined),
                Step::new(Op::Softmax { axis: 1, log }, joined),
                Step::new(Op::Reshape, shape),
            ],
        ));
    }
    match view.single(given) {
        Some(axis) => Ok(Outcome::like(view, vec![Step::new(Op::Softmax { axis, log }, shape)])),
        None if view.is_plain(shape.len()) => Err("its axis is the batch, which is not supported".into()),
        None => Err(Refusal::Rearrange(0, Form::Plain)),
    }
}
