//! The metric of a plan over the samples of a split.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Evaluation, Metric, Score};
use crate::{
    cancel::{Cancel, Cancelled},
    engine::{EngineError, Plan},
    ptq::SampleError,
    sqnr::Energies,
};

/// The samples of a split: inputs of one, and labels.
pub trait Samples: Sync {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The network's input, a batch of one, and the label.
    ///
    /// # Errors
    /// A sample that cannot be read.
    fn load(&self, index: usize) -> Result<(Tensor, u32), SampleError>;
    /// The sample's name, for people.
    fn name(&self, index: usize) -> String;
}

/// What keeps a plan from being evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A sample could not be read.
    #[error("reading a sample failed")]
    Sample(#[source] SampleError),
    /// The plan could not be run.
    #[error("running the network failed")]
    Engine(#[from] EngineError),
    /// An output is NaN or infinite.
    #[error("sample `{0}`: the network's output is not finite")]
    NotFinite(String),
    /// A label that the network cannot give.
    #[error("sample `{name}`: label {label} is outside the network's {outputs} outputs")]
    Label {
        /// The sample.
        name: String,
        /// Its label.
        label: u32,
        /// Elements of the first output.
        outputs: usize,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The plan's first output for every sample, in order. Samples run one by one, in parallel on the current rayon
/// pool, one thread each.
///
/// # Errors
/// A sample that cannot be read or run, or an output that is not finite.
pub fn outputs(plan: &Plan, samples: &dyn Samples, cancel: &Cancel) -> Result<Vec<Vec<f32>>, EvaluateError> {
    let run = |index| output(plan, samples, index, cancel).map(|(y, _)| y);
    (0..samples.len()).into_par_iter().map(run).collect()
}

fn output(plan: &Plan, samples: &dyn Samples, index: usize, cancel: &Cancel) -> Result<(Vec<f32>, u32), EvaluateError> {
    cancel.check()?;
    let (x, label) = samples.load(index).map_err(EvaluateError::Sample)?;
    let y = plan.run(&x, false)?.swap_remove(0).flatten_all().map_err(EngineError::from)?;
    let y = y.to_vec1::<f32>().map_err(EngineError::from)?;
    if y.iter().all(|v| v.is_finite()) { Ok((y, label)) } else { Err(EvaluateError::NotFinite(samples.name(index))) }
}

/// How many elements come before `class` when the largest is first; among equals the lowest index is.
fn rank(y: &[f32], class: usize) -> usize {
    let own = y[class];
    y.iter().enumerate().filter(|&(i, &v)| v > own || (v == own && i < class)).count()
}

/// The place of the largest output, the first among equals.
pub fn largest(y: &[f32]) -> Option<usize> {
    let better = |best: Option<(usize, f32)>, (i, &v): (usize, &f32)| match best {
        Some((_, most)) if v <= most => best,
        _ => Some((i, v)),
    };
    y.iter().enumerate().fold(None, better).map(|(i, _)| i)
}

/// After how many samples an evaluation looks whether it may end. Fixed, so that where one ends does not depend on the
/// number of threads.
const LOOK: usize = 64;

/// Says, of the samples seen so far in order and whether each was right, whether more of them are of no use.
pub type Enough<'a> = dyn Fn(&[bool]) -> bool + Sync + 'a;

/// Measures `metric` over the samples in order, to the last or until `enough` are seen; metrics that do not count see
/// all. `fp32` are the outputs of the fp32 network ([`outputs`]); metrics that compare with it need them, the others do
/// not look. `progress` hears samples done and how many were right.
///
/// # Errors
/// As for [`outputs`], and a label that the network cannot give.
///
/// # Panics
/// When the metric needs `fp32` and it is not there.
pub fn evaluate(
    plan: &Plan,
    samples: &dyn Samples,
    metric: Metric,
    fp32: Option<&[Vec<f32>]>,
    enough: Option<&Enough<'_>>,
    cancel: &Cancel,
    progress: &(dyn Fn(u64, Option<u64>) + Sync),
) -> Result<Evaluation, EvaluateError> {
    let start = Instant::now();
    let (done, right) = (AtomicU64::new(0), AtomicU64::new(0));
    let reference = |index: usize| &fp32.expect("this metric compares with fp32")[index];
    let measure = |index: usize| -> Result<(bool, Energies), EvaluateError> {
        let (y, label) = output(plan, samples, index, cancel)?;
        let class = match metric {
            Metric::Top1 | Metric::Top5 => label as usize,
            Metric::Agreement => largest(reference(index)).unwrap_or(0),
            Metric::Sqnr => 0,
        };
        if class >= y.len() {
            return Err(EvaluateError::Label { name: samples.name(index), label, outputs: y.len() });
        }
        let (correct, energies) = match metric {
            Metric::Top1 | Metric::Agreement => (rank(&y, class) == 0, Energies::default()),
            Metric::Top5 => (rank(&y, class) < 5, Energies::default()),
            Metric::Sqnr => (false, Energies::of(reference(index), &y)),
        };
        let right = right.fetch_add(u64::from(correct), Ordering::Relaxed) + u64::from(correct);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        progress(done, (metric != Metric::Sqnr).then_some(right));
        Ok((correct, energies))
    };
    if metric == Metric::Sqnr {
        let measured: Vec<_> = (0..samples.len()).into_par_iter().map(measure).collect::<Result<_, _>>()?;
        let mut pooled = Energies::default();
        measured.iter().for_each(|(_, energies)| pooled.pool(*energies));
        let score = Score::Decibel { value: pooled.sqnr(), total: measured.len() as u64 };
        return Ok(Evaluation { score, correct: Vec::new(), seconds: start.elapsed().as_secs_f64() });
    }
    let step = if enough.is_some() { LOOK } else { samples.len().max(1) };
    let mut correct = Vec::with_capacity(samples.len());
    for first in (0..samples.len()).step_by(step) {
        let part = first..samples.len().min(first + step);
        let seen: Vec<_> = part.into_par_iter().map(measure).collect::<Result<_, _>>()?;
        correct.extend(seen.into_iter().map(|(right, _)| right));
        if enough.is_some_and(|enough| enough(&correct)) {
            break;
        }
    }
    let (right, total) = (correct.iter().filter(|right| **right).count() as u64, correct.len() as u64);
    let score = Score::Count { correct: right, total };
    Ok(Evaluation { score, correct, seconds: start.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::{largest, rank};

    #[test]
    fn the_first_of_equals_is_the_largest() {
        assert_eq!(largest(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(largest(&[]), None);
        assert_eq!(largest(&[-1.0]), Some(0));
    }

    #[test]
    fn the_lowest_index_wins_among_equals() {
        let y = [1.0, 3.0, 3.0, 2.0];
        assert_eq!([0, 1, 2, 3].map(|class| rank(&y, class)), [3, 0, 1, 2]);
    }
}
