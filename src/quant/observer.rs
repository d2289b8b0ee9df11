//! Observers: what calibration keeps of one tensor, and the ranges that follow from it.

mod entropy;
mod least_error;
mod mse;
mod percentile;

use super::{ActivationScheme, ActivationSpec, Affine, Histogram, ObserverKind};

/// Statistics of one tensor over the calibration samples; enough for every observer.
///
/// Those of several samples together are the same bits however they were put together: in any order, by any number of
/// threads. Their size does not grow with the number of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStatistics {
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
    /// Distribution between them.
    pub histogram: Histogram,
}

impl TensorStatistics {
    /// Statistics of one sample's tensor; `None` when an element is not finite or there is none.
    pub fn of(x: &[f32]) -> Option<TensorStatistics> {
        let (min, max) = extent(x)?;
        // One zero: which of the two a minimum gives depends on their order.
        let (min, max) = (min + 0.0, max + 0.0);
        Some(TensorStatistics { min, max, histogram: Histogram::of(x, min, max) })
    }

    /// Adds the statistics of further samples.
    pub fn merge(&mut self, other: &TensorStatistics) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.histogram.merge(&other.histogram, self.min, self.max);
    }

    /// The range that a spec's observer chooses, in units of the tensor: between the smallest and the largest element.
    pub fn range(&self, spec: &ActivationSpec) -> (f32, f32) {
        if self.min == self.max {
            return (self.min, self.max);
        }
        let symmetric = spec.qscheme == ActivationScheme::PerTensorSymmetric;
        let with_zero = || self.histogram.widened(self.min.min(0.0), self.max.max(0.0));
        let percentile = || spec.percentile.unwrap_or_default();
        let (min, max) = match spec.observer {
            ObserverKind::Minmax => return (self.min, self.max),
            ObserverKind::Auto => return self.range(&self.best(spec)),
            ObserverKind::Mse => mse::range(&with_zero(), self.min, self.max, spec),
            ObserverKind::Histogram => least_error::range(&self.histogram),
            ObserverKind::Percentile if symmetric => {
                let largest = percentile::symmetric(&with_zero().folded(), percentile());
                (-largest, largest)
            }
            ObserverKind::Percentile => percentile::two_sided(&self.histogram, percentile()),
            ObserverKind::Entropy => {
                let (lowest, highest) = spec.range();
                entropy::range(&with_zero(), (highest - lowest + 1) as usize, symmetric)
            }
        };
        // Edges of bins and 0 may lie beyond the elements.
        ((min as f32).clamp(self.min, self.max), (max as f32).clamp(self.min, self.max))
    }

    /// The spec with the observer whose grid has the highest SQNR on the tensor, the first among equals.
    ///
    /// SQNR = 10·log10(Σ x² / Σ (x − q(x))²) dB; the signal is the same for all, so the least noise is taken, of the elements
    /// as the histogram has them.
    fn best(&self, spec: &ActivationSpec) -> ActivationSpec {
        let histogram = self.histogram.widened(self.min.min(0.0), self.max.max(0.0));
        let mut best = (f64::INFINITY, *spec);
        for observer in ObserverKind::CHOICE {
            let spec = ActivationSpec { observer, ..*spec };
            let noise = mse::noise(&histogram, &self.affine(&spec));
            if noise < best.0 {
                best = (noise, spec);
            }
        }
        best.1
    }

    /// The affine parameters that an activation spec gives this tensor.
    pub fn affine(&self, spec: &ActivationSpec) -> Affine {
        let (min, max) = self.range(spec);
        Affine::from_range(min, max, spec)
    }
}

/// The smallest and the largest element; `None` when one is not finite or there is none.
fn extent(x: &[f32]) -> Option<(f32, f32)> {
    // One chain of comparisons waits for itself; several are vector code.
    const LANES: usize = 32;
    let (mut least, mut largest, mut magnitude) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0; LANES]);
    for part in x.chunks(LANES) {
        for (i, &v) in part.iter().enumerate() {
            least[i] = if v < least[i] { v } else { least[i] };
            largest[i] = if v > largest[i] { v } else { largest[i] };
            magnitude[i] = magnitude[i].max(v.abs().to_bits());
        }
    }
    // Infinity has the smallest bits of what is not finite.
    let finite = magnitude.iter().all(|&bits| bits < f32::INFINITY.to_bits());
    let (min, max) =
        (least.into_iter().fold(f32::INFINITY, f32::min), largest.into_iter().fold(f32::NEG_INFINITY, f32::max));
    (finite && min <= max).then_some((min, max))
}

#[cfg(test)]
mod tests;
