//! Dominance, the front, and the choice within a budget: the one definition.

use crate::{
    evaluate::Latency,
    search::{Budget, Trial},
};

/// Finalists at most: each more makes the bounds of all wider.
const FINALISTS: usize = 3;

/// Whether each trial is on the front: no other is weakly better in score and median latency and strictly
/// better in one. Trials without a latency, or that have not seen all samples, are never on it.
pub fn front(trials: &[Trial]) -> Vec<bool> {
    let total = trials.first().map_or(0, |fp32| fp32.evaluation.score.total());
    let point = |t: &Trial| {
        let seen = t.evaluation.score.total() == total;
        let latency = t.latency.as_ref().filter(|_| seen)?;
        latency.candidate().map(|q| (t.evaluation.score.value(), q.median))
    };
    let points: Vec<Option<(f64, f64)>> = trials.iter().map(point).collect();
    let dominated = |(score, latency): (f64, f64)| {
        points.iter().flatten().any(|&(s, l)| s >= score && l <= latency && (s > score || l < latency))
    };
    points.iter().map(|p| p.is_some_and(|p| !dominated(p))).collect()
}

/// The trials within the budget that a choice may fall on, the preferred first: the fastest; among those that are not
/// surely slower ([`crate::evaluate::Latency::interval`]) the one with smaller weights, then with fewer groups in fp32, then
/// the earlier. Then the next that is safer, which loses less, and so on.
///
/// The first trial is fp32; it is none of them. Without latencies, none is surely slower.
pub fn finalists(trials: &[Trial], budget: &Budget) -> Vec<usize> {
    let mut left = within(trials, budget);
    let mut safest = f64::NEG_INFINITY;
    let mut finalists = Vec::new();
    while finalists.len() < FINALISTS {
        let Some(fastest) = left.iter().map(|&i| interval(&trials[i]).1).min() else { break };
        let tied = left.iter().copied().filter(|&i| interval(&trials[i]).0 <= fastest);
        let Some(best) = tied.min_by_key(|&i| (trials[i].weight_bytes, trials[i].fp32_groups.len(), i)) else { break };
        finalists.push(best);
        safest = trials[best].evaluation.score.value().max(safest);
        left.retain(|&i| trials[i].evaluation.score.value() > safest);
    }
    finalists
}

/// The trials within the budget, in order; the first trial is fp32 and none of them.
pub fn within(trials: &[Trial], budget: &Budget) -> Vec<usize> {
    let Some(baseline) = trials.first() else { return Vec::new() };
    let allows = |trial: &Trial| budget.allows(&baseline.evaluation.score, &trial.evaluation.score);
    (1..trials.len()).filter(|&i| allows(&trials[i])).collect()
}

/// Where the median latency of a trial is, in ns; beyond all others where it has none.
fn interval(trial: &Trial) -> (u64, u64) {
    trial.latency.as_ref().and_then(Latency::interval).unwrap_or((u64::MAX, u64::MAX))
}

/// The first of the [`finalists`]; fp32, the first trial, when there is none.
pub fn choose(trials: &[Trial], budget: &Budget) -> Option<usize> {
    trials.first().map(|_| finalists(trials, budget).first().copied().unwrap_or(0))
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
            repairs: vec![],
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
        let budget = Budget::Drop { max_drop: 0.05, kind: DropKind::Absolute };
        let trials = [trial(90, 100), trial(80, 50), trial(86, 70), trial(90, 60)];
        assert_eq!(choose(&trials, &budget), Some(3));
        assert_eq!(choose(&trials[..2], &budget), Some(0));
        assert_eq!(choose(&[], &budget), None);
    }

    #[test]
    fn among_those_that_are_not_surely_slower_the_smallest_is_chosen() {
        let budget = Budget::Drop { max_drop: 0.05, kind: DropKind::Absolute };
        let with = |ns: &[u64], bytes| {
            let mut trial = trial(90, 1);
            trial.latency.as_mut().unwrap().candidate_ns = ns.to_vec();
            trial.weight_bytes = bytes;
            trial
        };
        let (fast, near, slow) = (with(&[50, 60, 70], 30), with(&[55, 65, 90], 20), with(&[71, 80, 90], 10));
        let fp32 = trial(90, 100);
        assert_eq!(choose(&[fp32.clone(), fast.clone(), near, slow.clone()], &budget), Some(2));
        assert_eq!(choose(&[fp32, fast, slow], &budget), Some(1));
    }

    #[test]
    fn finalists_are_ever_safer_and_ever_slower() {
        let budget = Budget::Drop { max_drop: 0.05, kind: DropKind::Absolute };
        let trials = [trial(90, 100), trial(85, 50), trial(85, 60), trial(80, 10), trial(87, 80), trial(89, 90)];
        assert_eq!(finalists(&trials, &budget), [1, 4, 5]);
        let more = [&trials[..], &[trial(86, 70)]].concat();
        assert_eq!(finalists(&more, &budget), [1, 6, 4]);
        // Half of the samples say nothing of the whole.
        let mut partial = trial(90, 1);
        partial.evaluation.score = Score::Count { correct: 50, total: 50 };
        assert_eq!(finalists(&[trial(90, 100), partial.clone()], &budget), [0; 0]);
        assert_eq!(front(&[trial(90, 100), partial]), [true, false]);
    }
}
