//! Dominance, the front, and the choice within a budget: the one definition.

use crate::search::{Budget, Trial};

/// Whether each trial is on the front: no other is weakly better in score and median latency and strictly
/// better in one. Trials without a latency are never on it.
pub fn front(trials: &[Trial]) -> Vec<bool> {
    let point = |t: &Trial| t.latency.as_ref()?.candidate().map(|q| (t.evaluation.score.value(), q.median));
    let points: Vec<Option<(f64, f64)>> = trials.iter().map(point).collect();
    let dominated = |(score, latency): (f64, f64)| {
        points.iter().flatten().any(|&(s, l)| s >= score && l <= latency && (s > score || l < latency))
    };
    points.iter().map(|p| p.is_some_and(|p| !dominated(p))).collect()
}

/// The fastest trial within the budget, ties by smaller weights, then by fewer groups in fp32, then by order.
///
/// The first trial is fp32. It is chosen only when no other is within the budget. Without latencies, more
/// int8 groups count as faster.
pub fn choose(trials: &[Trial], budget: &Budget) -> Option<usize> {
    let baseline = trials.first()?;
    let median = |t: &Trial| t.latency.as_ref().and_then(|l| l.candidate()).map_or(f64::INFINITY, |q| q.median);
    (1..trials.len())
        .filter(|&i| budget.allows(&baseline.evaluation.score, &trials[i].evaluation.score))
        .min_by(|&a, &b| {
            let (a, b) = (&trials[a], &trials[b]);
            (median(a).total_cmp(&median(b)))
                .then(a.weight_bytes.cmp(&b.weight_bytes))
                .then(a.fp32_groups.len().cmp(&b.fp32_groups.len()))
        })
        .or(Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::{Evaluation, Fingerprint, Latency, Score},
        search::{DropKind, Key},
    };

    fn trial(correct: u64, ns: u64) -> Trial {
        let fingerprint =
            Fingerprint { cpu: "c".into(), kernel: "k".into(), threads: 1, batch: 1, quota_milli_cpus: None };
        Trial {
            key: Key([0; 32]),
            fp32_groups: vec![],
            int8_groups: 0,
            evaluation: Evaluation { score: Score::Count { correct, total: 100 }, correct: vec![], seconds: 0.0 },
            latency: (ns > 0).then(|| Latency { candidate_ns: vec![ns], fp32_ns: vec![100], fingerprint }),
            weight_bytes: 10,
            activation_bytes: 0,
        }
    }

    #[test]
    fn the_front_keeps_equals_and_drops_the_dominated() {
        let trials = [trial(90, 100), trial(80, 50), trial(80, 50), trial(79, 50), trial(85, 100), trial(70, 0)];
        assert_eq!(front(&trials), [true, true, true, false, false, false]);
    }

    #[test]
    fn the_fastest_within_the_budget_is_chosen() {
        let budget = Budget::Drop { max_drop: 0.05, relative: DropKind::Absolute };
        let trials = [trial(90, 100), trial(80, 50), trial(86, 70), trial(90, 60)];
        assert_eq!(choose(&trials, &budget), Some(3));
        assert_eq!(choose(&trials[..2], &budget), Some(0));
        assert_eq!(choose(&[], &budget), None);
    }
}
