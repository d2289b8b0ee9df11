//! Functions of two elements or more.

use super::{
    super::{
        affine::{Affine, Factors, channel_axis},
        array::{Array, broadcast},
        draft::Lowered,
        site::{Refusal, Site},
    },
    Outcome, Step,
    align::{Aligned, aligned},
    is_known,
};
use crate::graph::{Binary, Function, Op};

/// `Add`, `Sub`, `Mul` and `Div`: of two values, or of a value and a constant. A constant that is one number, or one a
/// channel, goes into a layer with weights where it can.
pub(super) fn arithmetic(site: &Site<'_>) -> Result<Outcome, Refusal> {
    if site.integer && site.node.op_type == "Div" {
        // The quotient of integers is whole.
        let Aligned { inputs, shape, axes } = aligned(site, &[0, 1])?;
        let whole = Step::new(Op::Map(Function::Truncate), shape.clone());
        let steps = vec![Step::new(Op::Binary(Binary::Div), shape), whole];
        return Ok(Outcome::Steps { inputs, steps, axes: Some(axes) });
    }
    let constant = match (is_known(site, 0)?, is_known(site, 1)?) {
        (true, _) => 0,
        (_, true) => 1,
        _ => return pair(site),
    };
    let (view, shape) = site.view(1 - constant)?;
    let array = site.constant(constant)?;
    let factors = per_channel(site, constant, &array)?;
    let Some((factors, weight_name)) = factors else { return pair(site) };
    let op = site.node.op_type.as_str();
    let none = || Factors::Same(0.0);
    let (scale, shift) = match (op, constant) {
        ("Add", _) => (None, factors),
        ("Sub", 1) => (None, factors.map(|x| -x)),
        ("Sub", _) => (Some(Factors::Same(-1.0)), factors),
        ("Mul", _) => (Some(factors), none()),
        ("Div", 1) => (Some(factors.map(|x| 1.0 / x)), none()),
        // A constant over a value.
        _ => (Some(factors), none()),
    };
    if !scale.as_ref().is_none_or(Factors::are_finite) || !shift.are_finite() {
        return pair(site);
    }
    let mut steps = Vec::new();
    if (op, constant) == ("Div", 0) {
        steps.push(Step::new(Op::Map(Function::Reciprocal), shape));
    }
    let affine = Affine { scale, shift, weight_name };
    if !affine.is_identity() {
        steps.push(Step { op: Lowered::Affine(affine), shape: shape.to_vec() });
    }
    Ok(Outcome::with_axes(view, steps, view.axes.clone()))
}

/// The constant as one number for all, or one for each channel of the value beside it, and its name; `None` where it
/// is neither.
fn per_channel(site: &Site<'_>, constant: usize, array: &Array<f32>) -> Result<Option<(Factors, String)>, Refusal> {
    let (view, shape) = site.view(1 - constant)?;
    let (rank, dims) = (view.axes.len(), &array.dims);
    site.budget.spend(array.data.len())?;
    let Some(missing) = rank.checked_sub(dims.len()) else { return Ok(None) };
    let Some(&first) = array.data.first() else { return Ok(None) };
    let grows = (0..dims.len()).any(|at| dims[at] != 1 && view.axes[at + missing].is_empty());
    let name = || site.input_name(constant).to_owned();
    if !grows && array.data.iter().all(|&x| x == first) && broadcast(dims, &vec![1; rank]).is_some() {
        return Ok(Some((Factors::Same(f64::from(first)), name())));
    }
    let channel = channel_axis(shape.len());
    let wide: Vec<usize> = (0..dims.len()).filter(|&at| dims[at] != 1).collect();
    let [at] = wide[..] else { return Ok(None) };
    if view.single(at + missing) != Some(channel) || dims[at] != shape[channel] {
        return Ok(None);
    }
    let weight = site.required_weight(constant)?;
    Ok(Some((Factors::Each(weight.array.data.iter().map(|&x| f64::from(x)).collect()), weight.name)))
}

/// An operator on two operands, constant or not.
fn pair(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let op = match site.node.op_type.as_str() {
        "Add" => Op::Add,
        "Mul" => Op::Mul,
        "Sub" => Op::Binary(Binary::Sub),
        _ => Op::Binary(Binary::Div),
    };
    on_aligned(site, &[0, 1], op)
}

fn on_aligned(site: &Site<'_>, indices: &[usize], op: Op) -> Result<Outcome, Refusal> {
    let Aligned { inputs, shape, axes } = aligned(site, indices)?;
    Ok(Outcome::Steps { inputs, steps: vec![Step::new(op, shape)], axes: Some(axes) })
}

/// The function of two elements that a node applies.
pub(in super::super) fn binary_function(site: &Site<'_>) -> Result<Option<Binary>, Refusal> {
    Ok(Some(match site.node.op_type.as_str() {
        "And" => Binary::And,
        "Equal" => Binary::Equal,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        "Mod" if site.flag("fmod")? => Binary::Remainder,
        "Mod" => Binary::Modulo,
        "Or" => Binary::Or,
        "Pow" => Binary::Power,
        "PRelu" => Binary::PRelu,
        "Xor" => Binary::Xor,
        _ => return Ok(None),
    }))
}

/// Other functions of two; with one number beside a value some are functions of one.
pub(super) fn binary(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let binary = binary_function(site)?.ok_or(Refusal::Unsupported)?;
    let operands = site.inputs.len();
    if operands == 1 {
        return Ok(Outcome::View(site.view(0)?.0.clone()));
    }
    if operands > 2 {
        return many(site, Op::Binary(binary), None);
    }
    let constant = match (is_known(site, 0)?, is_known(site, 1)?) {
        (true, _) => Some(0),
        (_, true) => Some(1),
        _ => None,
    };
    if let Some(constant) = constant
        && let [x] = site.constant(constant)?.data[..]
        && site.constant(constant)?.dims.len() <= site.view(1 - constant)?.0.axes.len()
    {
        let unary = match (binary, constant) {
            (Binary::Max, _) if !x.is_nan() => Some(Op::Clip { min: x, max: f32::INFINITY }),
            (Binary::Min, _) if !x.is_nan() => Some(Op::Clip { min: f32::NEG_INFINITY, max: x }),
            (Binary::Power, 1) if x == 0.5 => Some(Op::Map(Function::Sqrt)),
            (Binary::Power, 1) => Some(Op::Map(Function::Power { exponent: x })),
            (Binary::PRelu, 1) => Some(Op::Map(Function::LeakyRelu { alpha: x })),
            _ => None,
        };
        if let Some(op) = unary {
            let (view, shape) = site.view(1 - constant)?;
            return Ok(Outcome::like(view, vec![Step::new(op, shape)]));
        }
    }
    on_aligned(site, &[0, 1], Op::Binary(binary))
}

/// `Sum` and `Mean` of any number of values.
pub(super) fn sum(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let divisor = (site.node.op_type == "Mean").then_some(site.inputs.len());
    many(site, Op::Add, divisor)
}

/// `op` of the first two operands, then of that and the next, and so on; divided at the end.
fn many(site: &Site<'_>, op: Op, divisor: Option<usize>) -> Result<Outcome, Refusal> {
    let indices: Vec<usize> = (0..site.inputs.len()).collect();
    let Aligned { inputs, shape, axes } = aligned(site, &indices)?;
    if inputs.len() < 2 {
        return Ok(Outcome::View(site.view(0)?.0.clone()));
    }
    let mut steps = vec![Step::new(op.clone(), shape.clone())];
    // Each further operand is read beside the step before it.
    steps.extend(inputs.iter().skip(2).map(|&also| Step { op: Lowered::Also(op.clone(), also), shape: shape.clone() }));
    if let Some(divisor) = divisor {
        let scale = 1.0 / divisor as f32;
        steps.push(Step::new(Op::Map(Function::Affine { scale, shift: 0.0 }), shape));
    }
    Ok(Outcome::Steps { inputs: inputs[..2].to_vec(), steps, axes: Some(axes) })
}

/// `Where`.
pub(super) fn choose(site: &Site<'_>) -> Result<Outcome, Refusal> {
    on_aligned(site, &[0, 1, 2], Op::Where)
}
