//! `qtuned init`: a job for a model and data, which loads and runs.

mod bench;

use std::{fs, path::Path};

use bench::Bench;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx");

#[test]
fn the_job_for_the_default_data_runs() {
    let bench = Bench::new();
    let told = bench.told(&["init", MODEL, DATA]);
    assert!(told.starts_with("fashion-mnist.yaml is written\n"), "{told}");
    let text = fs::read_to_string(bench.path().join("fashion-mnist.yaml")).unwrap();
    for part in [
        "GUESS, look at it",
        "Input input of 1×28×28 floats",
        "10000 samples, 10 classes",
        "t10k-images-idx3-ubyte.gz",
        "calibration_images: {idx: {images: ",
        "channels: gray",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let valid = bench.json(&["validate", "fashion-mnist.yaml"]);
    assert_eq!((&valid["name"], &valid["samples"]["certify"]), (&"fashion-mnist".into(), &3333.into()));
    // Of what is tried, what the network was trained with wins: mean and deviation of the pictures.
    let preprocess = &valid["job"]["data"]["preprocess"];
    let mean = preprocess["mean"][0].as_f64().unwrap();
    assert!((mean - 0.286).abs() < 0.05, "{preprocess}");

    let small = [
        "data.split.search=300",
        "data.split.calibrate=32",
        "sensitivity.samples=8",
        "search.max_trials=3",
        "data.split.certify=0",
        "measure.latency={runs: 5, warmup: 1}",
    ];
    let sets: Vec<&str> = small.iter().flat_map(|set| ["--set", set]).collect();
    let done = bench.qtuned(&[&["run", "fashion-mnist.yaml"], &sets[..]].concat());
    assert!([0, 3].contains(&done.code), "{}", done.stderr);

    let again = bench.qtuned(&["init", MODEL, DATA]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("fashion-mnist.yaml is there already; --force"), "{}", again.stderr);
    let json = bench.json(&["init", MODEL, DATA, "-o", "sub.yaml"]);
    assert!(json["guesses"][0]["top1"].as_f64().unwrap() > 0.8, "{json}");
    assert_eq!(json["job"], "sub.yaml");
    let shown = bench.told(&["init", MODEL, DATA, "-o", "-"]);
    assert!(shown.starts_with("# Written by `qtuned init`") && !bench.path().join("-").exists());
}

/// A csv and pictures of 1 colour each, in a folder of their own.
fn pictures(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut csv = "file,label\n".to_owned();
    for index in 0u8..12 {
        let name = format!("{index}.png");
        let colour = image::Rgb([index * 20, 255 - index * 20, 128]);
        image::RgbImage::from_pixel(20 + u32::from(index), 18, colour).save(folder.join(&name)).unwrap();
        csv += &format!("{name},{}\n", index % 3);
    }
    fs::write(folder.join("labels.csv"), csv).unwrap();
}

#[test]
fn pictures_of_all_sizes_are_resized_and_labels_that_do_not_fit_are_said() {
    let bench = Bench::new();
    pictures(&bench.path().join("data"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/idioms.onnx");
    bench.told(&["init", model, "data"]);
    let text = fs::read_to_string(bench.path().join("idioms.yaml")).unwrap();
    for part in [
        "{csv: data/labels.csv}",
        "resize: {size: 15, interpolation: bilinear}",
        "channels: rgb",
        "Too few samples",
        "12 samples, 3 classes",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    bench.told(&["validate", "idioms.yaml"]);
    // A folder that holds the job has its files below another name.
    fs::create_dir(bench.path().join("jobs")).unwrap();
    bench.told(&["init", model, "data/labels.csv", "-o", "jobs/job.yaml"]);
    let text = fs::read_to_string(bench.path().join("jobs/job.yaml")).unwrap();
    assert!(text.contains("{csv: ../data/labels.csv}"), "{text}");
    bench.told(&["validate", "jobs/job.yaml"]);

    let csv = fs::read_to_string(bench.path().join("data/labels.csv")).unwrap().replace(",0\n", ",99\n");
    fs::write(bench.path().join("data/labels.csv"), csv).unwrap();
    bench.told(&["init", model, "data", "-o", "far.yaml"]);
    let text = fs::read_to_string(bench.path().join("far.yaml")).unwrap();
    assert!(text.contains("Accuracy does not tell"), "{text}");

    fs::create_dir(bench.path().join("empty")).unwrap();
    for (data, message) in [("empty", "empty: data set: expected a .csv file"), ("nowhere", "failed to read nowhere")] {
        let done = bench.qtuned(&["init", model, data, "-o", "x.yaml"]);
        assert_eq!(done.code, 1);
        assert!(done.stderr.contains(message) && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
}
