//! `qtuned schema` and the job files of this repository.

mod bench;

use std::{fs, path::Path};

use bench::Bench;
use qtuned::job;
use serde_json::Value;

/// The jobs that are shipped: name and content.
fn jobs() -> Vec<(String, String)> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut jobs = Vec::new();
    for folder in [configs.clone(), configs.join("cases")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("kubernetes-job.yaml") {
                jobs.push((path.display().to_string(), fs::read_to_string(path).unwrap()));
            }
        }
    }
    jobs
}

fn json(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap()
}

fn validator() -> jsonschema::Validator {
    let schema = Bench::new().json(&["schema"]);
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

const JOB: &str = "{name: a, model: {onnx: m.onnx}, budget: {max_drop: 0.01},
    data: {images: {csv: a.csv}, split: {calibrate: 1}}}";

/// [`JOB`] with more in it.
fn with(section: &str, more: &str) -> String {
    let mut job = json(JOB);
    let more = json(more);
    match job[section].as_object_mut() {
        Some(fields) => fields.extend(more.as_object().unwrap().clone()),
        None => job[section] = more,
    }
    job.to_string()
}

#[test]
fn every_shipped_job_and_every_lock_is_valid() {
    let validator = validator();
    let jobs = jobs();
    assert!(jobs.len() >= 10, "{}", jobs.len());
    for (name, text) in jobs {
        let errors: Vec<String> = validator.iter_errors(&json(&text)).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        // With every default written out, as in job.lock.yaml.
        let whole = serde_json::to_value(job::parse(&text, &[]).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&whole).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name} written whole: {errors:?}\n{whole:#}");
    }
}

#[test]
fn what_the_schema_allows_of_a_field_is_what_is_read() {
    let validator = validator();
    for (section, more, good) in [
        ("search", "{max_time: 90}", true),
        ("search", "{max_time: 1h30m}", true),
        ("search", "{max_time: soon}", false),
        ("search", "{max_time: 0}", false),
        ("search", "{max_trials: 1}", false),
        ("search", "{strategy: latency_aware, refine: false}", true),
        ("search", "{strategy: best}", false),
        ("measure", "{latency: {batch: 0}}", false),
        ("measure", "{latency: {batch: 4096, threads: 1024, warmup: 0, runs: 1}}", true),
        ("measure", "{latency: {runs: 100001}}", false),
        ("sensitivity", "{rank_by: local, samples: 1}", true),
        ("sensitivity", "{samples: 0}", false),
        ("budget", "{max_drop: 1}", false),
        ("budget", "{max_drop: -1}", false),
        ("budget", "{metric: score, max_drop: -1}", false),
        ("budget", "{metric: score, max_drop: 1, drop: relative}", false),
        ("budget", "{confidence: 0.5}", false),
        ("budget", "{metric: top3}", false),
        ("budget", "{max_dorp: 0}", false),
        ("model", "{onnx: 3}", false),
        ("data", "{split: {file: split.json}}", true),
        ("data", "{split: {calibrate: 0}}", false),
        ("data", "{images: {idx: {images: a}}}", false),
        ("data", "{preprocess: {resize: {size: [3, 4]}, center_crop: 2, channels: bgr, std: [1, 2, 3]}}", true),
        ("data", "{preprocess: {center_crop: 0}}", false),
        ("data", "{preprocess: {center_crop: [16385, 1]}}", false),
        ("data", "{preprocess: {std: [0]}}", false),
        ("data", "{preprocess: {mean: []}}", false),
        ("data", "{preprocess: {resize: {interpolation: cubic, short_side: 3}}}", false),
        ("qconfig", "{preset: qnnpack, '': {activation: {observer: minmax}}, module_name: {fc: null}}", true),
        ("qconfig", "{object_type: {Add: x86}, module_name_object_type_order: [[a, Conv, 0, null]]}", true),
        ("qconfig", "{preset: fast}", false),
        ("qconfig", "{module_name: {fc: 3}}", false),
        ("qconfig", "{module_name: {fc: {activation: {bits: 4}}}}", false),
        ("qconfig", "{module_name_object_type_order: [[a, Conv, 0]]}", false),
        ("name", "''", false),
        ("output", "results/here", true),
    ] {
        let text = with(section, more);
        assert_eq!(job::parse(&text, &[]).is_ok(), good, "read: {text}");
        assert_eq!(validator.is_valid(&json(&text)), good, "schema: {text}");
    }
    // A score has a unit of its own, and is measured by a program.
    let program = "{metric: {command: [score, '{model}']}}";
    for (budget, good) in [
        ("{metric: score, max_drop: 2.5}", true),
        ("{metric: score, max_drop: 2.5, drop: absolute}", true),
        ("{metric: score, max_drop: 2.5, drop: relative}", false),
        ("{metric: top1, max_drop: 2.5}", false),
    ] {
        let mut job = json(JOB);
        (job["budget"], job["measure"]) = (json(budget), json(program));
        let text = job.to_string();
        assert_eq!(job::parse(&text, &[]).is_ok(), good, "read: {text}");
        assert_eq!(validator.is_valid(&job), good, "schema: {text}");
    }
}
