//! What the metric would say of one more group in fp32, seen on the samples whose answers are likely to change.

use rayon::prelude::*;

use super::{
    SensitivityError, halving,
    probe::{Known, Switched, at_once},
};
use crate::{
    cancel::Cancel,
    evaluate::{Metric, Samples},
    graph::GroupId,
    ptq::Calibrated,
    quant::QConfig,
};

/// Samples that every candidate sees.
const FIRST: usize = 8;
/// Samples that are contested, at most.
const MOST: usize = 128;

/// The samples of a split on which a qconfig is nearest to another answer, and what tells right from wrong there.
#[derive(Clone, Copy)]
pub struct Contested<'a> {
    /// The split.
    pub samples: &'a dyn Samples,
    /// A metric that counts.
    pub metric: Metric,
    /// Outputs of the fp32 network on all samples, where the metric compares with them.
    pub fp32: Option<&'a [Vec<f32>]>,
    /// The margin of each sample, from the first on; of some of them is enough.
    pub margins: &'a [f32],
}

impl Contested<'_> {
    /// Indices of the samples with the smallest margins, smallest first; ties keep their order.
    fn indices(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.margins.len()).collect();
        order.sort_by(|&a, &b| self.margins[a].total_cmp(&self.margins[b]));
        order.truncate(MOST);
        order
    }

    fn is_right(&self, index: usize, y: &[f32], label: u32) -> bool {
        let fp32 = self.fp32.map_or(&[][..], |fp32| &fp32[index]);
        self.metric.answer(y, label, fp32).is_some_and(|(right, _)| right)
    }
}

/// What one more group in fp32 changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Won {
    /// The group.
    pub group: GroupId,
    /// Contested samples that are right with it and were not, less those that were right and are not.
    pub samples: i64,
}

/// For each of `candidates`, which are quantized in `base`, how many more samples are right when it alone is taken back
/// to fp32: most first, ties in the order of `candidates`.
///
/// A single group changes few answers, and hardly ever one whose margin is large; so the samples with the smallest
/// margins tell what an evaluation of all of them would. Successive halving over at most 128: the ends of the list have
/// seen few. Each candidate runs from its group on, from values that `base` computed once.
///
/// # Errors
/// A sample that cannot be read or run.
pub fn screen(
    calibrated: &Calibrated,
    base: &[Option<QConfig>],
    candidates: &[GroupId],
    contested: Contested<'_>,
    cancel: &Cancel,
) -> Result<Vec<Won>, SensitivityError> {
    let plan = calibrated.convert(base).plan;
    let switched: Vec<Switched> = candidates.iter().map(|&id| Switched::new(calibrated, base, base, id)).collect();
    let indices = contested.indices();
    let mut won = vec![0i64; candidates.len()];
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    for round in halving::rounds(candidates.len(), FIRST, indices.len()) {
        let left: Vec<&Switched> = order[..round.candidates].iter().map(|&i| &switched[i]).collect();
        let measure = |&index: &usize| -> Result<Vec<i64>, SensitivityError> {
            let (x, label) = contested.samples.load(index).map_err(SensitivityError::Sample)?;
            let (known, y) = Known::of(&plan, &x, &mut |_| Ok(()))?;
            let before = contested.is_right(index, &y, label);
            let change = |switched: &&Switched| {
                cancel.check()?;
                let after = contested.is_right(index, &switched.output(&known)?, label);
                Ok(i64::from(after) - i64::from(before))
            };
            left.par_iter().map(change).collect()
        };
        for several in indices[round.from..round.to].chunks(at_once()) {
            let several: Vec<_> = several.par_iter().map(measure).collect();
            for changes in several {
                order.iter().zip(changes?).for_each(|(&i, change)| won[i] += change);
            }
        }
        order[..round.candidates].sort_by_key(|&i| (-won[i], i));
    }
    Ok(order.into_iter().map(|i| Won { group: candidates[i], samples: won[i] }).collect())
}
