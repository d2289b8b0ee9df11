//! The certificate: what the certify split, opened once and last, says of the finalists.

use super::{
    Ledger, PipelineError, Stage,
    bench::{Bench, SplitSamples},
};
use crate::{
    confidence::{Pairs, corrected},
    dataset::Part,
    evaluate::Score,
    search::{Budget, DropKind, Trial},
};

/// What the certify split says of the finalists, which were named before it was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// With this probability no bound is too low.
    pub confidence: f64,
    /// The finalists, in the order of the choice.
    pub finalists: Vec<Finalist>,
}

/// A trial that the search would choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finalist {
    /// Its number.
    pub trial: usize,
    /// How it did; `None` for one that was not needed, since an earlier one holds, and where no bound can be had.
    pub certified: Option<Certified>,
    /// The scores of a metric from which no bound follows: of one number nothing follows for others.
    pub observed: Option<Observed>,
}

/// Scores on the certify split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Of fp32.
    pub fp32: f64,
    /// Of the finalist.
    pub score: f64,
}

impl Observed {
    /// By how much the finalist is below fp32.
    pub fn drop(&self) -> f64 {
        self.fp32 - self.score
    }
}

/// How a finalist did on the certify split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certified {
    /// Against fp32, sample by sample.
    pub pairs: Pairs,
    /// Upper bound on its drop in the population, as the budget counts drops; `None` where fp32 may never be right.
    pub bound: Option<f64>,
    /// Whether the bound is within the budget.
    pub holds: bool,
}

impl Certificate {
    /// Number of the first finalist whose bound is within the budget.
    pub fn holds(&self) -> Option<usize> {
        self.finalists.iter().find(|f| f.certified.is_some_and(|c| c.holds)).map(|f| f.trial)
    }
}

impl Bench<'_> {
    /// Opens the certify split for these trials, given by number in the order of the choice: each is tried until one
    /// holds. All bounds together hold with the budget's confidence (Bonferroni over the finalists). Of a metric that is
    /// one number the first is observed there, and that is all. `None` when there is no such split, nothing to certify, or
    /// a budget in dB. A certificate that the ledger has is not made again.
    pub(super) fn certify(
        &self,
        trials: &[Trial],
        finalists: &[usize],
        ledger: &mut dyn Ledger,
    ) -> Result<Option<Certificate>, PipelineError> {
        let spec = &self.opened.spec.budget;
        let samples =
            SplitSamples { dataset: &self.opened.dataset, model: &self.opened.model, part: Part::Certify, order: None };
        let Budget::Drop { max_drop, kind } = spec.budget() else { return Ok(None) };
        // The choice falls on the first where no bound says otherwise.
        let finalists = if spec.metric.counts() { finalists } else { &finalists[..finalists.len().min(1)] };
        let total = self.opened.dataset.len(Part::Certify);
        if total == 0 || finalists.is_empty() {
            return Ok(None);
        }
        if let Some(known) = ledger.certificate()?
            && known.finalists.iter().map(|f| f.trial).eq(finalists.iter().copied())
        {
            return Ok(Some(known));
        }
        let stage = |trial| self.progress.stage(Stage::Certify { trial }, Some(total as u64));
        let mut reference = None;
        stage(0);
        let (fp32, _) = self.evaluate_on(&samples, &self.fp32(), &mut reference, None)?;
        let each = corrected(spec.confidence, finalists.len());
        let mut found = false;
        let mut named = Vec::with_capacity(finalists.len());
        for &trial in finalists {
            if found {
                named.push(Finalist { trial, certified: None, observed: None });
                continue;
            }
            stage(trial);
            let network = self.convert(&trials[trial].candidate());
            let (candidate, _) = self.evaluate_on(&samples, &network, &mut reference, None)?;
            if let (Score::Number { value: fp32, .. }, Score::Number { value: score, .. }) =
                (fp32.score, candidate.score)
            {
                named.push(Finalist { trial, certified: None, observed: Some(Observed { fp32, score }) });
                continue;
            }
            let pairs = Pairs::of(&fp32.correct, &candidate.correct);
            let bound = match kind {
                DropKind::Absolute => Some(pairs.bound(each)),
                DropKind::Relative => pairs.relative_bound(each),
            };
            let holds = bound.is_some_and(|bound| bound <= max_drop);
            named.push(Finalist { trial, certified: Some(Certified { pairs, bound, holds }), observed: None });
            found = holds;
        }
        let certificate = Certificate { confidence: spec.confidence, finalists: named };
        ledger.record_certificate(&certificate)?;
        Ok(Some(certificate))
    }
}
