//! One more group in fp32 at each trial, worst first. It never undoes.

use super::{History, Step, Strategy};

pub(super) struct Greedy;

impl Strategy for Greedy {
    fn next(&self, history: &History<'_>) -> Option<Step> {
        if history.is_enough() {
            return None;
        }
        // With all of them it would be fp32 again.
        let mut chain = (1..history.ranking.len()).map(|count| history.worst(count));
        chain.find(|fp32| history.find(fp32).is_none()).map(Step::Measure)
    }
}
