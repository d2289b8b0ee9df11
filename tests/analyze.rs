//! `qtuned analyze`: sensitivities without a search.

mod bench;

use bench::{Bench, JOB, SMALL, write_npy};
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/idioms.onnx");

fn ids(groups: &Value) -> Vec<&str> {
    groups.as_array().unwrap().iter().map(|group| group["id"].as_str().unwrap()).collect()
}

fn decibels(groups: &Value, key: &str) -> Vec<f64> {
    let number = |group: &Value| group[key].as_f64().unwrap_or(f64::INFINITY);
    groups.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn a_job_is_analyzed_as_a_run_does_it() {
    let bench = Bench::new();
    let sets: Vec<&str> = SMALL.iter().flat_map(|set| ["--set", set]).collect();
    let analyzed = bench.json(&[&["analyze", JOB], &sets[..]].concat());
    assert!(!bench.path().join("qtuned.db").exists(), "nothing is recorded");
    assert_eq!((&analyzed["samples"], &analyzed["calibrated"]), (&8.into(), &32.into()));
    assert_eq!((&analyzed["preset"], &analyzed["rank_by"]), (&"qnnpack".into(), &"output".into()));
    let output = decibels(&analyzed["groups"], "output_db");
    assert!(output.is_sorted() && output.len() > 10, "{output:?}");

    bench.told(&[&["run", JOB], &sets[..]].concat());
    let mut recorded = bench.json(&["groups"]);
    for group in recorded.as_array_mut().unwrap() {
        // A job has chosen something, an analysis has not.
        group["chosen"] = Value::Null;
    }
    assert_eq!(analyzed["groups"], recorded);

    let shown = bench.told(&[&["analyze", JOB, "--rank-by", "weight", "--samples", "4"], &sets[..]].concat());
    let last = shown.lines().last().unwrap();
    assert!(last.contains("SQNR on 4 samples, calibrated on 32"), "{last}");
    let table = bench.told(&[&["analyze", JOB, "--csv"], &sets[..]].concat());
    assert!(table.starts_with("position,id,object_type,macs,"), "{table}");
    assert_eq!(table.lines().count(), output.len() + 1);
}

#[test]
fn a_model_is_analyzed_on_an_array_or_on_made_up_numbers() {
    let bench = Bench::new();
    let values: Vec<f32> = (0..3 * 3 * 15 * 15).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    write_npy(&bench.path().join("x.npy"), &[3, 3, 15, 15], &values);
    let found = bench.json(&["analyze", MODEL, "x.npy", "--preset", "qnnpack"]);
    assert_eq!((&found["made_up"], &found["samples"], &found["calibrated"]), (&false.into(), &3.into(), &3.into()));
    assert_eq!(found["preset"], "qnnpack");
    let all = ids(&found["groups"]).len();
    assert!(all > 4, "{found}");

    // fp32 groups are there, last and without a ratio.
    std::fs::write(bench.path().join("q.yaml"), "{module_name: {fc2: null}}\n").unwrap();
    let found = bench.json(&["analyze", MODEL, "x.npy", "--qconfig", "q.yaml", "--rank-by", "local"]);
    let groups = &found["groups"];
    assert_eq!((ids(groups).len(), ids(groups)[all - 1]), (all, "fc2"));
    assert_eq!(groups[all - 1]["output_db"], Value::Null);
    assert!(decibels(groups, "local_db").is_sorted());

    let found = bench.json(&["analyze", MODEL]);
    assert_eq!((&found["made_up"], &found["samples"]), (&true.into(), &8.into()));
    assert!(bench.told(&["analyze", MODEL]).contains("made up"));
}

#[test]
fn what_does_not_fit_is_said() {
    let bench = Bench::new();
    write_npy(&bench.path().join("x.npy"), &[1, 3, 4], &[0.0; 12]);
    std::fs::write(bench.path().join("fp32.yaml"), "{'': null}\n").unwrap();
    for (args, message) in [
        (vec![MODEL, "x.npy"], "x.npy: expected an array of batch×3×15×15, found 1×3×4"),
        (vec![MODEL, "--qconfig", "fp32.yaml"], "the model has no group that this qconfig quantizes"),
        (vec![MODEL, "--set", "a=b"], "this sets a value of a job"),
        (vec![JOB, "x.npy"], "a job has its own samples"),
        (vec![JOB, "--preset", "x86"], "for a job it is --set qconfig.preset=NAME"),
        (vec!["nowhere.onnx"], "failed to read `nowhere.onnx`"),
        (vec!["nowhere.yaml"], "failed to read the job"),
    ] {
        let done = bench.qtuned(&[&["analyze"], &args[..]].concat());
        assert_ne!(done.code, 0, "{args:?}");
        let one = done.stderr.lines().count() == 1 && done.stderr.starts_with("error: ");
        assert!(one && done.stderr.contains(message), "{args:?}: {}", done.stderr);
    }
}

/// Against numbers of NumPy and ONNX Runtime: `models/quantized.py` says how they were made.
#[test]
fn what_another_tool_quantized_is_analyzed_against_fp32() {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/quantized/");
    let file = |name: &str| format!("{FOLDER}{name}");
    let bench = Bench::new();
    let args = ["analyze", &file("int8.onnx"), &file("x.npy"), "--against", &file("fp32.onnx")];
    let found = bench.json(&args);
    let text = std::fs::read_to_string(file("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    // The engine rounds once where the file as it is written rounds after every node.
    let close = |found: &Value, due: &Value, what: &str| {
        assert!((found.as_f64().unwrap() - due.as_f64().unwrap()).abs() < 0.2, "{what}: {found}, not {due}");
    };
    close(&found["output_db"], &expected["output"], "output");
    let groups = found["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &found["unmatched"]), (6, &serde_json::json!([])));
    for (id, due) in expected["groups"].as_object().unwrap() {
        let group = groups.iter().find(|group| group["original"] == *id).unwrap_or_else(|| panic!("{id}: {found}"));
        assert_eq!(group["precision"], "int8", "{group}");
        for (kind, due) in due.as_object().unwrap() {
            close(&group[format!("{kind}_db")], due, &format!("{id}, {kind}"));
        }
    }
    assert!(decibels(&found["groups"], "accumulated_db").is_sorted());
    let table = bench.told(&[&args[..], &["--rank-by", "local"]].concat());
    assert!(table.lines().last().unwrap().contains("SQNR on 8 samples; of the output 43."), "{table}");

    for (args, says) in [
        (vec!["analyze", &args[1], "--against", &args[4]], "--against needs what the models read"),
        (vec!["analyze", &args[4], &args[2], "--against", &args[4]], "is not quantized"),
        (vec!["analyze", &args[1], &args[2], "--against", MODEL], "these are two networks"),
        ([&args[..], &["--rank-by", "output"]].concat(), "expected weight, local or accumulated"),
    ] {
        let done = bench.qtuned(&args);
        assert!(done.code != 0 && done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
}
