//! What the certify split says of the finalists of a job.

use super::{
    JobId, Store, StoreError,
    rows::{count, int, number},
};
use crate::{
    confidence::Pairs,
    pipeline::{Certificate, Certified, Finalist, Observed},
};

const WHAT: &str = "a certificate";

/// Columns of one finalist.
struct Columns {
    trial: i64,
    confidence: f64,
    lost: Option<i64>,
    won: Option<i64>,
    base: Option<i64>,
    total: Option<i64>,
    bound: Option<f64>,
    holds: Option<bool>,
    fp32_score: Option<f64>,
    score: Option<f64>,
}

impl TryFrom<&Columns> for Finalist {
    type Error = StoreError;

    fn try_from(row: &Columns) -> Result<Finalist, StoreError> {
        let certified = match (row.lost, row.won, row.base, row.total, row.holds) {
            (Some(lost), Some(won), Some(base), Some(total), Some(holds)) => {
                let (lost, won) = (count(WHAT, lost)?, count(WHAT, won)?);
                let pairs = Pairs { lost, won, base: count(WHAT, base)?, total: count(WHAT, total)? };
                Some(Certified { pairs, bound: row.bound, holds })
            }
            _ => None,
        };
        let observed = row.fp32_score.zip(row.score).map(|(fp32, score)| Observed { fp32, score });
        Ok(Finalist { trial: count(WHAT, row.trial)?, certified, observed })
    }
}

impl Store {
    /// The certificate of a job; `None` when it has none.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn certificate(&self, job: JobId) -> Result<Option<Certificate>, StoreError> {
        let rows = sqlx::query_as!(
            Columns,
            r#"SELECT trial, confidence, lost, won, base, total, bound, holds AS "holds: bool",
                   fp32_score, score
               FROM finalists WHERE job_id = ? ORDER BY place"#,
            job.0
        )
        .fetch_all(&self.pool)
        .await?;
        let Some(confidence) = rows.first().map(|row| row.confidence) else { return Ok(None) };
        let finalists = rows.iter().map(Finalist::try_from).collect::<Result<_, _>>()?;
        Ok(Some(Certificate { confidence, finalists }))
    }

    /// Records the certificate of a job in place of an earlier one, in one transaction.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn record_certificate(&self, job: JobId, certificate: &Certificate) -> Result<(), StoreError> {
        let confidence = number(WHAT, certificate.confidence)?;
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query!("DELETE FROM finalists WHERE job_id = ?", job.0).execute(&mut *transaction).await?;
        for (place, finalist) in certificate.finalists.iter().enumerate() {
            let place = int(WHAT, place)?;
            let trial = int(WHAT, finalist.trial)?;
            let certified = finalist.certified;
            let counted = |of: fn(&Pairs) -> u64| certified.map(|c| int(WHAT, of(&c.pairs))).transpose();
            let lost = counted(|pairs| pairs.lost)?;
            let won = counted(|pairs| pairs.won)?;
            let base = counted(|pairs| pairs.base)?;
            let total = counted(|pairs| pairs.total)?;
            let bound = certified.and_then(|c| c.bound).map(|bound| number(WHAT, bound)).transpose()?;
            let holds = certified.map(|c| c.holds);
            let fp32_score = finalist.observed.map(|observed| number(WHAT, observed.fp32)).transpose()?;
            let score = finalist.observed.map(|observed| number(WHAT, observed.score)).transpose()?;
            sqlx::query!(
                "INSERT INTO finalists (job_id, place, trial, confidence, lost, won, base, total, bound, holds, fp32_score,
                     score)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                job.0,
                place,
                trial,
                confidence,
                lost,
                won,
                base,
                total,
                bound,
                holds,
                fp32_score,
                score
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
