//! The observer `histogram`: PyTorch's.

use super::super::Histogram;

/// Integers that a tensor of 8 bits can take. PyTorch searches for these whatever the qconfig's range.
const QUANT_LEVELS: f64 = 256.0;

/// The range of least squared quantization error: PyTorch's `HistogramObserver._non_linear_param_search`.
///
/// Starts from the whole range and cuts quantiles off, 10⁻⁵ at a time, on the side where that moves
/// further, until the expected error grows.
pub(super) fn range(histogram: &Histogram) -> (f64, f64) {
    let counts = histogram.counts();
    let cumulative: Vec<f64> = counts
        .iter()
        .scan(0, |sum, c| {
            *sum += c;
            Some(*sum as f64)
        })
        .collect();
    let last = counts.len() - 1;
    let total = cumulative[last];
    const STEP: f64 = 1e-5;
    let (mut alpha, mut beta) = (0.0, 1.0);
    let (mut start, mut end) = (0, last);
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
        let error = error(histogram, next_start, next_end);
        if error > least {
            break;
        }
        least = error;
        (start, end) = (next_start, next_end);
    }
    (histogram.edge(start), histogram.edge(end + 1))
}

/// Expected squared error, summed over all elements, when bins `start..=end` are quantized to 256 levels
/// and the rest is clamped (PyTorch `HistogramObserver._compute_quantization_error`): each bin is a
/// uniform density, integrated exactly as ∫ x² dx around the centre of the level it falls into.
fn error(histogram: &Histogram, start: usize, end: usize) -> f64 {
    let width = histogram.width();
    let level = width * (end - start + 1) as f64 / QUANT_LEVELS;
    let third = |from: f64, to: f64| (to * to * to - from * from * from) / 3.0;
    let half = level / 2.0;
    let mut sum = 0.0;
    for (bin, &count) in histogram.counts().iter().enumerate().filter(|(_, c)| **c != 0) {
        let from = (bin as f64 - start as f64) * width;
        let to = from + width;
        let level_of = |x: f64| (x / level).floor().clamp(0.0, QUANT_LEVELS - 1.0);
        let (first, last) = (level_of(from), level_of(to));
        let centre = |l: f64| (l + 0.5) * level;
        let error = third(from - centre(first), half)
            + (last - first - 1.0) * third(-half, half)
            + third(-half, to - centre(last));
        sum += count as f64 / width * error;
    }
    sum
}
