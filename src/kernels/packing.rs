//! Weights in the order that kernels read them.

use super::LANES;
use crate::graph::Window;

/// What a convolution connects; a linear layer is one with a 1×1 window over one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Groups; both channel counts are multiples of it.
    pub groups: usize,
    /// Where the window moves.
    pub window: Window,
}

/// f32 weights and biases, packed.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedFloat {
    pub(super) geometry: Geometry,
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// s8 weights, packed, and their sums.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedInteger {
    pub(super) geometry: Geometry,
    /// Tiled, as s16 pairs; empty for a depthwise convolution.
    pub(super) tiled: Vec<i16>,
    /// `[tap][channel]`, for a depthwise convolution only.
    pub(super) depthwise: Vec<i32>,
    /// `Σ w` of each output channel: what a zero point is multiplied with.
    pub(super) sums: Vec<i32>,
}

impl Geometry {
    /// Input channels of one group.
    pub fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of one group.
    pub fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Whether each channel is its own group.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Whether each output pixel reads one input pixel, and there is no padding.
    pub fn is_pointwise(&self) -> bool {
        self.window.kernel == [1, 1] && self.window.pads == [0; 4]
    }

    pub(super) fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Blocks of [`LANES`] output channels in one group.
    pub(super) fn blocks(&self) -> usize {
        self.out_per_group().div_ceil(LANES)
    }

    /// Elements of one block of packed weights, for `channels` input channels a group.
    pub(super) fn block_len(&self, channels: usize) -> usize {
        self.taps() * channels * LANES
    }

    /// Writes `weight[o][i][tap]` (row-major) as `[group][block][tap][channel / step][lane][step]`, zero where a
    /// block or a step is not full.
    fn tile<T: Copy, U: Copy + Default>(&self, weight: &[T], step: usize, convert: impl Fn(T) -> U) -> Vec<U> {
        let (taps, per_group) = (self.taps(), self.in_per_group());
        let channels = per_group.next_multiple_of(step);
        let block_len = self.block_len(channels);
        let mut packed = vec![U::default(); self.groups * self.blocks() * block_len];
        for o in 0..self.out_channels {
            let (group, within) = (o / self.out_per_group(), o % self.out_per_group());
            let (block, lane) = (group * self.blocks() + within / LANES, within % LANES);
            for i in 0..per_group {
                for tap in 0..taps {
                    let at = ((tap * channels + i / step * step) * LANES) + lane * step + i % step;
                    packed[block * block_len + at] = convert(weight[(o * per_group + i) * taps + tap]);
                }
            }
        }
        packed
    }

    /// Writes `weight[o][tap]` of a depthwise convolution as `[tap][o]`.
    fn by_tap<T: Copy, U>(&self, weight: &[T], convert: impl Fn(T) -> U) -> Vec<U> {
        let taps = self.taps();
        (0..taps * self.out_channels)
            .map(|at| convert(weight[at % self.out_channels * taps + at / self.out_channels]))
            .collect()
    }
}

impl PackedFloat {
    /// Packs `weight[out][in / groups][height][width]` (row-major) and one bias a channel, 0 when absent.
    pub fn new(geometry: Geometry, weight: &[f32], bias: Option<&[f32]>) -> PackedFloat {
        assert_eq!(weight.len(), geometry.out_channels * geometry.in_per_group() * geometry.taps());
        let weights =
            if geometry.is_depthwise() { geometry.by_tap(weight, |w| w) } else { geometry.tile(weight, 1, |w| w) };
        let bias = bias.map_or_else(|| vec![0.0; geometry.out_channels], <[f32]>::to_vec);
        PackedFloat { geometry, weights, bias }
    }

    /// What it connects.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl PackedInteger {
    /// Packs `weight[out][in / groups][height][width]` (row-major).
    pub fn new(geometry: Geometry, weight: &[i8]) -> PackedInteger {
        let per_channel = geometry.in_per_group() * geometry.taps();
        assert_eq!(weight.len(), geometry.out_channels * per_channel);
        let sums = weight.chunks(per_channel).map(|w| w.iter().map(|&w| i32::from(w)).sum()).collect();
        let (tiled, depthwise) = if geometry.is_depthwise() {
            (Vec::new(), geometry.by_tap(weight, i32::from))
        } else {
            (geometry.tile(weight, 2, i16::from), Vec::new())
        };
        PackedInteger { geometry, tiled, depthwise, sums }
    }

    /// What it connects.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `Σ w` of each output channel.
    pub fn sums(&self) -> &[i32] {
        &self.sums
    }
}
