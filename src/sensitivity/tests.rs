use std::path::Path;

use super::{
    probe::{Known, Switched, flat},
    *,
};
use crate::{
    cancel::Cancel,
    engine::{Inputs, Plan},
    evaluate::{Metric, Samples, evaluate, outputs},
    kernels::Kernels,
    onnx,
    ptq::{self, Calibrated, SampleError},
    quant::{Preset, QConfig, QConfigMapping, Residual, Rounding},
    sqnr::Energies,
};

/// A reproducible picture.
fn picture(seed: usize) -> Inputs {
    let pixels = (0..28 * 28).map(|i| ((i * 31 + seed * 97 + i * i % 7) % 256) as f32 / 128.0 - 1.0).collect();
    Inputs::pictures(pixels, 1, [28, 28, 1]).unwrap()
}

fn calibrated() -> (Calibrated, Vec<Option<QConfig>>) {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx"));
    let prepared = ptq::prepare(onnx::load(model).unwrap().graph, Kernels::detect().unwrap());
    let calibrated = prepared.calibrate(6, &|i| Ok(picture(i)), &Cancel::default(), &|_| ()).unwrap();
    let qconfigs = QConfigMapping::preset(Preset::Qnnpack).resolve(calibrated.engine().groups()).unwrap();
    (calibrated, qconfigs)
}

/// The network with one group alone in int8.
fn alone(calibrated: &Calibrated, qconfigs: &[Option<QConfig>], group: GroupId) -> Plan {
    let mut alone = vec![None; qconfigs.len()];
    alone[group.0] = qconfigs[group.0];
    calibrated.convert(&alone).plan
}

fn whole(plan: &Plan, x: &Inputs) -> Vec<f32> {
    flat(&plan.run(x, false).unwrap()).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn runs_from_a_group_on_give_the_bits_of_whole_runs() {
    let (calibrated, mut qconfigs) = calibrated();
    for (residual, rounding) in [
        (Residual::Rounded, Rounding::OnnxRuntime),
        (Residual::Fused, Rounding::OnnxRuntime),
        (Residual::Rounded, Rounding::OpenVino),
    ] {
        for qconfig in qconfigs.iter_mut().flatten() {
            (qconfig.residual, qconfig.activation.rounding) = (residual, rounding);
        }
        check_runs_from_groups(&calibrated, &qconfigs);
    }
}

fn check_runs_from_groups(calibrated: &Calibrated, qconfigs: &[Option<QConfig>]) {
    let groups = calibrated.engine().groups();
    // Bases: all in fp32, all in int8, and precisions that change at every, every second, every third group.
    let mixed = |keep: &dyn Fn(usize) -> bool| -> Vec<Option<QConfig>> {
        qconfigs.iter().enumerate().map(|(i, qconfig)| qconfig.filter(|_| keep(i))).collect()
    };
    let bases = [
        mixed(&|_| false),
        mixed(&|_| true),
        mixed(&|i| i % 2 == 0),
        mixed(&|i| i % 2 == 1),
        mixed(&|i| i % 3 == 0),
        mixed(&|i| i % 3 != 0),
        mixed(&|i| i < groups.len() / 2),
    ];
    let mut differ = 0;
    for (number, base) in bases.iter().enumerate() {
        let quantization = calibrated.quantization(base);
        let plan = calibrated.engine().plan_as(&quantization, Rounding::of(qconfigs));
        for seed in 0..2 {
            let x = picture(seed);
            let (known, output) = Known::of(&plan, &x, &mut |_| Ok(())).unwrap();
            for id in groups.ids() {
                let switched = Switched::new(calibrated, base, qconfigs, id);
                let expected = whole(&switched.plan, &x);
                let group = &groups.get(id).id;
                assert_eq!(bits(&switched.output(&known).unwrap()), bits(&expected), "base {number}, group {group}");
                differ += usize::from(expected != output);
            }
        }
    }
    assert!(differ > 2 * groups.len(), "switching a group must change the output: {differ}");
}

#[test]
fn an_analysis_gives_what_whole_runs_give() {
    let (calibrated, qconfigs) = calibrated();
    let groups = calibrated.engine().groups();
    let fp32 = calibrated.engine().fp32_plan();
    let load = |i: usize| Ok(picture(i));
    let analysis = Analysis { qconfigs: &qconfigs, samples: 3, rank_by: RankBy::Output };
    let measured = analyze(&calibrated, analysis, &load, &Cancel::default(), &|_| ()).unwrap();
    assert_eq!(measured.len(), groups.len());
    for s in &measured {
        let alone = alone(&calibrated, &qconfigs, s.group);
        let (mut output, mut local) = (Energies::default(), Energies::default());
        for seed in 0..3 {
            let x = picture(seed);
            output.pool(Energies::of(&whole(&fp32, &x), &whole(&alone, &x)));
            let values = |plan: &Plan| {
                let mut found = Vec::new();
                let mut see = |seen: crate::engine::Seen<'_>| {
                    if seen.value == groups.get(s.group).output {
                        found = seen.to_floats()?;
                    }
                    Ok(())
                };
                plan.run_seen(&x, false, &mut see).unwrap();
                found
            };
            // Before the group everything is in fp32, so its own output is that of the shadow.
            local.pool(Energies::of(&values(&fp32), &values(&alone)));
        }
        let id = &groups.get(s.group).id;
        assert_eq!((s.output, s.local), (output.sqnr(), local.sqnr()), "{id}");
    }
}

#[test]
fn halving_ranks_the_worst_as_all_samples_do() {
    let (calibrated, qconfigs) = calibrated();
    let load = |i: usize| Ok(picture(i));
    let ranked = |rank_by| {
        let analysis = Analysis { qconfigs: &qconfigs, samples: 16, rank_by };
        analyze(&calibrated, analysis, &load, &Cancel::default(), &|_| ()).unwrap()
    };
    let (close, quick) = (ranked(RankBy::Output), ranked(RankBy::Local));
    let worst = rank(&close, RankBy::Output)[0];
    let mut energies = Energies::default();
    let (fp32, worst_alone) = (calibrated.engine().fp32_plan(), alone(&calibrated, &qconfigs, worst));
    // The worst group has seen all samples that its rounds reach: 16.
    (0..16).for_each(|i| energies.pool(Energies::of(&whole(&fp32, &picture(i)), &whole(&worst_alone, &picture(i)))));
    let of = |all: &[GroupSensitivity]| all.iter().find(|s| s.group == worst).unwrap().clone();
    assert_eq!(of(&close).output, energies.sqnr());
    // Everything else is measured on all samples, whatever ranks.
    assert_eq!((of(&close).local, of(&close).accumulated), (of(&quick).local, of(&quick).accumulated));
}

#[test]
fn gains_are_measured_under_the_present_qconfig() {
    let (calibrated, qconfigs) = calibrated();
    let groups = calibrated.engine().groups();
    let fp32 = calibrated.engine().fp32_plan();
    let mut base = qconfigs.clone();
    base[1] = None;
    base[4] = None;
    let found = gains(&calibrated, &base, 4, &|i| Ok(picture(i)), &Cancel::default()).unwrap();
    assert_eq!(found.len(), groups.len() - 2);
    assert!(found.is_sorted_by(|a, b| a.output >= b.output));
    for gain in found {
        let mut switched = base.clone();
        switched[gain.group.0] = None;
        let plan = calibrated.convert(&switched).plan;
        let mut energies = Energies::default();
        (0..4).for_each(|i| energies.pool(Energies::of(&whole(&fp32, &picture(i)), &whole(&plan, &picture(i)))));
        assert_eq!(gain.output, energies.sqnr(), "{}", groups.get(gain.group).id);
    }
}

/// Pictures without meaning; their labels are not looked at.
struct Pictures(usize);

impl Samples for Pictures {
    fn len(&self) -> usize {
        self.0
    }

    fn load(&self, index: usize) -> Result<(Inputs, u32), SampleError> {
        Ok((picture(index), 0))
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }
}

#[test]
fn what_is_won_on_contested_samples_is_won_on_all() {
    let (calibrated, qconfigs) = calibrated();
    let (samples, metric, cancel) = (Pictures(120), Metric::Agreement, Cancel::default());
    let fp32 = outputs(&calibrated.engine().fp32_plan(), &samples, &cancel).unwrap();
    let measure = |qconfigs: &[Option<QConfig>]| {
        evaluate(&calibrated.convert(qconfigs).plan, &samples, metric, Some(&fp32), None, &cancel, &|_, _| ()).unwrap()
    };
    let (base, margins) = measure(&qconfigs);
    let mut candidates: Vec<GroupId> = calibrated.engine().groups().ids().collect();
    candidates.reverse();
    let contested = Contested { samples: &samples, metric, fp32: Some(&fp32), margins: &margins };
    let found = screen(&calibrated, &qconfigs, &candidates, contested, &cancel).unwrap();
    assert_eq!(found.len(), candidates.len());
    let right = |correct: &[bool]| correct.iter().filter(|right| **right).count() as i64;
    // The first has seen all contested samples.
    let mut switched = qconfigs.clone();
    switched[found[0].group.0] = None;
    let won = right(&measure(&switched).0.correct) - right(&base.correct);
    assert!(found[0].samples > 0 && won == found[0].samples, "{won} won, and {found:?}");
    assert_eq!(found, screen(&calibrated, &qconfigs, &candidates, contested, &cancel).unwrap());
    // With as few samples as all candidates see, nobody is left out, and ties keep the order of the candidates.
    let few = Contested { margins: &margins[..16], ..contested };
    let found = screen(&calibrated, &qconfigs, &candidates, few, &cancel).unwrap();
    for Won { group, samples } in &found {
        let mut switched = qconfigs.clone();
        switched[group.0] = None;
        let won = right(&measure(&switched).0.correct[..16]) - right(&base.correct[..16]);
        assert_eq!(won, *samples, "group {}", group.0);
    }
    assert!(found.is_sorted_by(|a, b| a.samples > b.samples || (a.samples == b.samples && a.group > b.group)));
}
