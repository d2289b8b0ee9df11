//! Sensitivity: four SQNRs a group, and the ranking that follows.

use std::collections::HashMap;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    cancel::{Cancel, Cancelled},
    engine::{EngineError, Seen},
    graph::{GroupId, ValueId},
    ptq::{Calibrated, LoadSample, SampleError},
    quant::QConfig,
    sqnr::Energies,
};

/// Which SQNR ranks the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    /// Of the dequantized folded weight.
    Weight,
    /// Of the group's output in int8 when fed the fp32 input.
    Local,
    /// Of the group's output in the int8 network.
    Accumulated,
    /// Of the network's output with this group alone quantized.
    #[default]
    Output,
}

/// How much one group loses, in dB; +inf where nothing is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSensitivity {
    /// The group.
    pub group: GroupId,
    /// SQNR of the weight; `None` for groups without one.
    pub weight: Option<f64>,
    /// SQNR of the output when fed the fp32 input.
    pub local: f64,
    /// SQNR of the output in the network with every group quantized.
    pub accumulated: f64,
    /// SQNR of the network's output with this group alone quantized.
    pub output: f64,
    /// Smallest and largest element of the group's output in calibration.
    pub range: (f32, f32),
}

/// What keeps the sensitivities from being measured.
#[derive(Debug, thiserror::Error)]
pub enum SensitivityError {
    /// A sample could not be read.
    #[error("reading a calibration sample failed")]
    Sample(#[source] SampleError),
    /// A network could not be run.
    #[error("measuring a sensitivity failed")]
    Engine(#[from] EngineError),
    /// An SQNR is not a number.
    #[error("group `{group}` has a value that is not finite ({kind} SQNR)")]
    NotFinite {
        /// The group.
        group: String,
        /// Which of the four.
        kind: &'static str,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The energies behind one group's SQNRs, of one sample or of several.
#[derive(Clone, Copy, Default)]
struct GroupEnergies {
    local: Energies,
    accumulated: Energies,
    output: Energies,
}

/// Measures the four SQNRs of every group that `qconfigs` quantizes, over the first `samples` samples.
///
/// Each sample runs once in fp32, with all values kept, and once with every group quantized. A network with
/// one group quantized differs from fp32 only from that group on, so it starts there, from the kept values; that
/// gives `local` and `output` in one go, bit for bit as from a full run. Samples run in parallel on the current
/// rayon pool; energies are pooled in f64 in sample order. `progress` hears how many samples are done.
///
/// # Errors
/// A sample that cannot be read or run, or an SQNR that is not a number.
pub fn analyze(
    calibrated: &Calibrated,
    qconfigs: &[Option<QConfig>],
    samples: usize,
    load: &LoadSample<'_>,
    cancel: &Cancel,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<GroupSensitivity>, SensitivityError> {
    let (engine, groups) = (calibrated.engine(), calibrated.engine().groups());
    let quantized: Vec<GroupId> = groups.ids().filter(|id| qconfigs[id.0].is_some()).collect();
    let fp32 = engine.fp32_plan();
    let all = calibrated.convert(qconfigs);
    let alone: Vec<_> = quantized.iter().map(|&id| calibrated.convert_alone(qconfigs, id)).collect();
    let measure = |sample: usize| -> Result<Vec<GroupEnergies>, SensitivityError> {
        let x = load(sample).map_err(SensitivityError::Sample)?;
        let mut known: HashMap<ValueId, (Tensor, Vec<f32>)> = HashMap::new();
        let reference = fp32.run_seen(&x, false, &mut |seen| {
            known.insert(seen.value, (seen.to_tensor()?, seen.to_floats()?));
            Ok(())
        })?;
        let reference = flat(&reference)?;
        let against = |seen: &Seen<'_>| -> Result<Energies, EngineError> {
            Ok(Energies::of(&known[&seen.value].1, &seen.to_floats()?))
        };
        let mut energies = vec![GroupEnergies::default(); quantized.len()];
        all.plan.run_seen(&x, false, &mut |seen| {
            let group = quantized.iter().position(|&id| groups.get(id).output == seen.value);
            if let Some(group) = group {
                energies[group].accumulated = against(&seen)?;
            }
            Ok(())
        })?;
        for ((&id, converted), energies) in quantized.iter().zip(&alone).zip(&mut energies) {
            cancel.check()?;
            let group = groups.get(id);
            let value = |id| known.get(&id).map(|(tensor, _)| tensor.clone());
            let outputs = converted.plan.run_from(group.anchor, &value, &mut |seen| {
                if seen.value == group.output {
                    energies.local = against(&seen)?;
                }
                Ok(())
            })?;
            energies.output = Energies::of(&reference, &flat(&outputs)?);
        }
        Ok(energies)
    };
    let mut pooled = vec![GroupEnergies::default(); quantized.len()];
    let at_once = rayon::current_num_threads().max(1);
    for first in (0..samples).step_by(at_once) {
        let several: Vec<_> = (first..samples.min(first + at_once)).into_par_iter().map(measure).collect();
        for energies in several {
            for (sum, e) in pooled.iter_mut().zip(energies?) {
                sum.local.pool(e.local);
                sum.accumulated.pool(e.accumulated);
                sum.output.pool(e.output);
            }
        }
        progress(samples.min(first + at_once) as u64);
    }
    let sensitivity = |(index, &group): (usize, &GroupId)| {
        let q = all.quantization[group.0].as_ref();
        let sensitivity = GroupSensitivity {
            group,
            weight: q.and_then(|q| engine.quantized_weight(group, q)).map(|w| w.sqnr),
            local: pooled[index].local.sqnr(),
            accumulated: pooled[index].accumulated.sqnr(),
            output: pooled[index].output.sqnr(),
            range: calibrated.range(groups.get(group).output).unwrap_or_default(),
        };
        let kinds = [
            ("weight", sensitivity.weight.unwrap_or(0.0)),
            ("local", sensitivity.local),
            ("accumulated", sensitivity.accumulated),
            ("output", sensitivity.output),
        ];
        match kinds.into_iter().find(|(_, db)| db.is_nan()) {
            Some((kind, _)) => Err(SensitivityError::NotFinite { group: groups.get(group).id.clone(), kind }),
            None => Ok(sensitivity),
        }
    };
    quantized.iter().enumerate().map(sensitivity).collect()
}

/// All outputs of a network, one after the other.
fn flat(outputs: &[Tensor]) -> Result<Vec<f32>, EngineError> {
    let mut all = Vec::new();
    for output in outputs {
        all.extend(output.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

/// Groups from the lowest SQNR to the highest. Ties keep topological order; groups without a weight come last
/// when ranked by `weight`.
pub fn rank(sensitivities: &[GroupSensitivity], by: RankBy) -> Vec<GroupId> {
    let value = |s: &GroupSensitivity| match by {
        RankBy::Weight => s.weight.unwrap_or(f64::INFINITY),
        RankBy::Local => s.local,
        RankBy::Accumulated => s.accumulated,
        RankBy::Output => s.output,
    };
    let mut order: Vec<&GroupSensitivity> = sensitivities.iter().collect();
    order.sort_by(|a, b| value(a).total_cmp(&value(b)).then(a.group.cmp(&b.group)));
    order.into_iter().map(|s| s.group).collect()
}
