//! The mean of a finite set from a part of it, valid at every moment.

/// Shares of the capital that are bet, evenly spaced in their logarithm: the best share is about the distance to the
/// mean over the variance, and neither is known before.
const STAKES: [f64; 8] = [0.0078125, 0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 0.9375];

/// Halvings of the range when a bound is looked for: the bound is known to 2⁻⁵⁰ of it.
const HALVINGS: usize = 50;

/// A confidence sequence for the mean of `total` values that are drawn without replacement in random order.
///
/// With probability `confidence` the mean is within *all* intervals that [`MeanSequence::interval`] gives while values
/// are added, so that one may stop at any of them for any reason. After the last value the interval is the mean.
///
/// The method is betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal
/// of the Royal Statistical Society B 86, 2024, section 5 for draws without replacement). If the mean of all is m, the
/// next value has the mean m′ = (m·total − sum so far) / values left. Whoever bets a share c of a capital that it is
/// larger has 1 − c + c·x/m′ times as much afterwards; that is fair if m is the mean, so the capital exceeds 1/α ever
/// with probability at most α (Ville). The capital here is spread over eight such shares. Each factor falls as m rises, hence
/// what is rejected lies below one number, the lower bound; the upper bound is that of the mirrored values.
#[derive(Clone, Debug)]
pub struct MeanSequence {
    total: usize,
    low: f64,
    high: f64,
    confidence: f64,
    /// Scaled to 0..=1, in the order drawn.
    values: Vec<f64>,
}

impl MeanSequence {
    /// A sequence for the mean of `total` values between `low` and `high`.
    pub fn new(total: usize, [low, high]: [f64; 2], confidence: f64) -> MeanSequence {
        MeanSequence { total, low, high, confidence, values: Vec::new() }
    }

    /// Adds the next value drawn; one outside the range counts as its nearest end, and those beyond `total` not at all.
    pub fn push(&mut self, value: f64) {
        if self.values.len() < self.total {
            self.values.push(((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0));
        }
    }

    /// Values drawn so far.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none was drawn yet.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Where the mean is, as far as known.
    pub fn interval(&self) -> (f64, f64) {
        if self.total == 0 {
            return (self.low, self.high);
        }
        let (low, high) = (self.lower(false), 1.0 - self.lower(true));
        let width = self.high - self.low;
        // Without a mean that is possible, which happens with probability 1 − confidence at most, the bounds cross.
        (self.low + width * low.min(high), self.low + width * high.max(low))
    }

    /// Whether the mean is surely above `mean`.
    pub fn is_above(&self, mean: f64) -> bool {
        self.rejects((mean - self.low) / (self.high - self.low), false)
    }

    /// Whether the mean is surely below `mean`.
    pub fn is_below(&self, mean: f64) -> bool {
        self.rejects((self.high - mean) / (self.high - self.low), true)
    }

    /// The largest mean of the scaled values, or of their mirror images, that is known to be too small, or the least
    /// that is possible.
    fn lower(&self, mirrored: bool) -> f64 {
        let (mut rejected, mut kept) = (0.0, 1.0);
        // What was seen, with the smallest values for the rest.
        let sum: f64 = self.values.iter().map(|x| if mirrored { 1.0 - x } else { *x }).sum();
        let least = sum / self.total as f64;
        for _ in 0..HALVINGS {
            let middle = (rejected + kept) / 2.0;
            if self.rejects(middle, mirrored) {
                rejected = middle;
            } else {
                kept = middle;
            }
        }
        f64::max(rejected, least)
    }

    /// Whether the mean is surely larger than `mean`, in scaled values or in their mirror images.
    fn rejects(&self, mean: f64, mirrored: bool) -> bool {
        // Each direction may be wrong with half the probability.
        let enough = 2.0 / (1.0 - self.confidence) * STAKES.len() as f64;
        let mut capital = [1.0; STAKES.len()];
        let mut sum = 0.0;
        // Room for the rounding of sums, far below the step of one value.
        let tolerance = 1e-9 / self.total.max(1) as f64;
        for (index, value) in self.values.iter().enumerate() {
            let x = if mirrored { 1.0 - value } else { *value };
            let next = (mean * self.total as f64 - sum) / (self.total - index) as f64;
            sum += x;
            if next < tolerance {
                // If this were the mean, nothing but zeros would be left.
                if next < -tolerance || x > 0.0 {
                    return true;
                }
                continue;
            }
            for (capital, stake) in capital.iter_mut().zip(STAKES) {
                *capital *= 1.0 - stake + stake * x / next;
            }
            if capital.iter().sum::<f64>() >= enough {
                return true;
            }
        }
        sum > mean * self.total as f64 + tolerance * self.total as f64
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, seq::SliceRandom};
    use rand_chacha::ChaCha8Rng;

    use super::MeanSequence;

    fn drawn(values: &[f64], range: [f64; 2], confidence: f64) -> MeanSequence {
        let mut sequence = MeanSequence::new(values.len(), range, confidence);
        values.iter().for_each(|&x| sequence.push(x));
        sequence
    }

    #[test]
    fn the_last_value_settles_the_mean() {
        let values = [-1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let (low, high) = drawn(&values, [-1.0, 1.0], 0.95).interval();
        assert!((low - 0.25).abs() < 1e-9 && (high - 0.25).abs() < 1e-9, "{low} {high}");
        let all = drawn(&values, [-1.0, 1.0], 0.95);
        assert!(all.is_above(0.125) && !all.is_above(0.25) && all.is_below(0.375) && !all.is_below(0.25));
    }

    #[test]
    fn nothing_seen_says_nothing_and_values_that_are_left_bound_the_mean() {
        let empty = MeanSequence::new(10, [-1.0, 1.0], 0.95);
        assert_eq!(empty.interval(), (-1.0, 1.0));
        assert!(empty.is_empty() && !empty.is_above(-0.9) && !empty.is_below(0.9));
        // Eight of ten are 1: the mean is at least 0.6, whatever the last two are.
        let mut sequence = MeanSequence::new(10, [-1.0, 1.0], 0.999);
        (0..8).for_each(|_| sequence.push(1.0));
        let (low, high) = sequence.interval();
        assert!(low > 0.6 - 1e-9 && high == 1.0, "{low} {high}");
        assert_eq!(MeanSequence::new(0, [0.0, 1.0], 0.95).interval(), (0.0, 1.0));
    }

    #[test]
    fn a_large_drop_is_seen_long_before_the_end_and_none_is_not() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut values: Vec<f64> = (0..2000).map(|i| if i < 240 { -1.0 } else { 0.0 }).collect();
        values.shuffle(&mut random);
        let mut sequence = MeanSequence::new(2000, [-1.0, 1.0], 0.95);
        let stopped = values.iter().position(|&x| {
            sequence.push(x);
            sequence.is_below(-0.01)
        });
        assert!(stopped.is_some_and(|at| at < 300), "{stopped:?}");
        let (low, high) = sequence.interval();
        assert!(low < -0.12 && high > -0.12 && high < -0.01, "{low} {high}");
    }

    /// The claim itself: over sets of several kinds, the share of orders in which the mean is ever outside the interval
    /// is not above 1 − confidence. Looked at after every value, which is the hardest way to look.
    #[test]
    fn the_mean_is_within_all_intervals_as_often_as_stated() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let ternary = |lost: usize, won: usize, total: usize| -> Vec<f64> {
            let value = |i| if i < lost { -1.0 } else { f64::from(i < lost + won) };
            (0..total).map(value).collect()
        };
        let spread: Vec<f64> = (0..200).map(|_| random.random_range(-1.0..0.6)).collect();
        let sets = [ternary(30, 10, 200), ternary(2, 0, 150), ternary(60, 60, 150), ternary(0, 1, 100), spread];
        const CONFIDENCE: f64 = 0.9;
        const ORDERS: usize = 600;
        for mut set in sets {
            let mean = set.iter().sum::<f64>() / set.len() as f64;
            let mut missed = 0;
            for _ in 0..ORDERS {
                set.shuffle(&mut random);
                // The test of one mean looks at all moments up to the present.
                let all = drawn(&set[..set.len()], [-1.0, 1.0], CONFIDENCE);
                missed += usize::from(all.is_above(mean) || all.is_below(mean));
            }
            // 0.1 · 600 = 60 are allowed on average; three deviations more would be 82.
            assert!(missed <= 60, "{missed} of {ORDERS} orders miss {mean}");
        }
    }
}
