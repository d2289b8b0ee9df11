//! The observer `percentile`.
//!
//! Wu et al., "Integer Quantization for Deep Learning Inference" (2020), section 5.1, and ONNX Runtime's
//! `CalibrationMethod.Percentile`, whose convention for the two sides this is.

use super::super::{Histogram, Percentile};

/// The narrowest range of whole bins below and above which lies no more than half of what `percentile` leaves, each.
pub(super) fn two_sided(histogram: &Histogram, percentile: Percentile) -> (f64, f64) {
    let cut = (100.0 - percentile.percent()) / 200.0;
    let counts = histogram.counts();
    let allowed = cut * histogram.total() as f64;
    let below = passed(counts.iter(), allowed);
    let above = passed(counts.iter().rev(), allowed);
    (histogram.edge(below), histogram.edge(counts.len() - above))
}

/// The least end of a bin of absolute values above which lies no more than what `percentile` leaves.
pub(super) fn symmetric(absolute: &Histogram, percentile: Percentile) -> f64 {
    let cut = (100.0 - percentile.percent()) / 100.0;
    let counts = absolute.counts();
    absolute.edge(counts.len() - passed(counts.iter().rev(), cut * absolute.total() as f64))
}

/// How many bins can be left out before more than `allowed` elements are; never all.
fn passed<'a>(counts: impl Iterator<Item = &'a u64>, allowed: f64) -> usize {
    let mut sum = 0;
    let outside = |count: &&u64| {
        sum += **count;
        // Percentages such as 99.9 are a little more in binary: what they leave is a little less.
        sum as f64 <= allowed + 1e-6
    };
    counts.take_while(outside).count()
}
