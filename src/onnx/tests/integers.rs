//! Products, activations and concatenations in integers: what QuantizeLinear and DequantizeLinear around them mean.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::build::*;
use crate::{
    cancel::Cancel,
    engine::Inputs,
    graph::{Op, ValueId},
    kernels::Kernels,
    ptq::prepare,
    quant::{Preset, QConfigMapping},
};

fn sample(seed: usize) -> Inputs {
    let numbers = (0..90).map(|i| (((i + seed) * 37 % 101) as f32 - 50.0) / 16.0).collect::<Vec<_>>();
    Tensor::from_vec(numbers, (1, 3, 6, 5), &Device::Cpu).unwrap().into()
}

#[test]
fn groups_compute_what_their_grids_say() {
    let build = Build::new(14, &[3, 6, 5]).weight("w", &[4, 3, 3, 3]);
    let build = build.node("Conv", &["x", "w"], "c", &[int_list("pads", &[1, 1, 1, 1])]);
    let build = build.node("HardSwish", &["c"], "h", &[]).node("GlobalAveragePool", &["h"], "g", &[]);
    let build = build.node("Sigmoid", &["g"], "s", &[]).node("Mul", &["s", "h"], "m", &[]);
    let graph = build.node("Concat", &["m", "c", "m"], "y", &[int("axis", 1)]).import();
    for kernels in Kernels::available() {
        let load = |seed: usize| Ok(sample(seed));
        let calibrated = prepare(graph.clone(), kernels).calibrate(3, &load, &Cancel::default(), &|_| ()).unwrap();
        let groups = calibrated.engine().groups().clone();
        let qconfigs = QConfigMapping::preset(Preset::Onednn).resolve(&groups).unwrap();
        let converted = calibrated.convert(&qconfigs);
        let mut seen: HashMap<ValueId, Vec<f32>> = HashMap::new();
        let run = converted.plan.run_seen(&sample(7), false, &mut |value| {
            seen.insert(value.value, value.to_floats()?);
            Ok(())
        });
        run.unwrap();
        let mut compared = 0;
        for (group, quantization) in groups.all().iter().zip(&converted.quantization) {
            let output = quantization.as_ref().unwrap().output.unwrap();
            // In storage order: channels last.
            let inputs: Vec<&Vec<f32>> = group.inputs.iter().map(|input| &seen[input]).collect();
            let exact: Vec<f32> = match &graph.node(group.anchor).op {
                Op::Map(function) => inputs[0].iter().map(|&x| function.apply(x)).collect(),
                Op::Mul => inputs[1].iter().enumerate().map(|(at, &x)| x * inputs[0][at % 4]).collect(),
                Op::Concat { axis: 0 } => {
                    (0..30).flat_map(|pixel| inputs.iter().flat_map(move |x| x[pixel * 4..][..4].to_vec())).collect()
                }
                _ => continue,
            };
            let wanted: Vec<f32> = exact.into_iter().map(|x| output.dequantize(output.quantize(x))).collect();
            assert_eq!(seen[&group.output], wanted, "{} on {}", group.id, kernels.name());
            compared += 1;
        }
        assert_eq!(compared, 4);
    }
}
