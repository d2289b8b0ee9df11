//! Measurements of one qconfig: the metric over samples, and latency.

mod accuracy;
mod latency;
mod program;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

pub use accuracy::{Enough, EvaluateError, Samples, evaluate, largest, outputs};
pub use latency::{
    GATE_IS_HELD, Gate, LatencyError, Protocol, fingerprint, latencies, latency, step_times, throughput,
};
pub use program::{Call, Files, Measures, Program, ProgramError, Programs, decibel, latency_ns, number, outcomes};

/// What is measured on the search split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of samples whose largest output is the label's.
    #[default]
    Top1,
    /// Share of samples whose label is among the five largest outputs.
    Top5,
    /// Share of samples whose largest output is the same as in fp32; needs no labels.
    Agreement,
    /// SQNR of the network's output against fp32, in dB; needs no labels.
    Sqnr,
    /// A number that a program of the user's prints, such as mAP, mIoU, F1 or BLEU; larger is better.
    Score,
}

/// A number without a unit as people read it: four decimals, or a power of ten where these would say little.
pub fn plain(value: f64) -> String {
    // -0 is 0.
    match value.abs() {
        0.0 => "0.0000".to_owned(),
        1e-4..1e6 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// The value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// A share of samples.
    Count {
        /// Samples that were right.
        correct: u64,
        /// Samples seen.
        total: u64,
    },
    /// One number for all samples: a ratio in dB, +inf when the outputs are equal; or what a program of the user's says.
    Number {
        /// The number.
        value: f64,
        /// Samples seen.
        total: u64,
    },
}

/// A metric measured over the search split, or over the part of it that was enough to know that it is outside the budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The metric's value.
    pub score: Score,
    /// Which samples were right, in the order they were seen; empty for metrics that do not count.
    pub correct: Vec<bool>,
    /// Seconds it took.
    pub seconds: f64,
}

/// Raw latencies of a candidate and of fp32, taken in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// One entry a run of the candidate, in ns, in the order taken.
    pub candidate_ns: Vec<u64>,
    /// One entry a run of fp32, in ns, in the order taken.
    pub fp32_ns: Vec<u64>,
    /// Where and how they were taken; latencies compare only within one fingerprint.
    pub fingerprint: Fingerprint,
}

/// What a latency depends on besides the plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Model name of the CPU.
    pub cpu: String,
    /// Name of the kernels, or [`Call::identity`] of the program that measured.
    pub kernel: String,
    /// Threads of one run.
    pub threads: usize,
    /// Samples in one run.
    pub batch: usize,
    /// CPUs that a cgroup quota allows, in thousandths; `None` without a quota.
    pub quota_milli_cpus: Option<u64>,
}

/// Median and quartiles, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the samples is below.
    pub q1: f64,
    /// Half of the samples are below.
    pub median: f64,
    /// Three quarters of the samples are below.
    pub q3: f64,
}

impl Score {
    /// The value on one axis: a fraction, dB, or the number as it is. Larger is better.
    pub fn value(&self) -> f64 {
        match *self {
            Score::Count { correct, total } => correct as f64 / total.max(1) as f64,
            Score::Number { value, .. } => value,
        }
    }

    /// Samples seen.
    pub fn total(&self) -> u64 {
        match *self {
            Score::Count { total, .. } | Score::Number { total, .. } => total,
        }
    }

    /// Where the share lies in the population that the samples were drawn from, with this confidence: Wilson's score
    /// interval (Wilson 1927). `None` for a number, without samples, and for a confidence that is none.
    pub fn interval(&self, confidence: f64) -> Option<(f64, f64)> {
        let Score::Count { correct, total } = *self else { return None };
        if total == 0 || !(0.0..1.0).contains(&confidence) {
            return None;
        }
        let z = Normal::standard().inverse_cdf(0.5 + confidence / 2.0);
        let (p, n) = (correct as f64 / total as f64, total as f64);
        let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        Some(((middle - half).max(0.0), (middle + half).min(1.0)))
    }
}

impl Quartiles {
    /// Quartiles of `samples` by linear interpolation between order statistics (Hyndman and Fan, type 7);
    /// `None` when there are none.
    pub fn of(samples: &[u64]) -> Option<Quartiles> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place.floor() as usize] as f64, sorted[place.ceil() as usize] as f64);
            low + (high - low) * place.fract()
        };
        (!sorted.is_empty()).then(|| Quartiles { q1: at(0.25), median: at(0.5), q3: at(0.75) })
    }
}

/// Where the median of the population is, with 95 % confidence: between two order statistics of `samples`, whose ranks
/// are those of a binomial count with share ½ (David and Nagaraja, "Order Statistics", 2003, 7.1). All of their range
/// where they are fewer than 6; `None` when there are none.
fn median_interval(samples: &[u64]) -> Option<(u64, u64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    // The largest rank that the count of samples below the median stays above with 97.5 %.
    let tail = Binomial::new(0.5, sorted.len() as u64).ok()?;
    let beyond = (0..sorted.len() as u64 / 2).take_while(|&rank| tail.cdf(rank) <= 0.025).count();
    let (low, high) = (beyond.saturating_sub(1), sorted.len().checked_sub(beyond.max(1))?);
    Some((*sorted.get(low)?, *sorted.get(high)?))
}

impl Latency {
    /// Where the median of the candidate is with 95 % confidence, in ns: runs are taken as independent of each other.
    pub fn interval(&self) -> Option<(u64, u64)> {
        median_interval(&self.candidate_ns)
    }

    /// Quartiles of the candidate.
    pub fn candidate(&self) -> Option<Quartiles> {
        Quartiles::of(&self.candidate_ns)
    }

    /// Quartiles of fp32.
    pub fn fp32(&self) -> Option<Quartiles> {
        Quartiles::of(&self.fp32_ns)
    }

    /// Median of fp32 over median of the candidate, both taken in the same run.
    pub fn speed_up(&self) -> Option<f64> {
        Some(self.fp32()?.median / self.candidate()?.median)
    }
}

#[cfg(test)]
mod tests {
    use super::{Score, median_interval, plain};

    #[test]
    fn the_interval_of_a_median_lies_between_order_statistics() {
        let to = |n: u64| (1..=n).collect::<Vec<u64>>();
        // Ranks as in tables of the sign test at 5 %.
        assert_eq!(median_interval(&to(20)), Some((6, 15)));
        assert_eq!(median_interval(&to(10)), Some((2, 9)));
        assert_eq!(median_interval(&to(100)), Some((40, 61)));
        assert_eq!((median_interval(&to(5)), median_interval(&[7])), (Some((1, 5)), Some((7, 7))));
        assert_eq!(median_interval(&[]), None);
    }

    #[test]
    fn numbers_without_a_unit_have_four_decimals() {
        let shown = [0.7634, -0.0, -0.00312, 27.5, 3.2e-7, 1_234_567.0].map(plain);
        assert_eq!(shown, ["0.7634", "0.0000", "-0.0031", "27.5000", "3.200e-7", "1.235e6"]);
    }

    #[test]
    fn intervals_are_those_of_wilson() {
        let close = |score: Score, confidence, low: f64, high: f64| {
            let (l, h) = score.interval(confidence).unwrap();
            assert!((l - low).abs() < 5e-5 && (h - high).abs() < 5e-5, "{l} {h}");
        };
        // Newcombe 1998, table I, method 3.
        close(Score::Count { correct: 81, total: 263 }, 0.95, 0.2553, 0.3662);
        close(Score::Count { correct: 15, total: 148 }, 0.95, 0.0624, 0.1605);
        close(Score::Count { correct: 0, total: 20 }, 0.95, 0.0, 0.1611);
        close(Score::Count { correct: 29, total: 29 }, 0.95, 0.8830, 1.0);
        assert_eq!(Score::Count { correct: 0, total: 0 }.interval(0.95), None);
        assert_eq!(Score::Count { correct: 1, total: 2 }.interval(f64::NAN), None);
        assert_eq!(Score::Number { value: 20.0, total: 5 }.interval(0.95), None);
    }
}
