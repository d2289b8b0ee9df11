//! Measuring a recorded trial again.

use super::{
    Opened, PipelineError, Progress, Stage,
    bench::Bench,
    by_program::Handed,
    keys::{stopped_key, trial_key},
    run::{calibrate, pool},
};
use crate::{
    cancel::Cancel,
    dataset::{Part, permutation},
    evaluate::{Enough, Evaluation, Programs},
    kernels::Kernels,
    search::Trial,
};

/// A trial that was measured again, beside its record.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Whether what was measured is the same: model, samples, every parameter of every group, numerics.
    pub same_key: bool,
    /// What was found now.
    pub evaluation: Evaluation,
    /// Samples whose outcome is another than recorded; of metrics that do not count, whether the score is another.
    pub differing: usize,
}

impl Replay {
    /// Whether everything agrees, to the bit.
    pub fn agrees(&self) -> bool {
        self.same_key && self.differing == 0
    }
}

/// Calibrates and measures the metric of a recorded trial again, on the samples that it saw, on `threads` threads. Nothing
/// is recorded.
///
/// # Errors
/// As for [`run()`](super::run()).
pub fn replay(
    opened: &Opened,
    threads: usize,
    trial: &Trial,
    programs: &dyn Programs,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Replay, PipelineError> {
    let pool = pool(threads)?;
    let kernels = Kernels::detect()?;
    let calibrated = calibrate(opened, &pool, kernels, progress, cancel)?;
    let order = permutation(opened.dataset.len(Part::Search), opened.spec.search.seed);
    let (pool, calibrated, order, handed) = (&pool, &calibrated, &order, &Handed::default());
    let bench = Bench { opened, pool, kernels, calibrated, order, programs, handed, progress, cancel };
    let converted = bench.convert(&trial.candidate());
    let (whole, recorded) = (trial_key(opened, &converted), trial.evaluation.score.total());
    let spec = &opened.spec.budget;
    let stopped = stopped_key(&whole, &spec.budget(), spec.confidence);
    progress.stage(Stage::Replay, Some(recorded));
    let seen_all = recorded >= order.len() as u64;
    let as_many = |seen: &[bool]| seen.len() as u64 >= recorded;
    let enough: Option<&Enough<'_>> = if seen_all { None } else { Some(&as_many) };
    let (evaluation, _) = bench.evaluate(&converted, &mut None, enough)?;
    Ok(Replay {
        same_key: trial.key == if seen_all { whole } else { stopped },
        differing: differing(&trial.evaluation, &evaluation),
        evaluation,
    })
}

fn differing(recorded: &Evaluation, now: &Evaluation) -> usize {
    if recorded.correct.is_empty() || recorded.correct.len() != now.correct.len() {
        return usize::from(recorded.score != now.score);
    }
    recorded.correct.iter().zip(&now.correct).filter(|(recorded, now)| recorded != now).count()
}

#[cfg(test)]
mod tests {
    use super::differing;
    use crate::evaluate::{Evaluation, Score};

    #[test]
    fn outcomes_are_compared_one_by_one() {
        let counted = |correct: &[bool]| {
            let right = correct.iter().filter(|c| **c).count() as u64;
            let score = Score::Count { correct: right, total: correct.len() as u64 };
            Evaluation { score, correct: correct.to_vec(), seconds: 1.0 }
        };
        let recorded = counted(&[true, false, true]);
        assert_eq!(differing(&recorded, &Evaluation { seconds: 9.0, ..recorded.clone() }), 0);
        // As many are right, and yet others.
        assert_eq!(differing(&recorded, &counted(&[false, true, true])), 2);
        assert_eq!(differing(&recorded, &counted(&[true])), 1);
        let decibel = |value| {
            let score = Score::Number { value, total: 3 };
            Evaluation { score, correct: vec![], seconds: 1.0 }
        };
        assert_eq!((differing(&decibel(1.5), &decibel(1.5)), differing(&decibel(1.5), &decibel(1.25))), (0, 1));
    }
}
