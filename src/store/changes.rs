//! Whether anything was written.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use super::{StoreError, connect};

/// A look at a database that tells whether it changed since the look before.
pub struct Changes {
    /// `None` where the database is locked while it is open, and nobody else can look.
    connection: Option<SqliteConnection>,
}

impl Changes {
    /// Of the database at `path`, which is there.
    ///
    /// # Errors
    /// Whatever keeps it from being opened.
    pub async fn open(path: &Path) -> Result<Changes, StoreError> {
        let connection = match connect::network_file_system(path) {
            Some(_) => None,
            None => Some(SqliteConnection::connect_with(&connect::readable(path)).await?),
        };
        Ok(Changes { connection })
    }

    /// A number that is another one after anybody has written; `None` where that cannot be known.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn version(&mut self) -> Result<Option<i64>, StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        Ok(Some(sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await?))
    }
}
