//! Affine quantization arithmetic. This file holds the rounding rule; kernels implement the same rule in
//! vector form and are tested against it.

use super::{ActivationScheme, ActivationSpec, FakeQuantize, Rounding, WeightScheme, WeightSpec};

/// Smallest scale: 2⁻²³. Keeps `1 / scale` finite and every requantization multiplier a normal number.
const MIN_SCALE: f32 = 1.0 / (1 << 23) as f32;

/// Largest magnitude of a quantized bias: half the s32 range, the other half is for the sum of products.
const MAX_BIAS: f64 = (1u32 << 30) as f64;

/// `x` rounded to the nearest integer, ties to even (IEEE 754 `roundTiesToEven`).
#[inline(always)]
pub fn round_half_even(x: f32) -> f32 {
    x.round_ties_even()
}

/// Affine parameters of one activation tensor stored as u8: `x ≈ (q − zero_point) · scale`.
///
/// A qint8 tensor is stored shifted by 128; all fields are in stored (u8) numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Step between neighbouring integers, in units of the tensor.
    pub scale: f32,
    /// The integer that means 0.
    pub zero_point: u8,
    /// Smallest integer written.
    pub quant_min: u8,
    /// Largest integer written.
    pub quant_max: u8,
    /// To which of two integers a number between them goes.
    pub rounding: Rounding,
}

impl Affine {
    /// Parameters for values in `[min, max]`, in units of the tensor.
    ///
    /// Affine: the range is extended to contain 0; `s = (max − min) / (quant_max − quant_min)`, zero point
    /// `rne(quant_min − min / s)`. Symmetric: `s = 2·max(|min|, |max|) / (quant_max − quant_min)`, zero point
    /// in the middle (PyTorch `UniformQuantizationObserverBase._calculate_qparams`). `s` is at least 2⁻²³.
    pub fn from_range(min: f32, max: f32, spec: &ActivationSpec) -> Affine {
        let (low, high) = spec.range();
        let offset = spec.dtype.u8_offset();
        let (low, high) = (low + offset, high + offset);
        let (min, max) = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
        let steps = f64::from(high - low);
        let (scale, zero_point) = match spec.qscheme {
            ActivationScheme::PerTensorAffine => {
                let scale = ((max - min) / steps).max(f64::from(MIN_SCALE)) as f32;
                let zero = (f64::from(low) - min / f64::from(scale)).round_ties_even();
                (scale, zero.clamp(f64::from(low), f64::from(high)) as i32)
            }
            ActivationScheme::PerTensorSymmetric => {
                let scale = (2.0 * max.max(-min) / steps).max(f64::from(MIN_SCALE)) as f32;
                (scale, (low + high + 1) / 2)
            }
        };
        Affine {
            scale,
            zero_point: zero_point as u8,
            quant_min: low as u8,
            quant_max: high as u8,
            rounding: spec.rounding,
        }
    }

    /// `clamp(rne(x / scale) + zero_point)`: ONNX `QuantizeLinear`; where OpenVINO rounds, `clamp(rne(steps))` of
    /// [`FakeQuantize::of_tensor`].
    #[inline(always)]
    pub fn quantize(&self, x: f32) -> u8 {
        match self.rounding {
            Rounding::OnnxRuntime => {}
            Rounding::OpenVino => return self.integer(FakeQuantize::of_tensor(self).steps(x)),
            Rounding::OpenVinoStatic => return self.integer(FakeQuantize::of_tensor(self).steps_of_product(x)),
        }
        let low = f32::from(self.quant_min) - f32::from(self.zero_point);
        let high = f32::from(self.quant_max) - f32::from(self.zero_point);
        // The bounds are integers, so clamping before rounding is the same and cannot overflow.
        let steps = round_half_even((x / self.scale).max(low).min(high));
        // An integer in 0..=255 added to 2²³ is the low byte of the sum's bits, exactly. A cast that saturates
        // would say the same, but does not become vector code.
        (steps + (f32::from(self.zero_point) + (1 << 23) as f32)).to_bits() as u8
    }

    /// `(q − zero_point) · scale`: ONNX `DequantizeLinear`.
    #[inline(always)]
    pub fn dequantize(&self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero_point)) * self.scale
    }

    /// `clamp(rne(f32(sum) · multiplier) + zero_point)` of a sum in steps that `multiplier` turns into this grid's.
    #[inline(always)]
    pub fn requantize(&self, sum: i32, multiplier: f32) -> u8 {
        let low = f32::from(self.quant_min) - f32::from(self.zero_point);
        let high = f32::from(self.quant_max) - f32::from(self.zero_point);
        let steps = round_half_even((sum as f32 * multiplier).max(low).min(high));
        (steps + f32::from(self.zero_point)) as u8
    }

    /// `clamp(rne(steps))` of a number of steps with the zero point in it.
    #[inline(always)]
    pub fn integer(&self, steps: f32) -> u8 {
        round_half_even(steps.max(f32::from(self.quant_min)).min(f32::from(self.quant_max))) as u8
    }

    /// The integers between which a tensor clipped to `[min, max]` lies.
    pub fn clip(&self, min: f32, max: f32) -> (u8, u8) {
        (self.quantize(min), self.quantize(max))
    }
}

/// `m = s_x·s_w / s_y`, rounded to f32 after the product and after the division, as ONNX Runtime does: turns an s32 sum
/// at scale `s_x·s_w` into steps of `s_y`. One last bit here is enough for a deep network to answer otherwise.
pub fn requantization_multiplier(input: f32, weight: f32, output: f32) -> f32 {
    let product = input * weight;
    match product.is_normal() {
        true => product / output,
        false => (f64::from(input) * f64::from(weight) / f64::from(output)) as f32,
    }
}

/// What turns two integers, each on its grid, into their sum on a third:
/// `y = clamp(rne(fma(q_a, m_a, fma(q_b, m_b, offset))))`, each `fma` rounded to f32 once.
///
/// In exact numbers that is QuantizeLinear and DequantizeLinear around an ONNX `Add`, zero points included. In this order
/// it is what ONNX Runtime's `QLinearAdd` computes on x86-64 with AVX2, bit for bit; it rounds once less than dequantizing
/// both, and divides by nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddMultipliers {
    /// `m_a = s_a / s_y`.
    pub a: f32,
    /// `m_b = s_b / s_y`.
    pub b: f32,
    /// `z_y − fma(m_a, z_a, m_b·z_b)`.
    pub offset: f32,
}

impl AddMultipliers {
    /// For the sum of `a` and `b` on the grid `out`.
    pub fn new(a: &Affine, b: &Affine, out: &Affine) -> AddMultipliers {
        let (m_a, m_b) = (a.scale / out.scale, b.scale / out.scale);
        let zero_points = m_a.mul_add(f32::from(a.zero_point), m_b * f32::from(b.zero_point));
        AddMultipliers { a: m_a, b: m_b, offset: f32::from(out.zero_point) - zero_points }
    }
}

/// Scales of a weight, one an output channel (all the same when per tensor), and the weight in s8.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightScales {
    /// One an output channel.
    pub scales: Vec<f32>,
    /// Output channels whose scale was raised so that their bias fits in 2³⁰ steps.
    pub raised: Vec<usize>,
    range: (i32, i32),
}

impl WeightScales {
    /// Scales of a weight of `channels` rows: `s = max|w| / quant_max`, 1 for an all-zero channel.
    ///
    /// Where a bias would exceed 2³⁰ steps of `input_scale · s`, that channel's scale is raised until it
    /// does not (and listed in [`WeightScales::raised`]).
    pub fn of(weight: &[f32], bias: Option<&[f32]>, channels: usize, input_scale: f32, spec: &WeightSpec) -> Self {
        let (low, high) = spec.range();
        let row = weight.len() / channels.max(1);
        let largest = |w: &[f32]| w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let scale = |m: f32| if m == 0.0 { 1.0 } else { (m / high as f32).max(f32::MIN_POSITIVE) };
        let mut scales = match spec.qscheme {
            WeightScheme::PerTensorSymmetric => vec![scale(largest(weight)); channels],
            WeightScheme::PerChannelSymmetric => weight.chunks(row.max(1)).map(|w| scale(largest(w))).collect(),
        };
        let mut raised = Vec::new();
        for (channel, &b) in bias.unwrap_or_default().iter().enumerate() {
            let least = f64::from(b).abs() / (f64::from(input_scale) * MAX_BIAS);
            if f64::from(scales[channel]) < least {
                // One step up, so that rounding to f32 does not bring it back below the bound.
                scales[channel] = (least as f32).next_up();
                raised.push(channel);
            }
        }
        WeightScales { scales, raised, range: (low, high) }
    }

    /// These scales, one for all channels or one an output channel.
    pub fn given(scales: &[f32], channels: usize, spec: &WeightSpec) -> Self {
        let all = match scales {
            [one] => vec![*one; channels],
            scales => scales.to_vec(),
        };
        // More than one scale for a weight that should have one are those of channels that a bias raised.
        let raised = if scales.len() > 1 { (0..channels).collect() } else { Vec::new() };
        WeightScales { scales: all, raised, range: spec.range() }
    }

    /// `clamp(rne(w / s))` of one weight of output channel `channel`.
    #[inline]
    pub fn quantize(&self, channel: usize, w: f32) -> i8 {
        let (low, high) = (self.range.0 as f32, self.range.1 as f32);
        round_half_even((w / self.scales[channel]).max(low).min(high)) as i8
    }

    /// `q · s` of one weight of output channel `channel`.
    #[inline]
    pub fn dequantize(&self, channel: usize, q: i8) -> f32 {
        f32::from(q) * self.scales[channel]
    }

    /// Bias of `channel` in steps of `input_scale · s`: `rne(b / (s_x·s_w))`, in f64.
    pub fn quantize_bias(&self, channel: usize, bias: f32, input_scale: f32) -> i32 {
        let step = f64::from(input_scale) * f64::from(self.scales[channel]);
        (f64::from(bias) / step).round_ties_even().clamp(-MAX_BIAS, MAX_BIAS) as i32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quant::Preset;

    fn spec() -> ActivationSpec {
        Preset::Onednn.qconfig().activation
    }

    #[test]
    fn rounding_is_half_to_even_as_in_onnx() {
        let grid = Affine { scale: 2.0, zero_point: 128, quant_min: 0, quant_max: 255, rounding: Rounding::default() };
        // The example of ONNX QuantizeLinear: x / 2 = 0, 1, 1.5, 500, -500, -1.5.
        let got: Vec<u8> = [0.0, 2.0, 3.0, 1000.0, -1000.0, -3.0].iter().map(|&x| grid.quantize(x)).collect();
        assert_eq!(got, [128, 129, 130, 255, 0, 126]);
        assert_eq!(grid.quantize(1.0), 128);
        assert_eq!(grid.quantize(5.0), 130);
    }

    #[test]
    fn ranges_follow_the_definition() {
        let grid = Affine::from_range(-1.0, 3.0, &spec());
        assert_eq!((grid.scale, grid.zero_point), (4.0 / 255.0, 64));
        let positive = Affine::from_range(2.0, 6.0, &spec());
        assert_eq!((positive.scale, positive.zero_point), (6.0 / 255.0, 0));
        let nothing = Affine::from_range(0.0, 0.0, &spec());
        assert_eq!((nothing.scale, nothing.zero_point), (MIN_SCALE, 0));
        let symmetric = Affine::from_range(-1.0, 3.0, &Preset::Tensorrt.qconfig().activation);
        assert_eq!((symmetric.scale, symmetric.zero_point), (3.0 / 127.0, 128));
        assert_eq!((symmetric.quant_min, symmetric.quant_max), (1, 255));
    }

    #[test]
    fn a_bias_too_large_raises_its_channel_only() {
        let spec = Preset::Onednn.qconfig().weight;
        let scales = WeightScales::of(&[1e-9, 1.0], Some(&[5.0, 5.0]), 2, 0.01, &spec);
        assert_eq!(scales.raised, [0]);
        assert_eq!(scales.scales[1], 1.0 / 127.0);
        assert!(scales.quantize_bias(0, 5.0, 0.01).abs() <= 1 << 30);
        assert!(scales.quantize_bias(0, 5.0, 0.01).abs() > (1 << 30) - 1024);
    }

    #[test]
    fn all_zero_weights_have_scale_one() {
        let scales = WeightScales::of(&[0.0; 4], None, 2, 1.0, &Preset::Onednn.qconfig().weight);
        assert_eq!(scales.scales, [1.0, 1.0]);
    }

    proptest! {
        #[test]
        fn error_is_at_most_half_a_step_inside_the_range(low in -50.0f32..0.0, high in 0.0f32..50.0, at in 0.0f32..1.0) {
            let grid = Affine::from_range(low, high, &spec());
            let x = low + (high - low) * at;
            let error = (grid.dequantize(grid.quantize(x)) - x).abs();
            // The zero point is rounded, so the ends of the range may lose up to one more half step.
            prop_assert!(error <= grid.scale * 1.001, "{error} > {}", grid.scale);
            prop_assert_eq!(grid.dequantize(grid.quantize(0.0)), 0.0);
        }

        #[test]
        fn integers_survive_a_round_trip(q in 0u8..=255, low in -50.0f32..-0.01, high in 0.01f32..50.0) {
            let grid = Affine::from_range(low, high, &spec());
            prop_assert_eq!(grid.quantize(grid.dequantize(q)), q);
        }

        #[test]
        fn weights_stay_in_range(w in proptest::collection::vec(-3.0f32..3.0, 1..20)) {
            let scales = WeightScales::of(&w, None, 1, 1.0, &Preset::Qnnpack.qconfig().weight);
            for &x in &w {
                let q = scales.quantize(0, x);
                prop_assert!((-127..=127).contains(&i32::from(q)));
                prop_assert!((scales.dequantize(0, q) - x).abs() <= scales.scales[0] * 0.5001);
            }
        }
    }
}
