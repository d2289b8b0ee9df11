//! How one group is quantized, and the presets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rounding;

/// How a group's activations and weights are quantized: PyTorch's `QConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QConfig {
    /// Of the group's output, and of inputs that come from fp32.
    pub activation: ActivationSpec,
    /// Of the group's weight.
    pub weight: WeightSpec,
    /// Of an addition: what becomes of the sums of a layer that it adds to.
    #[serde(default, skip_serializing_if = "Residual::is_rounded")]
    pub residual: Residual,
}

/// What an addition in int8 takes from the layer in int8 that alone feeds one of its operands. Where the layer is a
/// depthwise convolution, or one of the two is in fp32, there is nothing to choose: a layer in int8 rounds to its own grid,
/// and an addition in int8 quantizes what comes in fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// The layer's output rounded to a grid of its own, as ONNX Runtime runs it.
    #[default]
    Rounded,
    /// The layer's sum in f32, which has no grid: it is rounded once, onto the grid of the addition, as TensorRT does.
    /// Where both operands come from such layers, it is that of the later one.
    Fused,
}

impl Residual {
    fn is_rounded(&self) -> bool {
        *self == Residual::Rounded
    }
}

/// How activations are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivationSpec {
    /// Integer type.
    pub dtype: ActivationDtype,
    /// How scale and zero point follow from the observed range.
    pub qscheme: ActivationScheme,
    /// How the range follows from what calibration has seen.
    pub observer: ObserverKind,
    /// For the observer `percentile`: the share of the elements that the range holds; 99.999 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentile: Option<Percentile>,
    /// Use half the integer range, as PyTorch does for kernels whose 16-bit sums may saturate.
    pub reduce_range: bool,
    /// Smallest integer; the dtype's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_min: Option<i32>,
    /// Largest integer; the dtype's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant_max: Option<i32>,
    /// As which engine numbers are rounded to integers, to the last bit; `onnxruntime` when absent. The others are for `quint8`
    /// with all of its integers, and need `residual: rounded`.
    #[serde(default, skip_serializing_if = "Rounding::is_default")]
    pub rounding: Rounding,
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

/// How a tensor's range follows from what calibration has seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObserverKind {
    /// Smallest and largest element.
    Minmax,
    /// PyTorch's `HistogramObserver`: quantiles are cut off while that lowers the squared error of 256 levels.
    Histogram,
    /// What holds a share of the elements, as ONNX Runtime's `CalibrationMethod.Percentile` does.
    Percentile,
    /// The least squared error on the very grid that the qconfig gives, over ranges that are cut on either side.
    Mse,
    /// The least Kullback-Leibler divergence between the tensor and its levels: TensorRT's calibration.
    Entropy,
    /// Of the ranges of all the others, for each tensor that with the highest SQNR on it: that of `mse` as a rule, or one that
    /// lies between the steps of its search.
    Auto,
}

impl ObserverKind {
    /// Those among which `auto` chooses.
    pub const CHOICE: [ObserverKind; 5] = [
        ObserverKind::Minmax,
        ObserverKind::Histogram,
        ObserverKind::Percentile,
        ObserverKind::Mse,
        ObserverKind::Entropy,
    ];
}

/// A share of elements in percent, above 50 and at most 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percentile(f64);

impl Percentile {
    /// The share, in percent.
    pub fn percent(self) -> f64 {
        self.0
    }
}

impl Default for Percentile {
    /// That of ONNX Runtime.
    fn default() -> Percentile {
        Percentile(99.999)
    }
}

// No percentile is NaN, nor 0 of either sign.
impl Eq for Percentile {}

impl std::hash::Hash for Percentile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl TryFrom<f64> for Percentile {
    type Error = String;

    fn try_from(percent: f64) -> Result<Percentile, String> {
        match percent > 50.0 && percent <= 100.0 {
            true => Ok(Percentile(percent)),
            false => Err(format!("expected a percentile above 50 and at most 100, found {percent}")),
        }
    }
}

impl From<Percentile> for f64 {
    fn from(percentile: Percentile) -> f64 {
        percentile.0
    }
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
    /// As `onednn`, run as OpenVINO runs it to the last bit: `rounding: openvino`.
    Openvino,
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
    /// A rounding that is known for other integers alone.
    #[error("activation: OpenVINO's rounding is for quint8 with the integers 0 to 255, neither reduce_range nor fewer")]
    RoundingRange,
    /// A rounding that knows only additions of sums that have a grid.
    #[error("activation: OpenVINO's rounding needs residual rounded: what it rounds of a sum it decides by itself")]
    RoundingResidual,
    /// A percentile for an observer that has none.
    #[error("activation: percentile is for the observer percentile alone")]
    PercentileUnused,
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
    pub const ALL: [Preset; 6] =
        [Preset::Onednn, Preset::X86, Preset::Fbgemm, Preset::Qnnpack, Preset::Tensorrt, Preset::Openvino];

    /// The name in job files.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Onednn => "onednn",
            Preset::X86 => "x86",
            Preset::Fbgemm => "fbgemm",
            Preset::Qnnpack => "qnnpack",
            Preset::Tensorrt => "tensorrt",
            Preset::Openvino => "openvino",
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
            percentile: None,
            reduce_range: matches!(self, Preset::X86 | Preset::Fbgemm),
            quant_min: None,
            quant_max: None,
            rounding: Rounding::OnnxRuntime,
        };
        let per_channel = WeightSpec {
            dtype: WeightDtype::Qint8,
            qscheme: WeightScheme::PerChannelSymmetric,
            quant_min: None,
            quant_max: None,
            bias_correction: false,
        };
        let residual = Residual::Rounded;
        match self {
            Preset::Onednn | Preset::X86 | Preset::Fbgemm => QConfig { activation, weight: per_channel, residual },
            Preset::Qnnpack => {
                let weight = WeightSpec { qscheme: WeightScheme::PerTensorSymmetric, ..per_channel };
                QConfig { activation, weight, residual }
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
                residual,
            },
            Preset::Openvino => QConfig {
                activation: ActivationSpec { rounding: Rounding::OpenVino, ..activation },
                weight: per_channel,
                residual,
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
        if activation.percentile.is_some() && activation.observer != ObserverKind::Percentile {
            return Err(QConfigError::PercentileUnused);
        }
        let (lowest, highest) = activation.dtype.limits();
        let explicit = activation.quant_min.is_some() || activation.quant_max.is_some();
        if explicit && activation.reduce_range {
            return Err(QConfigError::ReduceRangeTwice);
        }
        check_range("activation", activation.range(), lowest, highest)?;
        if activation.rounding.is_openvino() {
            if activation.range() != (0, 255) {
                return Err(QConfigError::RoundingRange);
            }
            if self.residual != Residual::Rounded {
                return Err(QConfigError::RoundingResidual);
            }
        }
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
        qconfig.activation.percentile = Some(Percentile::default());
        assert_eq!(qconfig.check(), Err(QConfigError::PercentileUnused));
        assert!([50.0, 100.1, f64::NAN].into_iter().all(|percent| Percentile::try_from(percent).is_err()));
        let mut qconfig = Preset::Onednn.qconfig();
        qconfig.activation.rounding = Rounding::OpenVino;
        assert_eq!(qconfig.check(), Ok(()));
        qconfig.residual = Residual::Fused;
        assert_eq!(qconfig.check(), Err(QConfigError::RoundingResidual));
        qconfig.residual = Residual::Rounded;
        qconfig.activation.reduce_range = true;
        assert_eq!(qconfig.check(), Err(QConfigError::RoundingRange));
        let mut qconfig = Preset::Onednn.qconfig();
        qconfig.weight.quant_min = Some(0);
        assert_eq!(qconfig.check(), Err(QConfigError::OneSidedWeight { min: 0, max: 127 }));
    }
}
