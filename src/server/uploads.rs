//! Files that clients upload: blobs by the hash of their content, and folders of them as jobs call them.
//!
//! A job that comes with files reads below a folder of its own, in which each blob has the name that the job calls it
//! by. What is in that folder names the folder, so that the same files are there once. Folders that no job refers to,
//! and blobs that are in no folder, are removed after a while.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::{io::AsyncWriteExt, time::timeout};
use utoipa::ToSchema;

use super::{
    Shared,
    problem::{Path as UrlPath, Problem},
};
use crate::{runner::one_line, search::Key, store::Store};

/// How long a client may keep silent while it uploads.
const SILENCE: Duration = Duration::from_secs(60);
/// How long files stay that nothing refers to: a client uploads them before it submits its job.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where uploaded files are kept.
pub struct Uploads {
    folder: PathBuf,
    /// Bytes of one file at most.
    largest: u64,
    /// Held while folders are laid out or removed.
    layout: Mutex<()>,
}

/// A file that the server has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Blob {
    /// Hash of its content, in lowercase hexadecimal.
    sha256: String,
    /// Its size.
    bytes: u64,
}

/// Files as a job calls them.
pub(super) struct Folder {
    /// The hash of their list.
    pub(super) id: String,
    /// Where they are.
    pub(super) path: PathBuf,
}

impl Uploads {
    /// Uploads in this folder, which is made when the first one comes, of `largest` bytes at most each.
    pub fn new(folder: PathBuf, largest: u64) -> Uploads {
        Uploads { folder, largest, layout: Mutex::new(()) }
    }

    fn blob(&self, sha256: &str) -> PathBuf {
        self.folder.join("blobs").join(sha256)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder below that of the uploads, which is made.
    fn below(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Writes what a client sends to a new file. It has its name only when its content has that hash.
    async fn receive(&self, sha256: &str, body: Body) -> Result<u64, Problem> {
        let part = NamedTempFile::new_in(self.below("parts")?)?;
        let mut file = tokio::fs::File::from_std(part.reopen()?);
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut stream = body.into_data_stream();
        loop {
            let silent = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the client sent nothing for a while");
            let Some(chunk) = timeout(SILENCE, stream.next()).await.map_err(silent)? else { break };
            let chunk = chunk.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, one_line(&error)))?;
            bytes += chunk.len() as u64;
            if bytes > self.largest {
                return Err(self.too_large());
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        let found = Key(hasher.finalize().into()).to_string();
        if found != sha256 {
            return Err(Problem::field("sha256", format!("expected content with this SHA-256, found {found}")));
        }
        file.flush().await?;
        file.sync_all().await?;
        self.below("blobs")?;
        part.persist(self.blob(sha256)).map_err(|error| error.error)?;
        Ok(bytes)
    }

    fn too_large(&self) -> Problem {
        let detail = format!("expected at most {} bytes", self.largest);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// Makes the folder of these files: hashes by the paths that the job calls them by.
    pub(super) fn lay_out(&self, files: &BTreeMap<String, String>) -> Result<Folder, Problem> {
        let mut hasher = Sha256::new();
        for (name, sha256) in files {
            let plain = |part| matches!(part, Component::Normal(_));
            if name.is_empty() || !Path::new(name).components().all(plain) {
                let detail = format!("expected a relative path without `..`, found `{name}`");
                return Err(Problem::field("files", detail));
            }
            check(sha256, "files")?;
            hasher.update(format!("{name}\0{sha256}\n"));
        }
        let id = Key(hasher.finalize().into()).to_string();
        let _layout = self.lock();
        let path = self.below("folders")?.join(&id);
        if path.exists() {
            // It is used again: not to be removed before the job is recorded.
            File::open(&path)?.set_modified(SystemTime::now())?;
            return Ok(Folder { id, path: path.canonicalize()? });
        }
        let part = tempfile::TempDir::new_in(self.below("parts")?)?;
        for (name, sha256) in files {
            let file = part.path().join(name);
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            match fs::hard_link(self.blob(sha256), &file) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Problem::field("files", format!("`{name}` was not uploaded: {sha256}")));
                }
                linked => linked?,
            }
        }
        fs::rename(part.keep(), &path)?;
        Ok(Folder { id, path: path.canonicalize()? })
    }

    /// Removes folders that no job refers to, blobs that are in no folder, and what was never received whole, unless
    /// they are younger than `grace`.
    fn collect(&self, used: &HashSet<String>, grace: Duration) -> io::Result<usize> {
        let _layout = self.lock();
        let mut removed = 0;
        let old = |path: &Path| -> io::Result<bool> {
            Ok(fs::symlink_metadata(path)?.modified()?.elapsed().unwrap_or_default() >= grace)
        };
        for entry in fs::read_dir(self.below("folders")?)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !used.contains(&*name) && old(&path)? {
                fs::remove_dir_all(&path)?;
                removed += 1;
            }
        }
        for kind in ["parts", "blobs"] {
            for entry in fs::read_dir(self.below(kind)?)? {
                let path = entry?.path();
                let metadata = fs::symlink_metadata(&path)?;
                // A blob in a folder has a name there too.
                if !old(&path)? || kind == "blobs" && metadata.nlink() > 1 {
                    continue;
                }
                match metadata.is_dir() {
                    true => fs::remove_dir_all(&path)?,
                    false => fs::remove_file(&path)?,
                }
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes what nothing refers to any more.
    pub(super) async fn clean(&self, store: &Store) {
        let cleaned = match store.uploads().await {
            Ok(used) if self.folder.exists() => self.collect(&used, GRACE).map_err(|error| one_line(&error)),
            Ok(_) => Ok(0),
            Err(error) => Err(one_line(&error)),
        };
        match cleaned {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "uploaded files that no job refers to are removed"),
            Err(error) => tracing::warn!(error, "uploaded files could not be removed"),
        }
    }
}

/// Whether a text is a SHA-256 as we write it.
fn check(sha256: &str, field: &str) -> Result<(), Problem> {
    match sha256.parse().is_ok_and(|key: Key| key.to_string() == sha256) {
        true => Ok(()),
        false => Err(Problem::field(field, "expected a SHA-256: 64 digits of lowercase hexadecimal")),
    }
}

/// Whether the server has a file.
#[utoipa::path(get, path = "/v1/blobs/{sha256}", tag = "uploads", params(("sha256" = String, Path, pattern = "^[0-9a-f]{64}$")), responses(
    (status = OK, body = Blob),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn has(State(shared): State<Shared>, UrlPath(sha256): UrlPath<String>) -> Result<Json<Blob>, Problem> {
    check(&sha256, "sha256")?;
    match tokio::fs::metadata(shared.uploads.blob(&sha256)).await {
        Ok(metadata) => Ok(Json(Blob { sha256, bytes: metadata.len() })),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Problem::new(StatusCode::NOT_FOUND, "there is no such file"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Upload a file for a job that comes later.
///
/// The body is the file. It is kept when its SHA-256 is that of the address; a file that the server has is not read
/// again. Files that no job refers to are removed after a day.
#[utoipa::path(put, path = "/v1/blobs/{sha256}", tag = "uploads", params(("sha256" = String, Path, pattern = "^[0-9a-f]{64}$")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = CREATED, description = "It is kept", body = Blob),
        (status = OK, description = "It was there already", body = Blob),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn put(
    State(shared): State<Shared>,
    UrlPath(sha256): UrlPath<String>,
    request: Request,
) -> Result<Response, Problem> {
    check(&sha256, "sha256")?;
    let claimed = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if claimed.is_some_and(|claimed: u64| claimed > shared.uploads.largest) {
        return Err(shared.uploads.too_large());
    }
    if let Ok(metadata) = tokio::fs::metadata(shared.uploads.blob(&sha256)).await {
        return Ok((StatusCode::OK, Json(Blob { sha256, bytes: metadata.len() })).into_response());
    }
    let bytes = shared.uploads.receive(&sha256, request.into_body()).await?;
    Ok((StatusCode::CREATED, Json(Blob { sha256, bytes })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, sha256)| ((*name).to_owned(), (*sha256).to_owned())).collect()
    }

    #[tokio::test]
    async fn files_are_kept_by_their_hash_laid_out_and_removed_when_nothing_refers_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(folder.path().join("uploads"), 5);
        let hash = |text: &str| Key(Sha256::digest(text).into()).to_string();
        let (hello, other) = (hash("hello"), hash("other"));
        assert_eq!(uploads.receive(&hello, Body::from("hello")).await.unwrap(), 5);
        assert_eq!(uploads.receive(&other, Body::from("hello")).await.unwrap_err().status, 422);
        assert_eq!(uploads.receive(&other, Body::from("too long")).await.unwrap_err().status, 413);
        assert!(!uploads.blob(&other).exists());
        let parts = || fs::read_dir(folder.path().join("uploads/parts")).unwrap().count();
        assert_eq!(parts(), 0);

        let laid = uploads.lay_out(&files(&[("a/b.txt", &hello), ("c.txt", &hello)])).unwrap();
        assert_eq!(fs::read_to_string(laid.path.join("a/b.txt")).unwrap(), "hello");
        assert_eq!(uploads.lay_out(&files(&[("a/b.txt", &hello), ("c.txt", &hello)])).unwrap().id, laid.id);
        assert_eq!(uploads.lay_out(&files(&[("a/b.txt", &hello), ("d.txt", &other)])).err().unwrap().status, 422);
        for name in ["", "/etc/passwd", "../x", "a/../../x", "a/./../b", "a\0"] {
            let refused = uploads.lay_out(&files(&[(name, &hello)])).err().unwrap();
            assert!([422, 500].contains(&refused.status), "{name}");
        }
        assert_eq!(uploads.lay_out(&files(&[("a", "xyz")])).err().unwrap().status, 422);
        assert_eq!(parts(), 0);

        let used = HashSet::from([laid.id.clone()]);
        assert_eq!(uploads.collect(&HashSet::new(), GRACE).unwrap(), 0);
        assert_eq!(uploads.collect(&used, Duration::ZERO).unwrap(), 0);
        assert!(laid.path.exists() && uploads.blob(&hello).exists());
        assert_eq!(uploads.collect(&HashSet::new(), Duration::ZERO).unwrap(), 2);
        assert!(!laid.path.exists() && !uploads.blob(&hello).exists());
    }
}
