//! Which process this is, so that another on the same machine can tell whether it still lives.

use std::{fs, process};

/// `boot/pid namespace/pid/start time`: no other process has or will have the same.
pub fn this_process() -> String {
    let boot = read("/proc/sys/kernel/random/boot_id");
    let pid = process::id();
    format!("{boot}/{}/{pid}/{}", namespace(), start_time(pid).unwrap_or_default())
}

/// What is known of a process that owns a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It runs.
    Alive,
    /// It was a process of this boot and namespace, and runs no more.
    Gone,
    /// It is elsewhere: only its lease tells.
    Unknown,
}

/// Whether this owner still lives.
pub(super) fn liveness(owner: &str) -> Liveness {
    let here = this_process();
    let parts = |owner: &str| owner.split('/').map(str::to_owned).collect::<Vec<_>>();
    match (&parts(owner)[..], &parts(&here)[..]) {
        ([boot, namespace, pid, start], [here_boot, here_namespace, ..])
            if !boot.is_empty() && (boot, namespace) == (here_boot, here_namespace) =>
        {
            let runs = pid.parse().is_ok_and(|pid| start_time(pid).as_deref() == Some(start));
            if runs { Liveness::Alive } else { Liveness::Gone }
        }
        _ => Liveness::Unknown,
    }
}

fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// When a process was started, in ticks since boot: field 22 of proc(5) `stat`. `None` for one that does not run.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    // A zombie does nothing any more.
    (fields.next()? != "Z").then(|| fields.nth(18).map(str::to_owned)).flatten()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_gone_and_others_are_not() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let here = this_process();
        let parts: Vec<&str> = here.split('/').collect();
        let of = |pid: u32, start: &str| format!("{}/{}/{pid}/{start}", parts[0], parts[1]);
        let owner = of(child.id(), &start_time(child.id()).unwrap());
        assert_eq!((liveness(&here), liveness(&owner)), (Liveness::Alive, Liveness::Alive));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(liveness(&owner), Liveness::Gone);
        // The same number, another process.
        assert_eq!(liveness(&of(process::id(), "1")), Liveness::Gone);
        let elsewhere = format!("another-boot/{}/{}/1", parts[1], process::id());
        assert_eq!(liveness(&elsewhere), Liveness::Unknown);
        assert_eq!(liveness("a process of a version that writes it differently"), Liveness::Unknown);
    }
}
