//! Constants that are computed with.

use super::{
    super::{
        array::{Array, Int, Known, broadcast, count},
        lower::{binary_function, unary_function},
        proto::data_type,
        site::{Refusal, Site, axis},
        tensor::MAX_ELEMENTS,
    },
    Folding,
};
use crate::graph::Binary;

/// How to evaluate an operator that computes.
pub(super) fn folding(op_type: &str) -> Option<Folding> {
    Some(match op_type {
        "Add" => |site| arithmetic(site, |a, b| a + b, add),
        "Sub" => |site| arithmetic(site, |a, b| a - b, subtract),
        "Mul" => |site| arithmetic(site, |a, b| a * b, multiply),
        "Div" => |site| arithmetic(site, |a, b| a / b, divide),
        "Mod" | "Min" | "Max" | "Pow" => |site| {
            let binary = binary_function(site)?.ok_or(Refusal::Unsupported)?;
            arithmetic(site, move |a, b| binary.apply(a, b), move |a, b| whole(binary, a, b))
        },
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" => compare,
        "Where" => choose,
        "Cast" => cast,
        "ReduceProd" => |site| reduce(site, 1, |a, b| a.checked_mul(b)),
        "ReduceSum" => |site| reduce(site, 0, |a, b| a.checked_add(b)),
        "ReduceMax" => |site| reduce(site, i64::MIN, |a, b| Some(a.max(b))),
        "ReduceMin" => |site| reduce(site, i64::MAX, |a, b| Some(a.min(b))),
        "Neg" | "Abs" | "Sqrt" | "Reciprocal" | "Exp" | "Log" | "Floor" | "Ceil" | "Round" | "Not" | "Sigmoid"
        | "Tanh" | "Erf" | "Relu" | "Sign" => map,
        _ => return None,
    })
}

fn add(a: Int, b: Int) -> Option<Int> {
    match (a, b) {
        (Int::Fixed(a), Int::Fixed(b)) => a.checked_add(b).map(Int::Fixed),
        (Int::Batch(a), Int::Batch(b)) => a.checked_add(b).map(Int::Batch),
        (batch, Int::Fixed(0)) | (Int::Fixed(0), batch) => Some(batch),
        _ => None,
    }
}

fn subtract(a: Int, b: Int) -> Option<Int> {
    match (a, b) {
        (Int::Fixed(a), Int::Fixed(b)) => a.checked_sub(b).map(Int::Fixed),
        (Int::Batch(a), Int::Batch(b)) if a == b => Some(Int::Fixed(0)),
        (batch, Int::Fixed(0)) => Some(batch),
        _ => None,
    }
}

fn multiply(a: Int, b: Int) -> Option<Int> {
    match (a, b) {
        (Int::Fixed(a), Int::Fixed(b)) => a.checked_mul(b).map(Int::Fixed),
        (Int::Batch(_), Int::Fixed(0)) | (Int::Fixed(0), Int::Batch(_)) => Some(Int::Fixed(0)),
        (Int::Batch(times), Int::Fixed(b)) | (Int::Fixed(b), Int::Batch(times)) if b > 0 => {
            times.checked_mul(b).map(Int::Batch)
        }
        _ => None,
    }
}

fn divide(a: Int, b: Int) -> Option<Int> {
    match (a, b) {
        (Int::Fixed(a), Int::Fixed(b)) => a.checked_div(b).map(Int::Fixed),
        (Int::Batch(a), Int::Batch(b)) if a % b == 0 => Some(Int::Fixed(a / b)),
        (Int::Batch(a), Int::Fixed(b)) if b > 0 && a % b == 0 => Some(Int::Batch(a / b)),
        _ => None,
    }
}

/// The larger or smaller of two, of which one at least depends on the batch, which is 1 or more.
fn extreme(binary: Binary, a: Int, b: Int) -> Option<Int> {
    let (low, high) = match (a, b) {
        (Int::Batch(x), Int::Batch(y)) => (Int::Batch(x.min(y)), Int::Batch(x.max(y))),
        (batch @ Int::Batch(times), Int::Fixed(x)) | (Int::Fixed(x), batch @ Int::Batch(times)) if x <= times => {
            (Int::Fixed(x), batch)
        }
        _ => return None,
    };
    match binary {
        Binary::Min => Some(low),
        Binary::Max => Some(high),
        _ => None,
    }
}

/// Integers that only other functions of two are applied to.
fn whole(binary: Binary, a: Int, b: Int) -> Option<Int> {
    let (Int::Fixed(a), Int::Fixed(b)) = (a, b) else { return extreme(binary, a, b) };
    Some(Int::Fixed(match binary {
        Binary::Modulo => match a.checked_rem(b)? {
            rest if rest != 0 && (rest < 0) != (b < 0) => rest.checked_add(b)?,
            rest => rest,
        },
        Binary::Remainder => a.checked_rem(b)?,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Power => a.checked_pow(u32::try_from(b).ok()?)?,
        _ => return None,
    }))
}

/// Any operand but the batch is computed; the batch only where the result is one too, or a number all the same.
fn arithmetic(
    site: &Site<'_>,
    floats: impl Fn(f32, f32) -> f32,
    ints: impl Fn(Int, Int) -> Option<Int>,
) -> Result<Option<Known>, Refusal> {
    let (Some(a), Some(b)) = (site.known(0)?, site.known(1)?) else { return Ok(None) };
    spend(site, a, b)?;
    if site.inputs.len() > 2 {
        return Ok(None);
    }
    Ok(match (a, b) {
        (Known::Floats(a), Known::Floats(b)) => a.zipped(b, |a, b| Some(floats(a, b))).map(Known::Floats),
        (Known::Ints(a), Known::Ints(b)) => a.zipped(b, ints).map(Known::Ints),
        // `Pow` of floats to whole numbers.
        (Known::Floats(a), Known::Ints(b)) => {
            b.fixed().and_then(|b| a.zipped(&b, |a, b| Some(floats(a, b as f32)))).map(Known::Floats)
        }
        _ => None,
    })
}

/// Takes off what the output may have.
fn spend(site: &Site<'_>, a: &Known, b: &Known) -> Result<(), Refusal> {
    let dims = broadcast(a.dims(), b.dims()).ok_or("its inputs do not broadcast")?;
    let elements = count(&dims).filter(|&n| n <= MAX_ELEMENTS);
    site.budget.spend(elements.ok_or("its output is too large")?)
}

fn compare(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(a), Some(b)) = (site.known(0)?, site.known(1)?) else { return Ok(None) };
    spend(site, a, b)?;
    let binary = binary_function(site)?.ok_or(Refusal::Unsupported)?;
    let truth = |truth: bool| Some(Int::Fixed(i64::from(truth)));
    let compare = |a: i64, b: i64| {
        truth(match binary {
            Binary::Equal => a == b,
            Binary::Less => a < b,
            Binary::LessOrEqual => a <= b,
            Binary::Greater => a > b,
            Binary::GreaterOrEqual => a >= b,
            Binary::And => a != 0 && b != 0,
            Binary::Or => a != 0 || b != 0,
            Binary::Xor => (a != 0) != (b != 0),
            _ => return None,
        })
    };
    Ok(match (a, b) {
        (Known::Floats(a), Known::Floats(b)) => a.zipped(b, |a, b| truth(binary.apply(a, b) != 0.0)).map(Known::Ints),
        (Known::Ints(a), Known::Ints(b)) => {
            let apply = |a, b| match (a, b) {
                (Int::Fixed(a), Int::Fixed(b)) => compare(a, b),
                // There is at least one sample; how many is not known.
                (Int::Batch(_), Int::Fixed(b)) if b <= 0 => compare(1, b),
                (Int::Fixed(a), Int::Batch(_)) if a <= 0 => compare(a, 1),
                (Int::Batch(a), Int::Batch(b)) => compare(a, b),
                _ => None,
            };
            a.zipped(b, apply).map(Known::Ints)
        }
        _ => None,
    })
}

fn choose(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let (Some(condition), Some(yes), Some(no)) = (site.numbers(0)?, site.known(1)?, site.known(2)?) else {
        return Ok(None);
    };
    spend(site, yes, no)?;
    spend(site, &Known::Floats(condition.mapped(|x| Some(x as f32)).ok_or("its condition is too large")?), yes)?;
    fn pick<T: Copy>(condition: &Array<i64>, yes: &Array<T>, no: &Array<T>) -> Option<Array<T>> {
        let pairs = yes.zipped(no, |a, b| Some((a, b)))?;
        condition.zipped(&pairs, |c, (yes, no)| Some(if c != 0 { yes } else { no }))
    }
    Ok(match (yes, no) {
        (Known::Floats(yes), Known::Floats(no)) => pick(&condition, yes, no).map(Known::Floats),
        (Known::Ints(yes), Known::Ints(no)) => pick(&condition, yes, no).map(Known::Ints),
        _ => None,
    })
}

fn cast(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    site.budget.spend(known.len())?;
    let to = i32::try_from(site.int("to", 0)?).unwrap_or(0);
    let float = data_type::FLOATS.contains(&to);
    Ok(match known {
        Known::Floats(_) if float => Some(known.clone()),
        Known::Ints(array) if to == data_type::BOOL => array
            .mapped(|x| match x {
                Int::Fixed(x) => Some(Int::Fixed(i64::from(x != 0))),
                Int::Batch(_) => Some(Int::Fixed(1)),
            })
            .map(Known::Ints),
        Known::Floats(array) if to == data_type::BOOL => {
            array.mapped(|x| Some(Int::Fixed(i64::from(x != 0.0)))).map(Known::Ints)
        }
        Known::Ints(_) if data_type::INTS.contains(&to) => Some(known.clone()),
        Known::Ints(array) if float => array.fixed().map(|array| {
            Known::Floats(Array { dims: array.dims, data: array.data.iter().map(|&x| x as f32).collect() })
        }),
        Known::Floats(array) if data_type::INTS.contains(&to) => {
            // Beyond 2^53 no shape is meant, and the conversion would not be exact.
            array.mapped(|x| (x.abs() < 9e15).then_some(Int::Fixed(x as i64))).map(Known::Ints)
        }
        _ => None,
    })
}

fn map(site: &Site<'_>) -> Result<Option<Known>, Refusal> {
    let Some(known) = site.known(0)? else { return Ok(None) };
    site.budget.spend(known.len())?;
    Ok(match known {
        Known::Floats(array) => {
            if site.node.op_type == "Relu" {
                return Ok(array.mapped(|x| Some(x.max(0.0))).map(Known::Floats));
            }
            let function = unary_function(site)?.ok_or(Refusal::Unsupported)?;
            array.mapped(|x| Some(function.apply(x))).map(Known::Floats)
        }
        Known::Ints(array) => {
            let apply = |x: i64| match site.node.op_type.as_str() {
                "Neg" => x.checked_neg(),
                "Abs" => x.checked_abs(),
                "Sign" => Some(x.signum()),
                "Not" => Some(i64::from(x == 0)),
                "Relu" => Some(x.max(0)),
                "Floor" | "Ceil" | "Round" => Some(x),
                _ => None,
            };
            let fixed = |x| match x {
                Int::Fixed(x) => apply(x).map(Int::Fixed),
                Int::Batch(_) => None,
            };
            array.mapped(fixed).map(Known::Ints)
        }
    })
}

/// All integers, or those of a list along its one axis.
fn reduce(site: &Site<'_>, start: i64, f: fn(i64, i64) -> Option<i64>) -> Result<Option<Known>, Refusal> {
    let Some(Known::Ints(array)) = site.known(0)? else { return Ok(None) };
    let since = if site.node.op_type == "ReduceSum" { 13 } else { 18 };
    let axes = site.axes(since, 1)?;
    let rank = array.dims.len();
    let along = axes.unwrap_or_default().into_iter().map(|at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    if rank > 1 || along.len() > 1 {
        return Ok(None);
    }
    // The batch may be a factor.
    let mut batches: i64 = 0;
    let mut total = start;
    for x in array.data.iter() {
        let number = match *x {
            Int::Fixed(number) => number,
            Int::Batch(times) => {
                batches += 1;
                times
            }
        };
        match f(total, number) {
            Some(next) => total = next,
            None => return Ok(None),
        }
    }
    let total = match batches {
        0 => Int::Fixed(total),
        1 if site.node.op_type == "ReduceProd" && total > 0 => Int::Batch(total),
        _ => return Ok(None),
    };
    let dims = if site.int("keepdims", 1)? != 0 { vec![1; rank] } else { Vec::new() };
    Ok(Some(Known::Ints(Array { dims, data: [total].into() })))
}
