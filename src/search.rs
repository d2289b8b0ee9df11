//! The search: a pure fold over the trials so far.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    evaluate::{Evaluation, Latency, Score},
    graph::GroupId,
};

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
    /// Groups that the starting qconfig quantizes and this one does not, in topological order.
    pub fp32_groups: Vec<GroupId>,
    /// Groups that run in int8.
    pub int8_groups: usize,
    /// The metric.
    pub evaluation: Evaluation,
    /// Latency against fp32; `None` when the job measures none, or it was voided.
    pub latency: Option<Latency>,
    /// Bytes of all weights and biases as they are stored for this qconfig.
    pub weight_bytes: u64,
    /// Bytes of the values alive at the same time in one run of one sample, at most.
    pub activation_bytes: u64,
}

/// How far the score may fall from fp32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Largest drop of a counted metric.
    Drop {
        /// As a fraction: 0.01 is one point.
        max_drop: f64,
        /// Of what.
        relative: DropKind,
    },
    /// Least SQNR of the output, in dB.
    MinDb(f64),
}

/// What a drop is a fraction of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropKind {
    /// All samples.
    #[default]
    Absolute,
    /// The samples that fp32 gets right.
    Relative,
}

/// When the search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Proposal {
    /// Measure the starting qconfig with these groups in fp32.
    Measure(Vec<GroupId>),
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

impl Budget {
    /// Whether a score is within the budget of an fp32 score. Drops are decided on integer counts:
    /// `fp32 − candidate <= max_drop · total` (absolute) or `… · fp32` (relative).
    pub fn allows(&self, fp32: &Score, candidate: &Score) -> bool {
        match (*self, *fp32, *candidate) {
            (
                Budget::Drop { max_drop, relative },
                Score::Count { correct: base, total },
                Score::Count { correct, .. },
            ) => {
                let of = match relative {
                    DropKind::Absolute => total,
                    DropKind::Relative => base,
                };
                // 0.01 · 5000 must allow 50: a drop of n samples is compared with room for f64 rounding only.
                base as f64 - correct as f64 <= max_drop * of as f64 * (1.0 + 1e-12)
            }
            (Budget::MinDb(least), _, Score::Decibel { value, .. }) => value >= least,
            _ => false,
        }
    }

    /// The least score that is within the budget of an fp32 score.
    pub fn least(&self, fp32: &Score) -> f64 {
        match *self {
            Budget::Drop { max_drop, relative: DropKind::Absolute } => fp32.value() - max_drop,
            Budget::Drop { max_drop, relative: DropKind::Relative } => fp32.value() * (1.0 - max_drop),
            Budget::MinDb(least) => least,
        }
    }
}

/// Greedy search: fp32, then all of the starting qconfig, then one more group in fp32 at each trial, worst
/// first. It never undoes.
#[derive(Clone, Debug)]
pub struct Greedy {
    /// Groups that the starting qconfig quantizes, worst first.
    pub ranking: Vec<GroupId>,
    /// What the trials must reach.
    pub budget: Budget,
    /// When to stop.
    pub limits: Limits,
}

impl Greedy {
    /// The next step after these trials, given in the order they were made.
    pub fn propose(&self, history: &[Trial]) -> Proposal {
        let fp32_all = || {
            let mut all = self.ranking.clone();
            all.sort_unstable();
            all
        };
        let Some(baseline) = history.first() else { return Proposal::Measure(fp32_all()) };
        let reached = |trial: &Trial| self.budget.allows(&baseline.evaluation.score, &trial.evaluation.score);
        if self.limits.until == Until::Budget && history[1..].iter().any(reached) {
            return Proposal::Finished(Finish::WithinBudget);
        }
        // Trial n has n − 1 groups in fp32; with all of them it would be trial 0 again.
        let next = history.len() - 1;
        if next >= self.ranking.len() {
            return Proposal::Finished(Finish::Exhausted);
        }
        if history.len() >= self.limits.max_trials {
            return Proposal::Finished(Finish::MaxTrials);
        }
        let spent: f64 = history.iter().map(|t| t.evaluation.seconds).sum();
        if self.limits.max_seconds.is_some_and(|limit| spent >= limit) {
            return Proposal::Finished(Finish::MaxTime);
        }
        let mut fp32 = self.ranking[..next].to_vec();
        fp32.sort_unstable();
        Proposal::Measure(fp32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(correct: u64) -> Trial {
        Trial {
            key: Key([0; 32]),
            fp32_groups: vec![],
            int8_groups: 0,
            evaluation: Evaluation { score: Score::Count { correct, total: 100 }, correct: vec![], seconds: 2.0 },
            latency: None,
            weight_bytes: 0,
            activation_bytes: 0,
        }
    }

    fn greedy() -> Greedy {
        Greedy {
            ranking: vec![GroupId(3), GroupId(0), GroupId(2)],
            budget: Budget::Drop { max_drop: 0.01, relative: DropKind::Absolute },
            limits: Limits { until: Until::Budget, max_trials: 100, max_seconds: None },
        }
    }

    #[test]
    fn takes_the_worst_group_back_until_within_the_budget() {
        let greedy = greedy();
        let measure = |ids: &[usize]| Proposal::Measure(ids.iter().map(|&i| GroupId(i)).collect());
        let mut history = vec![];
        assert_eq!(greedy.propose(&history), measure(&[0, 2, 3]));
        history.push(trial(90));
        assert_eq!(greedy.propose(&history), measure(&[]));
        history.push(trial(70));
        assert_eq!(greedy.propose(&history), measure(&[3]));
        history.push(trial(88));
        assert_eq!(greedy.propose(&history), measure(&[0, 3]));
        history.push(trial(89));
        assert_eq!(greedy.propose(&history), Proposal::Finished(Finish::WithinBudget));
    }

    #[test]
    fn ends_when_everything_is_fp32_or_a_limit_is_reached() {
        let mut search = greedy();
        let history: Vec<Trial> = [90, 10, 10, 10].map(trial).to_vec();
        assert_eq!(search.propose(&history), Proposal::Finished(Finish::Exhausted));
        search.limits.max_trials = 3;
        assert_eq!(search.propose(&history[..3]), Proposal::Finished(Finish::MaxTrials));
        search.limits.max_trials = 100;
        search.limits.max_seconds = Some(5.0);
        assert_eq!(search.propose(&history[..3]), Proposal::Finished(Finish::MaxTime));
        search.limits = Limits { until: Until::Exhausted, max_trials: 100, max_seconds: None };
        let good: Vec<Trial> = [90, 90].map(trial).to_vec();
        assert_eq!(search.propose(&good), Proposal::Measure(vec![GroupId(3)]));
    }

    #[test]
    fn budgets_are_decided_on_counts() {
        let score = |correct, total| Score::Count { correct, total };
        let absolute = Budget::Drop { max_drop: 0.01, relative: DropKind::Absolute };
        assert!(absolute.allows(&score(4600, 5000), &score(4550, 5000)));
        assert!(!absolute.allows(&score(4600, 5000), &score(4549, 5000)));
        assert!(absolute.allows(&score(4600, 5000), &score(4700, 5000)));
        let relative = Budget::Drop { max_drop: 0.1, relative: DropKind::Relative };
        assert!(relative.allows(&score(10, 100), &score(9, 100)));
        assert!(!relative.allows(&score(10, 100), &score(8, 100)));
        assert_eq!((absolute.least(&score(90, 100)), relative.least(&score(10, 20))), (0.89, 0.45));
        let db = |value| Score::Decibel { value, total: 5 };
        assert!(Budget::MinDb(20.0).allows(&db(f64::INFINITY), &db(20.0)));
        assert!(!Budget::MinDb(20.0).allows(&db(f64::INFINITY), &db(19.9)));
    }

    #[test]
    fn keys_survive_a_round_trip_as_text() {
        let key = Key(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("12".parse::<Key>(), Err(KeyError));
    }
}
