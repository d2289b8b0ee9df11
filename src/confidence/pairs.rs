//! The drop in the population from paired outcomes.

use statrs::function::beta::beta_reg;

/// Shares of the allowed error that go to the direction of the changes, to how many there are at most, and to how many
/// there are at least.
const DIRECTION: f64 = 0.75;
const AT_MOST: f64 = 0.2;
const AT_LEAST: f64 = 0.05;

/// Share of the allowed error that goes to fp32's own score, for a drop relative to it.
const BASELINE: f64 = 0.125;

/// Halvings of 0..=1 when a bound is looked for.
const HALVINGS: usize = 60;

/// How often a candidate and fp32 differ on the same samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Samples that fp32 gets right and the candidate wrong.
    pub lost: u64,
    /// Samples that the candidate gets right and fp32 wrong.
    pub won: u64,
    /// Samples that fp32 gets right.
    pub base: u64,
    /// Samples.
    pub total: u64,
}

impl Pairs {
    /// Compares sample by sample, as far as the shorter list goes.
    pub fn of(fp32: &[bool], candidate: &[bool]) -> Pairs {
        let mut pairs = Pairs::default();
        for (&fp32, &candidate) in fp32.iter().zip(candidate) {
            pairs.total += 1;
            pairs.base += u64::from(fp32);
            pairs.lost += u64::from(fp32 && !candidate);
            pairs.won += u64::from(candidate && !fp32);
        }
        pairs
    }

    /// Samples lost and not won, as a fraction of all.
    pub fn drop(&self) -> f64 {
        (self.lost as f64 - self.won as f64) / self.total.max(1) as f64
    }

    /// An upper bound on the drop in the population that these samples were drawn from: with probability `confidence`
    /// at least, whatever the population, the drop is not above it.
    ///
    /// The drop is ψ·(2q − 1), where ψ is how often an outcome changes and q the share of losses among the changes.
    /// How many of the samples change is binomial in ψ; given that number, how many of them are losses is binomial in
    /// q, as in McNemar's exact test. Each gets exact bounds of Clopper and Pearson (Biometrika 26, 1934): q from above,
    /// ψ from above and from below, since which of these is needed depends on what was seen. The chances that one of the
    /// three is wrong are added up (Bonferroni), so nothing is approximated.
    pub fn bound(&self, confidence: f64) -> f64 {
        let error = 1.0 - confidence;
        let changed = self.lost + self.won;
        let direction = 2.0 * upper(self.lost, changed, error * DIRECTION) - 1.0;
        // If losses are the smaller part, few changes are the worse case.
        let often = if direction > 0.0 {
            upper(changed, self.total, error * AT_MOST)
        } else {
            1.0 - upper(self.total - changed, self.total, error * AT_LEAST)
        };
        often * direction
    }

    /// As [`Pairs::bound`], for the drop as a fraction of fp32's own score: the bound of the drop over the exact lower
    /// bound of the score, the chances of being wrong added up. `None` when that score may be 0.
    pub fn relative_bound(&self, confidence: f64) -> Option<f64> {
        let error = 1.0 - confidence;
        let drop = self.bound(1.0 - error * (1.0 - BASELINE));
        let least = 1.0 - upper(self.total - self.base, self.total, error * BASELINE);
        match drop > 0.0 {
            // A score is at most 1, which makes the least of a gain.
            false => Some(drop),
            true => (least > 0.0).then(|| drop / least),
        }
    }
}

/// The confidence that each of `several` bounds needs for all of them to hold together (Bonferroni).
pub fn corrected(confidence: f64, several: usize) -> f64 {
    1.0 - (1.0 - confidence) / several.max(1) as f64
}

/// The least drop that `total` samples can rule out of a candidate that loses nothing: the bound when a share `changed`
/// of the outcomes change, as many for the better as for the worse.
pub fn resolvable(total: u64, confidence: f64, changed: f64) -> f64 {
    let half = (total as f64 * changed.clamp(0.0, 1.0) / 2.0).round() as u64;
    Pairs { lost: half, won: half, base: total, total }.bound(confidence)
}

/// The exact upper bound on a probability of which `count` of `total` trials were seen, wrong with probability `error`
/// at most (Clopper and Pearson).
fn upper(count: u64, total: u64, error: f64) -> f64 {
    if count >= total {
        return 1.0;
    }
    // P(at most `count` of `total`) is the incomplete beta function at 1 − p; it falls as p rises.
    let (a, b) = ((total - count) as f64, count as f64 + 1.0);
    let (mut low, mut high) = (count as f64 / total as f64, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if beta_reg(a, b, 1.0 - middle) > error {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::{Pairs, corrected, resolvable, upper};

    #[test]
    fn proportions_have_the_bounds_of_clopper_and_pearson() {
        // One-sided 0.975 of the published two-sided 95 % intervals (Newcombe 1998, table I, method 5).
        for (count, total, bound) in [(81, 263, 0.3676), (15, 148, 0.1617), (0, 20, 0.1684), (1, 29, 0.1776)] {
            let found = upper(count, total, 0.025);
            assert!((found - bound).abs() < 5e-5, "{count} of {total}: {found}");
        }
        assert_eq!((upper(5, 5, 0.05), upper(0, 0, 0.05)), (1.0, 1.0));
    }

    #[test]
    fn pairs_are_counted_sample_by_sample() {
        let pairs = Pairs::of(&[true, true, false, false, true], &[true, false, true, false, true]);
        assert_eq!(pairs, Pairs { lost: 1, won: 1, base: 3, total: 5 });
        assert_eq!(pairs.drop(), 0.0);
        assert_eq!(Pairs::default().bound(0.95), 1.0);
        assert_eq!(Pairs::default().relative_bound(0.95), None);
    }

    #[test]
    fn bounds_are_above_the_drop_and_close_to_it_where_samples_are_many() {
        let pairs = Pairs { lost: 240, won: 160, base: 4500, total: 5000 };
        let bound = pairs.bound(0.95);
        // The drop is 0.016, and 1.645 deviations of it are 0.0066.
        assert!(bound > 0.016 + 0.0066 && bound < 0.016 + 0.0100, "{bound}");
        assert!(pairs.bound(0.99) > bound && pairs.bound(corrected(0.95, 3)) > bound);
        let relative = pairs.relative_bound(0.95).unwrap();
        assert!(relative > bound / 0.9 && relative < bound / 0.85, "{relative}");
        // Far more won than lost: the population gains.
        assert!(Pairs { lost: 10, won: 200, base: 4000, total: 5000 }.bound(0.95) < 0.0);
    }

    #[test]
    fn few_samples_resolve_little() {
        // Without a change: (1 − p)ⁿ = 0.01.
        assert!((resolvable(872, 0.95, 0.0) - (1.0 - 0.01_f64.powf(1.0 / 872.0))).abs() < 1e-12);
        assert!(resolvable(872, 0.95, 0.05) > 0.012 && resolvable(872, 0.95, 0.05) < 0.02);
        assert!(resolvable(100_000, 0.95, 0.05) < 0.002);
        assert_eq!(resolvable(0, 0.95, 0.0), 1.0);
    }

    /// The claim itself, on populations of several kinds.
    #[test]
    fn the_drop_is_below_the_bound_as_often_as_stated() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        const CONFIDENCE: f64 = 0.9;
        const DRAWS: usize = 2000;
        for (lost, won, total) in
            [(0.1, 0.05, 200), (0.02, 0.02, 300), (0.01, 0.0, 100), (0.3, 0.3, 50), (0.0, 0.05, 80)]
        {
            let mut missed = [0, 0];
            for _ in 0..DRAWS {
                let mut pairs = Pairs { total, ..Pairs::default() };
                for _ in 0..total {
                    // Of the samples that do not change, fp32 gets four of five right.
                    let (kind, right) = (random.random::<f64>(), random.random::<f64>() < 0.8);
                    pairs.lost += u64::from(kind < lost);
                    pairs.won += u64::from(kind >= lost && kind < lost + won);
                    pairs.base += u64::from(kind < lost || (kind >= lost + won && right));
                }
                missed[0] += usize::from(pairs.bound(CONFIDENCE) < lost - won);
                let base = lost + (1.0 - lost - won) * 0.8;
                missed[1] += usize::from(pairs.relative_bound(CONFIDENCE).is_some_and(|b| b < (lost - won) / base));
            }
            // 200 of 2000 are allowed on average.
            assert!(missed.iter().all(|&m| m <= 200), "{missed:?} of {DRAWS} for {lost} and {won}");
        }
    }
}
