//! A network of several inputs: an array for each, from NPY, npz and safetensors files.

mod bench;
mod onnx_file;

use std::{fs, path::Path};

use bench::{Bench, write_npy};
use npyz::WriterBuilder;
use onnx_file::{BATCH, Build, Number, Open, int, value, weight};
use qtuned::{dataset::npy_header, onnx::proto::data_type};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

const SAMPLES: usize = 60;
const PICTURE: [usize; 3] = [2, 6, 5];
const TOKENS: usize = 4;

/// Weights of the tokens, `[TOKENS, 2]`.
const WEIGHTS: [f32; 8] = [0.5, -0.25, 0.125, 0.75, -1.0, 0.5, 0.25, -0.5];

/// A picture through a small convolution, plus the products of tokens, which are integers and open in their number.
fn network() -> Build {
    let inputs = [
        value("tokens", data_type::INT64, &[BATCH, Open("length")]),
        value("picture", data_type::FLOAT, &[BATCH, Number(2), Number(6), Number(5)]),
    ];
    Build::new(&inputs, &["y"])
        .classifier("picture", 2, "features")
        .floats("weights", &[4, 2], &WEIGHTS)
        .node("Cast", &["tokens"], "numbers", &[int("to", 1)])
        .node("MatMul", &["numbers", "weights"], "products", &[])
        .node("Add", &["features", "products"], "y", &[])
}

fn picture(sample: usize) -> Vec<f32> {
    (0..60).map(|i| ((i * 29 + sample * 31 + i * sample % 7) % 64) as f32 / 32.0 - 1.0).collect()
}

fn tokens(sample: usize) -> Vec<i64> {
    (0..TOKENS).map(|i| ((i * 5 + sample * 3) % 9) as i64 - 4).collect()
}

/// What the network computes, in f64.
fn expected(sample: usize) -> [f64; 2] {
    let ([channels, height, width], w, x) = (PICTURE, weight(2), picture(sample));
    let output = |o: usize| {
        let mut sum = 0.0;
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            let mut y = 0.0;
            for (channel, tap) in (0..channels).flat_map(|channel| (0..9).map(move |tap| (channel, tap))) {
                let (r, c) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
                if r < height && c < width {
                    let factor = f64::from(w[(o * channels + channel) * 9 + tap]);
                    y += factor * f64::from(x[(channel * height + r) * width + c]);
                }
            }
            sum += y.max(0.0);
        }
        let products = tokens(sample).into_iter().enumerate().map(|(i, t)| f64::from(WEIGHTS[2 * i + o]) * t as f64);
        sum / (height * width) as f64 + products.sum::<f64>()
    };
    [output(0), output(1)]
}

fn write_integers(path: &Path, dims: &[usize], values: &[i64]) {
    let items = values.iter().flat_map(|value| value.to_le_bytes());
    fs::write(path, npy_header("<i8", dims).into_iter().chain(items).collect::<Vec<u8>>()).unwrap();
}

/// A folder with the model and a job.
fn scene() -> Bench {
    let bench = Bench::new();
    network().write(bench.path().join("m.onnx"));
    let pictures: Vec<f32> = (0..SAMPLES).flat_map(picture).collect();
    let all_tokens: Vec<i64> = (0..SAMPLES).flat_map(tokens).collect();
    let labels: Vec<i64> = (0..SAMPLES).map(expected).map(|y| i64::from(y[1] > y[0])).collect();
    write_npy(&bench.path().join("pictures.npy"), &[SAMPLES, 2, 6, 5], &pictures);
    write_integers(&bench.path().join("tokens.npy"), &[SAMPLES, TOKENS], &all_tokens);
    write_integers(&bench.path().join("labels.npy"), &[SAMPLES], &labels);
    let bytes = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (token_bytes, label_bytes) = (bytes(&all_tokens), bytes(&labels));
    let picture_bytes: Vec<u8> = pictures.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = |dtype, dims: &[usize], bytes| TensorView::new(dtype, dims.to_vec(), bytes).unwrap();
    let tensors = [
        ("pixels", tensor(Dtype::F32, &[SAMPLES, 2, 6, 5], &picture_bytes)),
        ("ids", tensor(Dtype::I64, &[SAMPLES, TOKENS], &token_bytes)),
        ("labels", tensor(Dtype::I64, &[SAMPLES], &label_bytes)),
    ];
    fs::write(bench.path().join("all.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let job = "{name: two, model: {onnx: m.onnx, shape: {tokens: [4]}},
        data: {images: {npy: {inputs: {picture: pictures.npy, tokens: tokens.npy}, labels: labels.npy}},
               split: {calibrate: 8, search: 40, certify: 12}},
        budget: {metric: top1, max_drop: 0.3}, search: {max_trials: 5},
        measure: {latency: {runs: 3, warmup: 0, batch: 2}}}";
    fs::write(bench.path().join("job.yaml"), job).unwrap();
    bench
}

const SAFETENSORS: &str = "data.images={safetensors: {file: all.safetensors, inputs: {picture: pixels, tokens: ids}}}";

fn values(found: &Value) -> Vec<f64> {
    found["outputs"][0]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn arrays_by_name_are_what_a_network_reads() {
    let bench = scene();
    let shape = ["--model-shape", "tokens=4"];
    let facts = bench.json(&[&["inspect", "m.onnx"], &shape[..]].concat());
    assert_eq!(
        facts["inputs"],
        json!([
            {"name": "tokens", "shape": [4], "channels_last": false, "integer": true},
            {"name": "picture", "shape": [2, 6, 5], "channels_last": false, "integer": false},
        ])
    );
    let mut archive = npyz::npz::NpzWriter::create(bench.path().join("x.npz")).unwrap();
    let array = archive.array("picture", Default::default()).unwrap().default_dtype();
    let mut array = array.shape(&[3, 2, 6, 5]).begin_nd().unwrap();
    array.extend((0..3).flat_map(picture)).unwrap();
    array.finish().unwrap();
    let array = archive.array("tokens", Default::default()).unwrap().default_dtype();
    let mut array = array.shape(&[3, 4]).begin_nd().unwrap();
    array.extend((0..3).flat_map(tokens)).unwrap();
    array.finish().unwrap();
    drop(archive);
    let predict = [&["predict", "m.onnx", "x.npz"], &shape[..]].concat();
    let found = values(&bench.json(&predict));
    let due: Vec<f64> = (0..3).flat_map(expected).collect();
    assert!(found.len() == 6 && found.iter().zip(&due).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}\n{due:?}");
    bench.told(&[&predict[..], &["--preset", "onednn"]].concat());
    bench.told(&[&["analyze", "m.onnx", "x.npz"], &shape[..]].concat());
    bench.told(&[&["bench", "m.onnx", "--runs", "2"], &shape[..]].concat());

    let refused = |args: &[&str]| {
        let done = bench.qtuned(&[args, &shape].concat());
        assert!(done.code != 0 && done.stderr.lines().count() == 1, "{}{}", done.stdout, done.stderr);
        done.stderr.trim_end().trim_start_matches("error: ").to_owned()
    };
    assert_eq!(
        refused(&["predict", "m.onnx", "pictures.npy"]),
        "pictures.npy: expected a .npz file with an array for each of the model's inputs, `tokens`, `picture`"
    );
    let mut archive = npyz::npz::NpzWriter::create(bench.path().join("short.npz")).unwrap();
    for (name, dims) in [("picture", &[1, 2, 6, 5][..]), ("tokens", &[2, 4])] {
        let array = archive.array(name, Default::default()).unwrap().default_dtype();
        let mut array = array.shape(dims).begin_nd().unwrap();
        array.extend(vec![0f32; dims.iter().product::<u64>() as usize]).unwrap();
        array.finish().unwrap();
    }
    drop(archive);
    assert_eq!(
        refused(&["predict", "m.onnx", "short.npz"]),
        "short.npz: expected an array of 2×2×6×5 for input `picture`, found 1×2×6×5"
    );
    assert_eq!(
        bench.qtuned(&["inspect", "m.onnx", "--model-shape", "4"]).stderr,
        "error: failed to import `m.onnx`: samples go to 2 inputs; model.shape is of one, expected shapes by the names of \
         inputs\n"
    );
    assert_eq!(
        bench.qtuned(&["inspect", "m.onnx", "--model-shape", "ids=4"]).stderr,
        "error: failed to import `m.onnx`: the graph has no input `ids`; it has 2 inputs: `tokens`, `picture`\n"
    );
}

#[test]
fn a_job_searches_on_arrays_by_name() {
    let bench = scene();
    let told = bench.told(&["data", "job.yaml", "--write", "arrays"]);
    assert!(told.contains("each picture of 2×6×5, tokens of 4; labels 0 to 1"), "{told}");
    // What `data` writes is what `predict` reads, and the labels are what the network answers.
    let found = values(&bench.json(&["predict", "m.onnx", "arrays/inputs.npz", "--model-shape", "tokens=4"]));
    let names = fs::read_to_string(bench.path().join("arrays/names.txt")).unwrap();
    for (name, y) in names.lines().zip(found.chunks(2)) {
        let due = expected(name.parse().unwrap());
        assert!(y.iter().zip(due).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {y:?}\n{due:?}");
    }
    bench.told(&["validate", "job.yaml"]);
    let done = bench.qtuned(&["run", "job.yaml"]);
    assert!([0, 3].contains(&done.code), "{}", done.stderr);
    let trials = bench.json(&["trials"]);
    assert_eq!(trials[0]["score"], 1.0, "fp32 is right on all");
    assert!(trials.as_array().unwrap().len() > 1, "{trials}");
    let lock = fs::read_to_string(bench.path().join("qtuned-out/two/job.lock.yaml")).unwrap();
    assert!(lock.contains("tokens.npy") && lock.contains("pictures.npy"), "{lock}");

    // The same numbers in other files are the same samples: their trials are known.
    let done = bench.qtuned(&["run", "job.yaml", "--set", SAFETENSORS]);
    assert!([0, 3].contains(&done.code), "{}", done.stderr);
    let others = bench.json(&["trials"]);
    assert_eq!((&trials[0]["key"], &trials[1]["key"]), (&others[0]["key"], &others[1]["key"]));

    bench.told(&["analyze", "job.yaml"]);
    bench.told(&["export", "--trial", "1", "-o", "int8.onnx"]);
    let certificate = bench.told(&["verify", "--trial", "1", "-o", "certificate.json"]);
    assert!(certificate.contains("gives the same bits on 12 of 12 samples"), "{certificate}");

    // A program finds an array for each input.
    let program = r#"measure.metric.command=[sh, -c, 'cp "$2/inputs.npz" seen.npz; echo "{\"correct\": [true]}"', sh, "{model}", "{data}"]"#;
    let done = bench.qtuned(&["run", "job.yaml", "--set", program]);
    assert!(done.stderr.contains("40"), "{}", done.stderr);
    let found = values(&bench.json(&["predict", "m.onnx", "seen.npz", "--model-shape", "tokens=4"]));
    assert_eq!(found.len(), 80);
}

#[test]
fn what_does_not_fit_is_said() {
    let bench = scene();
    let refused = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let done = bench.qtuned(&[&["validate", "job.yaml"], &sets[..]].concat());
        assert!(done.code != 0 && done.stderr.lines().count() == 1, "{}{}", done.stdout, done.stderr);
        done.stderr.trim_end().trim_start_matches("error: ").replace(&format!("{}/", bench.path().display()), "")
    };
    let errors = [
        refused(&["data.images.npy.inputs={picture: pictures.npy}"]),
        refused(&["data.images.npy.inputs={picture: pictures.npy, tokens: tokens.npy, mask: tokens.npy}"]),
        refused(&["data.images.npy.inputs={picture: tokens.npy, tokens: tokens.npy}"]),
        refused(&["data.images.npy.inputs={picture: labels.npy, tokens: tokens.npy}"]),
        refused(&["data.images.npy.inputs={}"]),
        refused(&["data.images.npy.images=pictures.npy"]),
        refused(&["data.preprocess.scale=0.5"]),
        refused(&["data.calibration_images={npy: {inputs: {picture: pictures.npy}, labels: labels.npy}}"]),
        refused(&["model.shape={tokens: [4], ids: [4]}"]),
        refused(&["model.shape={tokens: []}"]),
        refused(&["model.shape=four"]),
        refused(&["model.fixed={tokens: 1}"]),
        refused(&["data.images={safetensors: {file: all.safetensors, inputs: {picture: x, tokens: ids}}}"]),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r"
    samples have no array for the model's input `tokens`; model.fixed can give it a number
    samples have an array for `mask`; the model's inputs for samples are `tokens`, `picture`
    arrays of [4] a sample do not fit the model's input `picture` of [2, 6, 5]
    labels.npy: shape: expected [N, ...] with a dimension besides N and no empty side, found [60]
    --set data.images.npy.inputs={}: data.images: npy: expected either `images`, or `inputs` with an array for each input
    --set data.images.npy.images=pictures.npy: data.images: npy: expected either `images`, or `inputs` with an array for each input
    data.preprocess: expected none: the arrays of `inputs` hold what the network reads
    data.calibration_images: expected samples as in data.images: pictures, or arrays of the same names and shapes
    failed to import `m.onnx`: the graph has no input `ids`; it has 2 inputs: `tokens`, `picture`
    --set model.shape={tokens: []}: model.shape: expected the 1 to 7 sizes of a sample, without the batch, such as [3, 224, 224]
    --set model.shape=four: model.shape: expected sizes such as [3, 224, 224], or sizes by names of inputs: {ids: [128], mask: [128]}
    failed to import `m.onnx`: input `tokens` is fixed; it takes no shape of samples
    all.safetensors: tensor `x`: no such tensor, the file holds: ids, labels, pixels
    ");
    write_integers(&bench.path().join("few.npy"), &[3, 4], &[0; 12]);
    assert_eq!(
        refused(&["data.images.npy.inputs={picture: pictures.npy, tokens: few.npy}"]),
        "labels.npy: samples: found 3 samples for input `tokens` and 60 labels"
    );
    for shapes in [["tokens=4", "3"], ["3", "4"], ["tokens=4", "tokens=5"]] {
        let shapes = shapes.map(|shape| format!("--model-shape={shape}"));
        let done = bench.qtuned(&["inspect", "m.onnx", &shapes[0], &shapes[1]]);
        let message =
            "error: --model-shape: expected one shape, or one for each of several inputs by its name: ids=128\n";
        assert_eq!((done.code, done.stderr.as_str()), (1, message));
    }
}
