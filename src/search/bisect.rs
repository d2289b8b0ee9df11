//! How many of the worst groups must go back to fp32: doubled until it is enough, halved between, then one fewer.

use super::{History, Step, Strategy};

pub(super) struct Bisect;

impl Strategy for Bisect {
    fn next(&self, history: &History<'_>) -> Option<Step> {
        if history.find(&[]).is_some_and(|all_int8| history.is_within(all_int8)) {
            return None;
        }
        let groups = history.ranking.len();
        let measured = |count: usize| history.find(&history.worst(count)).map(|trial| history.is_within(trial));
        let step = |count: usize| Some(Step::Measure(history.worst(count)));
        // The largest that is known not to be enough, as far as it was doubled; all of them are fp32 itself.
        let (mut few, mut many) = (0, 1);
        loop {
            if many >= groups {
                many = groups;
                break;
            }
            match measured(many) {
                None => return step(many),
                Some(true) => break,
                Some(false) => (few, many) = (many, 2 * many),
            }
        }
        while many - few > 1 {
            let middle = few + (many - few) / 2;
            match measured(middle) {
                None => return step(middle),
                Some(true) => many = middle,
                Some(false) => few = middle,
            }
        }
        // Accuracy need not rise along the chain: the neighbour below the last that failed may still be within.
        let neighbour = few.checked_sub(1).filter(|&count| count > 0 && measured(count).is_none());
        neighbour.and_then(step)
    }
}
