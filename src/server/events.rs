//! What happens to a job, as Server-Sent Events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use utoipa::IntoParams;

use super::{
    Shared,
    problem::{Path, Problem, Query},
};
use crate::{
    runner::{Follower, Update, one_line},
    store::JobId,
};

/// How often the record is looked at for something new.
const LOOK: Duration = Duration::from_millis(400);

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// As `Last-Event-ID`, for clients that cannot set it.
    after: Option<i64>,
}

/// A stream that is being read.
struct Stream {
    shared: Shared,
    follower: Follower,
    ready: VecDeque<Event>,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Stream)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            if self.over || self.shared.stop.is_cancelled() {
                return None;
            }
            match self.follower.news().await {
                Ok(news) => self.ready.extend(news.iter().map(event)),
                // The client asks again, and is then told what is wrong.
                Err(error) => {
                    tracing::debug!(error = one_line(&error), "a stream of events ends");
                    return None;
                }
            }
            if self.follower.is_over() {
                self.ready.push_back(Event::default().event("end").data("{}"));
                self.over = true;
            } else if self.ready.is_empty() {
                sleep(LOOK).await;
            }
        }
    }
}

/// What happened and happens to a job.
///
/// `event: event` with a number is a `JobEvent`: something that happened, told once. `event: job` is a `JobRow`: the
/// job's state or progress changed. After `event: end` the job has ended and the stream does; a client should not open
/// it again. One that lost its connection goes on after `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(
        ("id" = i64, Path), EventParams,
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event that was seen"),
    ),
    responses(
        (status = OK, body = String, content_type = "text/event-stream"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn events(
    State(shared): State<Shared>,
    Path(id): Path<i64>,
    Query(EventParams { after }): Query<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = match headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.parse().ok())) {
        Some(None) => return Err(Problem::field("Last-Event-ID", "expected a whole number")),
        Some(last) => last,
        None => after,
    };
    let job = shared.store.job(JobId(id)).await?;
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many streams of events are open"));
    };
    let follower = Follower::new(shared.store.clone(), job.id, last.unwrap_or(0));
    let stream = Stream { shared, follower, ready: VecDeque::new(), over: false, _place: place };
    Ok(Sse::new(unfold(stream, Stream::next)).keep_alive(KeepAlive::default()).into_response())
}

fn event(update: &Update) -> Event {
    let made = match update {
        Update::Event(event) => Event::default().id(event.id.to_string()).event("event").json_data(event),
        Update::Job(job) => Event::default().event("job").json_data(job),
    };
    // Rows are plain data, which always has a JSON form.
    made.unwrap_or_default()
}
