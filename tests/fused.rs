//! Plans do additions in the convolution that feeds them, and can be run step by step instead: both give the same bits.

use std::path::Path;

use candle_core::Tensor;
use qtuned::{
    cancel::Cancel,
    engine::{Plan, input_tensor},
    kernels::Kernels,
    onnx, ptq,
    quant::{Preset, QConfigMapping},
};

/// A reproducible picture.
fn picture(seed: usize) -> Tensor {
    let pixels = (0..28 * 28).map(|i| ((i * 31 + seed * 97) % 256) as f32 / 128.0 - 1.0).collect();
    input_tensor(pixels, 1, [28, 28, 1]).unwrap()
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
            let plan = calibrated.convert(&mixed).plan;
            for seed in 0..4 {
                let x = picture(seed);
                let shown = plan.run_seen(&x, false, &mut |_| Ok(())).unwrap();
                assert_eq!(bits(&plan.run(&x, false).unwrap()), bits(&shown), "{} {offset}", kernels.name());
            }
        }
    }
}
