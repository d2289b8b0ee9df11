//! Observers: what calibration keeps of one tensor, and the ranges that follow from it.

use super::{ActivationSpec, Affine, ObserverKind};

/// Number of bins of a [`Histogram`], as in PyTorch's `HistogramObserver`.
const BINS: usize = 2048;
/// Sub-bins per bin when a histogram moves to a wider range, as in PyTorch.
const UPSAMPLE: usize = 16;
/// Integers that a tensor of 8 bits can take.
const QUANT_LEVELS: f64 = 256.0;

/// Statistics of one tensor over the calibration samples; enough for every observer.
///
/// Each sample is summarized alone and merged in sample order, so the result depends on neither threads nor
/// batches, and its size does not grow with the number of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStatistics {
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
    /// Distribution between them.
    pub histogram: Histogram,
}

/// Counts over equal bins of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Lower end of the first bin.
    pub min: f32,
    /// Upper end of the last bin.
    pub max: f32,
    /// Counts; fractional where a bin was split.
    pub counts: Vec<f64>,
}

impl TensorStatistics {
    /// Statistics of one sample's tensor; `None` when an element is not finite or there is none.
    pub fn of(x: &[f32]) -> Option<TensorStatistics> {
        let (min, max) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        // NaN passes through min and max unseen: NaN · 0 does not through a sum.
        let finite = x.iter().map(|v| v * 0.0).sum::<f32>() == 0.0;
        (finite && min <= max).then(|| TensorStatistics { min, max, histogram: Histogram::of(x, min, max) })
    }

    /// Adds the statistics of further samples.
    pub fn merge(&mut self, other: &TensorStatistics) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.histogram.merge(&other.histogram);
    }

    /// The range that an observer chooses, in units of the tensor.
    pub fn range(&self, observer: ObserverKind) -> (f32, f32) {
        match observer {
            ObserverKind::Minmax => (self.min, self.max),
            ObserverKind::Histogram => self.histogram.least_error_range(),
        }
    }

    /// The affine parameters that an activation spec gives this tensor.
    pub fn affine(&self, spec: &ActivationSpec) -> Affine {
        let (min, max) = self.range(spec.observer);
        Affine::from_range(min, max, spec)
    }
}

impl Histogram {
    fn of(x: &[f32], min: f32, max: f32) -> Histogram {
        let mut counts = vec![0u32; BINS];
        let per_unit = BINS as f32 / (max - min);
        if per_unit.is_finite() {
            for &v in x {
                counts[(((v - min) * per_unit) as usize).min(BINS - 1)] += 1;
            }
        } else {
            // One value only (or a range below f32's resolution): it is a point, kept in the first bin.
            counts[0] = u32::try_from(x.len()).unwrap_or(u32::MAX);
        }
        Histogram { min, max, counts: counts.into_iter().map(f64::from).collect() }
    }

    /// Adds `other`, over the union of both ranges.
    fn merge(&mut self, other: &Histogram) {
        let (min, max) = (self.min.min(other.min), self.max.max(other.max));
        let mut counts = vec![0.0; BINS];
        self.spread_into(min, max, &mut counts);
        other.spread_into(min, max, &mut counts);
        *self = Histogram { min, max, counts };
    }

    /// Adds the counts to a histogram over a range that contains this one. A bin is cut in [`UPSAMPLE`]
    /// parts, each counted where its middle falls (PyTorch `HistogramObserver._upscale_histogram`).
    fn spread_into(&self, min: f32, max: f32, counts: &mut [f64]) {
        if (self.min, self.max) == (min, max) {
            counts.iter_mut().zip(&self.counts).for_each(|(c, &own)| *c += own);
            return;
        }
        let per_unit = BINS as f64 / (f64::from(max) - f64::from(min));
        let part = (f64::from(self.max) - f64::from(self.min)) / (BINS * UPSAMPLE) as f64;
        let start = f64::from(self.min) - f64::from(min);
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, c)| **c != 0.0) {
            for sub in 0..UPSAMPLE {
                let middle = start + ((bin * UPSAMPLE + sub) as f64 + 0.5) * part;
                let target = ((middle * per_unit) as usize).min(BINS - 1);
                counts[target] += count / UPSAMPLE as f64;
            }
        }
    }

    /// The range of least squared quantization error: PyTorch's `HistogramObserver._non_linear_param_search`.
    ///
    /// Starts from the whole range and cuts quantiles off, 10⁻⁵ at a time, on the side where that moves
    /// further, until the expected error grows.
    fn least_error_range(&self) -> (f32, f32) {
        let width = (f64::from(self.max) - f64::from(self.min)) / BINS as f64;
        if width <= 0.0 {
            return (self.min, self.max);
        }
        let cumulative: Vec<f64> = self
            .counts
            .iter()
            .scan(0.0, |sum, c| {
                *sum += c;
                Some(*sum)
            })
            .collect();
        let total = cumulative[BINS - 1];
        const STEP: f64 = 1e-5;
        let (mut alpha, mut beta) = (0.0, 1.0);
        let (mut start, mut end) = (0, BINS - 1);
        let mut least = f64::INFINITY;
        while alpha < beta {
            let (next_alpha, next_beta) = (alpha + STEP, beta - STEP);
            let (mut left, mut right) = (start, end);
            while left < end && cumulative[left] < next_alpha * total {
                left += 1;
            }
            while right > start && cumulative[right] > next_beta * total {
                right -= 1;
            }
            let (next_start, next_end) = if left - start > end - right {
                alpha = next_alpha;
                (left, end)
            } else {
                beta = next_beta;
                (start, right)
            };
            if (next_start, next_end) == (start, end) {
                continue;
            }
            let error = self.quantization_error(next_start, next_end);
            if error > least {
                break;
            }
            least = error;
            (start, end) = (next_start, next_end);
        }
        let min = f64::from(self.min);
        ((min + width * start as f64) as f32, (min + width * (end + 1) as f64) as f32)
    }

    /// Expected squared error, summed over all elements, when bins `start..=end` are quantized to 256 levels
    /// and the rest is clamped (PyTorch `HistogramObserver._compute_quantization_error`): each bin is a
    /// uniform density, integrated exactly as ∫ x² dx around the centre of the level it falls into.
    fn quantization_error(&self, start: usize, end: usize) -> f64 {
        let width = (f64::from(self.max) - f64::from(self.min)) / BINS as f64;
        let level = width * (end - start + 1) as f64 / QUANT_LEVELS;
        let third = |from: f64, to: f64| (to * to * to - from * from * from) / 3.0;
        let half = level / 2.0;
        let mut sum = 0.0;
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, c)| **c != 0.0) {
            let from = (bin as f64 - start as f64) * width;
            let to = from + width;
            let level_of = |x: f64| (x / level).floor().clamp(0.0, QUANT_LEVELS - 1.0);
            let (first, last) = (level_of(from), level_of(to));
            let centre = |l: f64| (l + 0.5) * level;
            let error = third(from - centre(first), half)
                + (last - first - 1.0) * third(-half, half)
                + third(-half, to - centre(last));
            sum += count / width * error;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn merging_is_the_sum_and_keeps_all_counts() {
        let mut a = TensorStatistics::of(&[0.0, 1.0, 2.0]).unwrap();
        let b = TensorStatistics::of(&[-4.0, 5.0]).unwrap();
        a.merge(&b);
        assert_eq!((a.min, a.max), (-4.0, 5.0));
        assert!((a.histogram.counts.iter().sum::<f64>() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_value_is_a_point() {
        let mut a = TensorStatistics::of(&[3.0; 7]).unwrap();
        assert_eq!(a.range(ObserverKind::Histogram), (3.0, 3.0));
        a.merge(&TensorStatistics::of(&[1.0]).unwrap());
        assert_eq!((a.min, a.max), (1.0, 3.0));
        assert_eq!(a.histogram.counts[BINS - 1], 7.0);
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        assert_eq!(TensorStatistics::of(&[1.0, f32::NAN]), None);
        assert_eq!(TensorStatistics::of(&[f32::INFINITY]), None);
        assert_eq!(TensorStatistics::of(&[]), None);
    }

    #[test]
    fn an_outlier_is_cut_off_when_that_is_cheaper() {
        // 100,000 elements spread over [0, 1) and one at 40: clamping the one costs less than a step of 40/255.
        let mut x: Vec<f32> = (0..100_000).map(|i| i as f32 / 100_000.0).collect();
        x.push(2.0);
        let (min, max) = TensorStatistics::of(&x).unwrap().range(ObserverKind::Histogram);
        assert_eq!(min, 0.0);
        assert!(max < 1.05, "{max}");
    }

    proptest! {
        #[test]
        fn the_chosen_range_is_inside_the_observed_one(x in proptest::collection::vec(-9.0f32..9.0, 1..400)) {
            let statistics = TensorStatistics::of(&x).unwrap();
            let (min, max) = statistics.range(ObserverKind::Histogram);
            prop_assert!(min <= max && min >= statistics.min - 1e-5 && max <= statistics.max + 1e-5);
        }

        #[test]
        fn merging_keeps_count_and_range_in_any_order(
            samples in proptest::collection::vec(sample(), 1..8),
            swap in any::<proptest::sample::Index>(),
        ) {
            let merged = |samples: &[Vec<f32>]| {
                let mut all = samples.iter().map(|x| TensorStatistics::of(x).unwrap());
                let first = all.next().unwrap();
                all.fold(first, |mut sum, next| {
                    sum.merge(&next);
                    sum
                })
            };
            let forward = merged(&samples);
            let mut other = samples.clone();
            other.rotate_left(swap.index(samples.len()));
            let all = samples.concat();
            for statistics in [&forward, &merged(&other)] {
                let count = statistics.histogram.counts.iter().sum::<f64>();
                prop_assert!((count - all.len() as f64).abs() < 1e-6, "{count} of {}", all.len());
                prop_assert!(statistics.histogram.counts.iter().all(|&c| c >= 0.0));
                let whole = TensorStatistics::of(&all).unwrap();
                prop_assert_eq!((statistics.min, statistics.max), (whole.min, whole.max));
                prop_assert_eq!((statistics.histogram.min, statistics.histogram.max), (whole.min, whole.max));
                // A merge moves an element by one bin at most: below each quarter lies at least what lay there.
                let width = (f64::from(whole.max) - f64::from(whole.min)) / BINS as f64;
                for bin in [BINS / 4, BINS / 2, BINS * 3 / 4] {
                    let held: f64 = statistics.histogram.counts[..bin + samples.len()].iter().sum();
                    let end = f64::from(whole.min) + width * (bin - 1) as f64;
                    let least = all.iter().filter(|&&v| f64::from(v) < end).count() as f64;
                    prop_assert!(held + 1e-6 >= least, "bin {bin}: {held} < {least}");
                }
            }
            // The same samples in the same order give the same bits.
            prop_assert_eq!(merged(&samples), forward);
        }
    }

    /// A sample of a tensor: ranges of many sizes, and single points.
    fn sample() -> impl Strategy<Value = Vec<f32>> {
        let spread = prop_oneof![Just(0.0f32), Just(1e-3), Just(1.0), Just(1e4)];
        (-5.0f32..5.0, spread, proptest::collection::vec(-1.0f32..1.0, 1..60))
            .prop_map(|(middle, spread, x)| x.into_iter().map(|v| middle + v * spread).collect())
    }
}
