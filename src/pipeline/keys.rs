//! Identities: what is measured, so that it is found again.

use sha2::{Digest, Sha256};

use super::{Opened, by_program::identity};
use crate::{
    engine::GroupQuantization,
    evaluate::Measures,
    kernels::NUMERICS_VERSION,
    onnx::Reading,
    ptq::Converted,
    quant::{Affine, Rounding},
    search::{Budget, Key},
    sensitivity::{Analysis, RankBy},
};

/// Identity of a trial: model, ordered samples with their preprocessing, every group's parameters, metric, the
/// program that measures it if one does, and the version of the numerics. Budget and limits are not in it.
pub(super) fn trial_key(opened: &Opened, converted: &Converted) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(b"qtuned trial 2\0");
    hasher.update(opened.search_digest);
    hasher.update(opened.spec.search.seed.to_le_bytes());
    hasher.update([opened.spec.budget.metric as u8]);
    hash_network(&mut hasher, opened, converted);
    // Behind all else, so that the keys of what the engine measures stay.
    if let Some(program) = opened.spec.measure.program(Measures::Metric) {
        hasher.update(b"program\0");
        hasher.update(identity(&opened.spec, &program));
    }
    Key(hasher.finalize().into())
}

/// Identity of a trial that ended when it was surely outside the budget: of the trial, and of what ended it.
pub(super) fn stopped_key(trial: &Key, budget: &Budget, confidence: f64) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(b"qtuned stopped 1\0");
    hasher.update(trial.0);
    hasher.update(match *budget {
        Budget::Drop { max_drop, kind } => [max_drop.to_bits(), kind as u64].map(u64::to_le_bytes).concat(),
        Budget::MinDb(least) => least.to_le_bytes().to_vec(),
    });
    hasher.update(confidence.to_le_bytes());
    Key(hasher.finalize().into())
}

/// Identity of a sensitivity analysis: as of a trial, with the samples that it sees, and whether it looks at the output
/// closely.
pub(super) fn sensitivity_key(opened: &Opened, start: &Converted, analysis: &Analysis<'_>) -> Key {
    let mut hasher = Sha256::new();
    hasher.update(b"qtuned sensitivity 2\0");
    hasher.update(opened.calibrate_digest);
    hasher.update((analysis.samples as u64).to_le_bytes());
    hasher.update([u8::from(analysis.rank_by == RankBy::Output)]);
    hash_network(&mut hasher, opened, start);
    Key(hasher.finalize().into())
}

fn hash_network(hasher: &mut Sha256, opened: &Opened, converted: &Converted) {
    hasher.update(NUMERICS_VERSION.to_le_bytes());
    hasher.update(opened.model.digest);
    let reading = opened.spec.model.reading();
    if reading != Reading::default() {
        // Every field, in a fixed order.
        hasher.update(format!("{reading:?}"));
    }
    for quantization in &converted.quantization {
        let Some(GroupQuantization { inputs, output, weight, bias, .. }) = quantization else {
            hasher.update([0]);
            continue;
        };
        hasher.update([1, inputs.len() as u8, weight.qscheme as u8]);
        let (low, high) = weight.range();
        hasher.update(low.to_le_bytes());
        hasher.update(high.to_le_bytes());
        // Its length tells it from the grids behind it.
        hasher.update(bias.as_ref().map_or(0, |bias| bias.len() as u64).to_le_bytes());
        bias.iter().flat_map(|bias| bias.iter()).for_each(|b| hasher.update(b.to_le_bytes()));
        for grid in inputs.iter().chain([output]) {
            // No grid has a scale of 0.
            let none = Affine { scale: 0.0, zero_point: 0, quant_min: 0, quant_max: 0, rounding: Rounding::default() };
            let Affine { scale, zero_point, quant_min, quant_max, rounding } = grid.unwrap_or(none);
            hasher.update(scale.to_le_bytes());
            hasher.update([zero_point, quant_min, quant_max]);
            // Only where it is not the default, so that the keys of what is recorded stay.
            if rounding != Rounding::default() {
                hasher.update([rounding as u8]);
            }
        }
    }
}
