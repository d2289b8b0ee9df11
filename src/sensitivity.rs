//! Sensitivity: four SQNRs a group, and the ranking that follows.

use serde::{Deserialize, Serialize};

use crate::graph::GroupId;

/// Which SQNR ranks the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
