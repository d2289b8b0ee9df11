//! The files of a job, for a server that does not share a disk with this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    cancel::Cancel,
    dataset::Dataset,
    job::{Job, JobSpec},
    onnx,
    search::Key,
};

/// A job whose paths start at the folder that holds everything it reads.
pub(super) struct Bundle {
    /// The job.
    pub(super) spec: JobSpec,
    /// Where each file is here, by the path that the job calls it by.
    pub(super) files: BTreeMap<String, PathBuf>,
}

impl Bundle {
    /// Everything that a job reads.
    pub(super) fn of(job: &Job) -> Result<Bundle> {
        let mut spec = job.spec.clone();
        let model = job.resolve(&spec.model.onnx);
        let dataset = Dataset::open(&spec.data, &job.folder, None, &Cancel::default())?;
        let mut found: BTreeSet<PathBuf> = onnx::external_files(&model)?;
        found.insert(model);
        found.extend(dataset.files());
        let mut whole = BTreeMap::new();
        for path in found {
            whole.insert(plain(&path)?, path);
        }
        for (_, path) in spec.files_mut() {
            *path = plain(&job.resolve(path))?;
            // A file that only the job names, such as that of its split.
            if path.is_file() {
                whole.entry(path.clone()).or_insert_with(|| path.clone());
            }
        }
        let root = common_folder(whole.keys());
        let below = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        for (_, path) in spec.files_mut() {
            *path = below(path);
        }
        let mut files = BTreeMap::new();
        for (path, here) in whole {
            let Some(name) = below(&path).to_str().map(str::to_owned) else {
                bail!("{}: expected a path in UTF-8", path.display());
            };
            files.insert(name, here);
        }
        // Where results are written is the server's to say.
        spec.output = None;
        Ok(Bundle { spec, files })
    }
}

/// SHA-256 of a file.
pub(super) fn hash(path: &Path) -> Result<String> {
    let failed = || format!("failed to read {}", path.display());
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(failed)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => break,
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(Key(hasher.finalize().into()).to_string())
}

/// A whole path without `.` and `..`.
fn plain(path: &Path) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    Ok(plain)
}

/// The deepest folder that all files are below.
fn common_folder<'a>(files: impl Iterator<Item = &'a PathBuf>) -> PathBuf {
    let folder = |file: &PathBuf| file.parent().unwrap_or(Path::new("/")).to_owned();
    let shared = |a: PathBuf, b: PathBuf| {
        let same = a.components().zip(b.components()).take_while(|(a, b)| a == b);
        same.map(|(part, _)| part).collect()
    };
    files.map(folder).reduce(shared).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_the_folder_that_they_share() {
        let common = |files: &[&str]| common_folder(files.iter().map(PathBuf::from).collect::<Vec<_>>().iter());
        assert_eq!(common(&["/a/b/c.onnx"]), Path::new("/a/b"));
        assert_eq!(common(&["/a/b/c.onnx", "/a/bc/d.csv"]), Path::new("/a"));
        assert_eq!(common(&["/a/b/c", "/d/e"]), Path::new("/"));
        assert_eq!(plain(Path::new("/a/./b/../c")).unwrap(), Path::new("/a/c"));
    }
}
