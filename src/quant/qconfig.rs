//! How one group is quantized, and the presets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a group's activations and weights are quantized: PyTorch's `QConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QConfig {
    /// Of the group's output, and of inputs that come from fp32.
    pub activation: ActivationSpec,
    /// Of the group's weight.
    pub weight: WeightSpec,
}

/// How activations are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivationSpec {
    /// Integer type.
    pub dtype: ActivationDtype,
    /// How scale and zero point follow from the observed range.
    pub qscheme: ActivationScheme,
    /// What is observed in calibration.
    pub observer: ObserverKind,
    /// Use half the integer range, as PyTorch does for kernels whose 16-bit sums may saturate.
    pub reduce_range: bool,
    /// Smallest integer; the dtype's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_min: Option<i32>,
    /// Largest integer; the dtype's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_max: Option<i32>,
}

/// How weights are quantized. Always symmetric: zero point 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightSpec {
    /// Integer type.
    pub dtype: WeightDtype,
    /// One scale a tensor or one an output channel.
    pub qscheme: WeightScheme,
    /// Smallest integer; -127 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_min: Option<i32>,
    /// Largest integer; 127 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_max: Option<i32>,
    /// Move the bias by what the rounding of the weight adds to the output on average, over the calibration samples.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias_correction: bool,
}

/// Integer type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationDtype {
    /// Unsigned, 0..=255.
    Quint8,
    /// Signed, -128..=127; runs as u8 shifted by 128, which gives the same products.
    Qint8,
}

/// How scale and zero point of an activation follow from its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationScheme {
    /// Any zero point.
    PerTensorAffine,
    /// Zero point in the middle of the integer range.
    PerTensorSymmetric,
}

/// What calibration keeps of a tensor to choose its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObserverKind {
    /// Smallest and largest element.
    Minmax,
    /// PyTorch's `HistogramObserver`: the range of least quantization error (L2) over a histogram.
    Histogram,
}

/// Integer type of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightDtype {
    /// Signed 8-bit.
    Qint8,
}

/// Granularity of weight scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightScheme {
    /// One scale for the whole tensor.
    PerTensorSymmetric,
    /// One scale an output channel.
    PerChannelSymmetric,
}

/// A named starting qconfig.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 8-bit histogram activations, per-channel weights.
    #[default]
    Onednn,
    /// As `onednn` with `reduce_range`, as PyTorch's.
    X86,
    /// The same as `x86`.
    Fbgemm,
    /// 8-bit histogram activations, per-tensor weights.
    Qnnpack,
    /// Symmetric s8 activations in -127..=127, per-channel weights, after TensorRT's rules.
    Tensorrt,
}

/// A qconfig whose numbers contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QConfigError {
    /// The integer range is empty or does not fit in the type.
    #[error("{part}: quant_min {min} and quant_max {max} must satisfy {lowest} <= quant_min < quant_max <= {highest}")]
    Range {
        /// `activation` or `weight`.
        part: &'static str,
        /// As given.
        min: i32,
        /// As given.
        max: i32,
        /// Of the type.
        lowest: i32,
        /// Of the type.
        highest: i32,
    },
    /// reduce_range together with an explicit range.
    #[error("activation: give either reduce_range or quant_min and quant_max, not both")]
    ReduceRangeTwice,
    /// Weights whose range does not reach both signs.
    #[error("weight: quant_min {min} must be negative and quant_max {max} positive")]
    OneSidedWeight {
        /// As given.
        min: i32,
        /// As given.
        max: i32,
    },
}

impl Preset {
    /// All presets, in the order of their documentation.
    pub const ALL: [Preset; 5] = [Preset::Onednn, Preset::X86, Preset::Fbgemm, Preset::Qnnpack, Preset::Tensorrt];

    /// The name in job files.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Onednn => "onednn",
            Preset::X86 => "x86",
            Preset::Fbgemm => "fbgemm",
            Preset::Qnnpack => "qnnpack",
            Preset::Tensorrt => "tensorrt",
        }
    }

    /// The preset of that name.
    pub fn by_name(name: &str) -> Option<Preset> {
        Preset::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The qconfig it stands for.
    pub fn qconfig(self) -> QConfig {
        let activation = ActivationSpec {
            dtype: ActivationDtype::Quint8,
            qscheme: ActivationScheme::PerTensorAffine,
            observer: ObserverKind::Histogram,
            reduce_range: matches!(self, Preset::X86 | Preset::Fbgemm),
            quant_min: None,
            quant_max: None,
        };
        let per_channel = WeightSpec {
            dtype: WeightDtype::Qint8,
            qscheme: WeightScheme::PerChannelSymmetric,
            quant_min: None,
            quant_max: None,
            bias_correction: false,
        };
        match self {
            Preset::Onednn | Preset::X86 | Preset::Fbgemm => QConfig { activation, weight: per_channel },
            Preset::Qnnpack => {
                QConfig { activation, weight: WeightSpec { qscheme: WeightScheme::PerTensorSymmetric, ..per_channel } }
            }
            Preset::Tensorrt => QConfig {
                activation: ActivationSpec {
                    dtype: ActivationDtype::Qint8,
                    qscheme: ActivationScheme::PerTensorSymmetric,
                    quant_min: Some(-127),
                    quant_max: Some(127),
                    ..activation
                },
                weight: per_channel,
            },
        }
    }
}

impl QConfig {
    /// Checks that the integer ranges make sense.
    ///
    /// # Errors
    /// [`QConfigError`] names the part that does not.
    pub fn check(&self) -> Result<(), QConfigError> {
        let activation = &self.activation;
        let (lowest, highest) = activation.dtype.limits();
        let explicit = activation.quant_min.is_some() || activation.quant_max.is_some();
        if explicit && activation.reduce_range {
            return Err(QConfigError::ReduceRangeTwice);
        }
        check_range("activation", activation.range(), lowest, highest)?;
        let (min, max) = self.weight.range();
        check_range("weight", (min, max), -128, 127)?;
        if min >= 0 || max <= 0 {
            return Err(QConfigError::OneSidedWeight { min, max });
        }
        Ok(())
    }
}

fn check_range(part: &'static str, (min, max): (i32, i32), lowest: i32, highest: i32) -> Result<(), QConfigError> {
    if lowest <= min && min < max && max <= highest {
        return Ok(());
    }
    Err(QConfigError::Range { part, min, max, lowest, highest })
}

impl ActivationDtype {
    /// Smallest and largest integer of the type.
    pub fn limits(self) -> (i32, i32) {
        match self {
            ActivationDtype::Quint8 => (0, 255),
            ActivationDtype::Qint8 => (-128, 127),
        }
    }

    /// What is added to an integer of this type to store it as u8.
    pub fn u8_offset(self) -> i32 {
        -self.limits().0
    }
}

impl ActivationSpec {
    /// The integer range in use, in the dtype's own numbers: `reduce_range` halves it
    /// (0..=127 or -64..=63).
    pub fn range(&self) -> (i32, i32) {
        let (lowest, highest) = self.dtype.limits();
        let (lowest, highest) = if self.reduce_range { (lowest / 2, highest / 2) } else { (lowest, highest) };
        (self.quant_min.unwrap_or(lowest), self.quant_max.unwrap_or(highest))
    }
}

impl WeightSpec {
    /// The integer range in use: -127..=127 unless given.
    pub fn range(&self) -> (i32, i32) {
        (self.quant_min.unwrap_or(-127), self.quant_max.unwrap_or(127))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_consistent_and_found_by_name() {
        for preset in Preset::ALL {
            preset.qconfig().check().unwrap();
            assert_eq!(Preset::by_name(preset.name()), Some(preset));
        }
        assert_eq!(Preset::Fbgemm.qconfig().activation.range(), (0, 127));
        assert_eq!(Preset::Tensorrt.qconfig().activation.range(), (-127, 127));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut qconfig = Preset::Onednn.qconfig();
        qconfig.activation.quant_min = Some(-1);
        assert_eq!(
            qconfig.check().unwrap_err().to_string(),
            "activation: quant_min -1 and quant_max 255 must satisfy 0 <= quant_min < quant_max <= 255"
        );
        let mut qconfig = Preset::X86.qconfig();
        qconfig.activation.quant_max = Some(200);
        assert_eq!(qconfig.check(), Err(QConfigError::ReduceRangeTwice));
        let mut qconfig = Preset::Onednn.qconfig();
        qconfig.weight.quant_min = Some(0);
        assert_eq!(qconfig.check(), Err(QConfigError::OneSidedWeight { min: 0, max: 127 }));
    }
}
