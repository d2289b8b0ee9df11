//! The trials so far, as strategies look at them.

use super::{Budget, Ranked, Trial, Until};
use crate::{graph::GroupId, sensitivity::Gain};

/// What a strategy goes by.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Groups that the starting qconfig quantizes, worst first.
    pub ranking: &'a [GroupId],
    /// What the trials must reach.
    pub budget: &'a Budget,
    /// The trial of fp32.
    pub baseline: &'a Trial,
    /// All trials, in order; the first is fp32.
    pub trials: &'a [Trial],
    /// The gains that were asked for.
    pub ranked: &'a [Ranked],
    /// When the search ends.
    pub until: Until,
}

impl<'a> History<'a> {
    /// The trial with exactly these groups in fp32, given in topological order.
    pub fn find(&self, fp32: &[GroupId]) -> Option<&'a Trial> {
        self.trials.iter().find(|trial| trial.fp32_groups == fp32)
    }

    /// The gains that were measured with exactly these groups in fp32.
    pub fn gains(&self, fp32: &[GroupId]) -> Option<&'a [Gain]> {
        self.ranked.iter().find(|ranked| ranked.fp32 == fp32).map(|ranked| &ranked.gains[..])
    }

    /// Whether a trial is within the budget. fp32 does not count.
    pub fn is_within(&self, trial: &Trial) -> bool {
        trial.int8_groups > 0 && self.budget.allows(&self.baseline.evaluation.score, &trial.evaluation.score)
    }

    /// The trial within the budget with the fewest groups in fp32, the first among equals.
    pub fn best(&self) -> Option<&'a Trial> {
        self.trials.iter().filter(|trial| self.is_within(trial)).min_by_key(|trial| trial.fp32_groups.len())
    }

    /// Whether a trial is within the budget and that is all that is wanted.
    pub fn is_enough(&self) -> bool {
        self.until == Until::Budget && self.best().is_some()
    }

    /// The `count` worst groups, in topological order.
    pub fn worst(&self, count: usize) -> Vec<GroupId> {
        sorted(self.ranking[..count.min(self.ranking.len())].to_vec())
    }
}

/// Groups in topological order.
pub(super) fn sorted(mut groups: Vec<GroupId>) -> Vec<GroupId> {
    groups.sort_unstable();
    groups
}

/// These groups and one more, in topological order.
pub(super) fn with(groups: &[GroupId], more: GroupId) -> Vec<GroupId> {
    sorted(groups.iter().copied().chain([more]).collect())
}

/// These groups without some, in order.
pub(super) fn without(groups: &[GroupId], fewer: &[GroupId]) -> Vec<GroupId> {
    groups.iter().copied().filter(|group| !fewer.contains(group)).collect()
}
