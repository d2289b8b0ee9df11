//! `qtuned data` on every kind of source, through the real binary.

mod bench;

use std::fs;

use bench::{Bench, JOB};

const HUGGING_FACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/huggingface.parquet");

fn job(bench: &Bench, data: &str) {
    let text = format!("name: a\nmodel: {{onnx: none.onnx}}\nbudget: {{max_drop: 0.01}}\ndata: {data}\n");
    fs::write(bench.path().join("job.yaml"), text).unwrap();
}

#[test]
fn what_is_written_is_read_by_the_model_as_the_job_reads_it() {
    let bench = Bench::new();
    let told = bench.told(&["data", JOB, "--samples", "4", "--write", "arrays"]);
    assert!(told.contains("each 28 high, 28 wide, 1 channel; labels 0 to 9\n4 samples written to arrays\n"), "{told}");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx");
    let predicted = bench.json(&["predict", model, "arrays/inputs.npy"]);
    assert_eq!(predicted["outputs"][0]["shape"], serde_json::json!([4, 10]));
    let told = bench.told(&["data", JOB, "--samples", "2", "--part", "calibrate"]);
    assert!(told.lines().last().unwrap().trim_start().starts_with("1  "), "{told}");
    let listed = bench.json(&["data", JOB, "--samples", "2"]);
    assert_eq!(listed["part"]["samples"].as_array().unwrap().len(), 2);
}

#[test]
fn a_parquet_file_is_read_with_its_classes_or_those_of_a_label_map() {
    let bench = Bench::new();
    let labels = |more: &str| -> Vec<(String, u64)> {
        job(&bench, &format!("{{images: {{parquet: {{path: {HUGGING_FACE}}}}}, split: {{calibrate: 1}}{more}}}"));
        let listed = bench.json(&["data", "job.yaml"]);
        let samples = listed["part"]["samples"].as_array().unwrap();
        let mut all: Vec<_> = (samples.iter())
            .map(|sample| (sample["name"].as_str().unwrap().to_owned(), sample["label"].as_u64().unwrap()))
            .collect();
        all.sort();
        all
    };
    assert!(labels("").iter().all(|(name, label)| name.parse::<u64>().unwrap() % 3 == *label));
    fs::write(bench.path().join("map.json"), r#"{"dog": 7, "cat": 8, "bird": 9}"#).unwrap();
    let mapped = labels(", label_map: map.json");
    assert!(mapped.iter().all(|(name, label)| [9, 8, 7][name.parse::<usize>().unwrap() % 3] == *label), "{mapped:?}");
    // The pixels of row i are (i, column, row).
    bench.told(&["data", "job.yaml", "--write", "arrays", "--channels-last"]);
    let names = fs::read_to_string(bench.path().join("arrays/names.txt")).unwrap();
    let inputs = fs::read(bench.path().join("arrays/inputs.npy")).unwrap();
    let value = |at: usize| f32::from_le_bytes(inputs[128 + 4 * at..][..4].try_into().unwrap());
    for (place, name) in names.lines().enumerate() {
        assert_eq!([0, 1, 2].map(|channel| value(place * 18 + 15 + channel)), [name.parse().unwrap(), 2.0, 1.0]);
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    let bench = Bench::new();
    for (data, told) in [
        (
            format!("{{images: {{parquet: {{path: {HUGGING_FACE}, labels: class}}}}, split: {{calibrate: 1}}}}"),
            "column `class`: no such column, the file's columns: image.bytes, image.path, label",
        ),
        (
            format!("{{images: {{parquet: {{path: {HUGGING_FACE}}}}}, label_map: map.txt, split: {{calibrate: 1}}}}"),
            "row 1 of huggingface.parquet: no class `cat` in the label map map.txt",
        ),
        ("{images: {npy: {images: x.npy, labels: x.npy}}, split: {calibrate: 1}}".to_owned(), "failed to read x.npy"),
    ] {
        fs::write(bench.path().join("map.txt"), "bird\n").unwrap();
        job(&bench, &data);
        let done = bench.qtuned(&["data", "job.yaml"]);
        let error = done.stderr.replace(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/"), "");
        assert!(done.code == 1 && error.lines().count() == 1 && error.contains(told), "{error}");
    }
    job(&bench, &format!("{{images: {{parquet: {{path: {HUGGING_FACE}}}}}, split: {{calibrate: 1}}}}"));
    let done = bench.qtuned(&["data", "job.yaml", "--part", "certify", "--write", "arrays"]);
    assert!(done.stderr.contains("expected samples in certify, found none"), "{}", done.stderr);
}
