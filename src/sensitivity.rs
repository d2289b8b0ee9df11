//! Sensitivity: four SQNRs a group, and the ranking that follows.

mod analyze;
mod halving;
mod probe;
mod screen;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{cancel::Cancelled, engine::EngineError, graph::GroupId, ptq::SampleError};

pub use analyze::{Analysis, analyze};
pub use probe::{Gain, gains};
pub use screen::{Contested, Won, screen};

/// Which SQNR ranks the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    /// Of the dequantized folded weight.
    Weight,
    /// Of the group's output in int8 when fed the fp32 input.
    Local,
    /// Of the group's output in the int8 network.
    Accumulated,
    /// Of the network's output with this group alone quantized.
    #[default]
    Output,
}

/// How much one group loses, in dB; +inf where nothing is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSensitivity {
    /// The group.
    pub group: GroupId,
    /// SQNR of the weight; `None` for groups without one.
    pub weight: Option<f64>,
    /// SQNR of the output when fed the fp32 input.
    pub local: f64,
    /// SQNR of the output in the network with every group quantized.
    pub accumulated: f64,
    /// SQNR of the network's output with this group alone quantized.
    pub output: f64,
    /// Smallest and largest element of the group's output in calibration.
    pub range: (f32, f32),
}

/// What keeps the sensitivities from being measured.
#[derive(Debug, thiserror::Error)]
pub enum SensitivityError {
    /// A sample could not be read.
    #[error("reading a calibration sample failed")]
    Sample(#[source] SampleError),
    /// A network could not be run.
    #[error("measuring a sensitivity failed")]
    Engine(#[from] EngineError),
    /// An SQNR is not a number.
    #[error("group `{group}` has a value that is not finite ({kind} SQNR)")]
    NotFinite {
        /// The group.
        group: String,
        /// Which of the four.
        kind: &'static str,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Groups from the lowest SQNR to the highest. Ties keep topological order; groups without a weight come last
/// when ranked by `weight`.
pub fn rank(sensitivities: &[GroupSensitivity], by: RankBy) -> Vec<GroupId> {
    let value = |s: &GroupSensitivity| match by {
        RankBy::Weight => s.weight.unwrap_or(f64::INFINITY),
        RankBy::Local => s.local,
        RankBy::Accumulated => s.accumulated,
        RankBy::Output => s.output,
    };
    let mut order: Vec<&GroupSensitivity> = sensitivities.iter().collect();
    order.sort_by(|a, b| value(a).total_cmp(&value(b)).then(a.group.cmp(&b.group)));
    order.into_iter().map(|s| s.group).collect()
}

#[cfg(test)]
mod tests;
