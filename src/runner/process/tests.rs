use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::*;
use crate::evaluate::latency_ns;

fn sh(script: &str) -> Program {
    let arguments = ["sh", "-c", script, "sh", "{model}", "{data}"];
    let call = Call::Command(arguments.iter().map(|a| (*a).to_owned()).collect());
    Program { call, timeout: Duration::from_secs(20), retries: 0, folder: None }
}

fn files(model: &Path) -> Files<'_> {
    Files { model, data: None }
}

fn run(program: &Program, model: &Path) -> Result<String, ProgramError> {
    Processes::default().run(program, Measures::Metric, files(model), &Cancel::default())
}

/// Whether the process ends at once that wrote its number to this file. A zombie has ended.
fn ends(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap();
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    let since = Instant::now();
    while lives() && since.elapsed() < Duration::from_secs(5) {
        thread::sleep(LOOK);
    }
    !lives()
}

#[test]
fn arguments_are_filled_in_and_no_shell_reads_them() {
    let files = Files { model: Path::new("/m/a b.onnx"), data: Some(Path::new("/d/{model}")) };
    assert_eq!(fill("{model}", files), "/m/a b.onnx");
    assert_eq!(fill("--model={model}:{data}{x} $HOME", files), "--model=/m/a b.onnx:/d/{model}{x} $HOME");
    let said = run(&sh("printf '%s|' \"$1\" \"$2\""), Path::new("/m/$(id) 'b'.onnx")).unwrap();
    assert_eq!(said, "/m/$(id) 'b'.onnx||");
}

#[test]
fn what_goes_wrong_is_told_with_its_last_lines() {
    let model = Path::new("m.onnx");
    let said = |script: &str| run(&sh(script), model).unwrap_err().to_string();
    assert_eq!(said("echo 1; exit 3"), "`sh` failed (exit status: 3)");
    let lines = "i=0; while [ $i -lt 20 ]; do echo \"line $i\" >&2; i=$((i+1)); done; exit 1";
    assert_eq!(said(lines), "`sh` failed (exit status: 1): line 15 | line 16 | line 17 | line 18 | line 19");
    assert_eq!(said("kill -9 $$"), "`sh` failed (signal: 9 (SIGKILL))");
    assert!(said("printf '\\377'").contains("not UTF-8"));
    let missing = Program { call: Call::Command(vec!["./no-such-program".into(), "{model}".into()]), ..sh("") };
    assert_eq!(run(&missing, model).unwrap_err().to_string(), "`no-such-program` could not be run");
}

#[test]
fn one_that_takes_too_long_is_ended_with_all_that_it_started() {
    let folder = tempfile::TempDir::new().unwrap();
    let pid = folder.path().join("pid");
    let slow = Program {
        timeout: Duration::from_millis(400),
        ..sh("sleep 60 & echo $! > \"$1\"; echo waiting >&2; sleep 60")
    };
    let start = Instant::now();
    assert_eq!(run(&slow, &pid).unwrap_err().to_string(), "`sh` did not end within 0.4 s: waiting");
    assert!(start.elapsed() < Duration::from_secs(10) && ends(&pid));
}

#[test]
fn one_that_is_asked_to_stop_is_ended_with_all_that_it_started() {
    let folder = tempfile::TempDir::new().unwrap();
    let pid = folder.path().join("pid");
    let cancel = Cancel::default();
    let asked = cancel.clone();
    let waiting = pid.clone();
    let asker = thread::spawn(move || {
        while !fs::read_to_string(&waiting).is_ok_and(|pid| pid.ends_with('\n')) {
            thread::sleep(Duration::from_millis(5));
        }
        asked.cancel();
    });
    let slow = sh("sleep 60 & echo $! > \"$1\"; sleep 60");
    let stopped = Processes::default().run(&slow, Measures::Metric, files(&pid), &cancel);
    asker.join().unwrap();
    assert!(matches!(stopped, Err(ProgramError::Cancelled(_))) && ends(&pid));
}

#[test]
fn what_it_leaves_behind_is_ended_and_not_waited_for() {
    let folder = tempfile::TempDir::new().unwrap();
    let pid = folder.path().join("pid");
    let start = Instant::now();
    let said = run(&sh("sleep 60 & echo $! > \"$1\"; echo 1.5"), &pid).unwrap();
    assert!(latency_ns(&said) == Ok(vec![1_500_000]) && start.elapsed() < Duration::from_secs(10) && ends(&pid));
}

#[test]
fn one_that_fails_is_run_again_as_often_as_it_may() {
    let folder = tempfile::TempDir::new().unwrap();
    let count = folder.path().join("count");
    let flaky = "echo x >> \"$1\"; [ $(wc -l < \"$1\") -ge 3 ] && echo 2";
    let measure = |retries| {
        let _ = fs::remove_file(&count);
        let program = Program { retries, ..sh(flaky) };
        program.measure(&Processes::default(), Measures::Latency, files(&count), &Cancel::default(), latency_ns)
    };
    assert_eq!(measure(2).unwrap(), [2_000_000]);
    assert!(matches!(measure(1), Err(ProgramError::Failed { .. })));
    let garbage = sh("echo all is well").measure(
        &Processes::default(),
        Measures::Latency,
        files(&count),
        &Cancel::default(),
        latency_ns,
    );
    assert_eq!(
        garbage.unwrap_err().to_string(),
        "`sh` did not say what it measured: expected a number of ms, or {\"latency_ms\": a number or a list of numbers}, \
         found `all is well`"
    );
}

#[test]
fn registered_programs_are_called_by_name() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("phone");
    fs::write(&path, "#!/bin/sh\necho \"$# $1 $(basename $2) $(basename $3)\"\n").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let processes = Processes::with_targets(BTreeMap::from([("phone".to_owned(), path)]));
    let call = |name: &str| Program { call: Call::Target(name.to_owned()), ..sh("") };
    let files = Files { model: Path::new("/x/m.onnx"), data: Some(Path::new("/x/search")) };
    let cancel = Cancel::default();
    assert_eq!(processes.run(&call("phone"), Measures::Metric, files, &cancel).unwrap(), "3 metric m.onnx search\n");
    let error = processes.run(&call("watch"), Measures::Latency, files, &cancel).unwrap_err();
    assert_eq!(error.to_string(), "no program is registered as `watch`; registered are: phone");
}
