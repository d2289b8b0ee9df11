//! Drives the real binary with real files.

use std::{fs, path::PathBuf, sync::Arc};

use assert_cmd::Command;
use qtuned::{
    evaluate::{Evaluation, Fingerprint, Latency, Metric, Score},
    graph::GroupId,
    job::{self, Job, JobLock, LockedHashes},
    pipeline::{GroupFacts, TrialFacts},
    quant::{Preset, QConfigFile, QConfigMapping},
    search::{Finish, Key, Trial},
    sensitivity::GroupSensitivity,
    store::{Clock, JobEnd, Store},
};
use tempfile::TempDir;

/// Noon of a day.
struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> i64 {
        1_700_049_600_000
    }
}

struct Bench {
    folder: TempDir,
}

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn qtuned(&self, args: &[&str]) -> Done {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("QTUNED_DB")
            .env_remove("QTUNED_LOG")
            .env("COLUMNS", "200")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// A database with one job of four trials and one job that failed.
    fn with_jobs(self) -> Bench {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = Store::open(&self.path("qtuned.db"), Arc::new(Noon)).await.unwrap();
            let broken = store.begin_job(&lock("broken"), "me").await.unwrap().id;
            store.end_job(broken, "me", &JobEnd::Failed { error: "out of luck".into() }, 1).await.unwrap();
            let job = store.begin_job(&lock("small"), "me").await.unwrap().id;
            let key = Key([7; 32]);
            store.record_groups(&key, &groups()).await.unwrap();
            store.use_sensitivities(job, &key).await.unwrap();
            for (number, (trial, facts)) in trials().iter().enumerate() {
                store.record_trial(job, number, Metric::Top1, trial, facts).await.unwrap();
            }
            let end = JobEnd::Succeeded { finish: Finish::WithinBudget, chosen: 2, within_budget: true };
            store.end_job(job, "me", &end, 0).await.unwrap();
            store.close().await;
        });
        self
    }
}

fn lock(name: &str) -> JobLock {
    let text = format!(
        "{{name: {name}, model: {{onnx: m}}, data: {{images: {{csv: a}}, split: {{calibrate: 1}}}}, \
         budget: {{max_drop: 0.02}}}}"
    );
    let hash = "a".repeat(64);
    let sha256 = LockedHashes { model: hash.clone(), calibrate: hash.clone(), search: hash.clone(), certify: hash };
    JobLock::new(&Job { spec: job::parse(&text, &[]).unwrap(), folder: "/".into(), root: None }, sha256)
}

fn groups() -> Vec<GroupFacts> {
    let group = |position: usize, id: &str, weight: Option<f64>, output: Option<f64>| GroupFacts {
        id: id.into(),
        object_type: if weight.is_some() { "Conv" } else { "Add" }.into(),
        macs: 120_000 * position as u64,
        parameters: 90,
        sensitivity: output.map(|output| GroupSensitivity {
            group: GroupId(position),
            weight,
            local: 21.5,
            accumulated: 18.25,
            output,
            range: (0.0, 6.0),
        }),
    };
    vec![
        group(0, "features.0", Some(40.0), Some(25.0)),
        group(1, "features.1.conv", Some(12.0), Some(4.5)),
        group(2, "features.1.add", None, Some(f64::INFINITY)),
        group(3, "classifier", Some(40.0), None),
    ]
}

fn trials() -> Vec<(Trial, TrialFacts)> {
    let trial = |id: u8, fp32: &[usize], correct: usize, ns: Option<u64>| {
        let fingerprint =
            Fingerprint { cpu: "cpu".into(), kernel: "avx2".into(), threads: 1, batch: 1, quota_milli_cpus: None };
        let around = |ns: u64| vec![ns - 10_000, ns, ns + 10_000];
        let latency = ns.map(|ns| Latency { candidate_ns: around(ns), fp32_ns: around(2_000_000), fingerprint });
        let trial = Trial {
            key: Key([id; 32]),
            repairs: vec![],
            fp32_groups: fp32.iter().map(|g| GroupId(*g)).collect(),
            int8_groups: 3 - fp32.len(),
            evaluation: Evaluation {
                score: Score::Count { correct: correct as u64, total: 200 },
                correct: (0..200).map(|i| i < correct).collect(),
                seconds: 1.5,
            },
            latency,
            weight_bytes: 42_000 + 10_000 * fp32.len() as u64,
            activation_bytes: 4096,
        };
        let file = QConfigFile {
            job: "small".into(),
            model_sha256: "a".repeat(64),
            trial: 0,
            score: 0.9,
            mapping: QConfigMapping::preset(Preset::Onednn),
            groups: vec![],
        };
        let fp32_names = fp32.iter().map(|g| groups()[*g].id.clone()).collect();
        (trial, TrialFacts { fp32_names, drop: None, qconfig_json: "{\"preset\": \"onednn\"}".into(), file })
    };
    vec![
        trial(1, &[0, 1, 2], 184, Some(2_000_000)),
        trial(2, &[], 140, Some(800_000)),
        trial(3, &[1], 182, Some(1_000_000)),
        trial(4, &[0, 1], 182, None),
    ]
}

#[test]
fn tables_show_what_is_recorded() {
    let bench = Bench::new().with_jobs();
    for args in [
        &["jobs"][..],
        &["trials"],
        &["trials", "small"],
        &["groups"],
        &["groups", "--rank-by", "weight"],
        &["front", "2"],
    ] {
        let done = bench.qtuned(args);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
        insta::assert_snapshot!(args.join("_"), done.stdout);
    }
    let done = bench.qtuned(&["trials", "broken"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "job 1: broken (failed)\nno trials yet\n"));
}

#[test]
fn json_is_for_other_programs() {
    let bench = Bench::new().with_jobs();
    let json = |args: &[&str]| -> serde_json::Value {
        let done = bench.qtuned(args);
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap()
    };
    let front = json(&["front", "--json"]);
    let numbers: Vec<_> = front.as_array().unwrap().iter().map(|trial| trial["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 0]);
    assert_eq!(front[1]["speed_up"], 2.0);
    assert_eq!(front[1]["fp32_groups"], serde_json::json!(["features.1.conv"]));
    let groups = json(&["--json", "groups"]);
    assert_eq!((&groups[0]["id"], &groups[2]["output_db"]), (&"features.1.conv".into(), &"inf".into()));
    assert_eq!(json(&["jobs", "--json"])[0]["state"], "succeeded");
    let rows =
        json(&["query", "--json", "SELECT number, speed_up FROM front WHERE job_name = 'small' ORDER BY number"]);
    assert_eq!(
        rows,
        serde_json::json!([
            {"number": 0, "speed_up": 1.0}, {"number": 1, "speed_up": 2.5}, {"number": 2, "speed_up": 2.0}
        ])
    );
}

#[test]
fn queries_only_read() {
    let bench = Bench::new().with_jobs();
    let done = bench.qtuned(&["query", "SELECT group_id, output_db FROM sensitivity ORDER BY output_db"]);
    insta::assert_snapshot!("query", done.stdout);
    let before = fs::read(bench.path("qtuned.db")).unwrap();
    for (sql, message) in [
        (
            "DELETE FROM jobs",
            "queries only read: expected a statement that starts with SELECT, WITH, VALUES or EXPLAIN",
        ),
        ("SELECT 1; DELETE FROM jobs", "expected one statement, found more"),
        (
            "WITH a AS (SELECT 1) DELETE FROM jobs",
            "queries only read: expected a statement that starts with SELECT, WITH, VALUES or EXPLAIN",
        ),
        (
            "VACUUM INTO 'copy.db'",
            "queries only read: expected a statement that starts with SELECT, WITH, VALUES or EXPLAIN",
        ),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
    ] {
        let done = bench.qtuned(&["query", sql]);
        assert_eq!((done.code, done.stderr), (1, format!("error: {message}\n")), "{sql}");
    }
    assert_eq!(fs::read(bench.path("qtuned.db")).unwrap(), before);
    assert!(!bench.path("copy.db").exists());
}

#[test]
fn databases_that_cannot_be_used_are_told_apart() {
    let bench = Bench::new();
    let done = bench.qtuned(&["jobs"]);
    let missing = "error: qtuned.db: there is no database; `qtuned run` makes one, --db names another\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, missing));
    assert!(!bench.path("qtuned.db").exists());

    fs::write(bench.path("text.db"), "not a database at all, but long enough to be one. ".repeat(40)).unwrap();
    let done = bench.qtuned(&["jobs", "--db", "text.db"]);
    assert_eq!((done.code, done.stderr.as_str()), (1, "error: text.db: this file is not an SQLite database\n"));

    let bench = bench.with_jobs();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
        let options = SqliteConnectOptions::new().filename(bench.path("qtuned.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (29990101000000, 'x', 1, x'00', 0)";
        sqlx::query(newer).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
    let newer = "error: qtuned.db: this database was made by a newer qtuned (schema 29990101000000); \
                 use that version, or another --db\n";
    for args in [&["jobs"][..], &["query", "SELECT 1"]] {
        let done = bench.qtuned(args);
        assert_eq!((done.code, done.stderr.as_str()), (1, newer));
    }
    let done = bench.qtuned(&["trials", "nothing", "--db", "other.db"]);
    assert_eq!(done.code, 1);
}

#[test]
fn reports_are_files_that_stand_alone() {
    let bench = Bench::new().with_jobs();
    let write = |args: &[&str]| {
        let done = bench.qtuned(args);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{args:?}");
        done.stdout
    };
    assert_eq!(write(&["report"]), "report.html\n");
    assert_eq!(write(&["report", "small", "--format", "json", "-o", "data.json"]), "data.json\n");
    let html = fs::read_to_string(bench.path("report.html")).unwrap();
    let start = html.find("id=\"report\">").unwrap() + "id=\"report\">".len();
    let data = html[start..].split("</script>").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(bench.path("data.json")).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap(), json);
    assert_eq!((&json["job"]["name"], &json["trials"][2]["chosen"]), (&"small".into(), &true.into()));
    assert_eq!((&json["budget"]["least_score"], &json["trials"][1]["within_budget"]), (&0.9.into(), &false.into()));
    assert_eq!((&json["groups"][1]["chosen"], &json["groups"][2]["output_db"]), (&"fp32".into(), &"inf".into()));
    assert_eq!(json["trials"][0]["fingerprint"]["kernel"], "avx2");

    assert_eq!(write(&["report", "--format", "csv", "-o", "small.csv"]), "small.trials.csv\nsmall.groups.csv\n");
    let lines = |name: &str| fs::read_to_string(bench.path(name)).unwrap().lines().count();
    assert_eq!((lines("small.trials.csv"), lines("small.groups.csv")), (5, 5));
    let written: Vec<String> = serde_json::from_str(&write(&["report", "--format", "svg", "--json"])).unwrap();
    assert_eq!(written, ["report.trials.svg", "report.groups.svg"]);
    for name in written {
        assert!(fs::read_to_string(bench.path(&name)).unwrap().starts_with("<svg "), "{name}");
    }

    // A job that failed before its first trial.
    write(&["report", "broken", "-o", "broken.html"]);
    assert!(fs::read_to_string(bench.path("broken.html")).unwrap().contains("out of luck"));
    let done = bench.qtuned(&["report", "-o", "nowhere/report.html"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: failed to write nowhere/report.html: "), "{}", done.stderr);
}

#[test]
fn wrong_jobs_and_usage_exit_with_2() {
    let bench = Bench::new().with_jobs();
    fs::write(bench.path("job.yaml"), "name: a\nmodel: {onnx: m.onnx}\nbudget: {max_dorp: 0.1}\n").unwrap();
    for command in ["validate", "run"] {
        let done = bench.qtuned(&[command, "job.yaml"]);
        let message = "error: job.yaml:3:20: budget.max_dorp: unknown field `max_dorp`, expected one of `metric`, \
                       `max_drop`, `drop`, `min_db`, `confidence`; did you mean `max_drop`?\n";
        assert_eq!((done.code, done.stderr.as_str(), done.stdout.as_str()), (2, message, ""));
    }
    let done = bench.qtuned(&["validate", "nowhere.yaml"]);
    let message = "error: nowhere.yaml: failed to read the job: No such file or directory (os error 2)\n";
    assert_eq!((done.code, done.stderr.as_str()), (2, message));
    assert_eq!(bench.qtuned(&["trails"]).code, 2);
    assert_eq!(bench.qtuned(&["run"]).code, 2);
    let done = bench.qtuned(&["trials", "nobody"]);
    assert_eq!((done.code, done.stderr.as_str()), (1, "error: there is no job `nobody` in the database\n"));
    let done = bench.qtuned(&["inspect", "nowhere.onnx"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: failed to read `nowhere.onnx`"), "{}", done.stderr);
}

#[test]
fn help_has_examples_and_exit_codes() {
    let bench = Bench::new();
    let done = bench.qtuned(&["--help"]);
    assert_eq!(done.code, 0);
    for part in ["Examples:", "Exit codes:", "75  interrupted", "QTUNED_DB"] {
        assert!(done.stdout.contains(part), "{part}");
    }
    for command in [
        "run", "validate", "inspect", "bench", "predict", "serve", "submit", "jobs", "show", "watch", "cancel",
        "retry", "rm", "logs", "export", "trials", "groups", "front", "query", "replay", "report", "db", "merge",
        "analyze", "init", "schema", "verify",
    ] {
        let done = bench.qtuned(&[command, "--help"]);
        assert!(done.code == 0 && done.stdout.contains("Examples:"), "{command}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let bench = Bench::new().with_jobs();
    let binary = assert_cmd::cargo::cargo_bin!("qtuned");
    let mut child = std::process::Command::new(binary)
        .args(["query", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT * FROM n"])
        .current_dir(bench.folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn a_model_is_benchmarked_without_data() {
    let bench = Bench::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/fashion-mnist/model.onnx");
    let quick = ["--runs", "2", "--warmup", "0", "--json"];
    let done = bench.qtuned(&[&["bench", model, "--layers", "--threads", "2", "--batch", "3"], &quick[..]].concat());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["fp32"]["samples_ns"].as_array().unwrap().len(), 2);
    assert_eq!((&report["fingerprint"]["threads"], &report["fingerprint"]["batch"]), (&2.into(), &3.into()));
    assert!(report["int8"]["weight_bytes"].as_u64() < report["fp32"]["weight_bytes"].as_u64());
    let layers = report["layers"].as_array().unwrap();
    let sum = |field: &str| layers.iter().map(|layer| layer[field].as_f64().unwrap()).sum::<f64>();
    assert_eq!(sum("macs"), report["macs"].as_f64().unwrap());
    assert!(sum("fp32_ns") > 0.0 && sum("int8_ns") > 0.0);

    // With every group in fp32 both sides have the same weights.
    fs::write(bench.path("fp32.yaml"), "{'': null}\n").unwrap();
    let done = bench.qtuned(&[&["bench", model, "--qconfig", "fp32.yaml"], &quick[..]].concat());
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["int8"]["weight_bytes"], report["fp32"]["weight_bytes"]);

    fs::write(bench.path("wrong.yaml"), "{module_name: {nowhere: null}}\n").unwrap();
    let done = bench.qtuned(&["bench", model, "--qconfig", "wrong.yaml"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("error: wrong.yaml: module_name: `nowhere` matches no group"), "{}", done.stderr);
    let done = bench.qtuned(&["bench", model, "--threads", "0"]);
    assert_eq!(done.code, 2);
}

/// A `.npy` file of zeros but for its first element.
fn write_npy(path: &std::path::Path, shape: &str, first: f32, elements: usize) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    header += &" ".repeat(127 - (10 + header.len()) % 64);
    header += "\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(first.to_le_bytes());
    bytes.extend(vec![0u8; 4 * (elements - 1)]);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_model_predicts_on_an_array() {
    let bench = Bench::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/idioms.onnx");
    write_npy(&bench.path("x.npy"), "(2, 3, 15, 15)", 1.0, 2 * 3 * 15 * 15);
    let values = |arguments: &[&str]| -> Vec<f64> {
        let done = bench.qtuned(&[&["predict", model, "x.npy", "--json"], arguments].concat());
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        let found: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        let output = &found["outputs"][0];
        assert_eq!((&output["name"], &output["shape"]), (&"probabilities".into(), &serde_json::json!([2, 10])));
        output["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let fp32 = values(&[]);
    // Probabilities of two samples that differ.
    assert!((fp32[..10].iter().sum::<f64>() - 1.0).abs() < 1e-5 && fp32[..10] != fp32[10..]);
    let int8 = values(&["--preset", "onednn"]);
    assert!(int8 != fp32 && int8.iter().zip(&fp32).all(|(a, b)| (a - b).abs() < 0.1));
    fs::write(bench.path("fp32.yaml"), "{'': null}\n").unwrap();
    assert_eq!(values(&["--qconfig", "fp32.yaml"]), fp32);
    let shown = bench.qtuned(&["predict", model, "x.npy"]);
    assert!(shown.stdout.starts_with("probabilities, 2×10\n"), "{}", shown.stdout);

    write_npy(&bench.path("small.npy"), "(2, 3, 4)", 1.0, 24);
    let done = bench.qtuned(&["predict", model, "small.npy"]);
    let message = "error: small.npy: expected an array of batch×3×15×15, found 2×3×4\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, message));
    assert_eq!(bench.qtuned(&["predict", model, "x.npy", "--preset", "fast"]).code, 2);
}

#[test]
fn rewrites_are_shown() {
    let bench = Bench::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/idioms.onnx");
    let done = bench.qtuned(&["inspect", model, "--rewrites", "--json"]);
    let kinds: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let folded = serde_json::json!(["/stem/stem.1/BatchNormalization", "/fc1/Add"]);
    assert_eq!((done.code, &kinds["folded into the layer before it"]), (0, &folded));
    let done = bench.qtuned(&["inspect", model, "--rewrites"]);
    assert!(done.stdout.contains("moves no element"), "{}", done.stdout);
}
