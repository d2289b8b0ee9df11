//! Errors as clients get them: problem documents (RFC 9457) that name the field.

use std::io;

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    job::JobError,
    pipeline::{FormError, PipelineError},
    report::ReportError,
    runner::one_line,
    store::{StoreError, is_full},
};

/// Media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not carried out (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What is wrong with this request, in one sentence.
    pub detail: String,
    /// The field of the job or the parameter that is wrong, such as `budget.max_drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Line in the job that was sent, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl Problem {
    /// A problem without a field.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Problem { status: status.as_u16(), title, detail: detail.into(), field: None, line: None, column: None }
    }

    /// A value that cannot be.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem { field: Some(field.into()), ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        let status = match &error {
            StoreError::NoSuchJob { .. } | StoreError::NoJobs | StoreError::NoQConfig { .. } => StatusCode::NOT_FOUND,
            StoreError::WrongState { .. } | StoreError::Running { .. } | StoreError::Lost { .. } => {
                StatusCode::CONFLICT
            }
            StoreError::KeyReused { .. } | StoreError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            error if error.is_overload() => StatusCode::SERVICE_UNAVAILABLE,
            error if is_full(error) => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = one_line(&error), "a request failed");
        }
        Problem::new(status, one_line(&error))
    }
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Problem {
        match error {
            ReportError::Store(error) => error.into(),
            error => {
                tracing::error!(error = one_line(&error), "a request failed");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, one_line(&error))
            }
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        use io::ErrorKind::{
            AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, QuotaExceeded, StorageFull,
        };
        let status = match error.kind() {
            StorageFull | QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            // Names that no file can have, or not all at once.
            AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = one_line(&error), "a request failed");
        }
        Problem::new(status, one_line(&error))
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Problem {
        match error {
            JobError::Invalid { place, problem } => Problem {
                line: place.at.map(|(line, _)| line),
                column: place.at.map(|(_, column)| column),
                field: Some(place.path).filter(|path| !path.is_empty()),
                ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, problem)
            },
            error => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, one_line(&error)),
        }
    }
}

impl From<PipelineError> for Problem {
    fn from(error: PipelineError) -> Problem {
        let field = match &error {
            PipelineError::Onnx(_) => "model.onnx",
            PipelineError::Dataset(_) => "data",
            PipelineError::Form(FormError::Shape { .. }) => "data.preprocess",
            PipelineError::Form(_) => "data.images",
            PipelineError::Mapping(_) | PipelineError::NothingToQuantize => "qconfig",
            PipelineError::Cancelled(_) => return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server stops"),
            _ => return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, one_line(&error)),
        };
        Problem::field(field, one_line(&error))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Problem {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Problem {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

/// Parts of a path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// Parameters after the `?`.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// A body in JSON.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub(super) struct Body<T>(pub(super) T);
