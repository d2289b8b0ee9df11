//! Programs of the user's, as processes.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::{
    cancel::{Cancel, Cancelled},
    evaluate::{Call, Files, GATE_IS_HELD, Measures, Program, ProgramError, Programs},
};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long what it wrote may still be on its way when it has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// Most of what it may write to its standard output, in bytes.
const MAX_OUTPUT: usize = 64 << 20;
/// Lines of its standard error that are told.
const TOLD_LINES: usize = 5;
/// Bytes of its standard error that are kept.
const KEPT: usize = 16 << 10;

/// Runs programs as processes, each in a process group of its own, which is killed whole when it takes too long, when the
/// work is asked to stop, and for what is left of it when it has ended. There is no shell; what `qtuned` itself has in its
/// environment but its token goes on to the program.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    targets: BTreeMap<String, PathBuf>,
}

impl Processes {
    /// With programs that may be called by name: by every job, those that come over the network included.
    pub fn with_targets(targets: BTreeMap<String, PathBuf>) -> Processes {
        Processes { targets }
    }

    fn command(&self, program: &Program, measures: Measures, files: Files<'_>) -> Result<Command, ProgramError> {
        let mut command = match &program.call {
            Call::Command(arguments) => {
                let mut arguments = arguments.iter();
                // A program with a folder in its name is in that folder, as in a shell; another is looked for in PATH.
                let name = arguments.next().map(String::as_str).unwrap_or_default();
                let path = match (&program.folder, name.contains('/')) {
                    (Some(folder), true) => folder.join(name),
                    _ => PathBuf::from(name),
                };
                let mut command = Command::new(path);
                command.args(arguments.map(|argument| fill(argument, files)));
                command
            }
            Call::Target(name) => {
                let known = || self.targets.keys().cloned().collect();
                let unknown = || ProgramError::Unknown { name: name.clone(), known: known() };
                let mut command = Command::new(self.targets.get(name).ok_or_else(unknown)?);
                command.arg(measures.name()).arg(files.model).args(files.data);
                command
            }
        };
        // The folder of a job file that is named without one is where this process is.
        if let Some(folder) = program.folder.as_ref().filter(|folder| !folder.as_os_str().is_empty()) {
            command.current_dir(folder);
        }
        command.env_remove("QTUNED_TOKEN");
        if measures == Measures::Latency {
            command.env(GATE_IS_HELD, "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Ok(command)
    }
}

/// An argument with the files in place of `{model}` and `{data}`.
fn fill(argument: &str, files: Files<'_>) -> String {
    let path = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    // One pass: what is filled in is not looked at again.
    let mut filled = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, value) = match () {
            () if rest.starts_with("{model}") => ("{model}", path(Some(files.model))),
            () if rest.starts_with("{data}") => ("{data}", path(files.data)),
            () => ("{", "{".to_owned()),
        };
        filled.push_str(&value);
        rest = &rest[name.len()..];
    }
    filled + rest
}

impl Programs for Processes {
    fn run(
        &self,
        program: &Program,
        measures: Measures,
        files: Files<'_>,
        cancel: &Cancel,
    ) -> Result<String, ProgramError> {
        cancel.check()?;
        let name = program.call.name();
        let failed = |source| ProgramError::Run { program: name.clone(), source };
        let mut child = self.command(program, measures, files)?.spawn().map_err(failed)?;
        let out = child.stdout.take().map(|out| read(out, MAX_OUTPUT, false));
        let err = child.stderr.take().map(|err| read(err, KEPT, true));
        let ended = wait(&mut child, program.timeout, cancel);
        let told = |text: Option<mpsc::Receiver<Heard>>| text.and_then(|text| text.recv_timeout(DRAIN).ok());
        let (out, err) = (told(out), told(err).unwrap_or_default());
        let said = last_lines(&String::from_utf8_lossy(&err.bytes));
        if !said.is_empty() {
            tracing::info!(program = name, measures = measures.name(), "{said}");
        }
        match ended.map_err(failed)? {
            Ended::Cancelled(cancelled) => Err(cancelled.into()),
            Ended::TimedOut => Err(ProgramError::TimedOut { program: name, timeout: program.timeout, said }),
            Ended::With(status) if !status.success() => {
                Err(ProgramError::Failed { program: name, status: status.to_string(), said })
            }
            Ended::With(_) => {
                let wrong = |problem: &str| ProgramError::Output { program: name.clone(), problem: problem.to_owned() };
                let out = out.ok_or_else(|| wrong("its standard output was left open"))?;
                if out.is_cut {
                    return Err(wrong(&format!("it wrote more than {} MiB", MAX_OUTPUT >> 20)));
                }
                String::from_utf8(out.bytes).map_err(|_| wrong("its standard output is not UTF-8"))
            }
        }
    }
}

/// How a process ended.
enum Ended {
    With(ExitStatus),
    TimedOut,
    Cancelled(Cancelled),
}

/// Waits for a process, and ends its group in any case: before the process is reaped, so that the group is still its own.
fn wait(child: &mut Child, timeout: Duration, cancel: &Cancel) -> io::Result<Ended> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    let start = Instant::now();
    let asked = loop {
        let has_ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), has_ended) {
            Ok(Some(_)) => break None,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Err(cancelled) = cancel.check() {
            break Some(Ended::Cancelled(cancelled));
        }
        if start.elapsed() >= timeout {
            break Some(Ended::TimedOut);
        }
        thread::sleep(LOOK);
    };
    // A group that has ended altogether is no mistake.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    Ok(asked.unwrap_or(Ended::With(status)))
}

/// What a process wrote.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    /// Whether there was more.
    is_cut: bool,
}

/// Reads a pipe to its end on a thread of its own, and keeps the first bytes, or the last.
fn read(mut pipe: impl Read + Send + 'static, most: usize, keep_last: bool) -> mpsc::Receiver<Heard> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let (mut kept, mut is_cut, mut buffer) = (VecDeque::new(), false, [0; 16 << 10]);
        loop {
            let count = match pipe.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            kept.extend(&buffer[..count]);
            if kept.len() > most {
                is_cut = true;
                if keep_last {
                    kept.drain(..kept.len() - most);
                } else {
                    kept.truncate(most);
                }
            }
        }
        // Nobody listens any more where it took too long.
        let _ = send.send(Heard { bytes: kept.into(), is_cut });
    });
    receive
}

/// The last lines that say something, without control characters.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    let printable = |line: &&str| line.chars().filter(|c| !c.is_control()).take(500).collect::<String>();
    last.iter().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
