//! Looking after a database: whether it is whole, a copy of it, its size, and jobs that ended long ago.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{JobFilter, JobId, JobRow, Store, StoreError, rows::ones};

impl Store {
    /// What is wrong with the database, a sentence each; none when nothing is. Everything is read.
    ///
    /// # Errors
    /// Whatever keeps it from being read at all.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        let whole: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&self.pool).await?;
        let mut wrong: Vec<String> = whole.into_iter().filter(|text| text != "ok").collect();
        let missing: Vec<(String, Option<i64>, String, i64)> =
            sqlx::query_as("PRAGMA foreign_key_check").fetch_all(&self.pool).await?;
        for (table, row, parent, _) in missing {
            let row = row.map_or_else(String::new, |row| format!(" {row}"));
            wrong.push(format!("row{row} of {table} refers to a row of {parent} that is not there"));
        }
        let trials = sqlx::query!("SELECT key, correct, total, correct_bits FROM trials WHERE correct IS NOT NULL");
        for trial in trials.fetch_all(&self.pool).await? {
            let bytes = usize::try_from(trial.total).unwrap_or_default().div_ceil(8);
            if trial.correct != Some(ones(&trial.correct_bits)) || trial.correct_bits.len() != bytes {
                wrong.push(format!("the bits of trial {} are not those of its count", trial.key));
            }
        }
        let files = sqlx::query!("SELECT job_id, number FROM qconfig_files").fetch_all(&self.pool).await?;
        for file in files {
            let trial = usize::try_from(file.number).unwrap_or_default();
            if let Err(error) = self.qconfig_file(JobId(file.job_id), trial).await {
                wrong.push(format!("job {}, trial {trial}: {error}", file.job_id));
            }
        }
        // Rows that cannot be read are told one after the other.
        let jobs = sqlx::query_scalar!(r#"SELECT id AS "id!" FROM jobs ORDER BY id"#).fetch_all(&self.pool).await?;
        for id in jobs {
            if let Err(error) = self.read_whole(JobId(id)).await {
                wrong.push(format!("job {id}: {error}"));
            }
        }
        Ok(wrong)
    }

    /// Reads everything that is shown of a job.
    async fn read_whole(&self, id: JobId) -> Result<(), StoreError> {
        let job = self.job(id).await?;
        super::JobDetail::try_from(job)?;
        self.summaries(id).await?;
        self.job_groups(id).await?;
        Ok(())
    }

    /// Writes a copy of the database as it is now, while others may write. It is whole, or not there.
    ///
    /// # Errors
    /// A file that is there already, or whatever keeps the copy from being written.
    pub async fn backup(&self, copy: &Path) -> Result<(), StoreError> {
        let unwritable = |source: std::io::Error| StoreError::Copy { path: copy.to_owned(), source };
        if copy.exists() {
            return Err(unwritable(std::io::ErrorKind::AlreadyExists.into()));
        }
        let mut part = copy.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(unwritable(error)),
            _ => {}
        }
        let name = part.to_string_lossy().into_owned();
        sqlx::query("VACUUM INTO ?").bind(name).execute(&self.pool).await?;
        let placed = File::open(&part).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&part, copy));
        placed.map_err(unwritable)
    }

    /// Writes the database anew without the room of what was removed.
    ///
    /// # Errors
    /// Another process that uses it for long, or whatever keeps it from being written.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        sqlx::query("VACUUM").execute(&self.pool).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await?;
        Ok(())
    }

    /// Removes the jobs that ended before this time, and gives them.
    ///
    /// # Errors
    /// Whatever keeps one from being removed.
    pub async fn forget(&self, ended_before_ms: i64) -> Result<Vec<JobRow>, StoreError> {
        let mut jobs = self.jobs(&JobFilter::default()).await?;
        jobs.retain(|job| job.state.is_final() && job.finished_ms.is_some_and(|ended| ended < ended_before_ms));
        for job in &jobs {
            self.remove(job.id).await?;
        }
        Ok(jobs)
    }
}

#[cfg(test)]
mod tests;
