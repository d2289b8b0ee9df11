//! Keeps databases with the real binary: checked, copied, made small, united, freed of old jobs; and a disk that fills up
//! in the middle of a job.

#![cfg(unix)]

mod bench;

use std::{
    fs,
    io::Write,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bench::{Bench, JOB, LONG, SMALL, in_state};
use serde_json::{Value, json};

/// Runs the small job in the database of this name.
fn run(bench: &Bench, db: &str, sets: &[&str]) {
    let mut args = vec!["run", JOB, "--db", db, "--threads", "2"];
    SMALL.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
    let done = bench.qtuned(&args);
    assert!([0, 3].contains(&done.code), "{}", done.stderr);
}

#[test]
fn databases_of_several_tasks_become_one() {
    let bench = Bench::new();
    run(&bench, "a.db", &["name=one"]);
    // The same search under another name, and one that goes further.
    run(&bench, "b.db", &["name=two", "search.until=exhausted"]);
    let told = bench.told(&["merge", "a.db", "b.db", "-o", "all.db"]);
    assert!(told.starts_with("a.db: 1 job and ") && told.contains("b.db: 1 job and "), "{told}");
    let count = |db: &str| {
        let sql = "SELECT (SELECT count(*) FROM trials) AS trials, (SELECT count(*) FROM jobs) AS jobs,
                   (SELECT count(*) FROM latency_samples) AS samples, (SELECT count(*) FROM events) AS events";
        bench.json(&["query", sql, "--db", db])[0].clone()
    };
    let all = count("all.db");
    assert_eq!(
        (&all["jobs"], all["samples"].as_i64()),
        (&json!(2), {
            let of = |db| count(db)["samples"].as_i64().unwrap();
            Some(of("a.db") + of("b.db"))
        })
    );
    let again = bench.json(&["merge", "a.db", "b.db", "-o", "all.db"]);
    let nothing = json!({"jobs": 0, "continued": 0, "trials": 0});
    assert!(again.as_array().unwrap().iter().all(|row| row["merged"] == nothing), "{again}");
    assert_eq!(count("all.db"), all);
    for name in ["one", "two"] {
        let db = if name == "one" { "a.db" } else { "b.db" };
        assert_eq!(bench.json(&["trials", name, "--db", "all.db"]), bench.json(&["trials", name, "--db", db]));
        assert_eq!(bench.json(&["groups", name, "--db", "all.db"]), bench.json(&["groups", name, "--db", db]));
    }
    for (args, problem) in [
        (["merge", "no.db", "-o", "all.db"], "no.db: there is no database"),
        (["merge", "all.db", "-o", "all.db"], "expected databases other than the output"),
    ] {
        let done = bench.qtuned(&args);
        assert!(done.code == 1 && done.stderr.contains(problem), "{}", done.stderr);
    }
    fs::write(bench.path().join("text.db"), "a text that is long enough to be looked at").unwrap();
    let done = bench.qtuned(&["merge", "text.db", "-o", "all.db"]);
    assert!(done.code == 1 && done.stderr.contains("not an SQLite database"), "{}", done.stderr);
    assert_eq!(count("all.db"), all);
}

#[test]
fn a_database_is_checked_copied_and_made_small() {
    let bench = Bench::new();
    run(&bench, "qtuned.db", &[]);
    assert_eq!(bench.told(&["db", "check"]), "qtuned.db: nothing is wrong\n");
    bench.told(&["db", "backup", "copy.db"]);
    assert_eq!(bench.json(&["trials", "--db", "copy.db"]), bench.json(&["trials"]));
    let twice = bench.qtuned(&["db", "backup", "copy.db"]);
    assert!(twice.code == 1 && twice.stderr.contains("copy.db: failed to write the copy"), "{}", twice.stderr);
    bench.told(&["rm", "1"]);
    let vacuum = bench.json(&["db", "vacuum"]);
    assert!(vacuum["bytes"].as_u64() < vacuum["bytes_before"].as_u64(), "{vacuum}");
    let copy = bench.path().join("copy.db");
    let mut bytes = fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xff);
    fs::write(&copy, bytes).unwrap();
    let damaged = bench.qtuned(&["db", "check", "--db", "copy.db"]);
    assert!(damaged.code == 1 && damaged.stderr.starts_with("error: "), "{}", damaged.stderr);
    assert_eq!(bench.qtuned(&["db", "check", "--db", "no.db"]).code, 1);
    assert_eq!(bench.qtuned(&["db", "check", "--server", "http://127.0.0.1:1"]).code, 1);
}

#[test]
fn a_daemon_forgets_jobs_that_ended_long_ago() {
    let bench = Bench::new();
    run(&bench, "qtuned.db", &["name=old"]);
    run(&bench, "qtuned.db", &["name=new"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite://{}", bench.path().join("qtuned.db").display());
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query("UPDATE jobs SET finished_ms = finished_ms - 3 * 24 * 3600 * 1000 WHERE name = 'old'")
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
    });
    let _serve = bench.serve(&["--keep-days", "2"]);
    let since = Instant::now();
    while bench.json(&["jobs"]).as_array().unwrap().len() == 2 {
        assert!(since.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bench.json(&["jobs"])[0]["name"], "new");
    assert!(bench.path().join("qtuned-out/old").is_dir(), "its results stay");
}

/// A file system of its own, of some kilobytes.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None` where nothing can be mounted: only root can.
    fn mount(folder: &'a Path, size: &str) -> Option<Disk<'a>> {
        fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("NOT TESTED: nothing can be mounted here, so no disk was filled");
        }
        mounted.then_some(Disk(folder))
    }

    /// Takes all the room.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        // Until there is no more room. What was taken is never given back meanwhile: a daemon would go on in it.
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Lazily: a daemon may still be ending.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_pauses_the_queue_and_loses_nothing() {
    let bench = Bench::new();
    let folder = bench.path().join("disk");
    let Some(disk) = Disk::mount(&folder, "8m") else { return };
    let db = folder.join("qtuned.db").display().to_string();
    let sets = [&SMALL[..], &LONG].concat();
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    bench.told(&[&["submit", JOB, "--db", &db][..], &args].concat());
    let (_serve, address) = bench.serve_http(&["--threads", "2", "--db", &db]);
    let show = || bench.json(&["show", "1", "--server", &format!("http://{address}")]);
    let wait = |what: &str, until: &dyn Fn(&Value) -> bool| {
        let since = Instant::now();
        loop {
            let job = show();
            if until(&job) {
                return job;
            }
            assert!(since.elapsed() < Duration::from_secs(90), "{what}: {job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait("a trial", &|job| job["trials"].as_u64() >= Some(1));
    disk.fill();
    let paused = || {
        let ready = bench.command(&["jobs"]).env("QTUNED_SERVER", format!("http://{address}")).output().unwrap();
        assert!(ready.status.success());
        probe(&address)
    };
    let since = Instant::now();
    while !paused().contains("the queue pauses") {
        assert!(since.elapsed() < Duration::from_secs(60), "{}", paused());
        std::thread::sleep(Duration::from_millis(100));
    }
    let kept = show();
    assert!(["running", "interrupted"].contains(&kept["state"].as_str().unwrap()), "{kept}");
    let before = bench.json(&["trials", "1", "--server", &format!("http://{address}")]);
    fs::remove_file(folder.join("filler")).unwrap();
    let ended = wait("the end", &in_state("succeeded"));
    assert_eq!(ended["trials"], 4);
    let after = bench.json(&["trials", "1", "--server", &format!("http://{address}")]);
    for (number, trial) in before.as_array().unwrap().iter().enumerate() {
        assert_eq!((&trial["key"], &trial["median_ns"]), (&after[number]["key"], &after[number]["median_ns"]));
    }
    assert!(probe(&address).starts_with("HTTP/1.1 200"));
    assert_eq!(bench.told(&["db", "check", "--db", &db]), format!("{db}: nothing is wrong\n"));
}

/// What `/readyz` answers.
fn probe(address: &str) -> String {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
