//! Jobs over HTTP.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared,
    problem::{Path, Problem, Query},
};
use crate::{
    cancel::Cancel,
    job::{self, Job, JobLock},
    runner,
    store::{GroupRow, JobDetail, JobFilter, JobId, JobRow, JobState, LogLine, Submission, TrialSummary},
};

/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 200;

/// Jobs, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// One page of them.
    pub jobs: Vec<JobRow>,
    /// `before` of the next page; `null` on the last.
    pub next: Option<i64>,
}

/// A job to put in the queue.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// The job: an object with the fields of a job file, or the text of one. Paths are relative to the data root. It may
    /// measure with programs that the server registers (`target`), and bring none of its own (`command`).
    pub job: serde_json::Value,
    /// Jobs with a larger priority go first.
    #[serde(default)]
    #[schema(minimum = -1000, maximum = 1000)]
    pub priority: i64,
    /// Make a new job also where there is the same already.
    #[serde(default)]
    pub again: bool,
    /// Files that were uploaded, by the relative paths that the job calls them by: the SHA-256 of each. The job then
    /// reads these, and no others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Those in this state.
    state: Option<JobState>,
    /// Those of this name.
    name: Option<String>,
    /// Those with a smaller number.
    before: Option<i64>,
    /// How many at most; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Which job is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FindParams {
    /// Id or name of a job; the latest when absent.
    job: Option<String>,
}

/// Which part of a list is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// What comes after the one with this number.
    #[serde(default)]
    after: i64,
    /// How many at most; 1000 when absent.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

/// `limit`, when it is from 1 to `most`.
fn checked(limit: Option<u32>, usual: u32, most: u32) -> Result<u32, Problem> {
    match limit.unwrap_or(usual) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        limit => Err(Problem::field("limit", format!("expected a number from 1 to {most}, found {limit}"))),
    }
}

/// List jobs, the newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListParams), responses(
    (status = OK, body = JobList),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Query(params): Query<ListParams>,
) -> Result<Json<JobList>, Problem> {
    let ListParams { state, name, before, limit } = params;
    let limit = checked(limit, 100, 1000)?;
    let filter = JobFilter { state, name, before, limit: Some(limit) };
    let jobs = shared.store.jobs(&filter).await?;
    let next = jobs.last().filter(|_| jobs.len() == limit as usize).map(|job| job.id.0);
    Ok(Json(JobList { jobs, next }))
}

/// The body that creates a job, in JSON or YAML.
pub(super) struct Creation(NewJob);

impl FromRequest<Shared> for Creation {
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, state: &Shared) -> Result<Creation, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let new = match kind.as_str() {
            "application/json" => axum::Json::<NewJob>::from_request(request, state).await?.0,
            "application/yaml" | "application/x-yaml" | "text/yaml" => {
                let bytes = Bytes::from_request(request, state).await?;
                let text = String::from_utf8(bytes.into())
                    .map_err(|_| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "expected a job in UTF-8"))?;
                NewJob { job: text.into(), priority: 0, again: false, files: BTreeMap::new() }
            }
            _ => {
                let detail = "expected a job as application/yaml or application/json";
                return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
            }
        };
        if !(-1000..=1000).contains(&new.priority) {
            let found = new.priority;
            return Err(Problem::field("priority", format!("expected a number from -1000 to 1000, found {found}")));
        }
        Ok(Creation(new))
    }
}

/// Asks the work of a request to stop when nobody waits for its answer any more.
#[derive(Default)]
struct ForRequest(Cancel);

impl Drop for ForRequest {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Work on another thread that broke off, which is a mistake in this program.
fn broken(error: JoinError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Put a job in the queue.
///
/// The job, its model and its data are read and checked first. The same job is not made twice: one that failed, was
/// cancelled or interrupted is queued again, any other stays as it is.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "A name for this request: sent again it does nothing")),
    request_body(content((NewJob = "application/json"), (String = "application/yaml"))),
    responses(
        (status = CREATED, description = "A new job", body = JobRow),
        (status = OK, description = "The same job was there already", body = JobRow),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Creation(new): Creation,
) -> Result<Response, Problem> {
    let idempotency_key = match headers.get("idempotency-key").map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) if (1..=MAX_KEY).contains(&key.len()) => Some(key.to_owned()),
        Some(_) => {
            let expected = format!("expected from 1 to {MAX_KEY} visible ASCII characters");
            return Err(Problem::field("Idempotency-Key", expected));
        }
    };
    let NewJob { job, priority, again, files } = new;
    let spec = job::parse(&job.as_str().map_or_else(|| job.to_string(), str::to_owned), &[])?;
    let layout = Arc::clone(&shared);
    let lay_out = move || (!files.is_empty()).then(|| layout.uploads.lay_out(&files)).transpose();
    let upload = tokio::task::spawn_blocking(lay_out).await.map_err(broken)??;
    let job = Job { spec, folder: PathBuf::new(), root: None };
    let job = shared.access.confine(job, upload.as_ref().map(|upload| &*upload.path))?;
    // Reading data takes memory and all cores: one after the other, also where a client has left meanwhile.
    let Ok(intake) = Arc::clone(&shared.intake).acquire_owned().await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server stops"));
    };
    let request = ForRequest::default();
    let asked = request.0.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        let _intake = intake;
        runner::prepare_submitted(&job, &asked)
    })
    .await
    .map_err(broken)??;
    let (lock, model, upload) = (prepared.lock, prepared.model, upload.map(|upload| upload.id));
    let submission = Submission { lock, model, upload, priority, again, idempotency_key };
    let submitted = shared.store.submit(&submission).await?;
    shared.workshop.wake();
    let job = shared.store.job(submitted.id).await?;
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((status, location, Json(job)).into_response())
}

/// Find the job that is meant by an id or a name.
#[utoipa::path(get, path = "/v1/jobs/find", tag = "jobs", params(FindParams), responses(
    (status = OK, body = JobDetail),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn find(
    State(shared): State<Shared>,
    Query(FindParams { job }): Query<FindParams>,
) -> Result<Json<JobDetail>, Problem> {
    Ok(Json(shared.store.find_job(job.as_deref()).await?.try_into()?))
}

/// One job with everything that decides its result.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = OK, body = JobDetail),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn get(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<Json<JobDetail>, Problem> {
    Ok(Json(shared.store.job(JobId(id)).await?.try_into()?))
}

/// Remove a job that does not run, with the trials that only it has.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = NO_CONTENT, description = "It is removed"),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn remove(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<StatusCode, Problem> {
    shared.store.remove(JobId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Cancel a job: at once when it waits, within two seconds when it runs.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = OK, body = JobRow),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn cancel(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<Json<JobRow>, Problem> {
    shared.store.cancel(JobId(id)).await?;
    Ok(Json(shared.store.job(JobId(id)).await?))
}

/// Put a job that failed, was cancelled or interrupted in the queue again. It goes on after its trials.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", params(("id" = i64, Path)), responses(
    (status = OK, body = JobRow),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn retry(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<Json<JobRow>, Problem> {
    let lock: JobLock = serde_yaml::from_str(&shared.store.job(JobId(id)).await?.lock)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // One that was started here, by somebody who may run what they like, is not started again from afar.
    shared.access.check_programs(&lock.job)?;
    shared.store.retry(JobId(id)).await?;
    shared.workshop.wake();
    Ok(Json(shared.store.job(JobId(id)).await?))
}

/// The trials of a job, in order.
#[utoipa::path(get, path = "/v1/jobs/{id}/trials", tag = "trials", params(("id" = i64, Path)), responses(
    (status = OK, body = Vec<TrialSummary>),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn trials(
    State(shared): State<Shared>,
    Path(id): Path<i64>,
) -> Result<Json<Vec<TrialSummary>>, Problem> {
    let job = shared.store.job(JobId(id)).await?;
    Ok(Json(shared.derived.trials(&shared.store, job.id).await?.to_vec()))
}

/// The trials of a job that no other beats in score and latency, the fastest first.
#[utoipa::path(get, path = "/v1/jobs/{id}/front", tag = "trials", params(("id" = i64, Path)), responses(
    (status = OK, body = Vec<TrialSummary>),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn front(shared: State<Shared>, id: Path<i64>) -> Result<Json<Vec<TrialSummary>>, Problem> {
    let Json(trials) = trials(shared, id).await?;
    Ok(Json(TrialSummary::front(trials)))
}

/// The qconfig of a trial: the mapping, and every scale and zero point.
#[utoipa::path(get, path = "/v1/jobs/{id}/trials/{number}/qconfig", tag = "trials",
    params(("id" = i64, Path), ("number" = u32, Path)),
    responses(
        (status = OK, body = Object, content_type = "application/yaml"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn qconfig(
    State(shared): State<Shared>,
    Path((id, number)): Path<(i64, u32)>,
) -> Result<Response, Problem> {
    let job = shared.store.job(JobId(id)).await?;
    let yaml = shared.store.qconfig_file(job.id, number as usize).await?;
    let name = format!("attachment; filename=\"job-{id}-trial-{number:03}.qconfig.yaml\"");
    let headers = [(header::CONTENT_TYPE, "application/yaml".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, yaml).into_response())
}

/// The groups of a job's model in topological order, and what each loses in int8.
#[utoipa::path(get, path = "/v1/jobs/{id}/groups", tag = "trials", params(("id" = i64, Path)), responses(
    (status = OK, body = Vec<GroupRow>),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn groups(State(shared): State<Shared>, Path(id): Path<i64>) -> Result<Json<Vec<GroupRow>>, Problem> {
    let job = shared.store.job(JobId(id)).await?;
    let groups = shared.store.job_groups(job.id).await?;
    let trials = shared.derived.trials(&shared.store, job.id).await?;
    let chosen = trials.iter().find(|trial| trial.chosen);
    Ok(Json(groups.iter().map(|group| GroupRow::new(group, chosen)).collect()))
}

/// What was logged while a job ran.
#[utoipa::path(get, path = "/v1/jobs/{id}/logs", tag = "jobs", params(("id" = i64, Path), PageParams), responses(
    (status = OK, body = Vec<LogLine>),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn logs(
    State(shared): State<Shared>,
    Path(id): Path<i64>,
    Query(PageParams { after, limit }): Query<PageParams>,
) -> Result<Json<Vec<LogLine>>, Problem> {
    let limit = checked(limit, 1000, 10_000)?;
    let job = shared.store.job(JobId(id)).await?;
    Ok(Json(shared.store.log_lines(job.id, after, limit).await?))
}
