//! Few samples for all candidates, more for those that matter.

/// One round: these samples, for the candidates that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) from: usize,
    pub(super) to: usize,
    /// How many candidates see them.
    pub(super) candidates: usize,
}

/// Successive halving (Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed bandits", 2013): all
/// candidates see the `first` samples, then half of them as many again, a quarter of them twice as many, and so on until
/// `samples` are seen. Each round costs half of the first; to see everything with everyone would cost `samples` /
/// `first` times the first.
pub(super) fn rounds(candidates: usize, first: usize, samples: usize) -> Vec<Round> {
    let mut rounds = Vec::new();
    let (mut from, mut to, mut candidates) = (0, first.min(samples), candidates);
    while from < to && candidates > 0 {
        rounds.push(Round { from, to, candidates });
        (from, to) = (to, (2 * to).min(samples));
        candidates = if candidates == 1 { 0 } else { candidates.div_ceil(2) };
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::{Round, rounds};

    #[test]
    fn samples_double_while_candidates_halve() {
        let round = |from, to, candidates| Round { from, to, candidates };
        assert_eq!(rounds(65, 4, 20), [round(0, 4, 65), round(4, 8, 33), round(8, 16, 17), round(16, 20, 9)]);
        assert_eq!(rounds(2, 4, 64), [round(0, 4, 2), round(4, 8, 1)]);
        assert_eq!(rounds(3, 4, 2), [round(0, 2, 3)]);
        assert_eq!((rounds(0, 4, 9), rounds(9, 4, 0)), (vec![], vec![]));
    }
}
