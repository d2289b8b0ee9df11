//! The search: a pure fold over the trials so far.
//!
//! [`Search::propose`] looks at the trials, and at the gains that it asked for, and says what is to be done next. It
//! keeps nothing, so a search that was cut off goes on from its recorded trials.

mod adaptive;
mod bisect;
mod budget;
mod chain;
mod history;
mod latency_aware;
mod left;
mod refine;
mod strategy;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    evaluate::{Evaluation, Latency},
    graph::GroupId,
    quant::Repair,
    sensitivity::{Gain, Won},
};

pub use budget::{Budget, DropInterval, DropKind};
pub use history::History;
pub use latency_aware::{GroupTime, by_noise_for_time};
pub use strategy::{Step, Strategy};

/// Identity of what a trial measures, or of a sensitivity analysis: a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct KeyError;

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Key, KeyError> {
        let digits: Vec<u8> =
            s.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>().ok_or(KeyError)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, d| byte << 4 | d)).collect();
        (digits.len() == 64).then_some(()).and_then(|()| bytes.try_into().ok()).map(Key).ok_or(KeyError)
    }
}

/// One qconfig, measured: an append-only fact.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What was measured.
    pub key: Key,
    /// What is changed in the starting qconfig.
    pub repairs: Vec<Repair>,
    /// Groups that the starting qconfig quantizes and this one does not, in topological order.
    pub fp32_groups: Vec<GroupId>,
    /// Groups that run in int8.
    pub int8_groups: usize,
    /// The metric; of a part of the samples where that was enough to know that the trial is outside the budget.
    pub evaluation: Evaluation,
    /// Latency against fp32; `None` for a trial that was not evaluated to its end, and when a latency was voided.
    pub latency: Option<Latency>,
    /// Bytes of all weights and biases as they are stored for this qconfig.
    pub weight_bytes: u64,
    /// Bytes of the values alive at the same time in one run of one sample, at most.
    pub activation_bytes: u64,
}

impl Trial {
    /// The qconfig that was measured.
    pub fn candidate(&self) -> Candidate {
        Candidate { repairs: self.repairs.clone(), fp32: self.fp32_groups.clone() }
    }
}

/// When the search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// At the first trial within the budget.
    #[default]
    Budget,
    /// When every group is back in fp32.
    Exhausted,
}

/// The limits of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// When it ends.
    pub until: Until,
    /// Trials at most, fp32 included.
    pub max_trials: usize,
    /// Seconds of measuring at most, summed over the trials; `None` for no limit.
    pub max_seconds: Option<f64>,
}

/// A qconfig that is to be measured: the starting one with some changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Applied to every group, in order.
    pub repairs: Vec<Repair>,
    /// Groups in fp32, in topological order.
    pub fp32: Vec<GroupId>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Proposal {
    /// Measure this qconfig.
    Measure(Candidate),
    /// Measure what each further group in fp32 would win beside those of this qconfig.
    Rank(Candidate),
    /// Measure how many samples each further group in fp32 would win beside those of this qconfig, which was measured.
    Screen(Candidate),
    /// The search is over.
    Finished(Finish),
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A trial is within the budget.
    WithinBudget,
    /// Every group was taken back to fp32.
    Exhausted,
    /// `max_trials` was reached.
    MaxTrials,
    /// `max_time` was reached.
    MaxTime,
}

/// The gains that were measured with some groups in fp32.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// What they were measured in.
    pub base: Candidate,
    /// What each of the others would win, most first.
    pub gains: Vec<Gain>,
}

/// How many samples each further group wins with some groups in fp32.
#[derive(Clone, Debug, PartialEq)]
pub struct Screened {
    /// What it was measured in.
    pub base: Candidate,
    /// What each of the others would win, most first; empty where that cannot be told from single samples.
    pub won: Vec<Won>,
}

/// What a search goes by: all of it was asked for by [`Search::propose`].
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// In the order they were made; the first is fp32.
    pub trials: Vec<Trial>,
    /// Gains.
    pub ranked: Vec<Ranked>,
    /// What groups would win.
    pub screened: Vec<Screened>,
}

/// A search: fp32, then all of the starting qconfig, if need be with its repairs, then what the strategy tries from the best
/// of these; at last, what it found is refined.
#[derive(Clone, Debug)]
pub struct Search {
    /// Groups that the starting qconfig quantizes, in the order in which they are to go back to fp32: worst first, or for
    /// `latency_aware` as [`by_noise_for_time`] has them.
    pub ranking: Vec<GroupId>,
    /// What the trials must reach.
    pub budget: Budget,
    /// When to stop.
    pub limits: Limits,
    /// What is tried.
    pub strategy: StrategyKind,
    /// What is tried on all groups before any goes back to fp32: the first, the first two, and so on.
    pub repairs: Vec<Repair>,
    /// Whether each group that went back to fp32 is tried in int8 again, once a trial is within the budget.
    pub refine: bool,
}

/// How qconfigs are proposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKind {
    /// The worst remaining group, one a trial.
    #[default]
    Greedy,
    /// How many of the worst groups are enough, by doubling and halving, then one group fewer.
    Bisect,
    /// The group that wins most under the present qconfig, measured again after each step; several at once far from the
    /// budget.
    Adaptive,
    /// As `bisect`, on the groups by the noise that they cost for the time that int8 saves on them.
    LatencyAware,
}

impl StrategyKind {
    fn strategy(self) -> &'static dyn Strategy {
        match self {
            StrategyKind::Greedy => &chain::Greedy,
            StrategyKind::Bisect | StrategyKind::LatencyAware => &bisect::Bisect,
            StrategyKind::Adaptive => &adaptive::Adaptive,
        }
    }
}

impl Search {
    /// The trials as strategies look at them, from the best repairs so far; `None` before fp32 is measured.
    fn history<'a>(&'a self, findings: &'a Findings) -> Option<History<'a>> {
        let (ranking, budget, until) = (&self.ranking[..], &self.budget, self.limits.until);
        let history = History { ranking, budget, baseline: findings.trials.first()?, findings, repairs: &[], until };
        Some(History { repairs: history.best_repairs(), ..history })
    }

    /// The next step after these findings.
    pub fn propose(&self, findings: &Findings) -> Proposal {
        let trials = &findings.trials;
        let Some(mut history) = self.history(findings) else {
            let mut fp32 = self.ranking.clone();
            fp32.sort_unstable();
            return Proposal::Measure(Candidate { repairs: Vec::new(), fp32 });
        };
        let enough = history.is_enough();
        let mut repairs = (0..=self.repairs.len()).map(|count| &self.repairs[..count]);
        let untried = repairs.find(|repairs| History { repairs, ..history }.find(&[]).is_none());
        let step = match untried.filter(|_| !enough) {
            Some(repairs) => {
                history.repairs = repairs;
                Some(Step::Measure(Vec::new()))
            }
            None => {
                let refined = || if enough && self.refine { refine::Refine.next(&history) } else { None };
                self.strategy.strategy().next(&history).or_else(refined)
            }
        };
        let candidate = |fp32| Candidate { repairs: history.repairs.to_vec(), fp32 };
        let spent: f64 = trials.iter().map(|t| t.evaluation.seconds).sum();
        let finish = match step {
            None => Finish::Exhausted,
            Some(_) if trials.len() >= self.limits.max_trials => Finish::MaxTrials,
            Some(_) if self.limits.max_seconds.is_some_and(|limit| spent >= limit) => Finish::MaxTime,
            Some(Step::Measure(fp32)) => return Proposal::Measure(candidate(fp32)),
            Some(Step::Rank(fp32)) => return Proposal::Rank(candidate(fp32)),
            Some(Step::Screen(fp32)) => return Proposal::Screen(candidate(fp32)),
        };
        Proposal::Finished(if enough { Finish::WithinBudget } else { finish })
    }
}
