use super::*;
use crate::{evaluate::Metric, search::Until};

const JOB: &str = "\
name: a
model: {onnx: m.onnx}
data:
  images: {csv: labels.csv}
  split: {calibrate: 8, search: 16}
budget: {max_drop: 0.01}
";

fn error(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    parse(text, &overrides).unwrap_err().to_string()
}

fn set_over(override_: &str) -> Result<JobSpec, JobError> {
    parse(JOB, &[override_.to_owned()])
}

#[test]
fn the_least_job_has_defaults() {
    let spec = parse(JOB, &[]).unwrap();
    assert_eq!((spec.budget.metric, spec.search.until), (Metric::Top1, Until::Budget));
    assert_eq!((spec.search.max_trials, spec.measure.latency.runs), (100, 50));
    assert_eq!(Job { spec, folder: "/x".into(), root: None }.output(), Path::new("qtuned-out/a"));
}

#[test]
fn values_are_set_over_the_file() {
    let spec = set_over("search.max_time=10m").unwrap();
    assert_eq!(spec.search.max_time, Some(600.0));
    assert_eq!(set_over("search.max_time=2.5").unwrap().search.max_time, Some(2.5));
    assert_eq!(set_over("budget.max_drop=0.5").unwrap().budget.max_drop, Some(0.5));
    assert_eq!(set_over("data.preprocess.mean=[1, 2, 3]").unwrap().data.preprocess.mean, [1.0, 2.0, 3.0]);
    assert_eq!(set_over("qconfig.preset=qnnpack").unwrap().qconfig.preset, crate::quant::Preset::Qnnpack);
}

#[test]
fn mistakes_name_the_place_and_what_was_expected() {
    let swap = |from: &str, to: &str| error(&JOB.replace(from, to), &[]);
    let messages = [
        swap("max_drop: 0.01", "max_drp: 0.01"),
        swap("max_drop: 0.01", "max_drop: a lot"),
        swap("max_drop: 0.01", "max_drop: 1"),
        swap("max_drop: 0.01", "max_drop: -0.5"),
        swap("max_drop: 0.01", "max_drop: .nan"),
        swap("budget: {max_drop: 0.01}", "budget: {}"),
        swap("max_drop: 0.01", "metric: sqnr"),
        swap("max_drop: 0.01", "metric: sqnr, max_drop: 0.1"),
        swap("max_drop: 0.01", "max_drop: 0.1, min_db: 3"),
        swap("max_drop: 0.01", "max_drop: 0.1, confidence: 0.5"),
        swap("max_drop: 0.01", "metric: score, max_drop: 0.1"),
        swap("max_drop: 0.01", "metric: score"),
        swap("max_drop: 0.01", "metric: score, max_drop: -0.1"),
        swap("max_drop: 0.01", "metric: score, max_drop: .inf"),
        swap("max_drop: 0.01", "metric: score, max_drop: 1.5, drop: relative"),
        swap("max_drop: 0.01", "metric: score, min_db: 20"),
        swap("max_drop: 0.01", "metric: top2"),
        swap("max_drop: 0.01", "max_drop: 0.1, max_drop: 0.2"),
        swap("name: a", "name: ''"),
        swap("name: a", "name: ../a"),
        swap("name: a", "nme: a"),
        swap("model: {onnx: m.onnx}", "model: m.onnx"),
        swap("model: {onnx: m.onnx}\n", ""),
        swap("calibrate: 8", "calibrate: -8"),
        swap("calibrate: 8", "calibrate: 0"),
        swap("{csv: labels.csv}", "{tar: labels.csv}"),
        swap("budget:", "search: {max_trials: 1}\nbudget:"),
        swap("budget:", "search: {max_time: soon}\nbudget:"),
        swap("budget:", "search: {strategy: clever}\nbudget:"),
        swap("budget:", "search: {seed: -1}\nbudget:"),
        swap("budget:", "sensitivity: {samples: 0}\nbudget:"),
        swap("budget:", "measure: {latency: {batch: 0}}\nbudget:"),
        swap("budget:", "measure: {latency: {threads: 1.5}}\nbudget:"),
        swap("budget:", "qconfig: {module_names: {}}\nbudget:"),
        swap("budget:", "qconfig: {preset: qnpack}\nbudget:"),
        swap("budget: {", "budget: {{"),
        "- a".to_owned() + ": " + &error("- a", &[]),
        error("", &[]),
        error(JOB, &["budget.max_drop"]),
        error(JOB, &["budget.max_drop=2"]),
        error(JOB, &["budget.drop=rel"]),
        error(JOB, &["budgett.drop=relative"]),
        error(JOB, &["budget.max_drop={"]),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn every_shipped_config_is_a_job() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let named = |folder: &Path| -> Vec<String> {
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = paths
            // The rest is for clusters: tests/cluster_files.sh.
            .filter(|path| path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("kubernetes-job.yaml"))
            .map(|path| {
                let job = load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(path.file_stem().unwrap().to_str(), Some(job.spec.name.as_str()));
                job.spec.name
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(named(&folder), ["efficientnet-lite0", "fashion-mnist", "mobilenet-v2", "resnet-50"]);
    let cases = [
        "efficientnet-lite0-half-range",
        "efficientnet-lite0-per-tensor",
        "mobilenet-v2-a-fifth",
        "mobilenet-v2-half-a-point",
        "mobilenet-v2-per-tensor",
        "resnet-50-a-fifth",
    ];
    assert_eq!(named(&folder.join("cases")), cases);
}

#[test]
fn large_files_and_growing_files_are_refused() {
    assert!(error(&"#".repeat(2 << 20), &[]).contains("at most"));
    let bomb = format!("a: &a [{}]\nb: [{}]", "1,".repeat(1000), "*a,".repeat(1000));
    assert!(error(&bomb, &[]).contains("aliases"));
}
