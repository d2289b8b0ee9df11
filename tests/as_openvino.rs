//! Networks in OpenVINO's rounding against what OpenVINO said of them: tests/as_openvino.py wrote it.

use std::{collections::HashMap, fs, path::Path};

use qtuned::{
    engine::Inputs,
    kernels::Kernels,
    onnx, ptq,
    quant::{QConfigFile, Rounding},
};
use serde::Deserialize;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[derive(Deserialize)]
struct Answers {
    openvino_version: String,
    #[serde(flatten)]
    by_rounding: HashMap<String, Vec<Vec<f32>>>,
}

/// A sample as tests/as_openvino.py makes it.
fn sample(index: usize) -> Inputs {
    let pixel = |at: usize| ((at * 31 + index * 97) % 181) as f32 / 64.0 - 0.8125;
    Inputs::pictures((0..28 * 28).map(pixel).collect(), 1, [28, 28, 1]).unwrap()
}

#[test]
fn the_bits_are_those_of_openvino() {
    let model = onnx::load(&Path::new(ROOT).join("datasets/fashion-mnist/model.onnx")).unwrap();
    for scheme in ["per_channel", "per_tensor"] {
        let read = |name: &str| fs::read_to_string(Path::new(ROOT).join("tests/data/openvino").join(name)).unwrap();
        let answers: Answers = serde_json::from_str(&read(&format!("{scheme}.json"))).unwrap();
        let mut file: QConfigFile = serde_yaml::from_str(&read(&format!("{scheme}.qconfig.yaml"))).unwrap();
        for rounding in [Rounding::OpenVino, Rounding::OpenVinoStatic] {
            file.mapping.global.as_mut().unwrap().activation.rounding = rounding;
            let expected = &answers.by_rounding[rounding.name()];
            assert_eq!(expected.len(), 128);
            for kernels in Kernels::available() {
                let prepared = ptq::prepare(model.graph.clone(), kernels);
                let plan = ptq::restore(prepared.engine(), &file).unwrap().plan;
                for (index, expected) in expected.iter().enumerate() {
                    let y = plan.run(&sample(index), false).unwrap().remove(0);
                    let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    let what = format!("{scheme}, {rounding:?}, {}, sample {index}", kernels.name());
                    assert_eq!(&y, expected, "{what}, OpenVINO {}", answers.openvino_version);
                }
            }
        }
    }
}
