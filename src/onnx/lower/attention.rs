//! The operator `Attention`.

use super::{
    super::{
        site::{Refusal, Site},
        view::{Factor, View},
    },
    Outcome, Step,
};
use crate::graph::Op;

/// Queries, keys and values alone: no mask, no keys of earlier calls, no bounds on scores.
pub(super) fn attention(site: &Site<'_>) -> Result<Outcome, Refusal> {
    if (3..site.inputs.len()).any(|index| site.inputs[index].is_some()) {
        return Err("a mask and past keys and values are not supported".into());
    }
    if site.flag("is_causal")? || site.float("softcap", 0.0)? != 0.0 {
        return Err("is_causal and softcap are not supported".into());
    }
    if site.int("left_window_size", -1)? != -1 || site.int("right_window_size", -1)? != -1 {
        return Err("windows of keys are not supported".into());
    }
    let heads = |name: &str| Ok::<_, Refusal>(usize::try_from(site.int(name, 0)?).unwrap_or(0));
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let ((q, q_dims), (k, k_dims)) = (matrices(site, 0, q_heads)?, matrices(site, 1, kv_heads)?);
    let (v, v_dims) = matrices(site, 2, kv_heads)?;
    let ([heads, rows, depth], [shared, count, width]) = (q_dims, v_dims);
    if k_dims != [shared, count, depth] || shared == 0 || heads % shared != 0 {
        return Err(format!("queries of {q_dims:?}, keys of {k_dims:?} and values of {v_dims:?} do not fit").into());
    }
    let scale = site.float("scale", 1.0 / (depth as f32).sqrt())?;
    let step = Step::new(Op::Attention { scale, keys_in_rows: true }, [1, heads, rows, width]);
    Ok(Outcome::Steps { inputs: vec![q.value, k.value, v.value], steps: vec![step], axes: Some(q.axes.clone()) })
}

/// Input `index` as matrices `[1, heads, length, depth]`: it is `[batch, heads, length, depth]`, or
/// `[batch, length, heads·depth]`.
fn matrices<'a>(site: &'a Site<'_>, index: usize, heads: usize) -> Result<(&'a View, [usize; 3]), Refusal> {
    let (view, shape) = match site.dims(index)?.len() {
        4 => site.matrices(index)?,
        3 => site.heads(index, heads)?,
        rank => return Err(format!("input {index} has {rank} dimensions; 3 or 4 are supported").into()),
    };
    match *shape {
        [1, heads, length, depth] => Ok((view, [heads, length, depth])),
        _ => Err(format!("input {index} is no matrix for each head").into()),
    }
}

/// How `[batch, length, heads·depth]` lies in matrices for each head.
pub(in super::super) fn head_axes() -> Vec<Vec<Factor>> {
    vec![vec![Factor::Batch], vec![Factor::Axis(2)], vec![Factor::Axis(1), Factor::Axis(3)]]
}
