//! How long a search is likely to go on, from the trials so far.

use super::{Findings, Search, StrategyKind, Trial, Until};

impl Search {
    /// Seconds of measuring trials until one is within the budget, if each further group in fp32 wins as much as those so far
    /// did, and a trial takes as long as those so far; at most what the limits leave. `None` before a group is in fp32, and
    /// once a trial is enough. Rankings between trials are not counted.
    pub fn seconds_left(&self, findings: &Findings) -> Option<f64> {
        let trials = &findings.trials;
        let (history, last) = (self.history(findings)?, trials.last()?);
        let start = history.find(&[])?;
        let in_fp32 = last.fp32_groups.len();
        if history.is_enough() || in_fp32 == 0 || last.int8_groups == 0 {
            return None;
        }
        let rest = self.ranking.len().saturating_sub(in_fp32 + 1);
        let won = (history.excess_loss(start) - history.excess_loss(last)) / in_fp32 as f64;
        let needed = match self.limits.until {
            Until::Budget if won > 0.0 => ((history.excess_loss(last) / won).ceil() as usize).clamp(1, rest.max(1)),
            Until::Budget | Until::Exhausted => rest,
        };
        let trials_needed = match self.strategy {
            StrategyKind::Greedy => needed,
            // Doubled up to it, then halved between.
            StrategyKind::Bisect | StrategyKind::LatencyAware => 2 * log2(in_fp32 + needed),
            // Each trial goes half of the way that is left.
            StrategyKind::Adaptive => log2(needed),
        };
        let trials_left = trials_needed.min(self.limits.max_trials.saturating_sub(trials.len()));
        let each = trials[1..].iter().map(seconds).sum::<f64>() / (trials.len() - 1) as f64;
        let spent: f64 = trials.iter().map(|trial| trial.evaluation.seconds).sum();
        let most = self.limits.max_seconds.map_or(f64::INFINITY, |limit| (limit - spent).max(0.0));
        Some((trials_left as f64 * each).min(most))
    }
}

/// The binary logarithm, rounded up, of a number above 0, and 1 at least.
fn log2(count: usize) -> usize {
    (usize::BITS - count.saturating_sub(1).leading_zeros()).max(1) as usize
}

/// What a trial took: its evaluation and its latencies.
fn seconds(trial: &Trial) -> f64 {
    let taken = trial.latency.iter().flat_map(|latency| latency.candidate_ns.iter().chain(&latency.fp32_ns));
    trial.evaluation.seconds + taken.map(|&ns| ns as f64).sum::<f64>() / 1e9
}
