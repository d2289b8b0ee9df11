//! Drives the HTTP API of the real binary, on a free port and a real database, and the commands that ask a server.

#![cfg(unix)]

mod bench;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bench::{Bench, JOB, LONG, SMALL, at_stage, in_state};
use serde_json::{Value, json};

/// What a server answered.
struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }
}

/// One request, written as it is sent.
fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in [("host", address), ("content-length", &body.len().to_string())] {
        if !headers.iter().any(|(given, _)| *given == name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = head.to_ascii_lowercase();
    let body = if headers.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Answer { status, headers, body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&more[..length]);
        rest = more[length..].trim_start_matches("\r\n");
    }
    body
}

fn get(address: &str, path: &str) -> Answer {
    ask(address, "GET", path, &[], "")
}

/// The shipped job, small, as an object.
fn job(more: Value) -> Value {
    let folder = Path::new(JOB).parent().unwrap().parent().unwrap().join("datasets/fashion-mnist");
    let idx =
        |images: &str, labels: &str| json!({"idx": {"images": folder.join(images), "labels": folder.join(labels)}});
    let mut job = json!({
        "name": "small",
        "model": {"onnx": folder.join("model.onnx")},
        "data": {
            "images": idx("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
            "preprocess": {"channels": "gray", "scale": 0.00392156862745098, "mean": [0.286], "std": [0.353]},
            "split": {"calibrate": 32, "search": 200},
        },
        "budget": {"max_drop": 0.01},
        "sensitivity": {"samples": 4},
        "search": {"max_trials": 3, "until": "exhausted"},
        "measure": {"latency": {"runs": 5, "warmup": 1}},
    });
    let more = more.as_object().unwrap().clone();
    job.as_object_mut().unwrap().extend(more);
    job
}

fn create(address: &str, job: &Value, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    ask(address, "POST", "/v1/jobs", &headers, &json!({"job": job}).to_string())
}

#[test]
fn every_route_answers_and_the_commands_say_the_same_of_a_server_as_of_its_database() {
    let bench = Bench::new();
    let (serve, address) = bench.serve_http(&["--threads", "2"]);
    let address = address.as_str();
    assert_eq!(get(address, "/healthz").body, "ok\n");
    assert_eq!(get(address, "/readyz").json()["paused"], Value::Null);
    assert_eq!(get(address, "/v1/jobs").json(), json!({"jobs": [], "next": null}));
    assert_eq!(get(address, "/v1/jobs/find").status, 404);

    let made = create(address, &job(json!({})), &[("idempotency-key", "one")]);
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(made.headers.contains("\r\nlocation: /v1/jobs/1\r\n"), "{}", made.headers);
    let events = get(address, "/v1/jobs/1/events");
    assert!(events.headers.contains("content-type: text/event-stream"), "{}", events.headers);
    for part in ["event: job\ndata: {\"id\":1,", "id: 1\nevent: event\n", "\"kind\":\"trial\"", "event: end\n"] {
        assert!(events.body.contains(part), "{part} in\n{}", events.body);
    }
    let later = ask(address, "GET", "/v1/jobs/1/events", &[("last-event-id", "4")], "").body;
    assert!(!later.contains("id: 4\n") && later.contains("id: 5\n"), "{later}");
    assert_eq!(get(address, "/v1/jobs/1/events?after=4").body, later);

    // The same request, and the same job without its name and in YAML.
    assert_eq!(create(address, &job(json!({})), &[("idempotency-key", "one")]).status, 200);
    let yaml = ask(address, "POST", "/v1/jobs", &[("content-type", "application/yaml")], &job(json!({})).to_string());
    assert_eq!((yaml.status, &yaml.json()["id"]), (200, &json!(1)));
    let reused = create(address, &job(json!({"name": "other"})), &[("idempotency-key", "one")]);
    assert_eq!((reused.status, reused.json()["status"].as_u64()), (422, Some(422)));

    let shown = get(address, "/v1/jobs/1").json();
    assert_eq!((&shown["state"], &shown["trials"]), (&json!("succeeded"), &json!(3)), "{shown}");
    assert_eq!(shown, get(address, "/v1/jobs/find?job=small").json());
    assert_eq!(get(address, "/v1/jobs?state=succeeded&name=small&limit=1").json()["next"], 1);
    assert_eq!(get(address, "/v1/jobs?before=1").json()["jobs"], json!([]));
    assert_eq!(get(address, "/v1/jobs/1/trials").json().as_array().unwrap().len(), 3);
    let front = get(address, "/v1/jobs/1/front").json();
    assert!(front.as_array().unwrap().iter().all(|trial| trial["on_front"] == true));
    assert!(get(address, "/v1/jobs/1/groups").json()[0]["output_db"].is_number());
    let qconfig = get(address, "/v1/jobs/1/trials/1/qconfig");
    assert!(qconfig.headers.contains("filename=\"job-1-trial-001.qconfig.yaml\""), "{}", qconfig.headers);
    assert!(qconfig.body.contains("trial: 1\n"));
    assert!(get(address, "/v1/jobs/1/logs").body.contains("recorded"));
    let report = get(address, "/v1/jobs/1/report").json();
    assert_eq!((&report["job"]["id"], &report["model"]), (&json!(1), &json!("model.onnx")));
    assert_eq!(report["trials"].as_array().unwrap().len(), 3);
    for (file, kind, part) in [
        ("report.html", "text/html", "<title>small · qtuned</title>"),
        ("report.json", "application/json", "\"least_score\""),
        ("trials.csv", "text/csv", "number,"),
        ("groups.csv", "text/csv", "position,id,"),
        ("trials.svg", "image/svg+xml", "<svg "),
        ("groups.svg", "image/svg+xml", "<svg "),
    ] {
        let found = get(address, &format!("/v1/jobs/1/files/{file}"));
        assert!(found.headers.contains(&format!("content-type: {kind}")), "{}", found.headers);
        assert!(found.headers.contains(&format!("attachment; filename=\"job-1-{file}\"")), "{}", found.headers);
        assert!(found.body.contains(part), "{part} in {}", found.body);
    }
    assert_eq!(get(address, "/v1/jobs/1/files/other.html").status, 404);
    let page = get(address, "/");
    assert!(page.status == 200 && page.headers.contains("content-type: text/html"), "{}", page.headers);
    for file in page.body.split('"').filter(|part| part.starts_with('/')) {
        assert_eq!(get(address, file).status, 200, "{file}");
    }
    let metrics = get(address, "/metrics").body;
    assert!(
        metrics.contains("qtuned_jobs{state=\"succeeded\"} 1\n") && metrics.contains("qtuned_trials 3\n"),
        "{metrics}"
    );
    let query = |sql: &str| {
        let body = json!({"sql": sql}).to_string();
        ask(address, "POST", "/v1/query", &[("content-type", "application/json")], &body)
    };
    let rows = query("SELECT id, 9e999 AS inf, x'0a' AS b FROM jobs").json();
    assert_eq!(rows, json!({"columns": ["id", "inf", "b"], "rows": [[1, "inf", {"hex": "0a"}]], "truncated": false}));
    assert_eq!(query("DELETE FROM jobs").status, 422);
    assert_eq!(query("SELECT zeroblob(1 << 30)").status, 422);

    // The same words of a server and of a database.
    let server = format!("http://{address}/");
    for args in [
        &["jobs"][..],
        &["show", "small"],
        &["trials"],
        &["front", "1"],
        &["groups", "--rank-by", "local"],
        &["export", "--trial", "2"],
        &["logs"],
        &["report", "1", "-o", "report.html"],
        &["watch", "1"],
        &["query", "SELECT number, score, x'00' AS b, 9e999 AS i FROM trial_summary"],
        &["show", "nobody"],
        &["cancel", "1"],
        &["export", "--trial", "77"],
        &["query", "SELECT * FROM nowhere"],
    ] {
        for json in [&[][..], &["--json"]] {
            let args = [args, json].concat();
            let here = bench.qtuned(&args);
            let there = bench.qtuned(&[&args[..], &["--server", &server]].concat());
            assert_eq!((here.code, here.stdout, here.stderr), (there.code, there.stdout, there.stderr), "{args:?}");
        }
    }
    let sets: Vec<&str> = SMALL.iter().flat_map(|set| ["--set", set]).collect();
    let submit = [&["submit", JOB, "--watch", "--server", &server], &sets[..]].concat();
    let done = bench.qtuned(&submit);
    // The server's worker may have taken it up before the answer is written.
    let accepted = ["queued", "running"].map(|state| format!("job 2: fashion-mnist ({state})\n"));
    assert!(
        [0, 3].contains(&done.code) && accepted.iter().any(|line| done.stdout.contains(line)),
        "{}{}",
        done.stdout,
        done.stderr
    );
    assert!(bench.qtuned(&submit).stdout.contains("job 2: fashion-mnist (succeeded), the same as before\n"));
    assert_eq!(bench.told(&["rm", "2", "--server", &server]), "job 2: fashion-mnist is removed\n");
    assert_eq!(ask(address, "DELETE", "/v1/jobs/2", &[], "").status, 404);
    assert_eq!(ask(address, "DELETE", "/v1/jobs/1", &[], "").status, 204);
    serve.signal("-TERM");
    assert_eq!(serve.ended(), Some(0));
    let refused = bench.qtuned(&["jobs", "--server", &server]);
    assert!(refused.code == 1 && refused.stderr.contains("failed to ask the server"), "{}", refused.stderr);
}

#[test]
fn what_is_wrong_is_a_problem_that_names_the_field() {
    let bench = Bench::new();
    let (_serve, address) = bench.serve_http(&["--threads", "1"]);
    let address = address.as_str();
    let yaml = |text: &str| ask(address, "POST", "/v1/jobs", &[("content-type", "application/yaml")], text);
    let wrong = yaml("name: a\nmodel: {onnx: m.onnx}\nbudget: {max_dorp: 0.1}\n");
    let problem = wrong.json();
    assert!(wrong.headers.contains("content-type: application/problem+json"), "{}", wrong.headers);
    assert_eq!(
        (&problem["status"], &problem["field"], &problem["line"]),
        (&json!(422), &json!("budget.max_dorp"), &json!(3))
    );
    let field = |answer: Answer| (answer.status, answer.json()["field"].as_str().unwrap_or_default().to_owned());
    assert_eq!(
        field(create(address, &job(json!({"model": {"onnx": "nowhere.onnx"}})), &[])),
        (422, "model.onnx".into())
    );
    assert_eq!(field(create(address, &job(json!({"budget": {"max_drop": 7}})), &[])), (422, "budget.max_drop".into()));
    let cropped = json!({"data": {"preprocess": {"channels": "rgb"}, "images": job(json!({}))["data"]["images"],
        "split": {"calibrate": 1}}});
    assert_eq!(field(create(address, &job(cropped), &[])), (422, "data.preprocess".into()));
    assert_eq!(field(create(address, &job(json!({})), &[("idempotency-key", "")])), (422, "Idempotency-Key".into()));
    assert_eq!(field(get(address, "/v1/jobs?limit=0")), (422, "limit".into()));
    let body = |kind: &str, body: &str| ask(address, "POST", "/v1/jobs", &[("content-type", kind)], body).status;
    assert_eq!(
        (body("application/json", "{"), body("application/json", "{}"), body("text/plain", "a")),
        (400, 422, 415)
    );
    assert_eq!((body("application/yaml", "a: [1"), body("application/yaml", &"x".repeat(3 << 20))), (422, 422));
    assert_eq!(body("application/yaml", &"x".repeat((16 << 20) + 1)), 413);
    assert_eq!(body("application/json", &json!({"job": {}, "priority": 5000}).to_string()), 422);
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/v1/jobs/99/report", 404),
        ("GET", "/v1/jobs/99/files/report.html", 404),
        ("POST", "/", 405),
        ("GET", "/v1/jobs/x", 400),
        ("GET", "/v1/jobs/99", 404),
        ("GET", "/v1/jobs/99/trials", 404),
        ("GET", "/v1/jobs/99/groups", 404),
        ("GET", "/v1/jobs/99/front", 404),
        ("GET", "/v1/jobs/99/logs", 404),
        ("GET", "/v1/jobs/99/events", 404),
        ("GET", "/v1/jobs/99/trials/0/qconfig", 404),
        ("POST", "/v1/jobs/99/cancel", 404),
        ("POST", "/v1/jobs/99/retry", 404),
        ("GET", "/v1/jobs?state=lost", 400),
        ("PUT", "/v1/jobs", 405),
        ("PUT", "/v1/blobs/abc", 422),
        ("GET", "/v1/blobs/abc", 422),
    ] {
        let answer = ask(address, method, path, &[], "");
        assert_eq!((answer.status, answer.json()["status"].as_u64()), (status, Some(status.into())), "{method} {path}");
        for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff"] {
            assert!(answer.headers.contains(header), "{header} in {}", answer.headers);
        }
        assert!(!answer.headers.contains("access-control-allow"), "{}", answer.headers);
    }
    for headers in [[("host", "evil.example")], [("origin", "http://evil.example")]] {
        assert_eq!(ask(address, "GET", "/v1/jobs", &headers, "").status, 403);
    }
    let description = get(address, "/openapi.json").json();
    let paths = description["paths"].as_object().unwrap();
    assert_eq!((paths.len(), &description["info"]["title"]), (18, &json!("qtuned")));
    assert!(
        paths.values().all(|path| path.as_object().unwrap().values().all(|operation| operation["summary"].is_string()))
    );
}

#[test]
fn a_server_that_others_reach_wants_tokens() {
    let bench = Bench::new();
    let refused = bench.qtuned(&["serve", "--listen", "0.0.0.0:0"]);
    assert!(refused.code == 1 && refused.stderr.contains("expected --token-file"), "{}", refused.stderr);
    fs::write(bench.path().join("tokens"), "read a-token-that-reads\nwrite a-token-that-writes\n").unwrap();
    let (_serve, address) = bench.serve_http(&["--listen", "0.0.0.0:0", "--token-file", "tokens"]);
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let with = |method: &str, path: &str, token: &str| {
        ask(&address, method, path, &[("authorization", &format!("Bearer {token}"))], "").status
    };
    let unknown = get(&address, "/v1/jobs");
    assert!(unknown.status == 401 && unknown.headers.contains("www-authenticate: bearer"), "{}", unknown.headers);
    assert_eq!((with("GET", "/v1/jobs", "a-token-that-reads"), with("GET", "/v1/jobs", "a-token-that")), (200, 401));
    assert_eq!(with("POST", "/v1/jobs/1/cancel", "a-token-that-reads"), 403);
    assert_eq!(with("POST", "/v1/jobs/1/cancel", "a-token-that-writes"), 404);
    assert_eq!(get(&address, "/healthz").status, 200);
    // Without a data root its jobs read nothing.
    let made = create(&address, &job(json!({})), &[("authorization", "Bearer a-token-that-writes")]);
    assert_eq!((made.status, &made.json()["field"]), (422, &json!("model.onnx")));
    let server = format!("http://{address}");
    let output =
        bench.command(&["jobs", "--server", &server]).env("QTUNED_TOKEN", "a-token-that-reads").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "no jobs yet\n");
    let denied = bench.qtuned(&["jobs", "--server", &server]);
    assert_eq!((denied.code, denied.stderr.as_str()), (1, "error: expected a token: Authorization: Bearer TOKEN\n"));
    // No secret is in a log.
    let log = fs::read_to_string(bench.path().join("serve.log")).unwrap();
    assert!(!log.contains("a-token-that"), "{log}");
}

#[test]
fn two_workers_share_a_machine_and_a_job_is_cancelled_over_http() {
    let bench = Bench::new();
    let (_serve, address) = bench.serve_http(&["--workers", "2", "--threads", "2"]);
    let server = format!("http://{address}");
    for name in ["name=one", "name=two"] {
        assert_eq!(bench.submit(&[&SMALL[..], &LONG, &[name]].concat(), &["--server", &server]).code, 0);
    }
    // Both run, and take their latencies in turn.
    bench.wait("1", in_state("running"));
    bench.wait("2", in_state("running"));
    bench.wait("1", at_stage("latency"));
    for id in ["1", "2"] {
        let asked = Instant::now();
        assert!(bench.told(&["cancel", id, "--server", &server]).ends_with("(cancelled)\n"));
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
    let since = Instant::now();
    while get(&address, "/readyz").json()["busy"] != 0 {
        assert!(since.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_job_comes_with_its_files_and_reads_no_others() {
    let bench = Bench::new();
    fs::write(bench.path().join("tokens"), "write a-token-that-writes\n").unwrap();
    let args = ["--listen", "0.0.0.0:0", "--token-file", "tokens", "--threads", "2", "--max-upload", "8"];
    let (_serve, address) = bench.serve_http(&args);
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let token = ("authorization", "Bearer a-token-that-writes");

    // Pictures in folders of their own, and a list that names them from elsewhere.
    let elsewhere = tempfile::TempDir::new().unwrap();
    let folder = elsewhere.path();
    fs::create_dir_all(folder.join("lists")).unwrap();
    fs::create_dir_all(folder.join("pictures")).unwrap();
    let mut list = "file,label\n".to_owned();
    for i in 0..40u8 {
        let name = format!("pictures/{i}.png");
        image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y) as u8 ^ i])).save(folder.join(&name)).unwrap();
        list.push_str(&format!("../{name},{}\n", i % 10));
    }
    fs::write(folder.join("lists/all.csv"), list).unwrap();
    let shipped = Path::new(JOB).parent().unwrap().join("../datasets/fashion-mnist/model.onnx");
    fs::copy(shipped, folder.join("model.onnx")).unwrap();
    let yaml = "name: sent\nmodel: {onnx: model.onnx}\ndata:\n  images: {csv: lists/all.csv}\n  \
                preprocess: {channels: gray, scale: 0.0039, mean: [0.286], std: [0.353]}\n  \
                split: {calibrate: 8, search: 20}\nbudget: {max_drop: 0.5}\nsensitivity: {samples: 2}\n\
                measure: {latency: {runs: 3, warmup: 1}}\n";
    let file = folder.join("job.yaml");
    fs::write(&file, yaml).unwrap();
    let server = format!("http://{address}");
    let submit = |more: &[&str]| {
        let file = file.display().to_string();
        let mut command = bench.command(&["submit", &file, "--server", &server]);
        let output = command.args(more).env("QTUNED_TOKEN", "a-token-that-writes").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, _, stderr) = submit(&[]);
    assert!(code == 1 && stderr.contains("expected a file below the server's data root"), "{stderr}");
    let (code, stdout, stderr) = submit(&["--upload"]);
    assert!(code == 0 && stdout.starts_with("job 1: sent ("), "{stdout}{stderr}");
    // Nothing is needed of the place that they came from.
    let gone = folder.join("gone");
    fs::rename(folder.join("pictures"), &gone).unwrap();
    bench.wait("1", in_state("succeeded"));
    fs::rename(&gone, folder.join("pictures")).unwrap();
    assert!(submit(&["--upload"]).1.ends_with("the same as before\n"));
    let kept = || fs::read_dir(bench.path().join("qtuned.uploads/blobs")).unwrap().count();
    assert_eq!(kept(), 28 + 2);

    let put = |sha256: &str, body: &str| ask(&address, "PUT", &format!("/v1/blobs/{sha256}"), &[token], body);
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(get(&address, &format!("/v1/blobs/{hello}")).status, 401);
    assert_eq!(put(hello, "hallo").status, 422);
    assert_eq!((put(hello, "hello").status, put(hello, "hello").status), (201, 200));
    let found = ask(&address, "GET", &format!("/v1/blobs/{hello}"), &[token], "").json();
    assert_eq!(found, json!({"sha256": hello, "bytes": 5}));
    // What is too large is refused before it is sent.
    let path = format!("/v1/blobs/{}", hello.replace('2', "3"));
    assert_eq!(ask(&address, "PUT", &path, &[token, ("content-length", "8388609")], "").status, 413);
    // What was not sent with a job is not there for it.
    let with = |files: Value, model: &str| {
        let spec = job(json!({"model": {"onnx": model}}));
        let body = json!({"job": spec, "files": files}).to_string();
        let made = ask(&address, "POST", "/v1/jobs", &[token, ("content-type", "application/json")], &body);
        (made.status, made.json()["field"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(with(json!({"m.onnx": hello}), "/etc/passwd"), (422, "model.onnx".into()));
    assert_eq!(with(json!({"m.onnx": hello}), "../../blobs"), (422, "model.onnx".into()));
    assert_eq!(with(json!({"../m.onnx": hello}), "m.onnx"), (422, "files".into()));
    assert_eq!(with(json!({"m.onnx": "0".repeat(64)}), "m.onnx"), (422, "files".into()));
}
