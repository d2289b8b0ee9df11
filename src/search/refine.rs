//! Fewer groups in fp32 than a strategy found, within the same budget.
//!
//! Each group that went back to fp32 is tried in int8 again, the least harmful first; then the two least harmful for one
//! other that is likely to be enough.
//! Whatever is within the budget with fewer groups is the new start.

use super::{
    History, Step, Strategy,
    history::{with, without},
};
use crate::graph::GroupId;

/// Groups that are tried for the two, at most.
const SWAPS: usize = 3;

pub(super) struct Refine;

impl Strategy for Refine {
    fn next(&self, history: &History<'_>) -> Option<Step> {
        let best = &history.best()?.fp32_groups;
        // From the end of the ranking: what loses least alone is missed least.
        let least_first: Vec<GroupId> =
            history.ranking.iter().rev().copied().filter(|group| best.contains(group)).collect();
        let fewer = |fp32: &Vec<GroupId>| history.find(fp32).is_none();
        let single = least_first.iter().map(|&group| without(best, &[group])).find(fewer);
        if let Some(fp32) = single {
            return Some(Step::Measure(fp32));
        }
        let [first, second, ..] = least_first[..] else { return None };
        let start = without(best, &[first, second]);
        let likely = match history.likely(&start) {
            Ok(likely) => likely,
            Err(step) => return Some(step),
        };
        // One of the pair alone was tried before.
        let others = likely.into_iter().filter(|&group| group != first && group != second);
        others.take(SWAPS).map(|group| with(&start, group)).find(fewer).map(Step::Measure)
    }
}
