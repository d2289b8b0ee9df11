//! Groups of a model and what each loses in int8.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    JobId, JsonNumber, Store, StoreError, TrialSummary,
    rows::{count, int, number},
};
use crate::{
    graph::GroupId,
    pipeline::GroupFacts,
    quant::Precision,
    search::{GroupTime, Key},
    sensitivity::{GroupSensitivity, RankBy},
};

/// A group of a model and what it loses in int8, in dB; `null` where it is not quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupRow {
    /// Stable id.
    pub id: String,
    /// Operator.
    pub object_type: String,
    /// Multiply-accumulates for one sample.
    pub macs: u64,
    /// Weights and biases.
    pub parameters: u64,
    /// Of the weight; `null` also for a group without.
    pub weight_db: Option<JsonNumber>,
    /// Of the group's output when it is fed the fp32 input.
    pub local_db: Option<JsonNumber>,
    /// Of the group's output in the int8 network.
    pub accumulated_db: Option<JsonNumber>,
    /// Of the network's output with this group alone quantized.
    pub output_db: Option<JsonNumber>,
    /// Least and greatest value of the group's output in calibration.
    pub range: Option<[f32; 2]>,
    /// How it runs in the chosen qconfig, `int8` or `fp32`; `null` before one is chosen.
    #[schema(value_type = Option<String>)]
    pub chosen: Option<Precision>,
}

impl GroupRow {
    /// A group, and how it runs in the chosen trial.
    pub fn new(group: &GroupFacts, chosen: Option<&TrialSummary>) -> GroupRow {
        let s = group.sensitivity.as_ref();
        let precision = |trial: &TrialSummary| match s.is_none() || trial.fp32_groups.contains(&group.id) {
            true => Precision::Fp32,
            false => Precision::Int8,
        };
        GroupRow {
            chosen: chosen.map(precision),
            id: group.id.clone(),
            object_type: group.object_type.clone(),
            macs: group.macs,
            parameters: group.parameters,
            weight_db: s.and_then(|s| s.weight).map(JsonNumber::from),
            local_db: s.map(|s| s.local.into()),
            accumulated_db: s.map(|s| s.accumulated.into()),
            output_db: s.map(|s| s.output.into()),
            range: s.map(|s| [s.range.0, s.range.1]),
        }
    }

    /// One of its ratios, in dB.
    pub fn decibel(&self, kind: RankBy) -> Option<f64> {
        let decibel = match kind {
            RankBy::Weight => &self.weight_db,
            RankBy::Local => &self.local_db,
            RankBy::Accumulated => &self.accumulated_db,
            RankBy::Output => &self.output_db,
        };
        decibel.as_ref().and_then(JsonNumber::value)
    }

    /// As the facts of the group at `position` in topological order.
    pub fn into_facts(self, position: usize) -> GroupFacts {
        let value = |kind| self.decibel(kind);
        let ratios = (value(RankBy::Local), value(RankBy::Accumulated), value(RankBy::Output), self.range);
        let sensitivity = match ratios {
            (Some(local), Some(accumulated), Some(output), Some([min, max])) => Some(GroupSensitivity {
                group: GroupId(position),
                weight: value(RankBy::Weight),
                local,
                accumulated,
                output,
                range: (min, max),
            }),
            _ => None,
        };
        let GroupRow { id, object_type, macs, parameters, .. } = self;
        GroupFacts { id, object_type, macs, parameters, sensitivity }
    }
}

/// Columns of one group.
struct Columns {
    position: i64,
    id: String,
    object_type: String,
    macs: i64,
    parameters: i64,
    weight_db: Option<f64>,
    local_db: Option<f64>,
    accumulated_db: Option<f64>,
    output_db: Option<f64>,
    range_min: Option<f64>,
    range_max: Option<f64>,
}

impl TryFrom<Columns> for GroupFacts {
    type Error = StoreError;

    fn try_from(row: Columns) -> Result<GroupFacts, StoreError> {
        let group = GroupId(count("a group's position", row.position)?);
        let ratios = (row.local_db, row.accumulated_db, row.output_db, row.range_min, row.range_max);
        let sensitivity = match ratios {
            (Some(local), Some(accumulated), Some(output), Some(min), Some(max)) => Some(GroupSensitivity {
                group,
                weight: row.weight_db,
                local,
                accumulated,
                output,
                range: (min as f32, max as f32),
            }),
            _ => None,
        };
        Ok(GroupFacts {
            id: row.id,
            object_type: row.object_type,
            macs: count("a group's macs", row.macs)?,
            parameters: count("a group's parameters", row.parameters)?,
            sensitivity,
        })
    }
}

impl Store {
    /// The groups recorded under this key, in topological order; `None` when the analysis was not made.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn groups(&self, key: &Key) -> Result<Option<Vec<GroupFacts>>, StoreError> {
        let key = key.to_string();
        let known = sqlx::query_scalar!("SELECT count(*) FROM sensitivity_runs WHERE key = ?", key)
            .fetch_one(&self.pool)
            .await?;
        if known == 0 {
            return Ok(None);
        }
        let rows = sqlx::query_as!(
            Columns,
            "SELECT position, id, object_type, macs, parameters, weight_db, local_db, accumulated_db, output_db,
                 range_min, range_max
             FROM groups WHERE sensitivity_key = ? ORDER BY position",
            key
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(GroupFacts::try_from).collect::<Result<_, _>>().map(Some)
    }

    /// The groups of a job's model; none before its sensitivity analysis.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    pub async fn job_groups(&self, job: JobId) -> Result<Vec<GroupFacts>, StoreError> {
        let key = sqlx::query_scalar!("SELECT sensitivity_key FROM jobs WHERE id = ?", job.0)
            .fetch_optional(&self.pool)
            .await?
            .flatten();
        let Some(key) = key else { return Ok(Vec::new()) };
        let corrupt = |_| StoreError::Corrupt { what: "a sensitivity key", problem: key.clone() };
        let key: Key = key.parse().map_err(corrupt)?;
        Ok(self.groups(&key).await?.unwrap_or_default())
    }

    /// Says which analysis a job goes by.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded, such as an analysis that is not there.
    pub async fn use_sensitivities(&self, job: JobId, key: &Key) -> Result<(), StoreError> {
        let key = key.to_string();
        let used = sqlx::query!(
            "UPDATE jobs SET sensitivity_key = ?1 WHERE id = ?2 AND sensitivity_key IS NOT ?1",
            key,
            job.0
        );
        if used.execute(&self.pool).await?.rows_affected() > 0 {
            self.event(job, "sensitivities", "").await?;
        }
        Ok(())
    }

    /// What each group takes, recorded under this key, in topological order; `None` when it was not measured.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    pub async fn group_times(&self, key: &Key) -> Result<Option<Vec<GroupTime>>, StoreError> {
        let key = key.to_string();
        let times = sqlx::query_as!(
            GroupTime,
            "SELECT int8_ns, fp32_ns FROM group_times WHERE sensitivity_key = ? ORDER BY position",
            key
        )
        .fetch_all(&self.pool)
        .await?;
        Ok((!times.is_empty()).then_some(times))
    }

    /// Records what each group takes, once, in one transaction. Groups are given in topological order; their analysis is
    /// recorded.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn record_group_times(&self, key: &Key, times: &[GroupTime]) -> Result<(), StoreError> {
        const WHAT: &str = "the time of a group";
        let key = key.to_string();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (position, time) in times.iter().enumerate() {
            let position = int(WHAT, position)?;
            let (int8_ns, fp32_ns) = (number(WHAT, time.int8_ns)?, number(WHAT, time.fp32_ns)?);
            sqlx::query!(
                "INSERT INTO group_times (sensitivity_key, position, int8_ns, fp32_ns) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
                key,
                position,
                int8_ns,
                fp32_ns
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Records an analysis, once, in one transaction. Groups are given in topological order.
    ///
    /// # Errors
    /// Whatever keeps it from being recorded.
    pub async fn record_groups(&self, key: &Key, groups: &[GroupFacts]) -> Result<(), StoreError> {
        const WHAT: &str = "a group";
        let key = key.to_string();
        let now = self.clock.now_ms();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let new = sqlx::query!(
            "INSERT INTO sensitivity_runs (key, created_ms) VALUES (?, ?) ON CONFLICT DO NOTHING",
            key,
            now
        )
        .execute(&mut *transaction)
        .await?;
        if new.rows_affected() == 0 {
            return Ok(());
        }
        for (position, group) in groups.iter().enumerate() {
            let sensitivity = group.sensitivity.as_ref();
            if sensitivity.is_some_and(|s| s.group.0 != position) {
                let problem = format!("group `{}` is not at its place in topological order", group.id);
                return Err(StoreError::Unrecordable { what: WHAT, problem });
            }
            let ratio = |value: Option<f64>| value.map(|v| number(WHAT, v)).transpose();
            let position = int(WHAT, position)?;
            let macs = int(WHAT, group.macs)?;
            let parameters = int(WHAT, group.parameters)?;
            let weight = ratio(sensitivity.and_then(|s| s.weight))?;
            let local = ratio(sensitivity.map(|s| s.local))?;
            let accumulated = ratio(sensitivity.map(|s| s.accumulated))?;
            let output = ratio(sensitivity.map(|s| s.output))?;
            let min = ratio(sensitivity.map(|s| f64::from(s.range.0)))?;
            let max = ratio(sensitivity.map(|s| f64::from(s.range.1)))?;
            sqlx::query!(
                "INSERT INTO groups (sensitivity_key, position, id, object_type, macs, parameters, weight_db, local_db,
                     accumulated_db, output_db, range_min, range_max)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                key,
                position,
                group.id,
                group.object_type,
                macs,
                parameters,
                weight,
                local,
                accumulated,
                output,
                min,
                max
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
