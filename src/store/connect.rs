//! Opening a database: where it is decides how it is locked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, SqliteConnection,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::sleep;

use super::{Clock, Store, StoreError};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// File systems of other machines, whose locks and shared memory cannot be relied on.
const NETWORK: [&str; 19] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.ceph",
    "fuse.glusterfs",
    "9p",
    "afs",
    "fuse.sshfs",
    "fuse.s3fs",
    "orangefs",
    "pvfs2",
    "ocfs2",
    "gfs2",
];

/// How long a writer waits for another.
pub(super) const BUSY: Duration = Duration::from_secs(10);

/// How long until one tries again where SQLite does not wait by itself.
const AGAIN: Duration = Duration::from_millis(20);

impl Store {
    /// Opens the database at `path`; makes it when there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// A file that is no database, is from a newer version, or cannot be opened.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        let current = path.exists() && check_schema(path).await? == newest();
        let options = writable(path).create_if_missing(true);
        let store = Store::connect(path, options, clock).await?;
        if !current {
            store.migrate().await.map_err(|error| match error {
                MigrateError::VersionMissing(version) => StoreError::Newer { path: path.to_owned(), version },
                error => failed(path, error),
            })?;
        }
        Ok(store)
    }

    /// Brings the schema up to date in one transaction that locks out other writers from its start: the driver locks
    /// nothing for SQLite, and of two processes that open a new file the second would apply what the first did.
    async fn migrate(&self) -> Result<(), MigrateError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        MIGRATIONS.run_direct(None, &mut *transaction, false).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Opens the database at `path` for reading. An older schema is brought up to date first.
    ///
    /// # Errors
    /// As [`Store::open`], and when there is no file.
    pub async fn open_existing(path: &Path, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        if check_schema(path).await? < newest() {
            return Store::open(path, clock).await;
        }
        Store::connect(path, readable(path), clock).await
    }

    async fn connect(path: &Path, options: SqliteConnectOptions, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        // A connection that holds the file locked must be the only one.
        let connections = if network_file_system(path).is_some() { 1 } else { 4 };
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(BUSY + Duration::from_secs(5))
            // On a full disk SQLite rolls back by itself. The driver's rollback then fails, and it believes that the
            // transaction goes on: such a connection is opened anew.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
        // SQLite does not wait for others when it turns a new file into one with a write-ahead log.
        let since = Instant::now();
        loop {
            match pool.clone().connect_with(options.clone()).await {
                Ok(pool) => return Ok(Store { pool, clock }),
                Err(error) if busy(&error) && since.elapsed() < BUSY => sleep(AGAIN).await,
                Err(error) => return Err(failed(path, error)),
            }
        }
    }

    /// Waits for the last statement and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Options for a connection that writes. A commit is on disk before it is reported: `synchronous` is FULL.
fn writable(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .synchronous(SqliteSynchronous::Full);
    match network_file_system(path) {
        None => options.journal_mode(SqliteJournalMode::Wal),
        Some(kind) => {
            tracing::info!(file_system = kind, "network file system: the database is locked while it is open");
            options.locking_mode(SqliteLockingMode::Exclusive).journal_mode(SqliteJournalMode::Delete)
        }
    }
}

/// Options for a connection that cannot write, twice: the file is opened so, and statements are refused.
pub(super) fn readable(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        .pragma("query_only", "ON")
}

pub(super) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// The newest migration in the file; 0 for an empty file. Errors for anything that this version must not touch.
pub(super) async fn check_schema(path: &Path) -> Result<i64, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let mut connection = SqliteConnection::connect_with(&readable(path)).await.map_err(|e| failed(path, e))?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(path, error))?;
    let ours: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(path, error))?;
    let version = match (tables, ours) {
        (0, _) => 0,
        (_, 0) => return Err(StoreError::Foreign { path: path.to_owned() }),
        _ => sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| failed(path, error))?
            .unwrap_or(0),
    };
    connection.close().await.map_err(|error| failed(path, error))?;
    match version > newest() {
        true => Err(StoreError::Newer { path: path.to_owned(), version }),
        false => Ok(version),
    }
}

/// Whether another connection holds the file locked: `SQLITE_BUSY`, also in its extended forms.
fn busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// What an error of SQLite means for the file.
fn failed(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    let path = path.to_owned();
    let text = error.to_string();
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    match [text, source].iter().any(|t| t.contains("file is not a database")) {
        true => StoreError::NotADatabase { path },
        false => StoreError::Open { path, source: Box::new(error) },
    }
}

/// The kind of network file system that `path` is on; `None` for a local one, and where that cannot be known.
pub(super) fn network_file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    network_mount(&mounts, &folder.canonicalize().ok()?)
}

/// The kind of the mount that `folder` is on, when that is a network file system (proc(5), `mountinfo`).
fn network_mount(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(left.split(' ').nth(4)?));
        let kind = right.split(' ').next()?.to_owned();
        folder.starts_with(&point).then(|| (point.components().count(), kind))
    };
    // Of two mounts at one point the later hides the earlier; max_by_key takes the last.
    let (_, kind) = mounts.lines().filter_map(mount).max_by_key(|(depth, _)| *depth)?;
    NETWORK.contains(&kind.as_str()).then_some(kind)
}

/// Replaces the octal escapes of `mountinfo`: `\040` is a space.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests;
