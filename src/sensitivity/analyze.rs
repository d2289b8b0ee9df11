//! The four SQNRs of every group.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{
    GroupSensitivity, RankBy, SensitivityError, halving,
    probe::{FIRST, Known, Switched, at_once, output_energies},
};
use crate::{
    cancel::Cancel,
    engine::{EngineError, Seen},
    graph::{GroupId, ValueId},
    ptq::{Calibrated, LoadSample},
    quant::{QConfig, Rounding},
    sqnr::Energies,
};

/// What is analyzed, and how closely.
#[derive(Clone, Copy, Debug)]
pub struct Analysis<'a> {
    /// The qconfig of each group; those without one are left out.
    pub qconfigs: &'a [Option<QConfig>],
    /// How many samples are used, at most.
    pub samples: usize,
    /// What the groups are to be ranked by: `output` costs far more than the others, and only a ranking needs it closely.
    pub rank_by: RankBy,
}

/// The energies of one sample.
struct SampleEnergies {
    /// One entry a quantized group.
    local: Vec<Energies>,
    /// One entry a quantized group.
    accumulated: Vec<Energies>,
    /// One entry a candidate.
    output: Vec<Energies>,
}

/// Measures the four SQNRs of every group that is quantized.
///
/// Each sample runs once in fp32, with all values kept, and once with every group quantized. Every group alone, fed the
/// kept values, gives `local`; so one pass gives `weight`, `local` and `accumulated` of all groups. A network with one
/// group quantized differs from fp32 only from that group on, so it starts there, from the kept values, and that gives
/// `output`, bit for bit as from a full run. All groups do so on a few samples; if groups are ranked by it, the worse
/// half does on as many more, the worst quarter on twice as many, and so on.
///
/// Samples run in parallel on the current rayon pool; energies are pooled in f64 in sample order. Memory holds the
/// values of one sample a thread, however many groups and samples there are. `progress` hears how many are done.
///
/// # Errors
/// A sample that cannot be read or run, or an SQNR that is not a number.
pub fn analyze(
    calibrated: &Calibrated,
    analysis: Analysis<'_>,
    load: &LoadSample<'_>,
    cancel: &Cancel,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<GroupSensitivity>, SensitivityError> {
    let Analysis { qconfigs, samples, rank_by } = analysis;
    let (engine, groups) = (calibrated.engine(), calibrated.engine().groups());
    let quantized: Vec<GroupId> = groups.ids().filter(|id| qconfigs[id.0].is_some()).collect();
    let of_value: HashMap<ValueId, usize> =
        quantized.iter().enumerate().map(|(index, &id)| (groups.get(id).output, index)).collect();
    let fp32 = engine.plan_as(&vec![None; groups.len()], Rounding::of(qconfigs));
    let all = calibrated.convert(qconfigs);
    let base = vec![None; qconfigs.len()];
    let alone: Vec<Switched> = quantized.iter().map(|&id| Switched::new(calibrated, &base, qconfigs, id)).collect();

    let measure = |sample: usize, candidates: &[&Switched]| -> Result<SampleEnergies, SensitivityError> {
        let x = load(sample).map_err(SensitivityError::Sample)?;
        let mut expected: Vec<Vec<f32>> = vec![Vec::new(); quantized.len()];
        let (known, reference) = Known::of(&fp32, &x, &mut |seen| {
            if let Some(&index) = of_value.get(&seen.value) {
                expected[index] = seen.to_floats()?;
            }
            Ok(())
        })?;
        let mut accumulated = vec![Energies::default(); quantized.len()];
        all.plan.run_seen(&x, false, &mut |seen| {
            if let Some(&index) = of_value.get(&seen.value) {
                accumulated[index] = Energies::of(&expected[index], &seen.to_floats()?);
            }
            Ok(())
        })?;
        let local = |(index, &id): (usize, &GroupId)| -> Result<Energies, EngineError> {
            let mut energies = Energies::default();
            let mut against = |seen: Seen<'_>| {
                energies = Energies::of(&expected[index], &seen.to_floats()?);
                Ok(())
            };
            alone[index].plan.run_node(groups.get(id).anchor, &|value| known.value(value), &mut against)?;
            Ok(energies)
        };
        let local: Vec<Energies> = quantized.iter().enumerate().map(local).collect::<Result<_, _>>()?;
        let output = output_energies(candidates, &known, &reference, cancel)?;
        Ok(SampleEnergies { local, accumulated, output })
    };

    let none = || vec![Energies::default(); quantized.len()];
    let (mut local, mut accumulated, mut output) = (none(), none(), none());
    // Candidates first, the lowest SQNR in front.
    let mut order: Vec<usize> = (0..quantized.len()).collect();
    let mut rounds = halving::rounds(quantized.len(), FIRST, samples);
    if rank_by != RankBy::Output {
        rounds.truncate(1);
    }
    let halved = rounds.last().map_or(0, |round| round.to);
    rounds.push(halving::Round { from: halved, to: samples, candidates: 0 });
    for round in rounds {
        let candidates: Vec<&Switched> = order[..round.candidates].iter().map(|&i| &alone[i]).collect();
        for first in (round.from..round.to).step_by(at_once()) {
            cancel.check()?;
            let last = round.to.min(first + at_once());
            let several: Vec<_> = (first..last).into_par_iter().map(|sample| measure(sample, &candidates)).collect();
            for sample in several {
                let sample = sample?;
                local.iter_mut().zip(sample.local).for_each(|(sum, e)| sum.pool(e));
                accumulated.iter_mut().zip(sample.accumulated).for_each(|(sum, e)| sum.pool(e));
                order.iter().zip(sample.output).for_each(|(&i, e)| output[i].pool(e));
            }
            progress(last as u64);
        }
        order[..round.candidates].sort_by(|&a, &b| output[a].sqnr().total_cmp(&output[b].sqnr()).then(a.cmp(&b)));
    }

    let sensitivity = |(index, &group): (usize, &GroupId)| {
        let q = all.quantization[group.0].as_ref();
        let sensitivity = GroupSensitivity {
            group,
            weight: q.and_then(|q| engine.quantized_weight(group, q)).map(|w| w.sqnr),
            local: local[index].sqnr(),
            accumulated: accumulated[index].sqnr(),
            output: output[index].sqnr(),
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
