//! The metric of a plan over the samples of a split.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use rayon::prelude::*;

use super::{Evaluation, Metric, Score};
use crate::{
    cancel::{Cancel, Cancelled},
    engine::{EngineError, Inputs, Plan},
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
    /// The network's inputs, a batch of one, and the label.
    ///
    /// # Errors
    /// A sample that cannot be read.
    fn load(&self, index: usize) -> Result<(Inputs, u32), SampleError>;
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
    /// The metric is a number that a program prints.
    #[error("the metric score is measured by a program, and none is named")]
    Score,
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

/// Whether `class` is among the `k` largest elements, and how far it is from where that changes:
/// |y_class − the k-th largest of the others|, infinite where there are fewer than `k` others.
fn answer(y: &[f32], class: usize, k: usize) -> (bool, f32) {
    let mut others: Vec<f32> = y.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, v)| *v).collect();
    let margin = match k.checked_sub(1).filter(|&place| place < others.len()) {
        Some(place) => (y[class] - *others.select_nth_unstable_by(place, |a, b| b.total_cmp(a)).1).abs(),
        None => f32::INFINITY,
    };
    (rank(y, class) < k, margin)
}

impl Metric {
    /// Whether an output is right, and its margin: how far the label is from where that changes, in the unit of the
    /// outputs. `fp32` is the output of the fp32 network, for [`Metric::Agreement`]. `None` for a metric that does not
    /// count, and for a label that the network cannot give.
    pub fn answer(self, y: &[f32], label: u32, fp32: &[f32]) -> Option<(bool, f32)> {
        let (class, k) = match self {
            Metric::Top1 => (label as usize, 1),
            Metric::Top5 => (label as usize, 5),
            Metric::Agreement => (largest(fp32)?, 1),
            Metric::Sqnr | Metric::Score => return None,
        };
        (class < y.len()).then(|| answer(y, class, k))
    }

    /// Whether the metric is a share of samples.
    pub fn counts(self) -> bool {
        match self {
            Metric::Top1 | Metric::Top5 | Metric::Agreement => true,
            Metric::Sqnr | Metric::Score => false,
        }
    }

    /// Whether the metric compares with the outputs of the fp32 network.
    pub fn compares(self) -> bool {
        matches!(self, Metric::Agreement | Metric::Sqnr)
    }
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
/// number of threads. With more threads than that the next samples are run at once, and forgotten where it ends before them:
/// cores that have nothing else to do may guess that it goes on.
const LOOK: usize = 64;

/// Says, of the samples seen so far in order and whether each was right, whether more of them are of no use.
pub type Enough<'a> = dyn Fn(&[bool]) -> bool + Sync + 'a;

/// Measures `metric` over the samples in order, to the last or until `enough` are seen; metrics that do not count see
/// all. `fp32` are the outputs of the fp32 network ([`outputs`]); metrics that compare with it need them, the others do
/// not look. `progress` hears samples done and how many were right.
///
/// With the evaluation come the margins ([`Metric::answer`]) of the samples seen; none for metrics that do not count.
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
) -> Result<(Evaluation, Vec<f32>), EvaluateError> {
    let start = Instant::now();
    let (done, right) = (AtomicU64::new(0), AtomicU64::new(0));
    let reference = |index: usize| match fp32 {
        Some(fp32) => &fp32[index][..],
        None if metric.compares() => panic!("this metric compares with fp32"),
        None => &[],
    };
    if metric == Metric::Score {
        return Err(EvaluateError::Score);
    }
    if metric == Metric::Sqnr {
        let measure = |index: usize| -> Result<Energies, EvaluateError> {
            let (y, _) = output(plan, samples, index, cancel)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, None);
            Ok(Energies::of(reference(index), &y))
        };
        let measured: Vec<_> = (0..samples.len()).into_par_iter().map(measure).collect::<Result<_, _>>()?;
        let mut pooled = Energies::default();
        measured.iter().for_each(|energies| pooled.pool(*energies));
        let score = Score::Number { value: pooled.sqnr(), total: measured.len() as u64 };
        return Ok((Evaluation { score, correct: Vec::new(), seconds: start.elapsed().as_secs_f64() }, Vec::new()));
    }
    let measure = |index: usize| -> Result<(bool, f32), EvaluateError> {
        let (y, label) = output(plan, samples, index, cancel)?;
        let Some((correct, margin)) = metric.answer(&y, label, reference(index)) else {
            return Err(EvaluateError::Label { name: samples.name(index), label, outputs: y.len() });
        };
        let right = right.fetch_add(u64::from(correct), Ordering::Relaxed) + u64::from(correct);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, Some(right));
        Ok((correct, margin))
    };
    let ahead = LOOK * rayon::current_num_threads().div_ceil(LOOK);
    // Without looks in between there is no need to wait for the slowest so often. Not all at once: a sample that cannot be
    // read is told at the end of a step.
    let step = if enough.is_some() { ahead } else { 16 * ahead };
    let (mut correct, mut margins) = (Vec::with_capacity(samples.len()), Vec::with_capacity(samples.len()));
    'all: for first in (0..samples.len()).step_by(step) {
        let part = first..samples.len().min(first + step);
        let mut seen: Vec<_> = part.into_par_iter().map(measure).collect();
        while !seen.is_empty() {
            for one in seen.drain(..LOOK.min(seen.len())) {
                // What goes wrong beyond the end is not looked at either.
                let (right, margin) = one?;
                correct.push(right);
                margins.push(margin);
            }
            if enough.is_some_and(|enough| enough(&correct)) {
                break 'all;
            }
        }
    }
    let (right, total) = (correct.iter().filter(|right| **right).count() as u64, correct.len() as u64);
    let score = Score::Count { correct: right, total };
    Ok((Evaluation { score, correct, seconds: start.elapsed().as_secs_f64() }, margins))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{kernels::Kernels, onnx, ptq};

    #[test]
    fn a_margin_is_the_way_to_another_answer() {
        let y = [1.0, 3.0, 3.5, 2.0, 0.0, -1.0, -4.0];
        assert_eq!(Metric::Top1.answer(&y, 2, &[]), Some((true, 0.5)));
        assert_eq!(Metric::Top1.answer(&y, 1, &[]), Some((false, 0.5)));
        assert_eq!(Metric::Top1.answer(&y, 6, &[]), Some((false, 7.5)));
        // The fifth of the others is −1, or 0 where that is the label's own place.
        assert_eq!(Metric::Top5.answer(&y, 4, &[]), Some((true, 1.0)));
        assert_eq!(Metric::Top5.answer(&y, 6, &[]), Some((false, 4.0)));
        assert_eq!(Metric::Top5.answer(&[1.0, 2.0], 0, &[]), Some((true, f32::INFINITY)));
        assert_eq!(Metric::Agreement.answer(&y, 9, &[0.0, 7.0, 7.0]), Some((false, 0.5)));
        assert_eq!((Metric::Top1.answer(&y, 7, &[]), Metric::Sqnr.answer(&y, 0, &y)), (None, None));
    }

    /// Pictures without meaning, and a hundredth that cannot be read.
    struct Pictures;

    impl Samples for Pictures {
        fn len(&self) -> usize {
            200
        }

        fn load(&self, index: usize) -> Result<(Inputs, u32), SampleError> {
            let pixels = (0..28 * 28).map(|i| ((i * 31 + index * 97) % 256) as f32 / 128.0 - 1.0).collect();
            if index == 99 { Err("broken".into()) } else { Ok((Inputs::pictures(pixels, 1, [28, 28, 1])?, 3)) }
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }
    }

    #[test]
    fn threads_that_run_ahead_change_nothing() {
        let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx"));
        let prepared = ptq::prepare(onnx::load(model).unwrap().graph, Kernels::detect().unwrap());
        let plan = prepared.engine().fp32_plan();
        let measure = |threads: usize, enough: &Enough<'_>| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let cancel = Cancel::default();
            pool.install(|| evaluate(&plan, &Pictures, Metric::Top5, None, Some(enough), &cancel, &|_, _| ()))
        };
        let [(one, margins), (many, many_margins)] = [1, 130].map(|threads| measure(threads, &|_| true).unwrap());
        assert_eq!((one.correct.len(), margins.len()), (64, 64));
        assert_eq!((one.score, one.correct, margins), (many.score, many.correct, many_margins));
        for threads in [1, 130] {
            assert!(matches!(measure(threads, &|_| false), Err(EvaluateError::Sample(_))));
        }
    }

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
