//! Questions in SQL over HTTP.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Shared,
    problem::{Body, Problem},
};
use crate::store::{QueryLimits, Rows, Store};

/// What one statement may take.
const LIMITS: QueryLimits =
    QueryLimits { rows: 10_000, bytes: 16 << 20, value: Some(2 << 20), time: Duration::from_secs(5) };

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// One statement that reads: SELECT, WITH, VALUES or EXPLAIN.
    pub sql: String,
}

/// Ask the database a question in SQL.
///
/// One statement that reads, on a connection that cannot write; at most 10,000 rows of 100 columns, 16 MiB, 2 MiB a
/// value, and five seconds.
#[utoipa::path(post, path = "/v1/query", tag = "query", request_body = Statement, responses(
    (status = OK, body = Rows),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn query(
    State(shared): State<Shared>,
    Body(Statement { sql }): Body<Statement>,
) -> Result<Json<Rows>, Problem> {
    let Ok(_turn) = shared.queries.acquire().await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server stops"));
    };
    Ok(Json(Store::query(&shared.database, &sql, LIMITS).await?))
}
