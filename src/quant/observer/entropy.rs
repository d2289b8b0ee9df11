//! The observer `entropy`: TensorRT's calibration.
//!
//! Migacz, "8-bit Inference with TensorRT" (GTC 2017), with what ONNX Runtime, MXNet and NVIDIA's pytorch-quantization add
//! for grids with a zero point: candidates are the bins between −t and t that the tensor reaches, for every t of whole bins.
//! P is the tensor with what lies outside counted in the outermost bins; Q is what lies inside, with the elements of each
//! level spread evenly over those of its bins that are not empty in P. The range of least Kullback-Leibler divergence
//! Σ p·ln(p / q) is taken. A candidate whose Q lacks what P has (a level of outliers alone) has an infinite one; the others
//! smooth such bins instead. Zeros, of which a ReLU makes many, are exact on every grid; so the bin at 0 has no more
//! elements than the next, as in pytorch-quantization: else their share would decide alone, for the narrowest range. A
//! candidate holds at least half of the elements: with hardly any, P and Q are both outliers alone, and the same.

use super::super::Histogram;

/// The range of least divergence for `levels` integers; the wider of equals. `histogram` reaches to 0. A symmetric grid has
/// levels for both signs, whether the tensor has elements there or not.
pub(super) fn range(histogram: &Histogram, levels: usize, symmetric: bool) -> (f64, f64) {
    let sums = Sums::of(histogram);
    let (first, end) = (histogram.first(), histogram.first() + histogram.counts().len() as i64);
    let widest = end.max(-first);
    let window = |t: i64| if symmetric { (-t, t) } else { (first.max(-t), end.min(t)) };
    let (mut best, mut least) = (window(widest), f64::INFINITY);
    for t in (1..=widest).rev() {
        let (from, to) = window(t);
        if to - from < levels as i64 || 2 * sums.inside(from, to) < sums.total() {
            break;
        }
        let divergence = sums.divergence(from, to, levels);
        if divergence < least {
            (best, least) = ((from, to), divergence);
        }
    }
    let width = histogram.width();
    (best.0 as f64 * width, best.1 as f64 * width)
}

/// Sums over the bins below each.
struct Sums {
    first: i64,
    counts: Vec<u64>,
    /// Elements.
    elements: Vec<u64>,
    /// Bins that are not empty.
    filled: Vec<u64>,
    /// n·ln(n) of their counts.
    entropy: Vec<f64>,
}

impl Sums {
    /// Of the tensor without its zeros.
    fn of(histogram: &Histogram) -> Sums {
        let mut counts = histogram.counts().to_vec();
        let zero = usize::try_from(-histogram.first()).unwrap_or(counts.len());
        let count = |index: Option<usize>| index.and_then(|index| counts.get(index)).copied().unwrap_or(0);
        let next = count(zero.checked_sub(1)).max(count(Some(zero + 1)));
        if let Some(zeros) = counts.get_mut(zero) {
            *zeros = next;
        }
        let (mut elements, mut filled, mut entropy) = (vec![0], vec![0], vec![0.0]);
        for (index, &count) in counts.iter().enumerate() {
            elements.push(elements[index] + count);
            filled.push(filled[index] + u64::from(count != 0));
            entropy.push(entropy[index] + n_ln_n(count));
        }
        Sums { first: histogram.first(), counts, elements, filled, entropy }
    }

    fn total(&self) -> u64 {
        self.elements[self.counts.len()]
    }

    /// The index of the bin `k`, or of the end that is nearest to it.
    fn place(&self, k: i64) -> usize {
        (k - self.first).clamp(0, self.counts.len() as i64) as usize
    }

    /// Elements in the bins from `from` up to `to`.
    fn inside(&self, from: i64, to: i64) -> u64 {
        self.elements[self.place(to)] - self.elements[self.place(from)]
    }

    /// Σ p·ln(p / q) when the bins from `from` up to `to`, in widths from 0, are quantized to `levels`.
    fn divergence(&self, from: i64, to: i64, levels: usize) -> f64 {
        let (start, end) = (self.place(from), self.place(to));
        let (total, inside) = (self.total(), self.inside(from, to));
        let (left, right) = (self.elements[start], total - self.elements[end]);
        if inside == 0 {
            return f64::INFINITY;
        }
        // Outliers count in the outermost bins of P; beyond what the tensor reaches there are none.
        let outermost = |at: usize, outliers: u64| {
            let own = self.counts[at];
            (n_ln_n(own + outliers) - n_ln_n(own), u64::from(own == 0 && outliers != 0))
        };
        let ((more_left, filled_left), (more_right, filled_right)) = match end - start {
            1 => (outermost(start, left + right), (0.0, 0)),
            _ => (outermost(start, left), outermost(end - 1, right)),
        };
        let p_ln_p = self.entropy[end] - self.entropy[start] + more_left + more_right;
        let mut p_ln_q = 0.0;
        let size = (to - from) as usize;
        for level in 0..levels {
            // Bin j of the window is in level floor(j · levels / size).
            let border = |level: usize| self.place(from + (level * size).div_ceil(levels) as i64);
            let (low, high) = (border(level), border(level + 1));
            if low == high {
                continue;
            }
            let own = self.elements[high] - self.elements[low];
            let mut filled = self.filled[high] - self.filled[low];
            let mut p = own;
            if low == start {
                p += left;
                filled += filled_left;
            }
            if high == end {
                p += right;
                filled += filled_right;
            }
            if p == 0 {
                continue;
            }
            // Without elements of its own, ln 0: the divergence is infinite.
            p_ln_q += p as f64 * (own as f64 / filled as f64).ln();
        }
        (p_ln_p - p_ln_q) / total as f64 + (inside as f64 / total as f64).ln()
    }
}

/// n·ln(n), 0 for 0.
fn n_ln_n(n: u64) -> f64 {
    if n == 0 { 0.0 } else { n as f64 * (n as f64).ln() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As it is defined, bin by bin.
    fn direct(histogram: &Histogram, from: i64, to: i64, levels: usize) -> f64 {
        let all = |k: i64| match usize::try_from(k - histogram.first()) {
            Ok(index) => histogram.counts().get(index).copied().unwrap_or(0),
            Err(_) => 0,
        };
        let count = |k: i64| if k == 0 { all(-1).max(all(1)) } else { all(k) };
        let size = (to - from) as usize;
        let own: Vec<u64> = (from..to).map(count).collect();
        let mut p = own.clone();
        p[0] += (histogram.first()..from).map(count).sum::<u64>();
        p[size - 1] += (to..histogram.first() + histogram.counts().len() as i64).map(count).sum::<u64>();
        let mut q = vec![0.0; size];
        for level in 0..levels {
            let bins: Vec<usize> = (0..size).filter(|j| j * levels / size == level).collect();
            let filled: Vec<usize> = bins.iter().copied().filter(|&j| p[j] != 0).collect();
            let sum: u64 = bins.iter().map(|&j| own[j]).sum();
            filled.iter().for_each(|&j| q[j] = sum as f64 / filled.len() as f64);
        }
        let (p_sum, q_sum) = (p.iter().sum::<u64>() as f64, q.iter().sum::<f64>());
        let term = |(&p, &q): (&u64, &f64)| p as f64 / p_sum * (p as f64 / p_sum / (q / q_sum)).ln();
        p.iter().zip(&q).filter(|(p, _)| **p != 0).map(term).sum()
    }

    proptest! {
        #[test]
        fn sums_give_the_divergence_of_the_definition(
            x in prop::collection::vec(prop_oneof![3 => -0.2f32..0.3, 1 => -3.0f32..5.0], 2..400),
            levels in 1usize..9,
            (from, to) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let (min, max) = x.iter().fold((0.0f32, 0.0f32), |(lo, hi), &v| (lo.min(v), hi.max(v)));
            let histogram = Histogram::of(&x, min, max);
            let bins = histogram.counts().len();
            let start = from.index(bins - levels) as i64;
            let end = start + (levels + to.index(bins - start as usize - levels + 1)) as i64;
            let window = (histogram.first() + start, histogram.first() + end);
            let found = Sums::of(&histogram).divergence(window.0, window.1, levels);
            let expected = direct(&histogram, window.0, window.1, levels);
            let both_infinite = !found.is_finite() && !expected.is_finite();
            prop_assert!(both_infinite || (found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }
}
