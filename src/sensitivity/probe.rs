//! What the network's output says of one group: its SQNR when that group alone is switched.

use std::collections::HashMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{SensitivityError, halving};
use crate::{
    cancel::Cancel,
    engine::{EngineError, Inputs, Plan, Seen},
    graph::{GroupId, NodeId, ValueId},
    ptq::{Calibrated, LoadSample},
    quant::{QConfig, Rounding},
    sqnr::Energies,
};

/// Samples that every candidate sees.
pub(super) const FIRST: usize = 4;

/// Every value of one sample in one plan, in f32.
pub(super) struct Known(HashMap<ValueId, Tensor>);

impl Known {
    /// Runs `plan` and keeps all values; `see` is shown each.
    pub(super) fn of(
        plan: &Plan,
        x: &Inputs,
        see: &mut dyn FnMut(&Seen<'_>) -> Result<(), EngineError>,
    ) -> Result<(Known, Vec<f32>), EngineError> {
        let mut known = HashMap::new();
        let outputs = plan.run_seen(x, false, &mut |seen| {
            see(&seen)?;
            known.insert(seen.value, seen.to_tensor()?);
            Ok(())
        })?;
        Ok((Known(known), flat(&outputs)?))
    }

    pub(super) fn value(&self, id: ValueId) -> Option<Tensor> {
        self.0.get(&id).cloned()
    }
}

/// A plan in which one group is switched, and the node from which its values differ from those of the base.
pub(super) struct Switched {
    pub(super) plan: Plan,
    from: NodeId,
}

impl Switched {
    /// `base` with `group` as in `qconfigs`, or in fp32 where it is quantized in `base`.
    pub(super) fn new(
        calibrated: &Calibrated,
        base: &[Option<QConfig>],
        qconfigs: &[Option<QConfig>],
        group: GroupId,
    ) -> Switched {
        let mut switched = base.to_vec();
        switched[group.0] = if base[group.0].is_some() { None } else { qconfigs[group.0] };
        let (before, now) = (calibrated.quantization(base), calibrated.quantization(&switched));
        // An addition that takes the sum of a layer as it is has a say in what the layer before it writes.
        let changed = before.iter().zip(&now).position(|(before, now)| before != now);
        let changed = changed.map(|index| calibrated.engine().groups().get(GroupId(index)).anchor);
        let from = first_changed(calibrated, base, group);
        let rounding = Rounding::of(if base.iter().any(Option::is_some) { base } else { qconfigs });
        let plan = calibrated.engine().plan_as(&now, rounding);
        Switched { plan, from: changed.map_or(from, |changed| changed.min(from)) }
    }

    /// The network's output, bit for bit as from a full run, when `known` has the values of the base.
    pub(super) fn output(&self, known: &Known) -> Result<Vec<f32>, EngineError> {
        flat(&self.plan.run_from(self.from, &|id| known.value(id))?)
    }
}

/// The node from which a plan must run when `group` is switched in `base`. That is the group itself, unless it reads
/// what a step in fp32 writes: such a step may have written integers for the group as it was, and its floats are not
/// known.
fn first_changed(calibrated: &Calibrated, base: &[Option<QConfig>], group: GroupId) -> NodeId {
    let (graph, groups) = (calibrated.engine().graph(), calibrated.engine().groups());
    let producers = graph.producers();
    let anchor = groups.get(group).anchor;
    let writer = |&input: &ValueId| {
        let mut node = producers[input.0]?;
        while groups.of_node(node).is_none() && graph.node(node).op.carries() {
            node = producers[graph.node(node).inputs.first()?.0]?;
        }
        match groups.of_node(node) {
            Some(writer) if base[writer.0].is_some() => None,
            Some(writer) => Some(groups.get(writer).anchor),
            None => Some(node),
        }
    };
    // If everything before is in fp32 and read as such, all floats are known.
    if base.iter().all(Option::is_none) {
        return anchor;
    }
    // Whether a layer rounds its sum is up to the addition that it feeds, where that rounds as OpenVINO.
    let fed_by = groups.get(group).fed_by.into_iter().flatten().map(|layer| groups.get(layer).anchor);
    let fed_by = fed_by.filter(|_| Rounding::of(base).is_openvino());
    groups.get(group).inputs.iter().filter_map(writer).chain(fed_by).chain([anchor]).min().unwrap_or(anchor)
}

/// The energies of the output of each switched plan against the reference's, pooled over samples in their order.
/// Candidates run side by side on the current rayon pool, from the same known values.
pub(super) fn output_energies(
    switched: &[&Switched],
    known: &Known,
    reference: &[f32],
    cancel: &Cancel,
) -> Result<Vec<Energies>, SensitivityError> {
    let measure = |switched: &&Switched| {
        cancel.check()?;
        Ok(Energies::of(reference, &switched.output(known)?))
    };
    switched.par_iter().map(measure).collect()
}

/// What is won when one group more is in fp32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    /// The group.
    pub group: GroupId,
    /// SQNR of the network's output against fp32 with this group in fp32 too, in dB.
    pub output: f64,
}

/// For each group that is quantized in `base`, the SQNR of the network's output when it alone is taken back to fp32,
/// largest first; ties keep topological order. Successive halving over the first `samples` samples: the ends of the
/// list have seen few.
///
/// Unlike [`super::GroupSensitivity::output`], this counts how errors of several groups add up or cancel.
///
/// # Errors
/// As for [`analyze()`](super::analyze()).
pub fn gains(
    calibrated: &Calibrated,
    base: &[Option<QConfig>],
    samples: usize,
    load: &LoadSample<'_>,
    cancel: &Cancel,
) -> Result<Vec<Gain>, SensitivityError> {
    let groups = calibrated.engine().groups();
    let fp32 = calibrated.engine().fp32_plan();
    let plan = calibrated.convert(base).plan;
    let quantized: Vec<GroupId> = groups.ids().filter(|id| base[id.0].is_some()).collect();
    let switched: Vec<Switched> = quantized.iter().map(|&id| Switched::new(calibrated, base, base, id)).collect();
    let mut pooled = vec![Energies::default(); quantized.len()];
    let mut order: Vec<usize> = (0..quantized.len()).collect();
    for round in halving::rounds(quantized.len(), FIRST, samples) {
        let candidates: Vec<&Switched> = order[..round.candidates].iter().map(|&i| &switched[i]).collect();
        let measure = |sample: usize| -> Result<Vec<Energies>, SensitivityError> {
            let x = load(sample).map_err(SensitivityError::Sample)?;
            let reference = flat(&fp32.run(&x, false)?)?;
            let (known, _) = Known::of(&plan, &x, &mut |_| Ok(()))?;
            output_energies(&candidates, &known, &reference, cancel)
        };
        for first in (round.from..round.to).step_by(at_once()) {
            let several: Vec<_> = (first..round.to.min(first + at_once())).into_par_iter().map(measure).collect();
            for energies in several {
                order.iter().zip(energies?).for_each(|(&i, e)| pooled[i].pool(e));
            }
        }
        let db: Vec<f64> = pooled.iter().map(Energies::sqnr).collect();
        if let Some(&i) = order.iter().find(|&&i| db[i].is_nan()) {
            let group = groups.get(quantized[i]).id.clone();
            return Err(SensitivityError::NotFinite { group, kind: "output" });
        }
        order[..round.candidates].sort_by(|&a, &b| db[b].total_cmp(&db[a]).then(a.cmp(&b)));
    }
    Ok(order.into_iter().map(|i| Gain { group: quantized[i], output: pooled[i].sqnr() }).collect())
}

/// Samples whose values are in memory at the same time.
pub(super) fn at_once() -> usize {
    rayon::current_num_threads().max(1)
}

/// All outputs of a network, one after the other.
pub(super) fn flat(outputs: &[Tensor]) -> Result<Vec<f32>, EngineError> {
    let mut all = Vec::new();
    for output in outputs {
        all.extend(output.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}
