//! Changes of a qconfig that may save groups from fp32.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ObserverKind, QConfig, WeightScheme};

/// A change of how groups are quantized that costs no time in a run. A search tries it on all groups before it takes any
/// back to fp32. What calibration has seen is enough for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// `observer: auto` for activations: of the ranges of all observers the one with the least noise on the tensor.
    ObserverAuto,
    /// `bias_correction: true` for weights.
    BiasCorrection,
    /// `qscheme: per_channel_symmetric` for weights.
    PerChannel,
}

impl QConfig {
    /// The qconfig with these changes, in order.
    pub fn repaired(self, repairs: &[Repair]) -> QConfig {
        repairs.iter().fold(self, |qconfig, repair| repair.apply(qconfig))
    }
}

impl Repair {
    fn apply(self, mut qconfig: QConfig) -> QConfig {
        match self {
            Repair::ObserverAuto => {
                qconfig.activation.observer = ObserverKind::Auto;
                qconfig.activation.percentile = None;
            }
            Repair::BiasCorrection => qconfig.weight.bias_correction = true,
            Repair::PerChannel => qconfig.weight.qscheme = WeightScheme::PerChannelSymmetric,
        }
        qconfig
    }

    /// Its name, as in a job file.
    pub fn name(self) -> &'static str {
        match self {
            Repair::ObserverAuto => "observer_auto",
            Repair::BiasCorrection => "bias_correction",
            Repair::PerChannel => "per_channel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Preset;

    #[test]
    fn each_changes_what_it_names() {
        let start = Preset::Qnnpack.qconfig();
        let all = [Repair::ObserverAuto, Repair::BiasCorrection, Repair::PerChannel];
        let repaired = start.repaired(&all);
        assert_eq!(repaired.check(), Ok(()));
        assert_eq!(repaired.activation.observer, ObserverKind::Auto);
        assert!(repaired.weight.bias_correction);
        assert_eq!(repaired.weight.qscheme, WeightScheme::PerChannelSymmetric);
        let mut rest = repaired;
        rest.activation.observer = start.activation.observer;
        rest.weight = start.weight;
        assert_eq!(rest, start);
        for repair in all {
            assert_eq!(serde_json::to_value(repair).unwrap(), repair.name());
        }
    }
}
