//! What strategies have in common.

use super::History;
use crate::graph::GroupId;

/// What a strategy wants next. Groups are in topological order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The trial with these groups in fp32.
    Measure(Vec<GroupId>),
    /// The gains of all other groups with these in fp32.
    Rank(Vec<GroupId>),
    /// How many samples each other group would win with these, which were measured, in fp32.
    Screen(Vec<GroupId>),
}

/// A way to come to a qconfig within the budget: a pure function of what was measured. fp32 and all of the starting
/// qconfig are measured before it is asked. When a trial [is enough](History::is_enough), it may still look closer.
/// That more groups in fp32 are more accurate is a hope, never assumed.
pub trait Strategy {
    /// The next step; `None` when there is nothing left to try.
    fn next(&self, history: &History<'_>) -> Option<Step>;
}
