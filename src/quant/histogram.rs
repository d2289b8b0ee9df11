//! Histograms that merge exactly.

/// Most bins of a [`Histogram`]. One over a range of its own has more than half as many, so that it is at least as fine
/// as PyTorch's `HistogramObserver`, which has 2048.
const MAX_BINS: i64 = 4096;

/// Elements whose bins are found before they are counted, so that finding them is vector code.
const BLOCK: usize = 64;

/// Counters of a bin: equal elements follow each other often, and a counter that was just written is slow to read.
const LANES: usize = 4;

/// 1.5·2⁵²: a number below 2⁵¹ that this is added to has no place for fractions, and rounds.
const TO_NEAREST: f64 = 6_755_399_441_055_744.0;

/// 2⁵²: a whole number from 0 to 2³² that is added to it is in the low bits.
const TO_LOW_BITS: f64 = 4_503_599_627_370_496.0;

/// How many elements of a tensor lie in each bin `[k·w, (k+1)·w)`, for integers `k` and a width `w` that is a power of two.
///
/// The width is the smallest power of two for which at most 4096 bins reach from the smallest element to the largest, and
/// no less than the distance of floats at the larger of the two. So it follows from the range alone, a wider range has
/// whole bins of a narrower one in each of its bins, and a merge only adds integers: the histogram of a union is the sum of
/// the histograms of its parts, bit for bit, in whatever parts and order they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The width of a bin is `2^exponent`.
    exponent: i32,
    /// `k` of the first bin, which holds the smallest element.
    first: i64,
    /// Elements in each bin, up to that of the largest element.
    counts: Vec<u64>,
}

impl Histogram {
    /// Of finite elements, the smallest of which is `min` and the largest `max`.
    pub(super) fn of(x: &[f32], min: f32, max: f32) -> Histogram {
        let exponent = exponent(min, max);
        let (first, last) = (bin(min, exponent), bin(max, exponent));
        let (per_unit, low, end) = (power(-exponent), first as f64, (last - first) as usize);
        // Bins are below 2²⁴ on either side of 0, where f64 holds the quotients exactly. A conversion to integers that
        // minds what is no number would take twice as long as this.
        let place = |v: f32| {
            let quotient = f64::from(v) * per_unit;
            let nearest = (quotient + TO_NEAREST) - TO_NEAREST;
            let floor = nearest - if nearest > quotient { 1.0 } else { 0.0 };
            (floor - low + TO_LOW_BITS).to_bits()
        };
        let mut counts = vec![[0u32; LANES]; end + 1];
        let mut count = |place: u64, lane: usize| counts[(place as u32 as usize).min(end)][lane] += 1;
        let mut places = [0; BLOCK];
        for block in x.chunks(BLOCK) {
            places.iter_mut().zip(block).for_each(|(to, &v)| *to = place(v));
            places[..block.len()].iter().enumerate().for_each(|(i, &place)| count(place, i % LANES));
        }
        let counts = counts.into_iter().map(|lanes| lanes.into_iter().map(u64::from).sum()).collect();
        Histogram { exponent, first, counts }
    }

    /// The histogram of both tensors, whose elements together lie between `min` and `max`.
    pub(super) fn merge(&mut self, other: &Histogram, min: f32, max: f32) {
        let mut sum = Histogram::empty(min, max);
        self.add_to(&mut sum);
        other.add_to(&mut sum);
        *self = sum;
    }

    /// The same elements in bins that reach from `min` to `max`, which contain them.
    pub(super) fn widened(&self, min: f32, max: f32) -> Histogram {
        let mut wide = Histogram::empty(min, max);
        self.add_to(&mut wide);
        wide
    }

    /// Of absolute values, for bins that reach to 0. A negative element at the border of two bins counts in the lower.
    pub(super) fn folded(&self) -> Histogram {
        let place = |k: i64| (if k < 0 { -1 - k } else { k }) as usize;
        let mut counts = Vec::new();
        for (k, count) in self.bins() {
            counts.resize(counts.len().max(place(k) + 1), 0);
            counts[place(k)] += count;
        }
        Histogram { exponent: self.exponent, first: 0, counts }
    }

    fn empty(min: f32, max: f32) -> Histogram {
        let exponent = exponent(min, max);
        let (first, last) = (bin(min, exponent), bin(max, exponent));
        Histogram { exponent, first, counts: vec![0; (last - first + 1) as usize] }
    }

    /// Adds the counts to a histogram of a range that contains this one's.
    fn add_to(&self, sum: &mut Histogram) {
        let shift = shift(self.exponent, sum.exponent);
        for (k, count) in self.bins() {
            sum.counts[((k >> shift) - sum.first) as usize] += count;
        }
    }

    /// Bins that hold something.
    fn bins(&self) -> impl Iterator<Item = (i64, u64)> {
        self.counts.iter().zip(self.first..).filter(|(count, _)| **count != 0).map(|(&count, k)| (k, count))
    }

    /// Elements in each bin.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All elements.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The width of a bin.
    pub fn width(&self) -> f64 {
        power(self.exponent)
    }

    /// Widths from 0 to the lower end of the first bin: its `k`.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// The lower end of the bin at `index`, which is the upper end of the one before.
    pub fn edge(&self, index: usize) -> f64 {
        (self.first + index as i64) as f64 * self.width()
    }
}

/// How far to the right a bin's `k` is shifted when bins become wider.
fn shift(from: i32, to: i32) -> u32 {
    (to - from).clamp(0, 63) as u32
}

/// The `k` of the bin that holds `v`.
fn bin(v: f32, exponent: i32) -> i64 {
    (f64::from(v) * power(-exponent)).floor() as i64
}

/// The width of bins for this range, as an exponent of 2.
fn exponent(min: f32, max: f32) -> i32 {
    let largest = min.abs().max(max.abs());
    let finest = (binary_exponent(f64::from(largest)) - 23).max(-149);
    // Not above the answer: bins of width w that hold the range are at least (max − min) / w.
    let span = f64::from(max) - f64::from(min);
    let mut exponent = finest.max(binary_exponent(span) - MAX_BINS.ilog2() as i32);
    while bin(max, exponent) - bin(min, exponent) >= MAX_BINS {
        exponent += 1;
    }
    exponent
}

/// `floor(log2(x))` of a number that is 0 or normal; far below all floats for 0.
fn binary_exponent(x: f64) -> i32 {
    (x.to_bits() >> 52) as i32 - 1023
}

/// `2^exponent`, where that is a normal number.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(x: &[f32]) -> Histogram {
        let (min, max) = range(x);
        Histogram::of(x, min, max)
    }

    fn range(x: &[f32]) -> (f32, f32) {
        x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)))
    }

    #[test]
    fn bins_have_the_width_of_the_smallest_power_of_two_that_will_do() {
        // 6 / 4096 is between 2⁻¹⁰ and 2⁻⁹; the last bin holds 6 alone.
        let histogram = of(&[0.0, 6.0, 2.9999]);
        assert_eq!((histogram.width(), histogram.first(), histogram.counts().len()), (1.0 / 512.0, 0, 3073));
        assert_eq!((histogram.counts()[0], histogram.counts()[1535], histogram.counts()[3072]), (1, 1, 1));
        // No finer than floats are: one bin for each of four neighbours.
        let neighbours: Vec<f32> = (0..4).map(|i| f32::from_bits(1.0f32.to_bits() + i)).collect();
        assert_eq!(of(&neighbours).counts(), [1; 4]);
    }

    #[test]
    fn extremes_of_f32_have_bins() {
        for x in [
            vec![0.0],
            vec![-0.0, 0.0],
            vec![f32::from_bits(1)],
            vec![-f32::from_bits(1), f32::from_bits(3)],
            vec![f32::MIN, f32::MAX],
            vec![f32::MAX],
            vec![f32::MIN, -f32::MIN_POSITIVE, f32::MIN_POSITIVE, 1.0, f32::MAX],
        ] {
            let histogram = of(&x);
            assert_eq!(histogram.total(), x.len() as u64, "{x:?}");
            assert!(histogram.counts().len() <= MAX_BINS as usize);
        }
    }

    #[test]
    fn absolute_values_fold_onto_their_bins() {
        let x: Vec<f32> = (-40..=90).map(|i| i as f32 * 0.0613 + 0.0131).collect();
        let folded = of(&x).folded();
        assert_eq!((folded.first(), folded.total()), (0, 131));
        for (index, &count) in folded.counts().iter().enumerate() {
            let inside = |v: &&f32| (folded.edge(index)..folded.edge(index + 1)).contains(&f64::from(v.abs()));
            assert_eq!(count, x.iter().filter(inside).count() as u64);
        }
    }

    proptest! {
        #[test]
        fn every_element_is_in_its_bin(x in tensor()) {
            let histogram = of(&x);
            let w = histogram.width();
            for (index, &count) in histogram.counts().iter().enumerate() {
                let (from, to) = (histogram.edge(index), histogram.edge(index + 1));
                let inside = x.iter().filter(|v| (from..to).contains(&f64::from(**v))).count() as u64;
                prop_assert_eq!(count, inside);
            }
            let (min, max) = range(&x);
            let finer = (f64::from(max) / (w / 2.0)).floor() - (f64::from(min) / (w / 2.0)).floor();
            let finest = f64::from(min.abs().max(max.abs())) / f64::from(1 << 24);
            prop_assert!(finer >= MAX_BINS as f64 || w / 2.0 <= finest || w == power(-149));
        }

        /// However the elements are dealt to parts, and in whatever order and grouping the parts are merged.
        #[test]
        fn a_merge_of_parts_is_the_histogram_of_the_whole(
            x in tensor(),
            parts in prop::collection::vec(0usize..5, 200),
            merges in prop::collection::vec(any::<prop::sample::Index>(), 10),
        ) {
            let mut dealt = vec![Vec::new(); 5];
            x.iter().zip(parts).for_each(|(&v, part)| dealt[part].push(v));
            let mut merged: Vec<(Vec<f32>, Histogram)> =
                dealt.into_iter().filter(|part| !part.is_empty()).map(|part| (part.clone(), of(&part))).collect();
            let mut pick = merges.into_iter();
            while merged.len() > 1 {
                let (more, other) = merged.swap_remove(pick.next().unwrap().index(merged.len()));
                let place = pick.next().unwrap().index(merged.len());
                let (elements, histogram) = &mut merged[place];
                elements.extend(more);
                let (min, max) = range(elements);
                histogram.merge(&other, min, max);
            }
            prop_assert_eq!(&merged[0].1, &of(&x));
        }
    }

    /// Tensors of all magnitudes: around a middle, of one sign, points.
    fn tensor() -> impl Strategy<Value = Vec<f32>> {
        let magnitude = prop_oneof![Just(0.0f32), Just(1e-42), Just(1e-3), Just(1.0), Just(3e4), Just(1e37)];
        let element = prop_oneof![4 => -1.0f32..1.0, 1 => Just(0.0), 1 => Just(-9.0)];
        (-1.0f32..1.0, magnitude.clone(), magnitude, prop::collection::vec(element, 1..200), any::<bool>()).prop_map(
            |(middle, offset, spread, x, positive)| {
                x.into_iter().map(|v| middle * offset + spread * if positive { v.abs() } else { v }).collect()
            },
        )
    }
}
