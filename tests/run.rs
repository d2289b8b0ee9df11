//! Runs the shipped job with the real binary: to its end, again, stopped by signals, and continued.

#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use qtuned::{job::JobLock, quant::QConfigFile};
use tempfile::TempDir;

const SMALL: [&str; 5] = [
    "data.split.search=300",
    "data.split.certify=1000",
    "data.split.calibrate=32",
    "sensitivity.samples=8",
    "measure.latency={runs: 5, warmup: 1}",
];

/// The shipped job, with these values set over it, in an empty folder.
fn command(folder: &Path, set: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
    command.arg("run").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/fashion-mnist.yaml"));
    command.current_dir(folder).env_remove("QTUNED_DB").env_remove("QTUNED_LOG").args(["--threads", "2"]);
    for value in set {
        command.args(["--set", value]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, set: &[&str]) -> (i32, String, String) {
    ended(command(folder, set).output().unwrap())
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn rows(folder: &Path, sql: &str) -> serde_json::Value {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
    let output = command.args(["query", "--json", sql]).current_dir(folder).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_job_runs_to_its_end_and_again_finds_everything_recorded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let (code, stdout, stderr) = run(path, &SMALL);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("is chosen: in fp32: ") || stdout.contains("is chosen: everything in int8"), "{stdout}");
    assert!(stdout.contains("and 4 more groups; `qtuned groups` shows all"), "{stdout}");
    let out = path.join("qtuned-out/fashion-mnist");
    let lock: JobLock = serde_yaml::from_str(&fs::read_to_string(out.join("job.lock.yaml")).unwrap()).unwrap();
    assert_eq!(lock.job.sensitivity.samples, 8);
    let best: QConfigFile = serde_yaml::from_str(&fs::read_to_string(out.join("best.qconfig.yaml")).unwrap()).unwrap();
    assert_eq!(rows(path, "SELECT chosen FROM jobs"), serde_json::json!([{"chosen": best.trial}]));
    assert_eq!(best.model_sha256, lock.sha256.model);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("<title>fashion-mnist · qtuned</title>"));
    assert!(stderr.contains("the 1000 samples of the certify split can rule out a drop of"), "{stderr}");
    assert!(stdout.contains("certified: at 95 % confidence its drop in the population is at most"), "{stdout}");
    // Trials within the budget are timed once more, in turn.
    assert!(stderr.contains("taking the latencies of 2 trials in turn"), "{stderr}");
    let twice =
        rows(path, "SELECT count(*) AS n FROM (SELECT 1 FROM latency_runs GROUP BY trial_id HAVING count(*) = 2)");
    assert_eq!(twice, serde_json::json!([{"n": 2}]));
    let named = rows(path, "SELECT trial, total FROM finalists WHERE place = 0");
    assert_eq!(named[0]["total"], serde_json::json!(1000));

    // The chosen trial and fp32, measured again on another number of threads, agree to the bit.
    for trial in [0, best.trial] {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
        command.args(["replay", &trial.to_string(), "--threads", "1", "--json"]).current_dir(path);
        let replayed: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        assert_eq!((&replayed["agrees"], &replayed["samples"]), (&serde_json::json!(true), &serde_json::json!(300)));
    }
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
    let (code, _, error) = ended(command.args(["replay", "99"]).current_dir(path).output().unwrap());
    assert!(code == 1 && error.contains("job 1 has no trial 99; it has "), "{error}");

    let measured = "SELECT (SELECT count(*) FROM trials) AS trials, (SELECT count(*) FROM latency_samples) AS samples";
    let count = || rows(path, measured);
    let before = count();

    // The same job: nothing is measured again. The scores are those of before.
    let (code, again, stderr) = run(path, &SMALL);
    assert_eq!((code, count()), (0, before.clone()), "{stderr}");
    assert!(stderr.contains("job 1: continues after") && !stderr.contains("evaluating"), "{stderr}");
    assert_eq!(again, stdout);

    // A budget of nothing at all: another job, which finds the trials of the first and makes more.
    let mut tight = SMALL.to_vec();
    tight.extend(["budget.max_drop=0", "search.max_trials=2", "output=tight"]);
    let (code, stdout, stderr) = run(path, &tight);
    assert_eq!(code, 3, "{stderr}");
    assert!(stdout.contains("no quantized qconfig within the budget: fp32 is chosen"), "{stdout}");
    assert!(!stderr.contains("evaluating"), "{stderr}");
    assert_eq!(count(), before);
    assert!(path.join("tight/best.qconfig.yaml").exists());
}

#[test]
fn repairs_are_tried_and_recorded_before_groups_go_back_to_fp32() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let mut set = SMALL.to_vec();
    // Weights of four bits: far outside the budget as they are.
    set.extend([
        "data.split.certify=0",
        "qconfig={preset: qnnpack, \"\": {activation: {observer: percentile, percentile: 99.0}, weight: {quant_min: -7, quant_max: 7}}}",
        "search.repairs=[observer_auto, bias_correction, observer_auto, per_channel]",
        "search.max_trials=6",
        "budget.max_drop=0",
    ]);
    let (code, stdout, stderr) = run(path, &set);
    assert!([0, 3].contains(&code), "{stderr}");
    let trials = rows(path, "SELECT repairs, fp32_group_count AS n FROM trial_summary ORDER BY number");
    let repairs = |trial: usize| trials[trial]["repairs"].as_str().map(ToString::to_string);
    let all = [
        r#"[]"#,
        r#"[]"#,
        r#"["observer_auto"]"#,
        r#"["observer_auto","bias_correction"]"#,
        r#"["observer_auto","bias_correction","per_channel"]"#,
    ];
    let tried = trials.as_array().unwrap().len().min(all.len());
    assert!(tried >= 3, "{trials}");
    all[..tried]
        .iter()
        .enumerate()
        .for_each(|(trial, expected)| assert_eq!(repairs(trial).as_deref(), Some(*expected)));
    assert!(stderr.contains("trial 2: 0 groups in fp32, repaired by observer_auto"), "{stderr}");
    assert!(stdout.contains("repairs"), "{stdout}");
    // Each is a qconfig of its own, with which the same is measured again.
    let qtuned = |args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
        ended(command.args(args).current_dir(path).output().unwrap()).1
    };
    let file: QConfigFile = serde_yaml::from_str(&qtuned(&["export", "--trial", "2"])).unwrap();
    assert!(serde_json::to_string(&file.mapping).unwrap().contains(r#""observer":"auto""#));
    let replayed: serde_json::Value = serde_json::from_str(&qtuned(&["replay", "2", "--json"])).unwrap();
    assert_eq!(replayed["agrees"], true);
}

#[test]
fn a_budget_that_is_finer_than_the_samples_is_refused_when_that_is_wanted() {
    let folder = TempDir::new().unwrap();
    let mut command = command(folder.path(), &["data.split.search=50", "data.split.certify=0", "budget.max_drop=0.02"]);
    let (code, _, stderr) = ended(command.arg("--strict").output().unwrap());
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("the 50 samples of the search split can rule out a drop of"), "{stderr}");
    assert!(stderr.contains("the budget of 2.00 points is finer"), "{stderr}");
    assert!(!folder.path().join("qtuned.db").exists());
}

/// OpenVINO sums in fp32 whatever an addition is in, so there is nothing to win by it: they are the last that go back.
#[test]
fn additions_are_the_last_where_openvino_runs_the_network() {
    let folder = TempDir::new().unwrap();
    let more = ["qconfig={preset: openvino}", "search.until=exhausted", "search.max_trials=30", "data.split.certify=0"];
    let (code, _, stderr) = run(folder.path(), &[&SMALL[..], &more].concat());
    assert_eq!(code, 0, "{stderr}");
    // The group that each trial has in fp32 and the one before it has not, and whether it is an addition.
    let sql = "WITH steps AS (SELECT t.number, g.value AS id FROM job_trials AS t, json_each(t.fp32_groups) AS g
                   WHERE t.number > 1 AND g.value NOT IN (SELECT value FROM job_trials AS b, json_each(b.fp32_groups)
                                                          WHERE b.number = t.number - 1))
               SELECT group_concat(object_type = 'Add', '') AS added
               FROM (SELECT g.object_type FROM steps JOIN groups AS g ON g.id = steps.id ORDER BY number)";
    let added = rows(folder.path(), sql)[0]["added"].as_str().unwrap().to_owned();
    assert!(added.len() >= 15 && added.contains('1') && !added.contains("10"), "{added}");
}

#[test]
fn signals_stop_a_run_that_continues_later() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let mut set = SMALL.to_vec();
    // Latencies that take long enough to be stopped in.
    set.extend(["search.until=exhausted", "search.max_trials=5", "measure.latency={runs: 4000, warmup: 1}"]);
    let mut child = command(path, &set).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("trial 1: evaluating")));
    signal(&child, "-TERM");
    let asked = Instant::now();
    assert!(lines.any(|line| line.unwrap().starts_with("stopping; the same command continues")));
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let (code, stdout, _) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 75, "{rest:?}");
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert!(stdout.contains("the same command continues"), "{stdout}");
    assert_eq!(rows(path, "SELECT state FROM jobs"), serde_json::json!([{"state": "interrupted"}]));

    let (code, _, stderr) = run(path, &set);
    assert!([0, 3].contains(&code), "{stderr}");
    assert!(stderr.contains("job 1: continues after") && !stderr.contains("trial 0 (fp32): evaluating"), "{stderr}");
    assert_eq!(rows(path, "SELECT count(*) AS n FROM job_trials"), serde_json::json!([{"n": 5}]));
}
