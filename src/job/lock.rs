//! A job with everything that decides its result filled in.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Job, JobSpec};
use crate::search::Key;

/// A job whose defaults are written out, whose paths are whole, and whose files are known by content.
///
/// Two runs of the same locked job are the same job: the second continues the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLock {
    /// The job, every default filled in, with absolute paths.
    pub job: JobSpec,
    /// SHA-256 of what it reads.
    pub sha256: LockedHashes,
}

/// SHA-256, in hexadecimal, of what a job reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedHashes {
    /// The ONNX file.
    pub model: String,
    /// The samples that observers see, with their preprocessing, in order.
    pub calibrate: String,
    /// The samples that trials are measured on.
    pub search: String,
    /// The samples that only the final certificate sees.
    pub certify: String,
}

impl JobLock {
    /// Locks a job that reads these contents.
    pub fn new(job: &Job, sha256: LockedHashes) -> JobLock {
        let whole = |path: &std::path::Path| {
            let path = job.resolve(path);
            std::path::absolute(&path).unwrap_or(path)
        };
        let mut spec = job.spec.clone();
        spec.output = Some(std::path::absolute(job.output()).unwrap_or_else(|_| job.output()));
        for (_, path) in spec.files_mut() {
            *path = whole(path);
        }
        spec.measure.programs.folder = job.program_folder().map(|folder| whole(&folder));
        JobLock { job: spec, sha256 }
    }

    /// The lock as a file for people.
    ///
    /// # Errors
    /// A value that YAML cannot hold.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        Ok(format!(
            "# The job as it was run: every default filled in, and SHA-256 of what it read.\n{}",
            serde_yaml::to_string(self)?
        ))
    }

    /// What tells this job from others: everything in the lock but the folder that results are written to, and how
    /// much memory pictures may take.
    ///
    /// # Errors
    /// A value that YAML cannot hold.
    pub fn identity(&self) -> Result<Key, serde_yaml::Error> {
        let mut lock = self.clone();
        lock.job.output = None;
        lock.job.data.cache_mib = 0;
        let mut hasher = Sha256::new();
        hasher.update(b"qtuned job 1\0");
        hasher.update(serde_yaml::to_string(&lock)?);
        Ok(Key(hasher.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::parse;

    fn lock(yaml: &str) -> JobLock {
        let spec = parse(yaml, &[]).unwrap();
        let hash = "0".repeat(64);
        let sha256 = LockedHashes { model: hash.clone(), calibrate: hash.clone(), search: hash.clone(), certify: hash };
        JobLock::new(&Job { spec, folder: "/jobs".into(), root: None }, sha256)
    }

    const JOB: &str = "{name: a, model: {onnx: m.onnx}, data: {images: {idx: {images: i, labels: /l}},
        split: {calibrate: 1, search: 2}}, budget: {max_drop: 0.01}}";

    #[test]
    fn a_lock_reads_back_as_written_and_has_whole_paths() {
        let lock = lock(JOB);
        let yaml = lock.to_yaml().unwrap();
        assert_eq!(serde_yaml::from_str::<JobLock>(&yaml).unwrap(), lock);
        for part in ["/jobs/m.onnx", "images: /jobs/i", "labels: /l", "confidence: 0.95", "runs: 50", "seed: 0"] {
            assert!(yaml.contains(part), "{part} in\n{yaml}");
        }
    }

    #[test]
    fn neither_the_output_folder_nor_the_cache_is_part_of_the_identity() {
        let moved = lock(&JOB.replace("name: a", "name: a, output: elsewhere"));
        assert_eq!(moved.identity().unwrap(), lock(JOB).identity().unwrap());
        let small = lock(&JOB.replace("split:", "cache_mib: 1, split:"));
        assert_eq!(small.identity().unwrap(), lock(JOB).identity().unwrap());
        let other = lock(&JOB.replace("0.01", "0.02"));
        assert_ne!(other.identity().unwrap(), lock(JOB).identity().unwrap());
    }
}
