//! Jobs that are measured by programs: real ones, which read the exported file and the samples.

#![cfg(unix)]

mod bench;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bench::{Bench, Done, JOB, SMALL, in_state};
use serde_json::Value;

/// Milliseconds that the file would take at 1 MB/s, and a line in a file for each call.
const BYTES: &str = "echo \"$1\" >> calls; awk \"BEGIN {print $(wc -c < \"$1\") / 1000}\"";

/// `measure.latency.command`, of a script.
fn latency(script: &str) -> String {
    format!("measure.latency.command={}", serde_json::json!(["sh", "-c", script, "sh", "{model}"]))
}

/// Runs the small job with these settings; commands are run in the bench's folder.
fn run(bench: &Bench, sets: &[&str]) -> Done {
    let folder = format!("measure.programs.folder={}", bench.path().display());
    let mut args = vec!["run", JOB];
    [&SMALL[..], &[&folder], sets].concat().into_iter().for_each(|set| args.extend(["--set", set]));
    bench.qtuned(&args)
}

/// Whether Python is there. Where it must be, its absence fails the test.
fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|done| done.status.success());
    assert!(there || std::env::var_os("CI").is_none(), "python3 is not there");
    there
}

fn calls(bench: &Bench) -> usize {
    fs::read_to_string(bench.path().join("calls")).unwrap().lines().count()
}

#[test]
fn a_program_measures_the_latency_of_what_is_exported() {
    let bench = Bench::new();
    let by_engine = run(&bench, &[]);
    assert!([0, 3].contains(&by_engine.code), "{}", by_engine.stderr);
    let done = run(&bench, &[&latency(BYTES)]);
    assert!([0, 3].contains(&done.code), "{}{}", done.stdout, done.stderr);
    let (engine, program) = (bench.json(&["trials", "1"]), bench.json(&["trials", "2"]));
    // The scores are found again, the latencies are the program's: those of the other are no use.
    assert_eq!(engine[1]["key"], program[1]["key"]);
    for trial in program.as_array().unwrap() {
        let Some(latency) = trial["fingerprint"]["kernel"].as_str() else { continue };
        assert!(latency.starts_with("command sh "), "{trial}");
    }
    let (fp32, int8) = (&program[0], &program[1]);
    let model = fs::metadata(Path::new(JOB).with_file_name("../datasets/fashion-mnist/model.onnx")).unwrap().len();
    assert_eq!(fp32["median_ns"].as_f64().unwrap() as u64 / 1000, model);
    assert!(int8["speed_up"].as_f64().unwrap() > 1.5, "{int8}");
    // Again: everything is recorded.
    let before = calls(&bench);
    run(&bench, &[&latency(BYTES)]);
    assert_eq!(calls(&bench), before);
}

#[test]
fn a_program_says_which_samples_are_right_and_its_drops_are_certified() {
    if !has_python() {
        return;
    }
    let bench = Bench::new();
    let qtuned = assert_cmd::cargo::cargo_bin!("qtuned").display().to_string();
    let score = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/score.py");
    let command = serde_json::json!(["python3", score, qtuned, "{model}", "{data}"]);
    let sets = [&format!("measure.metric.command={command}"), "data.split.certify=200", "budget.max_drop=0.2"];
    let done = run(&bench, &sets);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("certified: at 95 % confidence"), "{}", done.stdout);
    let by_engine = run(&bench, &["budget.max_drop=0.2", "data.split.certify=200"]);
    assert_eq!(by_engine.code, 0, "{}", by_engine.stderr);
    let (program, engine) = (bench.json(&["trials", "1"]), bench.json(&["trials", "2"]));
    for number in [0, 1] {
        let (program, engine) = (&program[number], &engine[number]);
        // fp32 is the same to some last bits; int8 is quantized and dequantized in f32 here, and real there.
        let (a, b) = (program["correct"].as_i64().unwrap(), engine["correct"].as_i64().unwrap());
        assert!((a - b).abs() <= 3 && program["total"] == engine["total"], "{program} {engine}");
        assert_ne!(program["key"], engine["key"]);
    }
    assert!(bench.told(&["logs", "1"]).contains("compared 300 samples"));
    // Measured again, by the program.
    assert!(bench.told(&["replay", "1", "1"]).contains("agrees to the bit"));
}

/// Prints a number as a BLEU score might be: the less, the more the file quantizes. And a line in a file for each call.
const QUANTIZES: &str = r#"echo "$1" >> calls; grep -ao QuantizeLinear "$1" | wc -l | awk '{print 27.5 - $1 / 100}'"#;

/// `measure.metric.command`, of a script, with a budget of this largest drop.
fn score(script: &str, max_drop: &str) -> [String; 2] {
    let command = serde_json::json!(["sh", "-c", script, "sh", "{model}", "{data}"]);
    [format!("measure.metric.command={command}"), format!("budget={{metric: score, max_drop: {max_drop}}}")]
}

#[test]
fn every_strategy_keeps_a_budget_of_a_number_that_a_program_prints() {
    for strategy in ["greedy", "bisect", "adaptive", "latency_aware"] {
        let bench = Bench::new();
        let [command, budget] = score(QUANTIZES, "0.7");
        let strategy = format!("search.strategy={strategy}");
        let sets = [&command, &budget, &strategy, "search.max_trials=12"];
        let done = run(&bench, &sets);
        assert_eq!(done.code, 0, "{strategy}: {}{}", done.stdout, done.stderr);
        let trials = bench.json(&["trials"]);
        assert_eq!((&trials[0]["score"], &trials[0]["score_drop"]), (&27.5.into(), &0.0.into()));
        for trial in trials.as_array().unwrap() {
            let (score, drop) = (trial["score"].as_f64().unwrap(), trial["score_drop"].as_f64().unwrap());
            assert!((27.5 - score - drop).abs() < 1e-9 && trial["correct"].is_null(), "{trial}");
            assert_eq!((&trial["metric"], &trial["complete"]), (&"score".into(), &true.into()));
        }
        assert!(trials[1]["score_drop"].as_f64().unwrap() > 0.7, "{}", trials[1]);
        let chosen = trials.as_array().unwrap().iter().find(|trial| trial["chosen"] == true).unwrap();
        assert!(chosen["score_drop"].as_f64().unwrap() <= 0.7 && chosen["number"] != 0, "{chosen}");
        // Again: everything is recorded.
        let before = calls(&bench);
        assert_eq!(run(&bench, &sets).code, 0);
        assert_eq!(calls(&bench), before);
    }
}

#[test]
fn a_score_is_shown_as_the_number_that_it_is() {
    let bench = Bench::new();
    let [command, budget] = score(QUANTIZES, "0.7");
    let done = run(&bench, &[&command, &budget, "search.max_trials=12", "data.split.certify=200"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("all in fp32, score 27.5000, median"), "{}", done.stderr);
    assert!(!done.stdout.contains(" pt") && !done.stdout.contains(" % "), "{}", done.stdout);
    let trials = bench.json(&["trials"]);
    let chosen = trials.as_array().unwrap().iter().find(|trial| trial["chosen"] == true).unwrap();
    let [number, score, drop] = ["number", "score", "score_drop"].map(|field| chosen[field].as_f64().unwrap());
    let told =
        format!("of weights, drop {drop:.4}\ntrial {number} on the certify split: score {score:.4}, fp32 27.5000, ");
    assert!(done.stdout.contains(&format!("{told}drop {drop:.4}; of one number no bound")), "{}", done.stdout);
    let document = bench.told(&["report", "--format", "json", "-o", "r.json"]);
    assert_eq!(document, "r.json\n");
    let report: Value = serde_json::from_slice(&fs::read(bench.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(report["finalists"].as_array().unwrap().len(), 1);
    let finalist = &report["finalists"][0];
    assert_eq!((&finalist["score"], &finalist["fp32_score"]), (&chosen["score"], &27.5.into()));
    assert!(finalist["bound"].is_null() && finalist["holds"].is_null(), "{finalist}");
    assert!(bench.told(&["watch", "1"]).contains("score 27.5000, median"));
    assert!(bench.told(&["replay", "1", "1"]).contains("agrees to the bit"));
    let drop = "SELECT json_array(score, relative_drop * 27.5 = score_drop) FROM trial_summary WHERE number = 0";
    assert!(bench.told(&["query", drop]).contains("[27.5,1]"));
    bench.told(&["db", "check"]);
    bench.told(&["merge", "qtuned.db", "-o", "all.db"]);
    assert_eq!(bench.json(&["--db", "all.db", "trials"]), trials);
    let set = |set: &'static str| ["--set", set];
    let valid = |more: &[&str]| {
        let sets = [&command, &budget].map(|set| ["--set", set]).concat();
        bench.told(&[&["validate", JOB], &sets[..], more].concat())
    };
    assert!(valid(&[]).contains("budget: score may drop by 0.7\n"));
    assert!(valid(&set("budget.drop=relative")).contains("budget: score may drop by 70 % of fp32's\n"));
}

#[test]
fn a_score_of_predictions_keeps_its_budget_relative_to_fp32() {
    if !has_python() {
        return;
    }
    let bench = Bench::new();
    let qtuned = assert_cmd::cargo::cargo_bin!("qtuned").display().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/score.py");
    let command = serde_json::json!(["python3", script, qtuned, "{model}", "{data}", "--f1"]);
    let budget = "budget={metric: score, max_drop: 0.05, drop: relative}";
    let done = run(&bench, &[&format!("measure.metric.command={command}"), budget]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let trials = bench.json(&["trials"]);
    let score = |trial: &Value| trial["score"].as_f64().unwrap();
    let chosen = trials.as_array().unwrap().iter().find(|trial| trial["chosen"] == true).unwrap();
    assert!((0.5..1.0).contains(&score(&trials[0])), "{trials}");
    assert!(score(chosen) >= 0.95 * score(&trials[0]), "{chosen}");
}

#[test]
fn programs_that_do_not_measure_fail_the_job_with_what_they_said() {
    let bench = Bench::new();
    let garbage = latency("echo warm >&2; echo 12 ms");
    let few = r#"measure.metric.command=[sh, -c, 'echo "{\"correct\": [true]}"', sh, "{model}"]"#;
    let share = r#"measure.metric.command=[sh, -c, 'echo 0.93', sh, "{model}"]"#;
    for (sets, says) in [
        (vec![latency("echo no device >&2; exit 7")], "`sh` failed (exit status: 7): no device"),
        (vec![garbage], "`sh` did not say what it measured: expected a number of ms"),
        (vec![latency("echo $$; sleep 60"), "measure.programs.timeout=1s".to_owned()], "`sh` did not end within 1 s"),
        (vec![few.to_owned()], "expected {\"correct\": [..]} with true or false for each of 300 samples, found 1"),
        (vec![share.to_owned()], "found `0.93`; `metric: score` is for a program that prints one number"),
        (score("echo nan", "0.1").to_vec(), "expected a finite number, or {\"score\": a number}, found `nan`"),
        (score("echo mAP 0.7", "0.1").to_vec(), "found `mAP 0.7`"),
        (score(r#"echo '{"correct": [true]}'"#, "0.1").to_vec(), r#"found `{\"correct\": [true]}`"#),
        (score("echo 0", "0.1, drop: relative").to_vec(), "relative to fp32, whose score is 0, and not above 0"),
        (vec!["measure.latency.target=phone".to_owned()], "no program is registered as `phone`"),
    ] {
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let start = Instant::now();
        let done = run(&bench, &sets);
        assert!(done.code == 1 && done.stderr.contains(says), "{says}: {}{}", done.stdout, done.stderr);
        assert!(start.elapsed() < Duration::from_secs(40));
        assert!(bench.json(&["show"])["error"].as_str().unwrap().contains(says));
    }
    let flaky = "echo x >> tries; [ $(wc -l < tries) -gt 1 ] && echo 5";
    let done = run(&bench, &[&latency(flaky), "measure.programs.retries=1"]);
    assert!([0, 3].contains(&done.code), "{}", done.stderr);
    assert!(bench.told(&["logs"]).contains("it is run again"));
}

#[test]
fn what_a_job_may_say_of_programs_is_checked() {
    let bench = Bench::new();
    for (set, says) in [
        ("measure.latency.command=[]", "found no program"),
        ("measure.latency.command=[trtexec, model.onnx]", "without it the program cannot know which network"),
        ("measure.latency.command=trtexec", "expected a sequence"),
        ("measure.latency.target=../x", "expected a name of at most 64 letters"),
        ("measure.latency={command: [a, '{model}'], target: b}", "expected a command or a target, found both"),
        ("measure.programs.retries=1000", "expected a whole number from 0 to 100"),
        ("measure.programs.timeout=0", "above 0"),
        ("measure.programs.export_for=coreml", "unknown variant `coreml`"),
        ("budget={metric: score, max_drop: 1}", "budget.metric: the metric score is a number that a program prints"),
    ] {
        let done = bench.qtuned(&["validate", JOB, "--set", set]);
        assert!(done.code == 2 && done.stderr.contains(says), "{set}: {}", done.stderr);
    }
}

/// Whether the process still runs that wrote its number to this file.
fn lives(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn cancelling_a_job_ends_its_program_and_what_that_started() {
    let bench = Bench::new();
    let _serve = bench.serve(&["--threads", "2"]);
    let (pid, folder) = (bench.path().join("pid"), format!("measure.programs.folder={}", bench.path().display()));
    let slow = latency("sleep 600 & echo $! > pid; sleep 600");
    assert_eq!(bench.submit(&[&SMALL[..], &[&folder, &slow]].concat(), &[]).code, 0);
    bench.wait("1", |_| fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    bench.told(&["cancel", "1"]);
    bench.wait("1", in_state("cancelled"));
    let since = Instant::now();
    while lives(&pid) {
        assert!(since.elapsed() < Duration::from_secs(10), "the program's own child still runs");
    }
}

#[test]
fn a_server_runs_the_programs_that_it_registers_and_no_other() {
    let bench = Bench::new();
    let program = bench.path().join("bytes.sh");
    // For a metric it gets the samples, too.
    let lines = [
        "#!/bin/sh",
        "bytes=$(wc -c < \"$2\")",
        "case $1 in",
        "  latency) awk \"BEGIN {print $bytes / 1000}\";;",
        "  metric) ls \"$3/labels.npy\" && awk \"BEGIN {print 2 - 1000 / $bytes}\";;",
        "esac",
    ];
    fs::write(&program, lines.join("\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (_serve, address) = bench.serve_http(&["--threads", "2", "--allow-target", "bytes=bytes.sh"]);
    let url = format!("http://{address}");
    let submit = |sets: &[&str]| {
        let mut args = vec!["submit", JOB, "--server", &url];
        [&SMALL[..], sets].concat().into_iter().for_each(|set| args.extend(["--set", set]));
        bench.qtuned(&args)
    };
    let own = latency("touch was-here; echo 1");
    for (set, field) in [
        (own.as_str(), "measure.latency.command"),
        ("measure.metric.command=[touch, was-here, '{model}']", "measure.metric.command"),
        ("measure.programs.folder=/", "measure.programs.folder"),
        ("measure.latency.target=phone", "measure.latency.target"),
    ] {
        let done = submit(&[set]);
        assert!(done.code != 0 && done.stderr.contains(field), "{set}: {}", done.stderr);
    }
    assert_eq!(bench.json(&["jobs"]), serde_json::json!([]));
    let done = submit(&["measure.latency.target=bytes"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let shown = bench.wait("1", |job| job["state"] == "succeeded" || job["state"] == "failed");
    assert_eq!(shown["error"], Value::Null);
    assert_eq!(bench.json(&["trials", "1"])[0]["fingerprint"]["kernel"], "target bytes");
    // A job that was started here with a program of its own is not started again from afar.
    let failing = latency("exit 1");
    assert_eq!(bench.submit(&[&SMALL[..], &[&failing]].concat(), &[]).code, 0);
    bench.wait("2", in_state("failed"));
    let done = bench.qtuned(&["retry", "2", "--server", &url]);
    assert!(done.code != 0 && done.stderr.contains("measure.latency.command"), "{}", done.stderr);
    assert_eq!(bench.qtuned(&["retry", "2"]).code, 0);
    // The number that a registered program prints.
    let done = submit(&["measure.metric.target=bytes", "budget={metric: score, max_drop: 1}"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let shown = bench.wait("3", |job| job["state"] == "succeeded" || job["state"] == "failed");
    assert_eq!((&shown["error"], &shown["metric"]), (&Value::Null, &"score".into()));
    let from_afar = bench.json(&["trials", "3", "--server", &url]);
    assert!(from_afar == bench.json(&["trials", "3"]) && from_afar[1]["score_drop"].as_f64().unwrap() > 0.0);
    assert!(!bench.path().join("was-here").exists());
}
