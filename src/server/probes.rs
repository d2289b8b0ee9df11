//! What machines ask: whether the server lives, whether it can work, and how much it does.

use axum::{Json, extract::State, http::StatusCode, http::header, response::IntoResponse};

use super::{Problem, Shared};
use crate::runner::Health;

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "probes", responses((status = OK, body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether jobs can be taken and worked on.
#[utoipa::path(get, path = "/readyz", tag = "probes", responses(
    (status = OK, body = Health),
    (status = SERVICE_UNAVAILABLE, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn readyz(State(shared): State<Shared>) -> Result<Json<Health>, Problem> {
    shared.store.counts().await?;
    let health = shared.workshop.health();
    let unready = |detail: String| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    match &health {
        Health { stopping: true, .. } => unready("the server stops".to_owned()),
        Health { paused: Some(problem), .. } => unready(format!("the queue pauses: {problem}")),
        _ => Ok(Json(health)),
    }
}

/// Counts for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses(
    (status = OK, body = String, content_type = "text/plain"),
    (status = "4XX", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(State(shared): State<Shared>) -> Result<impl IntoResponse, Problem> {
    let counts = shared.store.counts().await?;
    let health = shared.workshop.health();
    let mut text = String::from("# HELP qtuned_jobs Jobs in the database by state.\n# TYPE qtuned_jobs gauge\n");
    for (state, count) in &counts.jobs {
        text.push_str(&format!("qtuned_jobs{{state=\"{state}\"}} {count}\n"));
    }
    let streams = super::MAX_STREAMS - shared.streams.available_permits();
    let gauges: [(&str, &str, f64); 5] = [
        ("qtuned_trials", "Trials in the database.", counts.trials as f64),
        ("qtuned_workers_busy", "Jobs that run in this process.", health.busy as f64),
        (
            "qtuned_queue_paused",
            "1 while no job is taken because the record cannot be written.",
            f64::from(health.paused.is_some()),
        ),
        ("qtuned_event_streams", "Streams of events that are open.", streams as f64),
        ("qtuned_uptime_seconds", "Seconds since the server started.", shared.since.elapsed().as_secs_f64()),
    ];
    for (name, help, value) in gauges {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
