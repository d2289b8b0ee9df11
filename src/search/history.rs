//! The trials so far, as strategies look at them.

use super::{Budget, Candidate, Findings, Step, Trial, Until};
use crate::{
    evaluate::Score,
    graph::GroupId,
    quant::Repair,
    sensitivity::{Gain, Won},
};

/// What a strategy goes by.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Groups that the starting qconfig quantizes, worst first.
    pub ranking: &'a [GroupId],
    /// What the trials must reach.
    pub budget: &'a Budget,
    /// The trial of fp32.
    pub baseline: &'a Trial,
    /// All that was measured.
    pub findings: &'a Findings,
    /// What is changed in the starting qconfig: of trials, gains and wins only those with these count.
    pub repairs: &'a [Repair],
    /// When the search ends.
    pub until: Until,
}

impl<'a> History<'a> {
    /// The trial with exactly these groups in fp32, given in topological order.
    pub fn find(&self, fp32: &[GroupId]) -> Option<&'a Trial> {
        // In fp32 there is nothing to repair.
        let same = |trial: &&Trial| trial.repairs == self.repairs || trial.int8_groups == 0;
        self.findings.trials.iter().filter(same).find(|trial| trial.fp32_groups == fp32)
    }

    /// The gains that were measured with exactly these groups in fp32.
    pub fn gains(&self, fp32: &[GroupId]) -> Option<&'a [Gain]> {
        self.findings.ranked.iter().find(|ranked| self.is_here(&ranked.base, fp32)).map(|ranked| &ranked.gains[..])
    }

    /// What each other group would win with exactly these in fp32.
    pub fn won(&self, fp32: &[GroupId]) -> Option<&'a [Won]> {
        self.findings
            .screened
            .iter()
            .find(|screened| self.is_here(&screened.base, fp32))
            .map(|screened| &screened.won[..])
    }

    fn is_here(&self, base: &Candidate, fp32: &[GroupId]) -> bool {
        base.repairs == self.repairs && base.fp32 == fp32
    }

    /// The repairs with which all of the starting qconfig loses least, the fewest among equals; once a trial is enough, its
    /// own.
    pub fn best_repairs(&self) -> &'a [Repair] {
        if let Some(best) = self.best().filter(|_| self.is_enough()) {
            return &best.repairs;
        }
        let whole = self.findings.trials.iter().filter(|trial| trial.fp32_groups.is_empty());
        let least = whole.min_by(|a, b| self.excess_loss(a).total_cmp(&self.excess_loss(b)));
        least.map_or(&[], |trial| &trial.repairs)
    }

    /// By how much a trial loses more than the budget allows, on the samples that it has seen: a fraction of them, or in
    /// the unit of the budget.
    pub(super) fn excess_loss(&self, trial: &Trial) -> f64 {
        let fp32 = &self.baseline.evaluation.score;
        let allowed = match *self.budget {
            Budget::MinDb(least) => -least,
            Budget::Drop { .. } => fp32.value() - self.budget.least(fp32),
        };
        self.budget.loss(&self.baseline.evaluation, &trial.evaluation) - allowed
    }

    /// How many samples too many the trial with these groups in fp32 has lost; `None` before it is measured, and for
    /// metrics that do not count.
    pub fn excess(&self, fp32: &[GroupId]) -> Option<f64> {
        self.budget.excess(&self.baseline.evaluation, &self.find(fp32)?.evaluation)
    }

    /// The groups each of which is likely to be enough, in fp32 beside `fp32`, the likeliest first; or what must be
    /// measured to know.
    pub fn likely(&self, fp32: &[GroupId]) -> Result<Vec<GroupId>, Step> {
        if let Score::Number { .. } = self.baseline.evaluation.score {
            let gains = self.gains(fp32).ok_or_else(|| Step::Rank(fp32.to_vec()))?;
            let is_likely = |gain: &&Gain| match *self.budget {
                Budget::MinDb(least) => gain.output >= least,
                // What wins less than one that was not enough is not likely to be.
                Budget::Drop { .. } => self.find(&with(fp32, gain.group)).is_none_or(|trial| self.is_within(trial)),
            };
            return Ok(gains.iter().take_while(is_likely).map(|gain| gain.group).collect());
        }
        let excess = self.excess(fp32).ok_or_else(|| Step::Measure(fp32.to_vec()))?;
        let won = self.won(fp32).ok_or_else(|| Step::Screen(fp32.to_vec()))?;
        Ok(won.iter().filter(|won| won.samples as f64 >= excess).map(|won| won.group).collect())
    }

    /// Whether a trial is within the budget. fp32 does not count.
    pub fn is_within(&self, trial: &Trial) -> bool {
        trial.int8_groups > 0 && self.budget.allows(&self.baseline.evaluation.score, &trial.evaluation.score)
    }

    /// The trial within the budget with the fewest groups in fp32, the first among equals.
    pub fn best(&self) -> Option<&'a Trial> {
        self.findings.trials.iter().filter(|trial| self.is_within(trial)).min_by_key(|trial| trial.fp32_groups.len())
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
