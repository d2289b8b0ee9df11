//! The budget, and where a trial's drop lies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    confidence::{MeanSequence, Pairs},
    evaluate::{Evaluation, Score},
};

/// How far the score may fall from fp32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Largest drop from fp32.
    Drop {
        /// A fraction: 0.01 is one point. In the score's own unit where that is a number.
        max_drop: f64,
        /// Of what.
        kind: DropKind,
    },
    /// Least SQNR of the output, in dB.
    MinDb(f64),
}

/// What a drop is a fraction of. A drop of the metric `score` is absolute in the score's own unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DropKind {
    /// All samples.
    #[default]
    Absolute,
    /// The samples that fp32 gets right, or fp32's score.
    Relative,
}

impl Budget {
    /// Whether a score is within the budget of an fp32 score. Drops are decided on integer counts, on the whole split:
    /// `fp32 − candidate <= max_drop · total` (absolute) or `… · fp32` (relative). A score on a part of the samples is
    /// outside: that is why the others were not seen. Drops of numbers: `fp32 − candidate <= max_drop`, or
    /// `… max_drop · fp32`.
    pub fn allows(&self, fp32: &Score, candidate: &Score) -> bool {
        match (*self, *fp32, *candidate) {
            (
                Budget::Drop { max_drop, kind },
                Score::Count { correct: base, total },
                Score::Count { correct, total: seen },
            ) => seen == total && base as f64 - correct as f64 <= samples(max_drop, kind, base, total),
            (Budget::Drop { .. }, Score::Number { value: base, .. }, Score::Number { value, .. }) => {
                // What decimal fractions lose as f64, and their difference: 0.76 − 0.75 must be allowed where 0.01 is.
                value - self.least(fp32) >= -2.0 * f64::EPSILON * (base.abs() + value.abs())
            }
            (Budget::MinDb(least), _, Score::Number { value, .. }) => value >= least,
            _ => false,
        }
    }

    /// Whether a candidate is surely outside the budget on the whole split, after the samples it was right or wrong on in
    /// the order in which fp32 saw them, with this confidence however often one asks.
    pub fn surely_outside(&self, fp32: &Evaluation, candidate: &[bool], confidence: f64) -> bool {
        let (Budget::Drop { max_drop, kind }, Score::Count { correct: base, total }) = (*self, fp32.score) else {
            return false;
        };
        let most = samples(max_drop, kind, base, total).floor();
        sequence(&fp32.correct, candidate, confidence).is_above(most / total.max(1) as f64)
    }

    /// How many samples more than allowed a candidate has lost, on the samples that it has seen: above 0 outside the
    /// budget, if the others change nothing. `None` for metrics that do not count.
    pub fn excess(&self, fp32: &Evaluation, candidate: &Evaluation) -> Option<f64> {
        let (Budget::Drop { max_drop, kind }, Score::Count { correct: base, total }) = (*self, fp32.score) else {
            return None;
        };
        let pairs = Pairs::of(&fp32.correct, &candidate.correct);
        let lost = pairs.lost as f64 - pairs.won as f64;
        Some(lost - samples(max_drop, kind, base, total).floor())
    }

    /// The least score that is within the budget of an fp32 score.
    pub fn least(&self, fp32: &Score) -> f64 {
        match *self {
            Budget::Drop { max_drop, kind: DropKind::Absolute } => fp32.value() - max_drop,
            Budget::Drop { max_drop, kind: DropKind::Relative } => fp32.value() * (1.0 - max_drop),
            Budget::MinDb(least) => least,
        }
    }

    /// How much worse than fp32 a candidate is, on the samples that both have seen: the drop, or for a budget in dB what
    /// the ratio is below 0, since that of fp32 is infinite.
    pub(super) fn loss(&self, fp32: &Evaluation, candidate: &Evaluation) -> f64 {
        match (self, fp32.score) {
            (Budget::MinDb(_), _) => -candidate.score.value(),
            (Budget::Drop { .. }, Score::Count { .. }) => Pairs::of(&fp32.correct, &candidate.correct).drop(),
            (Budget::Drop { .. }, Score::Number { value, .. }) => value - candidate.score.value(),
        }
    }

    /// Where the drop of `candidate` lies, with this confidence, when `fp32` saw the whole split in the same order; that of
    /// numbers is what it is. `None` for a budget in dB.
    pub fn drop_interval(&self, fp32: &Evaluation, candidate: &Evaluation, confidence: f64) -> Option<DropInterval> {
        let Budget::Drop { .. } = self else { return None };
        let (seen, total) = (self.loss(fp32, candidate), fp32.score.total());
        if candidate.score.total() >= total {
            return Some(DropInterval { seen, low: seen, high: seen });
        }
        let (low, high) = sequence(&fp32.correct, &candidate.correct, confidence).interval();
        // A drop is a whole number of samples; room for the rounding of f64 only.
        let total = total as f64;
        let (low, high) = ((low * total - 1e-6).ceil() / total, (high * total + 1e-6).floor() / total);
        Some(DropInterval { seen, low, high })
    }
}

/// How many samples may be lost and not won. 0.01 · 5000 must allow 50: room for the rounding of f64 only.
fn samples(max_drop: f64, kind: DropKind, base: u64, total: u64) -> f64 {
    let of = match kind {
        DropKind::Absolute => total,
        DropKind::Relative => base,
    };
    max_drop * of as f64 * (1.0 + 1e-12)
}

/// The drop of a trial from fp32 on the whole search split, as fractions of its samples, or in the unit of a score that is a
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropInterval {
    /// On the samples seen.
    pub seen: f64,
    /// The drop on the whole split is not below this,
    pub low: f64,
    /// and not above this.
    pub high: f64,
}

/// What is known of the mean of the differences fp32 − candidate, sample by sample.
fn sequence(fp32: &[bool], candidate: &[bool], confidence: f64) -> MeanSequence {
    let mut sequence = MeanSequence::new(fp32.len(), [-1.0, 1.0], confidence);
    fp32.iter().zip(candidate).for_each(|(&a, &b)| sequence.push(f64::from(a) - f64::from(b)));
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_decided_on_counts() {
        let score = |correct, total| Score::Count { correct, total };
        let absolute = Budget::Drop { max_drop: 0.01, kind: DropKind::Absolute };
        assert!(absolute.allows(&score(4600, 5000), &score(4550, 5000)));
        assert!(!absolute.allows(&score(4600, 5000), &score(4549, 5000)));
        assert!(absolute.allows(&score(4600, 5000), &score(4700, 5000)));
        let relative = Budget::Drop { max_drop: 0.1, kind: DropKind::Relative };
        assert!(relative.allows(&score(10, 100), &score(9, 100)));
        assert!(!relative.allows(&score(10, 100), &score(8, 100)));
        assert_eq!((absolute.least(&score(90, 100)), relative.least(&score(10, 20))), (0.89, 0.45));
        let db = |value| Score::Number { value, total: 5 };
        assert!(Budget::MinDb(20.0).allows(&db(f64::INFINITY), &db(20.0)));
        assert!(!Budget::MinDb(20.0).allows(&db(f64::INFINITY), &db(19.9)));
    }

    #[test]
    fn drops_of_numbers_are_decided_on_what_was_measured() {
        let number = |value| Score::Number { value, total: 5 };
        let absolute = Budget::Drop { max_drop: 0.005, kind: DropKind::Absolute };
        // As f64, 0.76 − 0.755 is above 0.005.
        assert!(absolute.allows(&number(0.76), &number(0.755)) && absolute.allows(&number(0.76), &number(0.9)));
        assert!(!absolute.allows(&number(0.76), &number(0.754_999_999_999)));
        let none = Budget::Drop { max_drop: 0.0, kind: DropKind::Absolute };
        assert!(none.allows(&number(0.3), &number(0.3)) && !none.allows(&number(0.3), &number(0.299_999_999_999)));
        let wide = Budget::Drop { max_drop: 2.5, kind: DropKind::Absolute };
        assert!(wide.allows(&number(-1.0), &number(-3.5)) && !wide.allows(&number(-1.0), &number(-3.51)));
        let relative = Budget::Drop { max_drop: 0.1, kind: DropKind::Relative };
        assert!(relative.allows(&number(27.0), &number(24.3)) && !relative.allows(&number(27.0), &number(24.2)));
        let measured = |value| Evaluation { score: number(value), correct: vec![], seconds: 0.0 };
        let (fp32, candidate) = (measured(0.75), measured(0.5));
        let drop = absolute.drop_interval(&fp32, &candidate, 0.95);
        assert_eq!(drop, Some(DropInterval { seen: 0.25, low: 0.25, high: 0.25 }));
        assert_eq!(Budget::MinDb(20.0).drop_interval(&fp32, &candidate, 0.95), None);
        assert!(!absolute.surely_outside(&fp32, &[], 0.95) && absolute.excess(&fp32, &candidate).is_none());
    }

    fn evaluation(correct: Vec<bool>) -> Evaluation {
        let right = correct.iter().filter(|c| **c).count() as u64;
        let score = Score::Count { correct: right, total: correct.len() as u64 };
        Evaluation { score, correct, seconds: 0.0 }
    }

    #[test]
    fn what_is_surely_outside_needs_no_more_samples() {
        let budget = Budget::Drop { max_drop: 0.01, kind: DropKind::Absolute };
        let fp32 = evaluation(vec![true; 1000]);
        // Every fifth is lost.
        let lost: Vec<bool> = (0..1000).map(|i| i % 5 != 0).collect();
        let sure = |seen: usize| budget.surely_outside(&fp32, &lost[..seen], 0.95);
        assert!(!sure(10) && sure(200) && sure(1000));
        let partial = evaluation(lost[..200].to_vec());
        let interval = budget.drop_interval(&fp32, &partial, 0.95).unwrap();
        assert!(interval.low > 0.01 && interval.low < 0.2 && interval.high > 0.2, "{interval:?}");
        let whole = budget.drop_interval(&fp32, &evaluation(lost.clone()), 0.95).unwrap();
        assert_eq!((whole.seen, whole.low, whole.high), (0.2, 0.2, 0.2));
        // A trial that was stopped is outside, whatever its score.
        assert!(!budget.allows(&fp32.score, &evaluation(vec![true; 500]).score));
        // Exactly what is allowed is not outside; one more is.
        let drop = |n: usize| -> Vec<bool> { (0..1000).map(|i| i % 90 != 0 || i >= 90 * n).collect() };
        assert!(!budget.surely_outside(&fp32, &drop(10), 0.95) && budget.surely_outside(&fp32, &drop(11), 0.95));
        assert!(!Budget::MinDb(20.0).surely_outside(&fp32, &lost, 0.95));
        let relative = Budget::Drop { max_drop: 0.02, kind: DropKind::Relative };
        let half = evaluation((0..1000).map(|i| i % 2 == 0).collect());
        let minus = |n: usize| -> Vec<bool> { (0..1000).map(|i| i % 2 == 0 && (i % 90 != 0 || i >= 90 * n)).collect() };
        assert!(!relative.surely_outside(&half, &minus(10), 0.95) && relative.surely_outside(&half, &minus(11), 0.95));
    }
}
