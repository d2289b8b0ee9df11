//! What is logged while a job runs is kept with the job.

use std::{
    fmt::{self, Write},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::store::{JobId, LogLine, Store};

/// How long lines are gathered before they are written.
pub const GATHER: Duration = Duration::from_millis(200);

/// The field of a span that says which job it belongs to.
const JOB: &str = "job";

/// A layer that passes on what is logged inside of a span with the field `job`.
pub struct JobLog {
    lines: UnboundedSender<(JobId, LogLine)>,
}

/// What a [`JobLog`] passed on.
pub struct JobLines {
    lines: UnboundedReceiver<(JobId, LogLine)>,
}

/// The two ends of a log of jobs.
pub fn job_log() -> (JobLog, JobLines) {
    let (sender, receiver) = unbounded_channel();
    (JobLog { lines: sender }, JobLines { lines: receiver })
}

impl JobLines {
    /// Writes lines to the store as long as anything is logged.
    pub async fn keep(mut self, store: Store) {
        let mut gathered = Vec::new();
        while self.lines.recv_many(&mut gathered, 1000).await > 0 {
            tokio::time::sleep(GATHER).await;
            while let Ok(line) = self.lines.try_recv() {
                gathered.push(line);
            }
            // A log that cannot be kept stops no search, and to log that would come back here.
            let _ = store.log(&gathered).await;
            gathered.clear();
        }
    }
}

/// The job of a span.
struct Job(JobId);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JobLog {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(job), Some(span)) = (fields.job, context.span(id)) {
            span.extensions_mut().insert(Job(JobId(job)));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let job_of =
            |span: tracing_subscriber::registry::SpanRef<'_, S>| span.extensions().get::<Job>().map(|job| job.0);
        let Some(job) = context.event_scope(event).and_then(|mut scope| scope.find_map(job_of)) else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time_ms = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
        let message = format!("{}{}", fields.message, fields.others);
        // Nobody keeps the lines of a command that runs no job.
        let _ = self.lines.send((job, LogLine { id: 0, time_ms, level: level.to_string(), message }));
    }
}

/// Fields as text, the message first.
#[derive(Default)]
struct Fields {
    job: Option<i64>,
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            JOB => self.job = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}
