//! The observer `mse`: the range of least squared error on the grid that it gives.
//!
//! As MQBench's `MSEObserver` and the method `mse` of NVIDIA's pytorch-quantization search it: candidates are the
//! observed range with each side cut to a number of hundredths. Other than in the observer `histogram`, the error is that
//! of the grid itself, with its rounded zero point, its half range, its symmetry.

use super::super::{ActivationScheme, ActivationSpec, Affine, Histogram};

/// Steps in which a side is cut.
const STEPS: u32 = 100;

/// The range with 0 in it whose grid has the least squared error, for elements from `min` to `max`. The widest of equals.
pub(super) fn range(histogram: &Histogram, min: f32, max: f32, spec: &ActivationSpec) -> (f64, f64) {
    let moments = Moments::of(histogram);
    let cut = |side: f32, steps: u32| (f64::from(side) * f64::from(steps) / f64::from(STEPS)) as f32;
    let symmetric = spec.qscheme == ActivationScheme::PerTensorSymmetric;
    let (min, max) = if symmetric { (0.0, max.max(-min)) } else { (min.min(0.0), max.max(0.0)) };
    // A side that has nothing is not cut.
    let steps = |side: f32| if side == 0.0 { STEPS..=STEPS } else { 1..=STEPS };
    let (mut best, mut least) = ((min, max), f64::INFINITY);
    for low in steps(min).rev() {
        for high in steps(max).rev() {
            let range = (cut(min, low), cut(max, high));
            let error = moments.error(&Affine::from_range(range.0, range.1, spec));
            if error < least {
                (best, least) = (range, error);
            }
        }
    }
    let (low, high) = (f64::from(best.0), f64::from(best.1));
    if symmetric { (-high, high) } else { (low, high) }
}

/// The squared error of a grid, Σ (x − q(x))² over all elements, each taken at the middle of its bin.
pub(super) fn noise(histogram: &Histogram, grid: &Affine) -> f64 {
    Moments::of(histogram).error(grid)
}

/// Sums over the bins below each, of elements taken at the middle of their bin.
struct Moments<'a> {
    histogram: &'a Histogram,
    /// Of 1, x and x².
    sums: Vec<[f64; 3]>,
}

impl Moments<'_> {
    fn of(histogram: &Histogram) -> Moments<'_> {
        let mut sum = [0.0; 3];
        let mut sums = vec![sum];
        for (index, &count) in histogram.counts().iter().enumerate() {
            let (n, x) = (count as f64, histogram.edge(index) + histogram.width() / 2.0);
            sum = [sum[0] + n, sum[1] + n * x, sum[2] + n * x * x];
            sums.push(sum);
        }
        Moments { histogram, sums }
    }

    /// Σ (x − q(x))² over all elements.
    fn error(&self, grid: &Affine) -> f64 {
        let scale = f64::from(grid.scale);
        let zero = f64::from(grid.zero_point);
        let (first, bins) = (self.histogram.first() as f64, self.histogram.counts().len());
        let mut error = 0.0;
        let mut below = self.sums[0];
        for level in grid.quant_min..=grid.quant_max {
            let value = (f64::from(level) - zero) * scale;
            // Bins whose middle is nearer to this level than to the next.
            let border = ((value + scale / 2.0) / self.histogram.width() - first - 0.5).ceil();
            let end = if level == grid.quant_max { bins } else { border.clamp(0.0, bins as f64) as usize };
            let upto = self.sums[end];
            let [n, x, xx] = [0, 1, 2].map(|moment| upto[moment] - below[moment]);
            if n != 0.0 {
                error += xx - 2.0 * value * x + value * value * n;
            }
            below = upto;
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quant::Preset;

    proptest! {
        /// Against each middle quantized by itself.
        #[test]
        fn the_error_is_that_of_the_rounding_rule(
            x in prop::collection::vec(-3.0f32..5.0, 1..200),
            (low, high) in (-4.0f32..0.0, 0.0f32..6.0),
        ) {
            let (min, max) = x.iter().fold((0.0f32, 0.0f32), |(lo, hi), &v| (lo.min(v), hi.max(v)));
            let histogram = Histogram::of(&x, min, max);
            let grid = Affine::from_range(low, high, &Preset::Fbgemm.qconfig().activation);
            let direct: f64 = histogram.counts().iter().enumerate().map(|(index, &count)| {
                let middle = (histogram.edge(index) + histogram.width() / 2.0) as f32;
                let error = f64::from(middle) - f64::from(grid.dequantize(grid.quantize(middle)));
                count as f64 * error * error
            }).sum();
            let fast = Moments::of(&histogram).error(&grid);
            prop_assert!((fast - direct).abs() <= 1e-4 * direct + 1e-9, "{fast} {direct}");
        }
    }
}
