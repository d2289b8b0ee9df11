//! Latency of a plan, taken in turn with fp32 while nothing else of qtuned computes.

use std::{
    fs::{File, TryLockError},
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rayon::prelude::*;

use super::{Fingerprint, Latency, Quartiles, median_interval};
use crate::{
    cancel::{Cancel, Cancelled},
    engine::{EngineError, Inputs, Plan},
    kernels::Kernels,
};

/// How latency is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Samples in one run.
    pub batch: usize,
    /// Threads of one run.
    pub threads: usize,
    /// Runs thrown away, of each plan.
    pub warmup: usize,
    /// Runs that count, of each plan.
    pub runs: usize,
}

/// What keeps latency from being taken.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// A plan could not be run.
    #[error("running the network failed")]
    Engine(#[from] EngineError),
    /// No threads to run on.
    #[error("starting {threads} threads failed")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// The gate could not be used.
    #[error("locking `{}` failed", path.display())]
    Gate {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The machine-wide gate between latency and all other compute of qtuned: a lock on a file in the folder for
/// temporary files. Given back when dropped.
///
/// Whoever waits for latency holds a second lock meanwhile, through which all others pass: searches that evaluate one
/// after the other would else never leave the gate to it.
#[derive(Debug)]
pub struct Gate(#[expect(dead_code, reason = "holds the lock")] Option<File>);

/// In the environment of a program: that it was started by one that holds the gate for it.
pub const GATE_IS_HELD: &str = "QTUNED_GATE_IS_HELD";

/// How often a gate that is closed is tried.
const KNOCK: Duration = Duration::from_millis(5);

impl Gate {
    /// Waits until no latency is being taken or waited for; several may compute at the same time.
    ///
    /// # Errors
    /// When a file cannot be opened or locked, or the work was asked to stop.
    pub fn compute(cancel: &Cancel) -> Result<Gate, LatencyError> {
        Gate::pass(File::try_lock_shared, cancel)
    }

    /// Waits until nothing else computes.
    ///
    /// # Errors
    /// When a file cannot be opened or locked, or the work was asked to stop.
    pub fn latency(cancel: &Cancel) -> Result<Gate, LatencyError> {
        Gate::pass(File::try_lock, cancel)
    }

    fn pass(lock: fn(&File) -> Result<(), TryLockError>, cancel: &Cancel) -> Result<Gate, LatencyError> {
        if std::env::var_os(GATE_IS_HELD).is_some() {
            return Ok(Gate(None));
        }
        let _queue = Gate::wait("qtuned-latency-queue.lock", lock, cancel)?;
        Gate::wait("qtuned-latency.lock", lock, cancel)
    }

    fn wait(name: &str, lock: fn(&File) -> Result<(), TryLockError>, cancel: &Cancel) -> Result<Gate, LatencyError> {
        let path = std::env::temp_dir().join(name);
        let failed = |source| LatencyError::Gate { path: path.clone(), source };
        // Another user's file can be read, and that is enough to lock it.
        let open = File::options().read(true).append(true).create(true).open(&path);
        let file = open.or_else(|_| File::open(&path)).map_err(failed)?;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Gate(Some(file))),
                Err(TryLockError::WouldBlock) => cancel.check()?,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            thread::sleep(KNOCK);
        }
    }
}

/// Tries before a run that a CPU quota throttles is given up.
const TRIES: usize = 3;

/// How many times as many runs are taken, at most, to tell several candidates apart.
const LONGEST: usize = 5;

/// Takes latencies of `candidate` and `fp32` on the same input, in turn, each first in every other pair, with
/// nothing else of qtuned computing on this machine. `None` when a CPU quota throttled every try.
///
/// # Errors
/// A plan that cannot be run, or a gate or threads that cannot be had.
pub fn latency(
    candidate: &Plan,
    fp32: &Plan,
    x: &Inputs,
    kernels: Kernels,
    protocol: Protocol,
    cancel: &Cancel,
) -> Result<Option<Latency>, LatencyError> {
    Ok(latencies(&[candidate], fp32, x, kernels, protocol, cancel)?.and_then(|mut one| one.pop()))
}

/// As [`latency`], of several candidates in turn with each other and with fp32, whoever is first changing from round to
/// round. After `runs` rounds as many are taken again, until the interval of the fastest one's median
/// ([`Latency::interval`]) is below all others, at most 5 times.
///
/// # Errors
/// As for [`latency`].
pub fn latencies(
    candidates: &[&Plan],
    fp32: &Plan,
    x: &Inputs,
    kernels: Kernels,
    protocol: Protocol,
    cancel: &Cancel,
) -> Result<Option<Vec<Latency>>, LatencyError> {
    let threads = protocol.threads;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| LatencyError::Threads { threads, source })?;
    let time = |plan: &Plan| -> Result<u64, LatencyError> {
        cancel.check()?;
        let start = Instant::now();
        plan.run(x, threads > 1)?;
        Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    };
    let _gate = Gate::latency(cancel)?;
    for _ in 0..TRIES {
        let throttled = throttled_periods();
        let plans: Vec<&Plan> = candidates.iter().copied().chain([fp32]).collect();
        let mut times: Vec<Vec<u64>> = vec![Vec::new(); plans.len()];
        pool.install(|| -> Result<(), LatencyError> {
            for _ in 0..protocol.warmup {
                plans.iter().try_for_each(|plan| time(plan).map(drop))?;
            }
            for round in 0..protocol.runs * LONGEST {
                if round > 0 && round % protocol.runs == 0 && is_told_apart(&times[..candidates.len()]) {
                    break;
                }
                for place in 0..plans.len() {
                    let plan = (round + place) % plans.len();
                    times[plan].push(time(plans[plan])?);
                }
            }
            Ok(())
        })?;
        if throttled_periods() == throttled {
            let (fp32_ns, fingerprint) = (times.pop().unwrap_or_default(), fingerprint(kernels, protocol));
            let taken =
                |candidate_ns| Latency { candidate_ns, fp32_ns: fp32_ns.clone(), fingerprint: fingerprint.clone() };
            return Ok(Some(times.into_iter().map(taken).collect()));
        }
        tracing::warn!("a CPU quota throttled the latency run, taking it again");
    }
    Ok(None)
}

/// Whether the median of the fastest is surely below those of all others.
fn is_told_apart(times: &[Vec<u64>]) -> bool {
    let mut intervals: Vec<(u64, u64)> = times.iter().filter_map(|ns| median_interval(ns)).collect();
    intervals.sort_by_key(|&(low, high)| (high, low));
    intervals.split_first().is_none_or(|(fastest, others)| others.iter().all(|other| other.0 > fastest.1))
}

/// Medians of the time that each step of each plan takes, in ns: one list a plan, one entry a step. The plans run in
/// turn, on the current rayon pool.
///
/// # Errors
/// A plan that cannot be run.
pub fn step_times(
    plans: &[&Plan],
    x: &Inputs,
    protocol: Protocol,
    cancel: &Cancel,
) -> Result<Vec<Vec<f64>>, LatencyError> {
    let _gate = Gate::latency(cancel)?;
    let mut samples: Vec<Vec<Vec<u64>>> = plans.iter().map(|plan| vec![Vec::new(); plan.steps().len()]).collect();
    for run in 0..protocol.warmup + protocol.runs {
        for (plan, samples) in plans.iter().zip(&mut samples) {
            cancel.check()?;
            let times = plan.run_timed(x, protocol.threads > 1)?;
            if run >= protocol.warmup {
                samples
                    .iter_mut()
                    .zip(times)
                    .for_each(|(s, t)| s.push(u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)));
            }
        }
    }
    let median = |step: &Vec<u64>| Quartiles::of(step).map_or(0.0, |q| q.median);
    Ok(samples.iter().map(|plan| plan.iter().map(median).collect()).collect())
}

/// Samples a second of each plan when samples run side by side on the current rayon pool, one thread each, as an
/// evaluation runs them: the median of `rounds` rounds of `samples` samples, the plans in turn.
///
/// # Errors
/// A plan that cannot be run.
pub fn throughput(
    plans: &[&Plan],
    x: &Inputs,
    samples: usize,
    rounds: usize,
    cancel: &Cancel,
) -> Result<Vec<f64>, LatencyError> {
    let _gate = Gate::latency(cancel)?;
    let mut times = vec![Vec::new(); plans.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (plan, times) in plans.iter().zip(&mut times) {
            cancel.check()?;
            let start = Instant::now();
            (0..samples).into_par_iter().try_for_each(|_| plan.run(x, false).map(|_| ()))?;
            if round > 0 {
                times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }
    let rate = |times: &Vec<u64>| Quartiles::of(times).map_or(0.0, |q| samples as f64 / q.median * 1e9);
    Ok(times.iter().map(rate).collect())
}

/// What latencies taken here and now depend on.
pub fn fingerprint(kernels: Kernels, protocol: Protocol) -> Fingerprint {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let brand = |s: &sysinfo::System| s.cpus().first().map(|c| c.brand().trim().to_owned());
    let cpu = system.ok().as_ref().and_then(brand).filter(|b| !b.is_empty());
    Fingerprint {
        cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel: kernels.name().to_owned(),
        threads: protocol.threads,
        batch: protocol.batch,
        quota_milli_cpus: quota_milli_cpus(),
    }
}

/// The file of this process's cgroup, in version 2 of the hierarchy.
fn cgroup_file(name: &str) -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let at = |path: &str| std::fs::read_to_string(PathBuf::from("/sys/fs/cgroup").join(path).join(name)).ok();
    // In a container the path is that of the host, and the group's files are at the root.
    at(path).or_else(|| at(""))
}

/// `cpu.max` is `QUOTA PERIOD` in µs, or `max PERIOD`.
fn quota_milli_cpus() -> Option<u64> {
    let text = cgroup_file("cpu.max")?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    quota.checked_mul(1000)?.checked_div(period)
}

/// How often the quota has stopped this group so far; 0 where there is none.
fn throttled_periods() -> u64 {
    let text = cgroup_file("cpu.stat").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("nr_throttled ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::is_told_apart;

    #[test]
    fn candidates_are_told_apart_when_the_fastest_is_below_all_others() {
        let near = |ns: u64| (ns - 10..ns + 10).collect::<Vec<u64>>();
        assert!(is_told_apart(&[near(100)]) && is_told_apart(&[near(150), near(100), near(160)]));
        assert!(!is_told_apart(&[near(150), near(103), near(100)]));
        // Two that are slower need not be told apart from each other.
        assert!(is_told_apart(&[near(100), near(200), near(201)]));
    }
}
