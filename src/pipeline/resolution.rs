//! What drop the samples of a job can resolve, before anything is measured.

use std::fmt;

use super::{Opened, PipelineError};
use crate::{confidence::resolvable, dataset::Part, search::Budget};

/// Share of the outcomes that quantization changes where it costs little, as many for the better as for the worse.
const TYPICAL_CHANGES: f64 = 0.03;

/// What drop in the population a job's samples can rule out, sample by sample against fp32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resolution {
    /// The split that answers for the population: certify, or search where nothing is set aside.
    pub split: &'static str,
    /// Its samples.
    pub samples: u64,
    /// With this confidence.
    pub confidence: f64,
    /// The largest drop that the budget allows.
    pub max_drop: f64,
    /// The least drop that can be ruled out, when quantization changes no outcome at all.
    pub at_best: f64,
    /// Likewise, when it changes three outcomes of a hundred, as many for the better as for the worse.
    pub typical: f64,
}

impl Resolution {
    /// Whether the budget is finer than the samples can ever tell.
    pub fn is_too_coarse(&self) -> bool {
        self.at_best > self.max_drop
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resolution { split, samples, confidence, max_drop, at_best, typical } = *self;
        let points = |drop: f64| format!("{:.2} points", drop * 100.0);
        let (at_best, typical, confidence) = (points(at_best), points(typical), confidence * 100.0);
        write!(
            f,
            "the {samples} samples of the {split} split can rule out a drop of {typical} in the population at \
             {confidence} % confidence, and of {at_best} at best"
        )?;
        if self.is_too_coarse() {
            write!(f, "; the budget of {} is finer: what is found holds for these samples only", points(max_drop))?;
        }
        Ok(())
    }
}

impl Opened {
    /// What drop the job's samples can resolve; `None` for a budget that does not count samples. A drop relative to fp32
    /// is at least the absolute one, and needs at least as many samples.
    pub fn resolution(&self) -> Option<Resolution> {
        let Budget::Drop { max_drop, .. } = self.spec.budget.budget() else { return None };
        if !self.spec.budget.metric.counts() {
            return None;
        }
        let confidence = self.spec.budget.confidence;
        let part = if self.dataset.len(Part::Certify) > 0 { Part::Certify } else { Part::Search };
        let samples = self.dataset.len(part) as u64;
        Some(Resolution {
            split: part.name(),
            samples,
            confidence,
            max_drop,
            at_best: resolvable(samples, confidence, 0.0),
            typical: resolvable(samples, confidence, TYPICAL_CHANGES),
        })
    }

    /// Refuses a budget that is finer than the job's samples can ever tell.
    ///
    /// # Errors
    /// [`PipelineError::Unresolvable`].
    pub fn check_resolution(&self) -> Result<(), PipelineError> {
        match self.resolution() {
            Some(resolution) if resolution.is_too_coarse() => Err(PipelineError::Unresolvable(resolution)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Resolution;

    #[test]
    fn a_budget_that_is_too_fine_is_said() {
        let fine = Resolution {
            split: "search",
            samples: 872,
            confidence: 0.95,
            max_drop: 0.002,
            at_best: 0.005,
            typical: 0.0123,
        };
        assert!(fine.is_too_coarse());
        assert_eq!(
            fine.to_string(),
            "the 872 samples of the search split can rule out a drop of 1.23 points in the population at 95 % \
             confidence, and of 0.50 points at best; the budget of 0.20 points is finer: what is found holds for these \
             samples only"
        );
        assert!(!Resolution { max_drop: 0.01, ..fine }.is_too_coarse());
    }
}
