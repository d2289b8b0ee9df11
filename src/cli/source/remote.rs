//! A server, over HTTP.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use serde::de::DeserializeOwned;
use ureq::{Agent, Body, RequestBuilder, http::Response, typestate::WithoutBody};

use super::{
    Act, LOG_PAGE, Source, SubmitOptions,
    upload::{self, Bundle},
};
use crate::{
    cli::JobFile,
    job::{Job, JobSpec},
    pipeline::GroupFacts,
    report::Document,
    runner::Update,
    server::{JobList, NewJob, Problem, Statement},
    store::{GroupRow, JobDetail, JobFilter, JobId, JobRow, LogLine, Rows, TrialSummary},
};

/// The variable that holds the token.
const TOKEN: &str = "QTUNED_TOKEN";
/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 30;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it takes to follow again after a connection was lost, and how often that is tried in a row.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: usize = 30;
/// Jobs on one page.
const PAGE: u32 = 500;

/// An answer of the server that says no.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default(), detail)]
struct Refusal {
    field: Option<String>,
    detail: String,
}

/// A server.
pub(super) struct Remote {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Remote {
    pub(super) fn new(url: &str) -> Remote {
        // Answers that say no are read: they say why.
        let config = Agent::config_builder().http_status_as_error(false).timeout_connect(Some(CONNECT)).build();
        // Not an argument, which other users of the machine could read.
        let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        let url = url.trim_end_matches('/').to_owned();
        Remote { agent: config.new_agent(), url, token }
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder<WithoutBody> {
        self.authorized(self.agent.get(format!("{}{path}", self.url)))
    }

    /// The answer, or why there is none.
    fn answer(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut answer = answer.with_context(|| format!("{}: failed to ask the server", self.url))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let problem: Result<Problem, _> = answer.body_mut().read_json();
        Err(match problem {
            Ok(problem) => Refusal { field: problem.field, detail: problem.detail }.into(),
            Err(_) => anyhow!("{}: the server answered {status}, which no server of qtuned does", self.url),
        })
    }

    /// Sends the files of a job that the server does not have; the job as it is there, and the hashes of its files.
    fn upload(&self, job: &Job) -> Result<(JobSpec, BTreeMap<String, String>)> {
        let Bundle { spec, files } = Bundle::of(job)?;
        let bar = ProgressBar::new(files.len() as u64).with_message("uploading");
        let mut hashes = BTreeMap::new();
        for (name, path) in files {
            let sha256 = upload::hash(&path)?;
            let known = self.get(&format!("/v1/blobs/{sha256}")).call();
            if !matches!(&known, Ok(answer) if answer.status().is_success()) {
                let file = File::open(&path).with_context(|| format!("failed to read {}", path.display()))?;
                let request = self.authorized(self.agent.put(format!("{}/v1/blobs/{sha256}", self.url)));
                self.answer(request.content_type("application/octet-stream").send(file))
                    .with_context(|| format!("{}: failed to upload", path.display()))?;
            }
            hashes.insert(name, sha256);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((spec, hashes))
    }

    fn json<T: DeserializeOwned>(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<T> {
        let mut answer = self.answer(answer)?;
        let read = answer.body_mut().with_config().limit(MAX_ANSWER).read_json();
        read.with_context(|| format!("{}: the answer of the server cannot be read", self.url))
    }

    /// Reads one stream of events; whether to go on with another.
    fn stream(&self, job: JobId, last: &mut i64, tell: &mut dyn FnMut(Update) -> Result<bool>) -> Result<bool> {
        let request = self.get(&format!("/v1/jobs/{job}/events")).header("last-event-id", last.to_string());
        let answer = self.answer(request.call())?;
        let mut name = String::new();
        for line in BufReader::new(answer.into_body().into_reader()).lines() {
            // A connection that is lost is opened again.
            let Ok(line) = line else { return Ok(true) };
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("data", data)) => {
                    let update = match name.as_str() {
                        "event" => Update::Event(serde_json::from_str(data)?),
                        "job" => Update::Job(serde_json::from_str(data)?),
                        "end" => return Ok(false),
                        _ => continue,
                    };
                    if let Update::Event(event) = &update {
                        *last = event.id;
                    }
                    if !tell(update)? {
                        return Ok(false);
                    }
                }
                _ => {}
            }
        }
        Ok(true)
    }
}

/// A job for a server that sees the same files as this machine.
fn with_whole_paths(job: &Job) -> Result<JobSpec> {
    let mut spec = job.spec.clone();
    for (_, path) in spec.files_mut() {
        *path = std::path::absolute(job.resolve(path))?;
    }
    if let Some(output) = &mut spec.output {
        *output = std::path::absolute(&output)?;
    }
    Ok(spec)
}

impl Source for Remote {
    fn submit(&self, file: &JobFile, options: &SubmitOptions) -> Result<(JobRow, bool)> {
        let SubmitOptions { priority, again, idempotency_key, upload } = options;
        let loaded = file.load()?;
        let (spec, files) = match upload {
            true => self.upload(&loaded)?,
            false => (with_whole_paths(&loaded)?, BTreeMap::new()),
        };
        let new = NewJob { job: serde_json::to_value(&spec)?, priority: *priority, again: *again, files };
        let mut request = self.authorized(self.agent.post(format!("{}/v1/jobs", self.url)));
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let answer = self.answer(request.send_json(&new))?;
        let new = answer.status().as_u16() == 201;
        Ok((self.json(Ok(answer))?, new))
    }

    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>> {
        let wanted = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let (mut jobs, mut before) = (Vec::new(), filter.before);
        while jobs.len() < wanted {
            let limit = u32::try_from(wanted - jobs.len()).unwrap_or(u32::MAX).min(PAGE);
            let mut request = self.get("/v1/jobs").query("limit", limit.to_string());
            if let Some(state) = filter.state {
                request = request.query("state", state.to_string());
            }
            if let Some(name) = &filter.name {
                request = request.query("name", name);
            }
            if let Some(before) = before {
                request = request.query("before", before.to_string());
            }
            let page: JobList = self.json(request.call())?;
            jobs.extend(page.jobs);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        Ok(jobs)
    }

    fn job(&self, name: Option<&str>) -> Result<JobDetail> {
        let request = self.get("/v1/jobs/find");
        self.json(name.into_iter().fold(request, |request, name| request.query("job", name)).call())
    }

    fn act(&self, job: JobId, act: Act) -> Result<()> {
        let url = format!("{}/v1/jobs/{job}", self.url);
        self.answer(match act {
            Act::Cancel => self.authorized(self.agent.post(format!("{url}/cancel"))).send_empty(),
            Act::Retry => self.authorized(self.agent.post(format!("{url}/retry"))).send_empty(),
            Act::Remove => self.authorized(self.agent.delete(url)).call(),
        })
        .map(drop)
    }

    fn trials(&self, job: JobId) -> Result<Vec<TrialSummary>> {
        self.json(self.get(&format!("/v1/jobs/{job}/trials")).call())
    }

    fn groups(&self, job: JobId) -> Result<Vec<GroupFacts>> {
        let rows: Vec<GroupRow> = self.json(self.get(&format!("/v1/jobs/{job}/groups")).call())?;
        Ok(rows.into_iter().enumerate().map(|(position, row)| row.into_facts(position)).collect())
    }

    fn qconfig(&self, job: JobId, trial: usize) -> Result<String> {
        let mut answer = self.answer(self.get(&format!("/v1/jobs/{job}/trials/{trial}/qconfig")).call())?;
        Ok(answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string()?)
    }

    fn document(&self, job: JobId, document: Document) -> Result<Vec<u8>> {
        let path = format!("/v1/jobs/{job}/files/{}", document.file_name());
        let mut answer = self.answer(self.get(&path).call())?;
        Ok(answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?)
    }

    fn log_lines(&self, job: JobId, after: i64) -> Result<Vec<LogLine>> {
        let request = self.get(&format!("/v1/jobs/{job}/logs")).query("after", after.to_string());
        self.json(request.query("limit", LOG_PAGE.to_string()).call())
    }

    fn follow(&self, job: JobId, tell: &mut dyn FnMut(Update) -> Result<bool>) -> Result<()> {
        let (mut last, mut failures) = (0, 0);
        loop {
            let before = last;
            match self.stream(job, &mut last, tell) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                // What the server says no to, and what cannot be told, is no better the next time.
                Err(error) if !error.chain().any(|cause| cause.is::<ureq::Error>()) => return Err(error),
                Err(error) if failures + 1 == TRIES => return Err(error),
                Err(_) => {}
            }
            failures = if last > before { 0 } else { failures + 1 };
            if failures == TRIES {
                bail!("{}: the server ends the stream of events again and again", self.url);
            }
            thread::sleep(AGAIN);
        }
    }

    fn query(&self, sql: &str) -> Result<Rows> {
        let request = self.authorized(self.agent.post(format!("{}/v1/query", self.url)));
        self.json(request.send_json(&Statement { sql: sql.to_owned() }))
    }
}
