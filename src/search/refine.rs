//! Fewer groups in fp32 than a strategy found, within the same budget.
//!
//! Each group that went back to fp32 is tried in int8 again, the least harmful first; then two of them for one other.
//! Whatever is within the budget with fewer groups is the new start.

use super::{
    History, Step, Strategy,
    history::{with, without},
};
use crate::graph::GroupId;

/// Swaps that are tried from one start, at most.
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
        let pairs = least_first.iter().enumerate();
        let pairs = pairs.flat_map(|(i, &a)| least_first[i + 1..].iter().map(move |&b| [a, b]));
        // For each pair the group that wins most in its place, then for each the second, and so on.
        let swaps = (0..SWAPS).flat_map(|place| pairs.clone().map(move |pair| (pair, place)));
        for (pair, place) in swaps.take(SWAPS) {
            let start = without(best, &pair);
            let Some(gains) = history.gains(&start) else { return Some(Step::Rank(start)) };
            // One of the pair alone was tried before.
            let mut others = gains.iter().map(|gain| gain.group).filter(|group| !pair.contains(group));
            let Some(other) = others.nth(place) else { continue };
            let fp32 = with(&start, other);
            if history.find(&fp32).is_none() {
                return Some(Step::Measure(fp32));
            }
        }
        None
    }
}
