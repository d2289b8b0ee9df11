//! Plans do additions in the convolution that feeds them, and can be run step by step instead: both give the same bits.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use candle_core::Tensor;
use qtuned::{
    cancel::Cancel,
    engine::{Inputs, Plan},
    graph::ValueId,
    kernels::Kernels,
    onnx, ptq,
    quant::{GroupParameters, Preset, QConfig, QConfigFile, QConfigMapping, Residual, Rounding},
};

/// A reproducible picture.
fn picture(seed: usize) -> Inputs {
    let pixels = (0..28 * 28).map(|i| ((i * 31 + seed * 97) % 256) as f32 / 128.0 - 1.0).collect();
    Inputs::pictures(pixels, 1, [28, 28, 1]).unwrap()
}

fn bits(outputs: &[Tensor]) -> Vec<u32> {
    outputs[0].flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

fn check(plan: &Plan, kind: &str) {
    let steps: Vec<&str> = plan.steps().iter().map(|step| step.kind).collect();
    assert!(steps.contains(&kind), "nothing is fused: {steps:?}");
    assert!(!steps.contains(&"add f32") && !steps.contains(&"add u8"), "an addition is left: {steps:?}");
    for seed in 0..4 {
        let x = picture(seed);
        let shown = plan.run_seen(&x, false, &mut |_| Ok(())).unwrap();
        assert_eq!(bits(&plan.run(&x, false).unwrap()), bits(&shown));
        assert_eq!(bits(&plan.run(&x, true).unwrap()), bits(&shown));
    }
}

/// Each group with this residual.
fn with_residual(qconfigs: &[Option<QConfig>], residual: Residual) -> Vec<Option<QConfig>> {
    qconfigs.iter().map(|qconfig| qconfig.map(|qconfig| QConfig { residual, ..qconfig })).collect()
}

#[test]
fn fused_additions_change_no_bit() {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx"));
    let graph = onnx::load(model).unwrap().graph;
    for kernels in Kernels::available() {
        let prepared = ptq::prepare(graph.clone(), kernels);
        let calibrated = prepared.calibrate(4, &|i| Ok(picture(i)), &Cancel::default(), &|_| ()).unwrap();
        check(&calibrated.engine().fp32_plan(), "conv and add f32");
        let qconfigs = QConfigMapping::preset(Preset::Qnnpack).resolve(calibrated.engine().groups()).unwrap();
        check(&calibrated.convert(&qconfigs).plan, "conv and add u8s8");
        // Boundaries of precision on either side of an addition.
        for offset in 0..3 {
            let mut mixed = qconfigs.clone();
            mixed.iter_mut().skip(offset).step_by(3).for_each(|qconfig| *qconfig = None);
            for residual in [Residual::Rounded, Residual::Fused] {
                let plan = calibrated.convert(&with_residual(&mixed, residual)).plan;
                for seed in 0..4 {
                    let x = picture(seed);
                    let shown = plan.run_seen(&x, false, &mut |_| Ok(())).unwrap();
                    let name = kernels.name();
                    assert_eq!(bits(&plan.run(&x, false).unwrap()), bits(&shown), "{name} {offset} {residual:?}");
                }
            }
        }
        check(&calibrated.convert(&with_residual(&qconfigs, Residual::Fused)).plan, "conv and add u8s8");
        // As OpenVINO rounds, also where the value has readers of both kinds.
        for rounding in [Rounding::OpenVino, Rounding::OpenVinoStatic] {
            let mut qconfig = Preset::Openvino.qconfig();
            qconfig.activation.rounding = rounding;
            let mut qconfigs = vec![Some(qconfig); qconfigs.len()];
            check(&calibrated.convert(&qconfigs).plan, "conv and add u8s8");
            qconfigs.iter_mut().skip(1).step_by(3).for_each(|qconfig| *qconfig = None);
            let plan = calibrated.convert(&qconfigs).plan;
            let shown = plan.run_seen(&picture(0), false, &mut |_| Ok(())).unwrap();
            assert_eq!(bits(&plan.run(&picture(0), false).unwrap()), bits(&shown), "{} {rounding:?}", kernels.name());
        }
    }
}

/// The default model on noise, and a qconfig for each group.
fn calibrated(kernels: Kernels) -> (ptq::Calibrated, Vec<Option<QConfig>>) {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx"));
    let prepared = ptq::prepare(onnx::load(model).unwrap().graph, kernels);
    let calibrated = prepared.calibrate(4, &|i| Ok(picture(i)), &Cancel::default(), &|_| ()).unwrap();
    let qconfigs = QConfigMapping::preset(Preset::Onednn).resolve(calibrated.engine().groups()).unwrap();
    (calibrated, qconfigs)
}

#[test]
fn a_fused_residual_is_rounded_once() {
    let (calibrated, qconfigs) = calibrated(Kernels::detect().unwrap());
    let groups = calibrated.engine().groups().clone();
    let fused = calibrated.convert(&with_residual(&qconfigs, Residual::Fused));
    let rounded = calibrated.convert(&with_residual(&qconfigs, Residual::Rounded));
    assert_eq!(rounded.quantization, calibrated.convert(&qconfigs).quantization);
    let mut additions = 0;
    for seed in 0..4 {
        let mut seen: HashMap<ValueId, Vec<f32>> = HashMap::new();
        let run = fused.plan.run_seen(&picture(seed), false, &mut |value| {
            seen.insert(value.value, value.to_floats()?);
            Ok(())
        });
        run.unwrap();
        for (group, q) in groups.all().iter().zip(&fused.quantization).filter(|(group, _)| group.object_type == "Add") {
            let q = q.as_ref().unwrap();
            let operand = q.inputs.iter().position(Option::is_none).expect("one operand has no grid");
            let layer = group.fed_by[operand].unwrap();
            assert_eq!(fused.quantization[layer.0].as_ref().unwrap().output, None);
            let (grid, [a, b]) = (q.output.unwrap(), [&seen[&group.inputs[0]], &seen[&group.inputs[1]]]);
            // The sum of the layer is on no grid of 256 numbers.
            let distinct: HashSet<u32> = seen[&group.inputs[operand]].iter().map(|x| x.to_bits()).collect();
            assert!(distinct.len() > 256, "{}", distinct.len());
            let clipped = group.activation.is_some();
            let once = a.iter().zip(b).map(|(a, b)| grid.dequantize(grid.quantize(a + b)));
            let wanted: Vec<f32> = once.map(|x| if clipped { x.max(0.0) } else { x }).collect();
            assert_eq!(seen[&group.output], wanted, "{}", group.id);
            additions += 1;
        }
    }
    assert!(additions > 0);
}

/// Where the layer or the addition is in fp32 there is nothing to fuse.
#[test]
fn a_residual_between_precisions_is_as_without_the_option() {
    let (calibrated, qconfigs) = calibrated(Kernels::detect().unwrap());
    let groups = calibrated.engine().groups().clone();
    let additions: Vec<_> = groups.ids().filter(|id| groups.get(*id).object_type == "Add").collect();
    let layers = additions.iter().flat_map(|id| groups.get(*id).fed_by.into_iter().flatten()).collect::<Vec<_>>();
    assert!(!layers.is_empty());
    for fp32 in [&additions, &layers] {
        let mut qconfigs = qconfigs.clone();
        fp32.iter().for_each(|id| qconfigs[id.0] = None);
        let [fused, rounded] = [Residual::Fused, Residual::Rounded]
            .map(|residual| calibrated.convert(&with_residual(&qconfigs, residual)));
        assert_eq!(fused.quantization, rounded.quantization);
        assert_eq!(
            bits(&fused.plan.run(&picture(9), false).unwrap()),
            bits(&rounded.plan.run(&picture(9), false).unwrap())
        );
    }
}

#[test]
fn a_fused_qconfig_is_written_and_restored() {
    let (calibrated, _) = calibrated(Kernels::detect().unwrap());
    let engine = calibrated.engine();
    let groups = engine.groups();
    let mapping: QConfigMapping = serde_yaml::from_str("'': {residual: fused}").unwrap();
    let qconfigs = mapping.resolve(groups).unwrap();
    let converted = calibrated.convert(&qconfigs);
    let parameters = groups.ids().map(|id| {
        let (q, qconfig) = (converted.quantization[id.0].as_ref().unwrap(), qconfigs[id.0].unwrap());
        let weight = engine.quantized_weight(id, q);
        let scales = weight.as_ref().map(|w| &w.scales.scales[..]);
        GroupParameters::int8(&groups.get(id).id, &qconfig, &q.inputs, q.output.as_ref(), scales, None)
    });
    let (job, model_sha256) = ("a".to_owned(), "a".repeat(64));
    let file = QConfigFile { job, model_sha256, trial: 1, score: 1.0, groups: parameters.collect(), mapping };
    let yaml = serde_yaml::to_string(&file).unwrap();
    assert!(yaml.contains("residual: fused"), "{yaml}");
    let read: QConfigFile = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(read, file);
    let restored = ptq::restore(engine, &read).unwrap();
    for seed in 0..4 {
        let x = picture(seed);
        assert_eq!(bits(&restored.plan.run(&x, false).unwrap()), bits(&converted.plan.run(&x, false).unwrap()));
    }

    // What the mapping says and what has a grid must be the same.
    let addition = groups.all().iter().position(|group| group.object_type == "Add").unwrap();
    let operand = read.groups[addition].inputs.iter().position(Option::is_none).unwrap();
    let layer = groups.all()[addition].fed_by[operand].unwrap().0;
    let grid = read.groups[addition].output;
    let refused = |change: &dyn Fn(&mut QConfigFile), wanted: &str| {
        let mut changed = read.clone();
        change(&mut changed);
        let error = ptq::restore(engine, &changed).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    refused(&|file| file.groups[layer].output = grid, "its output has a grid");
    refused(&|file| file.groups[addition].inputs[operand] = grid, "each of its inputs has a grid");
    refused(&|file| file.groups[addition].inputs.fill(None), "more than one of its inputs has no grid");
    refused(&|file| file.groups[addition].output = None, "it has no grid of its output");
    refused(&|file| file.groups[0].inputs[0] = None, "an input without a grid is no sum");
    refused(&|file| file.mapping = QConfigMapping::preset(Preset::Onednn), "an input without a grid is no sum");
}
