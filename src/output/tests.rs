use tempfile::TempDir;

use super::*;
use crate::{
    evaluate::{Evaluation, Fingerprint},
    graph::GroupId,
    quant::{Affine, GroupParameters, Preset},
    search::Key,
};

fn measured(number: usize, correct: u64, ns: u64) -> Measured {
    let qconfig = Preset::Qnnpack.qconfig();
    let grid = Affine::from_range(-1.0, 3.0, &qconfig.activation);
    let mut mapping = QConfigMapping::preset(Preset::Qnnpack);
    mapping.module_name.push(("features.0".into(), None));
    let file = QConfigFile {
        job: "a".into(),
        model_sha256: "b".repeat(64),
        trial: number,
        score: correct as f64 / 10.0,
        mapping,
        groups: vec![
            GroupParameters::fp32("features.0"),
            GroupParameters::int8("features.1", &qconfig, &[grid], &grid, Some(&[0.1, 0.1])),
        ],
    };
    let fingerprint =
        Fingerprint { cpu: "c".into(), kernel: "k".into(), threads: 1, batch: 1, quota_milli_cpus: None };
    let trial = Trial {
        key: Key([number as u8; 32]),
        fp32_groups: vec![GroupId(0)],
        int8_groups: 1,
        evaluation: Evaluation { score: Score::Count { correct, total: 10 }, correct: vec![], seconds: 1.0 },
        latency: Some(Latency { candidate_ns: vec![ns], fp32_ns: vec![300], fingerprint }),
        weight_bytes: 100,
        activation_bytes: 50,
    };
    let facts = TrialFacts { fp32_names: vec!["features.0".into()], qconfig_json: "{}".into(), file };
    Measured { trial, facts }
}

#[test]
fn the_best_qconfig_reads_back_and_nothing_else_is_left() {
    let folder = TempDir::new().unwrap();
    let output = OutputFolder::create(&folder.path().join("deep/er")).unwrap();
    let best = measured(1, 9, 100).facts.file;
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
    let trials = [measured(0, 10, 300), measured(1, 8, 100), measured(2, 9, 200)];
    output.write_trials(&trials, &[true, true, true], 2).unwrap();
    fs::write(folder.path().join("front/notes.txt"), "mine").unwrap();
    output.write_trials(&trials, &[true, false, true], 2).unwrap();
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
