//! The group that wins most under the present qconfig, ranked anew after each step: by SQNR of the output far from the
//! budget, near it by samples.

use super::{
    History, Step, Strategy,
    history::{with, without},
};
use crate::graph::GroupId;

/// Groups that are added at once, at most.
const STRIDE: usize = 8;

/// Share of the samples by which a trial may be outside the budget for one group more to be likely to be enough.
const NEAR: f64 = 0.01;

/// Groups that are likely to be enough and are tried from one set.
const TRIES: usize = 3;

pub(super) struct Adaptive;

impl Strategy for Adaptive {
    fn next(&self, history: &History<'_>) -> Option<Step> {
        if history.is_enough() {
            return None;
        }
        let all = history.worst(history.ranking.len());
        let mut fp32 = Vec::new();
        // The last set on the way that was measured: its size, and by how much it is outside the budget.
        let mut last: Option<(usize, f64)> = None;
        let mut left = 1;
        // Groups are added one by one, each the best with those before it in fp32; some of the sets are measured.
        loop {
            if let Some(trial) = history.find(&fp32) {
                let excess = history.excess_loss(trial);
                left = last.map_or(1, |(size, before)| stride(excess, (before - excess) / (fp32.len() - size) as f64));
                last = Some((fp32.len(), excess));
            }
            let best = if is_near(history, &fp32) {
                let likely = match history.likely(&fp32) {
                    Ok(likely) => likely,
                    Err(step) => return Some(step),
                };
                let sets = likely.iter().take(TRIES).map(|&group| with(&fp32, group));
                if let Some(set) = sets.into_iter().find(|set| history.find(set).is_none()) {
                    return Some(Step::Measure(set));
                }
                history.won(&fp32).and_then(|won| won.first()).map(|won| won.group)
            } else {
                None
            };
            let best = match (best, history.gains(&fp32)) {
                (Some(best), _) => best,
                (None, Some(gains)) => gains.first()?.group,
                (None, None) => return Some(Step::Rank(fp32)),
            };
            fp32 = with(&fp32, best);
            left -= 1;
            if without(&all, &fp32).is_empty() {
                return None;
            }
            if left == 0 && history.find(&fp32).is_none() {
                return Some(Step::Measure(fp32));
            }
        }
    }
}

/// Whether few samples are missing, so that which answers change says more than how far the output moves.
fn is_near(history: &History<'_>, fp32: &[GroupId]) -> bool {
    let near = NEAR * history.baseline.evaluation.score.total() as f64;
    history.excess(fp32).is_some_and(|excess| excess > 0.0 && excess <= near)
}

/// How many groups to add before the next trial: half of those that it takes if each wins as much as the last did.
fn stride(excess: f64, won_by_each: f64) -> usize {
    if won_by_each > 0.0 { ((excess / won_by_each / 2.0) as usize).clamp(1, STRIDE) } else { 1 }
}
