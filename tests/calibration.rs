//! Calibration gives the same bits however many threads there are. A corrected bias takes the mean error away that a
//! rounded weight adds to each channel, and survives being written.

use std::path::Path;

use qtuned::{
    cancel::Cancel,
    engine::{Inputs, Plan},
    graph::GroupId,
    kernels::Kernels,
    onnx,
    ptq::{self, Calibrated},
    quant::{GroupParameters, Preset, QConfig, QConfigFile, QConfigMapping},
};

const SAMPLES: usize = 8;

/// A reproducible picture.
fn picture(seed: usize) -> Inputs {
    let pixels = (0..28 * 28).map(|i| ((i * 31 + seed * 97 + i * i % 7) % 256) as f32 / 128.0 - 1.0).collect();
    Inputs::pictures(pixels, 1, [28, 28, 1]).unwrap()
}

fn calibrated() -> Calibrated {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx"));
    let prepared = ptq::prepare(onnx::load(model).unwrap().graph, Kernels::detect().unwrap());
    prepared.calibrate(SAMPLES, &|i| Ok(picture(i)), &Cancel::default(), &|_| ()).unwrap()
}

fn mapping(correction: bool) -> QConfigMapping {
    let yaml = format!("{{preset: qnnpack, '': {{weight: {{bias_correction: {correction}}}}}}}");
    serde_yaml::from_str(&yaml).unwrap()
}

fn qconfigs(calibrated: &Calibrated, correction: bool) -> Vec<Option<QConfig>> {
    mapping(correction).resolve(calibrated.engine().groups()).unwrap()
}

/// The values of a group's output over all samples, channels last.
fn values(plan: &Plan, calibrated: &Calibrated, group: GroupId) -> Vec<f32> {
    let output = calibrated.engine().groups().get(group).output;
    let mut all = Vec::new();
    for seed in 0..SAMPLES {
        let mut see = |seen: qtuned::engine::Seen<'_>| {
            if seen.value == output {
                all.extend(seen.to_floats()?);
            }
            Ok(())
        };
        plan.run_seen(&picture(seed), false, &mut see).unwrap();
    }
    all
}

/// Mean absolute error of the channel means, when this group alone is in integers.
fn bias(calibrated: &Calibrated, group: GroupId, correction: bool, channels: usize) -> f64 {
    let mut alone = vec![None; calibrated.engine().groups().len()];
    alone[group.0] = qconfigs(calibrated, correction)[group.0];
    let expected = values(&calibrated.engine().fp32_plan(), calibrated, group);
    let found = values(&calibrated.convert(&alone).plan, calibrated, group);
    let mut errors = vec![0.0; channels];
    for (i, (x, y)) in expected.iter().zip(&found).enumerate() {
        errors[i % channels] += f64::from(y - x);
    }
    errors.iter().map(|e| e.abs()).sum::<f64>() / expected.len() as f64
}

#[test]
fn threads_change_no_bit_of_any_observers_grids() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let calibrated = pool.install(calibrated);
        let parameters = |observer: &str| {
            let yaml = format!("{{'': {{activation: {{observer: {observer}}}, weight: {{bias_correction: true}}}}}}");
            let mapping: QConfigMapping = serde_yaml::from_str(&yaml).unwrap();
            let qconfigs = mapping.resolve(calibrated.engine().groups()).unwrap();
            let converted = calibrated.convert(&qconfigs);
            (converted.quantization.iter().flatten())
                .map(|q| (q.inputs.clone(), q.output, q.bias.clone()))
                .collect::<Vec<_>>()
        };
        ["minmax", "histogram", "percentile, percentile: 99", "mse", "entropy"].map(parameters)
    };
    let one = with(1);
    for threads in [2, 3, 8, 11] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
    // Each observer has a say of its own.
    assert!((1..5).all(|observer| one[observer] != one[0]));
}

#[test]
fn the_mean_error_of_channels_shrinks() {
    let calibrated = calibrated();
    let (mut before, mut after) = (0.0, 0.0);
    let engine = calibrated.engine();
    for id in engine.groups().ids() {
        let group = engine.groups().get(id);
        let Some(channels) = engine.quantized_channels(group) else { continue };
        before += bias(&calibrated, id, false, channels);
        after += bias(&calibrated, id, true, channels);
    }
    assert!(after < 0.7 * before, "{before} before, {after} after");
}

#[test]
fn a_written_qconfig_runs_with_the_same_bits() {
    let calibrated = calibrated();
    let engine = calibrated.engine();
    let qconfigs = qconfigs(&calibrated, true);
    let converted = calibrated.convert(&qconfigs);
    let groups = engine.groups().ids().map(|id| {
        let (q, qconfig) = (converted.quantization[id.0].as_ref().unwrap(), qconfigs[id.0].unwrap());
        let weight = engine.quantized_weight(id, q);
        let scales = weight.as_ref().map(|w| &w.scales.scales[..]);
        let name = &engine.groups().get(id).id;
        GroupParameters::int8(name, &qconfig, &q.inputs, q.output.as_ref(), scales, q.bias.as_deref())
    });
    let file = QConfigFile {
        job: "a".into(),
        model_sha256: "a".repeat(64),
        trial: 1,
        score: 1.0,
        mapping: mapping(true),
        groups: groups.collect(),
    };
    let yaml = serde_yaml::to_string(&file).unwrap();
    let mut read: QConfigFile = serde_yaml::from_str(&yaml).unwrap();
    let bits = |plan: &Plan, seed| -> Vec<u32> {
        let y = plan.run(&picture(seed), false).unwrap()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        y.iter().map(|x| x.to_bits()).collect()
    };
    let restored = ptq::restore(engine, &read).unwrap();
    let plain = calibrated.convert(&self::qconfigs(&calibrated, false));
    for seed in 0..4 {
        assert_eq!(bits(&restored.plan, seed), bits(&converted.plan, seed));
        assert_ne!(bits(&plain.plan, seed), bits(&converted.plan, seed));
    }
    // A bias that is not one finite number a channel is refused.
    let weight = read.groups[0].weight.as_mut().unwrap();
    weight.bias.pop();
    let error = ptq::restore(engine, &read).unwrap_err().to_string();
    assert!(error.contains("its bias is not one finite number an output channel"), "{error}");
}

#[test]
fn the_correction_is_off_by_default() {
    assert!(!Preset::Qnnpack.qconfig().weight.bias_correction);
    assert!(!serde_yaml::to_string(&QConfigMapping::preset(Preset::Qnnpack)).unwrap().contains("bias_correction"));
}
