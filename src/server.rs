//! The HTTP API: jobs, trials, reports, events and probes, with its description made from the code; and the web page.
//!
//! Everything goes through `access`: who may, which hosts and origins are heard, and the headers of every answer.
//! A handler does one thing with the store; what is wrong is told as a [`Problem`].

mod access;
mod derived;
mod events;
mod jobs;
mod probes;
mod problem;
mod query;
mod report;
mod uploads;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, middleware, routing::get};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use access::Bearer;
pub use access::{Access, AccessError};
use derived::Derived;
pub use jobs::{JobList, NewJob};
pub use problem::{PROBLEM_JSON, Problem};
pub use query::Statement;
pub use uploads::Uploads;

use crate::{
    cancel::Cancel,
    runner::Workshop,
    store::{Changes, Store},
};

/// Largest body of a request but an upload, in bytes.
const MAX_BODY: usize = 16 << 20;
/// Streams of events at the same time.
const MAX_STREAMS: usize = 512;
/// Statements of users that run at the same time; each may take memory and a core.
const MAX_QUERIES: usize = 2;
/// How often files are looked for that no job refers to any more.
const CLEAN: Duration = Duration::from_secs(60 * 60);
/// How often what asks a process to stop is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long open requests may take once the process was asked to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Runs searches that find the int8 qconfig of a network, and tells everything about them.
#[derive(OpenApi)]
#[openapi(modifiers(&Bearer))]
struct Description;

/// What the handlers share.
struct Inner {
    store: Store,
    database: PathBuf,
    workshop: Arc<Workshop>,
    access: Access,
    stop: Cancel,
    intake: Arc<Semaphore>,
    queries: Semaphore,
    uploads: Uploads,
    derived: Derived,
    streams: Arc<Semaphore>,
    since: Instant,
}

type Shared = Arc<Inner>;

/// A server that is not yet listening.
pub struct Server {
    shared: Shared,
}

impl Server {
    /// A server of this store, whose jobs are worked on in `workshop`, until `stop` is set.
    pub fn new(
        store: Store,
        database: &Path,
        workshop: Arc<Workshop>,
        access: Access,
        uploads: Uploads,
        changes: Changes,
        stop: Cancel,
    ) -> Server {
        let shared = Inner {
            store,
            database: database.to_owned(),
            workshop,
            access,
            stop,
            intake: Arc::new(Semaphore::new(1)),
            queries: Semaphore::new(MAX_QUERIES),
            uploads,
            derived: Derived::new(changes),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            since: Instant::now(),
        };
        Server { shared: Arc::new(shared) }
    }

    /// All routes.
    fn router(&self) -> Router {
        let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
            .routes(routes!(jobs::list, jobs::create))
            .routes(routes!(jobs::find))
            .routes(routes!(jobs::get, jobs::remove))
            .routes(routes!(jobs::cancel))
            .routes(routes!(jobs::retry))
            .routes(routes!(jobs::trials))
            .routes(routes!(jobs::front))
            .routes(routes!(jobs::qconfig))
            .routes(routes!(jobs::groups))
            .routes(routes!(jobs::logs))
            .routes(routes!(report::report))
            .routes(routes!(report::file))
            .routes(routes!(events::events))
            .routes(routes!(query::query))
            .routes(routes!(uploads::has, uploads::put))
            .routes(routes!(probes::healthz))
            .routes(routes!(probes::readyz))
            .routes(routes!(probes::metrics))
            .split_for_parts();
        let description = Arc::new(description);
        let shared = Arc::clone(&self.shared);
        router
            .route("/openapi.json", get(async move || axum::Json(description.as_ref().clone())))
            .fallback(report::page)
            .method_not_allowed_fallback(async || {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), access::guard))
            .with_state(shared)
    }

    /// Answers requests until the process is asked to stop.
    ///
    /// # Errors
    /// A listener that breaks.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let stopped = |stop: Cancel| async move {
            while !stop.is_cancelled() {
                sleep(LOOK).await;
            }
        };
        let serving = axum::serve(listener, self.router())
            .with_graceful_shutdown(stopped(self.shared.stop.clone()))
            .into_future();
        let overdue = async {
            stopped(self.shared.stop.clone()).await;
            sleep(LAST_ANSWERS).await;
        };
        let shared = Arc::clone(&self.shared);
        let cleaning = tokio::spawn(async move {
            loop {
                shared.uploads.clean(&shared.store).await;
                sleep(CLEAN).await;
            }
        });
        let served = tokio::select! {
            served = serving => served,
            // A client that does not read its answer keeps nobody.
            () = overdue => Ok(()),
        };
        cleaning.abort();
        served
    }
}
