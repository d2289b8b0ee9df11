//! One number of many.

use super::{
    super::site::{Form, Refusal, Site, axis},
    Outcome, Step,
};
use crate::graph::{Op, Reduction};

pub(super) fn reduce(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let kind = match site.node.op_type.as_str() {
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ReduceLogSum" => Reduction::LogSum,
        "ReduceLogSumExp" => Reduction::LogSumExp,
        "ReduceMax" => Reduction::Max,
        "ReduceMean" => Reduction::Mean,
        "ReduceMin" => Reduction::Min,
        "ReduceProd" => Reduction::Product,
        "ReduceSum" => Reduction::Sum,
        _ => Reduction::SumSquare,
    };
    let (view, shape) = site.view(0)?;
    let rank = view.axes.len();
    let since = if kind == Reduction::Sum { 13 } else { 18 };
    let given = site.axes(since, 1)?.unwrap_or_default();
    if given.is_empty() && site.flag("noop_with_empty_axes")? {
        return Ok(Outcome::View(view.clone()));
    }
    let mut reduced = given.into_iter().map(|at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    if reduced.is_empty() {
        reduced = (0..rank).collect();
    }
    reduced.sort_unstable();
    reduced.dedup();
    let mut along = Vec::new();
    for &at in &reduced {
        match view.single(at) {
            Some(axis) => along.push(axis),
            // An axis of size 1 that the value does not have: for sums and the like it changes nothing.
            None if view.axes[at].is_empty()
                && !matches!(
                    kind,
                    Reduction::L1 | Reduction::L2 | Reduction::SumSquare | Reduction::LogSum | Reduction::LogSumExp
                ) => {}
            None if view.is_plain(shape.len()) => return Err("it reduces the batch, which is not supported".into()),
            None => return Err(Refusal::Rearrange(0, Form::Plain)),
        }
    }
    along.sort_unstable();
    let mut to = shape.to_vec();
    along.iter().for_each(|&axis| to[axis] = 1);
    let op = match (kind, shape.len(), &along[..]) {
        (Reduction::Mean, 3, [1, 2]) => Op::GlobalAveragePool,
        _ => Op::Reduce { kind, axes: along.clone() },
    };
    let keep = site.int("keepdims", 1)? != 0;
    let mut axes = view.axes.clone();
    let mut at = 0;
    axes.retain(|_| {
        at += 1;
        keep || !reduced.contains(&(at - 1))
    });
    if axes.len() < 2 {
        return Err("it leaves no dimension but the batch, which is not supported".into());
    }
    let steps = if along.is_empty() { Vec::new() } else { vec![Step::new(op, to)] };
    Ok(Outcome::with_axes(view, steps, axes))
}
