//! Drives the daemon with the real binary: jobs of the shipped network with few samples, in a real database.

#![cfg(unix)]

mod bench;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bench::{Bench, JOB, LONG, SMALL, at_stage, in_state};
use qtuned::quant::QConfigFile;
use serde_json::Value;

#[test]
fn a_job_goes_through_the_queue_and_every_command_tells_of_it() {
    let bench = Bench::new();
    let done = bench.submit(&SMALL, &[]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "job 1: fashion-mnist (queued)\n"), "{}", done.stderr);
    let done = bench.submit(&SMALL, &[]);
    assert_eq!(done.stdout, "job 1: fashion-mnist (queued), the same as before\n");
    assert_eq!(bench.json(&["jobs", "--state", "queued"])[0]["id"], 1);
    assert_eq!(bench.json(&["jobs", "--state", "failed"]), serde_json::json!([]));

    let serve = bench.serve(&["--threads", "2"]);
    let watched = bench.qtuned(&["watch", "1"]);
    assert!([0, 3].contains(&watched.code), "{}{}", watched.stdout, watched.stderr);
    for part in ["Z queued\n", "Z started ", " trial 0: all in fp32, score ", "Z succeeded\n", "chosen"] {
        assert!(watched.stdout.contains(part), "{part} in\n{}", watched.stdout);
    }
    let shown = bench.json(&["show"]);
    assert_eq!((&shown["state"], &shown["progress"]), (&"succeeded".into(), &Value::Null));
    assert!(shown["model"]["groups"].as_array().unwrap().len() > 5);
    let text = bench.told(&["show", "fashion-mnist"]);
    assert!(text.starts_with("job 1: fashion-mnist (succeeded)\n") && text.contains("max_drop   0.01\n"), "{text}");
    let trials = bench.json(&["trials", "1"]);
    assert_eq!(trials.as_array().unwrap().len() as u64, shown["trials"].as_u64().unwrap());
    assert!(!bench.json(&["front"]).as_array().unwrap().is_empty());
    assert!(bench.told(&["groups"]).contains("Conv"));

    // The qconfig of any trial, whole; what was chosen is also in the folder of results.
    let one: QConfigFile = serde_yaml::from_str(&bench.told(&["export", "--trial", "1"])).unwrap();
    assert_eq!((one.trial, one.job.as_str()), (1, "fashion-mnist"));
    bench.told(&["export", "1", "-o", "best.yaml"]);
    let results = Path::new(shown["spec"]["output"].as_str().unwrap());
    let best = fs::read_to_string(results.join("best.qconfig.yaml")).unwrap();
    assert_eq!(fs::read_to_string(bench.path().join("best.yaml")).unwrap(), best);
    assert_eq!(bench.qtuned(&["export", "--trial", "99"]).stderr, "error: job 1 has no qconfig file of trial 99\n");

    let logs = bench.told(&["logs", "1", "--follow"]);
    assert!(logs.contains(" INFO  calibrate\n") && logs.contains(" INFO  recorded trial=1 "), "{logs}");
    let mut events = bench.told(&["watch", "1", "--json"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let last: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!(last["job"]["state"], "succeeded");

    // Again: another job, which finds every trial of the first. Then both go.
    let done = bench.submit(&SMALL, &["--again", "--watch"]);
    assert_eq!(done.code, watched.code, "{}", done.stderr);
    assert_eq!(bench.json(&["trials", "2"])[1]["key"], trials[1]["key"]);
    assert_eq!(bench.told(&["rm", "1"]), "job 1: fashion-mnist is removed\n");
    assert_eq!(bench.qtuned(&["show", "1"]).stderr, "error: there is no job `1` in the database\n");
    assert_eq!(bench.json(&["trials", "2"]).as_array().unwrap().len(), trials.as_array().unwrap().len());
    assert_eq!(bench.qtuned(&["retry", "2"]).stderr, "error: job 2 is succeeded and cannot be tried again\n");
    serve.signal("-TERM");
    assert_eq!(serve.ended(), Some(0));
    let log = fs::read_to_string(bench.path().join("serve.log")).unwrap();
    let of_job = |line: &str| serde_json::from_str::<Value>(line).unwrap()["span"]["job"] == 1;
    assert!(log.lines().any(of_job), "{log}");
}

#[test]
fn a_running_job_is_cancelled_within_two_seconds_and_goes_on_when_retried() {
    let bench = Bench::new();
    let _serve = bench.serve(&["--threads", "2"]);
    let long = [&SMALL[..], &LONG].concat();
    assert_eq!(bench.submit(&long, &[]).code, 0);
    bench.wait("1", at_stage("latency"));
    let asked = Instant::now();
    assert_eq!(bench.told(&["cancel", "1"]), "job 1: fashion-mnist (cancelled)\n");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(bench.qtuned(&["watch", "1"]).code, 1);
    let retried = bench.told(&["retry", "1"]);
    // The daemon may have taken it up before it is looked at again.
    assert!(
        ["queued", "running"].iter().any(|state| retried == format!("job 1: fashion-mnist ({state})\n")),
        "{retried}"
    );
    bench.wait("1", in_state("running"));
    // The job of another process is not run here.
    let mut args = vec!["run", JOB];
    long.iter().for_each(|set| args.extend(["--set", set]));
    let run = bench.qtuned(&args);
    let message = "error: job 1 is being run by another process; `qtuned watch 1` follows it\n";
    assert!(run.code == 1 && run.stderr.ends_with(message), "{}", run.stderr);
    assert_eq!(bench.qtuned(&["rm", "1"]).stderr, "error: job 1 is running and cannot be removed\n");
    bench.told(&["cancel", "1"]);
}

#[test]
fn what_a_stopped_or_killed_daemon_leaves_is_taken_up_by_the_next() {
    let bench = Bench::new();
    let long = [&SMALL[..], &LONG].concat();
    assert_eq!(bench.submit(&long, &[]).code, 0);
    let serve = bench.serve(&["--threads", "2"]);
    let first = bench.wait("1", |job| job["trials"].as_u64() >= Some(1));
    serve.signal("-TERM");
    assert_eq!(serve.ended(), Some(0));
    assert_eq!(bench.state("1"), "interrupted");

    let serve = bench.serve(&["--threads", "2"]);
    bench.wait("1", |job| job["trials"].as_u64() > first["trials"].as_u64());
    serve.signal("-KILL");
    serve.ended();
    let killed = bench.json(&["show", "1"]);

    let since = Instant::now();
    let _serve = bench.serve(&["--threads", "2"]);
    bench.wait("1", |job| job["state"] == "running" && job["started_ms"].as_i64() > killed["started_ms"].as_i64());
    assert!(since.elapsed() < Duration::from_secs(5), "a dead process is waited for");
    let ended = bench.wait("1", in_state("succeeded"));
    assert_eq!(ended["trials"], 4);
    let sql =
        "SELECT (SELECT count(*) FROM events WHERE kind = 'trial') AS noted, (SELECT count(*) FROM trials) AS made";
    assert_eq!(bench.json(&["query", sql]), serde_json::json!([{"noted": 4, "made": 4}]));
}

#[test]
fn a_job_whose_files_changed_fails_and_says_which() {
    let bench = Bench::new();
    let model = bench.path().join("model.onnx");
    let shipped = Path::new(JOB).parent().unwrap().join("../datasets/fashion-mnist/model.onnx");
    fs::copy(&shipped, &model).unwrap();
    let set = format!("model.onnx={}", model.display());
    assert_eq!(bench.submit(&[&SMALL[..], &[&set]].concat(), &[]).code, 0);
    let mut bytes = fs::read(&model).unwrap();
    // A field that no version knows: another file, the same network.
    bytes.extend([0xf8, 0x7f, 0x01]);
    fs::write(&model, bytes).unwrap();
    let _serve = bench.serve(&[]);
    let failed = bench.wait("1", in_state("failed"));
    let error = "model.onnx is not what it was when the job was submitted; submit it again";
    assert_eq!(failed["error"], error);
    assert_eq!(bench.qtuned(&["watch"]).code, 1);
    // What cannot be read is refused when it is submitted, and makes no job.
    let done = bench.submit(&["model.onnx=nowhere.onnx"], &[]);
    assert!(done.code == 1 && done.stderr.contains("nowhere.onnx"), "{}", done.stderr);
    assert_eq!(bench.json(&["jobs"]).as_array().unwrap().len(), 1);
}
