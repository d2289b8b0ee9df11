//! A folder with a database, the real binary, and a daemon.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/fashion-mnist.yaml");

/// A search of some seconds.
pub(crate) const SMALL: [&str; 5] = [
    "data.split.search=300",
    "data.split.calibrate=32",
    "sensitivity.samples=8",
    "search.max_trials=4",
    "measure.latency={runs: 5, warmup: 1}",
];

/// One that takes latencies long enough to be stopped in.
pub(crate) const LONG: [&str; 2] = ["measure.latency={runs: 6000, warmup: 1}", "search.until=exhausted"];

pub(crate) struct Bench {
    folder: TempDir,
}

pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A daemon that is killed when it is dropped.
pub(crate) struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serve {
    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }

    /// The exit code, at most ten seconds later.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(since.elapsed() < Duration::from_secs(10), "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("qtuned"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null()).env("COLUMNS", "200");
        for name in ["QTUNED_DB", "QTUNED_LOG", "QTUNED_SERVER", "QTUNED_TOKEN"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn qtuned(&self, args: &[&str]) -> Done {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What a command that succeeds prints.
    pub(crate) fn told(&self, args: &[&str]) -> String {
        let done = self.qtuned(args);
        assert_eq!(done.code, 0, "{args:?}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.told(&[args, &["--json"]].concat())).unwrap()
    }

    pub(crate) fn submit(&self, sets: &[&str], more: &[&str]) -> Done {
        let mut args = vec!["submit", JOB];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        args.extend(more);
        self.qtuned(&args)
    }

    pub(crate) fn serve(&self, args: &[&str]) -> Serve {
        let log = fs::File::options().create(true).append(true).open(self.path().join("serve.log")).unwrap();
        let listen = if args.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        Serve(self.command(&[&["serve"], listen, args].concat()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// A daemon, and the address that it says it listens at.
    pub(crate) fn serve_http(&self, args: &[&str]) -> (Serve, String) {
        let log = self.path().join("serve.log");
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let serve = self.serve(args);
        let since = Instant::now();
        loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some((_, rest)) = text[before..].split_once("serving on http://") {
                return (serve, rest.split('"').next().unwrap().to_owned());
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn state(&self, job: &str) -> String {
        self.json(&["show", job])["state"].as_str().unwrap().to_owned()
    }

    /// Waits for something of a job.
    pub(crate) fn wait(&self, job: &str, until: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let shown = self.json(&["show", job]);
            if until(&shown) {
                return shown;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{shown}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn in_state(state: &str) -> impl Fn(&Value) -> bool {
    move |job| job["state"] == state
}

pub(crate) fn at_stage(stage: &str) -> impl Fn(&Value) -> bool {
    move |job| job["progress"]["stage"] == stage
}

/// Writes an array of f32 as numpy does.
pub(crate) fn write_npy(path: &Path, dims: &[usize], values: &[f32]) {
    let shape: String = dims.iter().map(|dim| format!("{dim}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    header += &" ".repeat(127 - (10 + header.len()) % 64);
    header += "\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}
