//! What a job found, over HTTP, and the web page that draws it.

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{
    Shared,
    problem::{Path, Problem},
};
use crate::{
    report::{self, Document, JobReport},
    store::JobId,
};

async fn read(shared: &Shared, id: i64) -> Result<JobReport, Problem> {
    let job = shared.store.job(JobId(id)).await?;
    Ok(JobReport::read(&shared.store, job).await?)
}

/// What a job found so far: what its pictures are drawn from.
#[utoipa::path(get, path = "/v1/jobs/{id}/report", tag = "reports", params(("id" = i64, Path)), responses(
    (status = OK, body = JobReport),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn report(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<Json<JobReport>, Problem> {
    Ok(Json(read(&shared, id).await?))
}

/// What a job found so far, as a file: one page that opens without a network, pictures, or tables.
#[utoipa::path(get, path = "/v1/jobs/{id}/files/{name}", tag = "reports",
    params(
        ("id" = i64, Path),
        ("name" = String, Path, pattern = r"^(report\.(html|json)|(trials|groups)\.(csv|svg))$",
            description = "`report.html`, `report.json`, `trials.csv`, `groups.csv`, `trials.svg` or `groups.svg`"),
    ),
    responses(
        (status = OK, content((String = "text/html"), (JobReport = "application/json"), (String = "text/csv"), (String = "image/svg+xml"))),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn file(
    State(shared): State<Shared>,
    Path((id, name)): Path<(i64, String)>,
) -> Result<Response, Problem> {
    let Some(document) = Document::by_file_name(&name) else {
        let names = Document::ALL.map(Document::file_name).join(", ");
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no such file; expected one of {names}")));
    };
    let report = read(&shared, id).await?;
    // Saved, not shown: the policy of this server's own pages lets no script run that stands in a page.
    let disposition = format!("attachment; filename=\"job-{id}-{name}\"");
    let headers =
        [(header::CONTENT_TYPE, document.content_type().to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, document.of(&report)?).into_response())
}

/// The files of the web page, and what is said of addresses where nothing is.
pub(super) async fn page(method: Method, uri: Uri) -> Result<Response, Problem> {
    let Some((content_type, bytes)) = report::page::asset(uri.path()) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is nothing here; /openapi.json says what is"));
    };
    match method {
        Method::GET | Method::HEAD => Ok(([(header::CONTENT_TYPE, content_type)], bytes).into_response()),
        _ => Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")),
    }
}
