use tempfile::TempDir;

use super::*;
use crate::{
    evaluate::Metric,
    quant::{Affine, GroupParameters, Preset, Repair},
};

fn qconfig(number: usize, score: f64) -> QConfigFile {
    let qconfig = Preset::Qnnpack.qconfig();
    let grid = Affine::from_range(-1.0, 3.0, &qconfig.activation);
    let mut mapping = QConfigMapping::preset(Preset::Qnnpack);
    mapping.module_name.push(("features.0".into(), None));
    QConfigFile {
        job: "a".into(),
        model_sha256: "b".repeat(64),
        trial: number,
        score,
        mapping,
        groups: vec![
            GroupParameters::fp32("features.0"),
            GroupParameters::int8("features.1", &qconfig, &[Some(grid)], Some(&grid), Some(&[0.1, 0.1]), None),
        ],
    }
}

fn summary(number: usize, correct: u64, ns: f64, on_front: bool) -> TrialSummary {
    TrialSummary {
        number,
        key: format!("{number:02}").repeat(32),
        metric: Metric::Top1,
        score: correct as f64 / 10.0,
        correct: Some(correct),
        total: 10,
        complete: true,
        score_drop: Some((10 - correct) as f64 / 10.0),
        drop_low: Some((10 - correct) as f64 / 10.0),
        drop_high: Some((10 - correct) as f64 / 10.0),
        q1_ns: Some(ns),
        median_ns: Some(ns),
        q3_ns: Some(ns),
        fp32_median_ns: Some(300.0),
        speed_up: Some(300.0 / ns),
        weight_bytes: 100,
        activation_bytes: 50,
        int8_groups: 1,
        repairs: vec![Repair::ObserverAuto],
        fp32_groups: vec!["features.0".into()],
        on_front,
        chosen: number == 2,
        fingerprint: None,
    }
}

#[test]
fn the_best_qconfig_reads_back_and_nothing_else_is_left() {
    let folder = TempDir::new().unwrap();
    let output = OutputFolder::create(&folder.path().join("deep/er")).unwrap();
    let best = qconfig(1, 0.9);
    output.write_best(&best).unwrap();
    output.write_best(&best).unwrap();
    let yaml = fs::read_to_string(output.path().join("best.qconfig.yaml")).unwrap();
    assert_eq!(serde_yaml::from_str::<QConfigFile>(&yaml).unwrap(), best);
    insta::assert_snapshot!("best_qconfig_yaml", yaml);
    let json = fs::read_to_string(output.path().join("qconfig_mapping.json")).unwrap();
    insta::assert_snapshot!("qconfig_mapping_json", json);
    assert_eq!(fs::read_dir(output.path()).unwrap().count(), 2);
}

#[test]
fn the_front_of_an_earlier_run_goes() {
    let folder = TempDir::new().unwrap();
    let output = OutputFolder::create(folder.path()).unwrap();
    let files = [qconfig(0, 1.0), qconfig(1, 0.8), qconfig(2, 0.9)];
    let files: Vec<_> = files.iter().collect();
    let mut trials = [summary(0, 10, 300.0, true), summary(1, 8, 100.0, true), summary(2, 9, 200.0, true)];
    output.write_trials(&trials, &files).unwrap();
    fs::write(folder.path().join("front/notes.txt"), "mine").unwrap();
    trials[1].on_front = false;
    output.write_trials(&trials, &files).unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path().join("front"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["notes.txt", "trial-000.qconfig.yaml", "trial-002.qconfig.yaml"]);
    insta::assert_snapshot!("trials_csv", fs::read_to_string(folder.path().join("trials.csv")).unwrap());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = OutputFolder::create(&file.join("below")).unwrap_err().to_string();
    assert!(error.starts_with("failed to write ") && error.ends_with("file/below"), "{error}");
}
