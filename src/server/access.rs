//! Who may ask what, and the headers of every answer.
//!
//! On a loopback address the machine's users may do everything; a web page of elsewhere may not, though a browser
//! would send its requests: they carry the page's `Origin`, or after rebinding its name, another `Host`. On any other
//! address each request needs a token.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use utoipa::{
    Modify,
    openapi::{
        OpenApi, SecurityRequirement,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{Problem, Shared};
use crate::{
    job::{Job, JobSpec},
    report::page,
};

/// Shortest token.
const MIN_TOKEN: usize = 16;
/// How long an answer may take to begin. Reading the data of a new job is the longest.
const ANSWER: Duration = Duration::from_secs(300);

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, page::POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Read,
    Write,
}

/// Why a server cannot be started so.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Others could reach it and nothing would keep them off.
    #[error(
        "{address} can be reached from elsewhere: expected --token-file, with a line `read TOKEN` or `write TOKEN` for each who may"
    )]
    Open {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// The file of tokens cannot be read.
    #[error("{}: failed to read the tokens", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of tokens says something that cannot be.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What was expected; never what was found, which may be a secret.
        problem: String,
    },
    /// The folder that jobs may read is not there.
    #[error("--data-root {}: failed to find the folder", path.display())]
    DataRoot {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who may ask what.
pub struct Access {
    /// Digests of tokens; `None` when everybody who can reach the server may.
    tokens: Option<Vec<(Right, [u8; 32])>>,
    loopback: bool,
    /// What jobs may read; without it, everything on loopback and nothing elsewhere.
    data_root: Option<PathBuf>,
    /// Names of the programs that jobs may measure with.
    targets: BTreeSet<String>,
}

impl Access {
    /// For a server at `address`.
    ///
    /// # Errors
    /// An address that others reach without a file of tokens, or a file or folder that cannot be used.
    pub fn new(
        address: SocketAddr,
        token_file: Option<&Path>,
        data_root: Option<&Path>,
    ) -> Result<Access, AccessError> {
        let loopback = address.ip().to_canonical().is_loopback();
        let tokens = token_file.map(read_tokens).transpose()?;
        if tokens.is_none() && !loopback {
            return Err(AccessError::Open { address });
        }
        let whole =
            |path: &Path| path.canonicalize().map_err(|source| AccessError::DataRoot { path: path.to_owned(), source });
        Ok(Access { tokens, loopback, data_root: data_root.map(whole).transpose()?, targets: BTreeSet::new() })
    }

    /// With names of programs that jobs may measure with.
    pub fn with_targets(self, targets: impl IntoIterator<Item = String>) -> Access {
        Access { targets: targets.into_iter().collect(), ..self }
    }

    /// Refuses a job that would start a program of its own: whoever may send jobs may not run what they like.
    pub(super) fn check_programs(&self, job: &JobSpec) -> Result<(), Problem> {
        if let Some(place) = job.measure.own_program() {
            let detail = "expected none: a job that comes over the network measures with a program that this server \
                          registers (serve --allow-target), named as `target`";
            return Err(Problem::field(place, detail));
        }
        let named = [
            ("measure.latency.target", &job.measure.latency.target),
            ("measure.metric.target", &job.measure.metric.target),
        ];
        match named.into_iter().find(|(_, name)| name.as_ref().is_some_and(|name| !self.targets.contains(name))) {
            None => Ok(()),
            Some((place, _)) if self.targets.is_empty() => {
                Err(Problem::field(place, "expected none: this server registers no program (serve --allow-target)"))
            }
            Some((place, name)) => {
                let known = self.targets.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let found = name.as_deref().unwrap_or_default();
                Err(Problem::field(place, format!("expected one of {known}, found `{}`", found.escape_debug())))
            }
        }
    }

    /// The job with whole paths, when it reads and writes only where it may: below the folder of the files that came
    /// with it, or else below the data root.
    pub(super) fn confine(&self, mut job: Job, uploaded: Option<&Path>) -> Result<Job, Problem> {
        self.check_programs(&job.spec)?;
        let root = match uploaded.or(self.data_root.as_deref()) {
            None if self.loopback => return Ok(job),
            root => root,
        };
        if job.spec.output.is_some() {
            return Err(Problem::field("output", "expected none: this server decides where results are written"));
        }
        for (place, path) in job.spec.files_mut() {
            // One answer for what is outside and what is not there: whether there are files elsewhere is not told.
            let inside = |root: &Path| root.join(&*path).canonicalize().ok().filter(|whole| whole.starts_with(root));
            match root.and_then(inside) {
                Some(whole) => *path = whole,
                None => {
                    let expected =
                        if uploaded.is_some() { "that was uploaded" } else { "below the server's data root" };
                    let detail = format!("expected a file {expected}, found `{}`", path.display());
                    return Err(Problem::field(place, detail));
                }
            }
        }
        job.folder = root.map(Path::to_owned).unwrap_or_default();
        job.root = root.map(Path::to_owned);
        Ok(job)
    }

    /// Refuses a request that may not be made.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
        if self.loopback && !is_local_name(host) {
            let detail = "expected a host of this machine: localhost, 127.0.0.1 or [::1]";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let same = |scheme: &str| origin.as_bytes() == format!("{scheme}://{host}").as_bytes();
            if !same("http") && !same("https") {
                return Err(Problem::new(StatusCode::FORBIDDEN, "requests of pages from elsewhere are refused"));
            }
        }
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let path = uri.path();
        // What is the same for everybody needs no token: probes, the description, the page without its data.
        if !path.starts_with("/v1/") && path != "/metrics" {
            return Ok(());
        }
        let reads = method == Method::GET || method == Method::HEAD || path == "/v1/query";
        let needed = if reads { Right::Read } else { Right::Write };
        match bearer(headers).and_then(|given| right_of(tokens, given)) {
            Some(right) if right >= needed => Ok(()),
            Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, "this token only reads")),
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "expected a token: Authorization: Bearer TOKEN")),
        }
    }
}

/// Every request passes here.
pub(super) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let checked = shared.access.check(request.method(), request.uri(), request.headers());
    let mut response = match checked {
        Err(problem) => problem.into_response(),
        // An upload may take as long as it goes on.
        Ok(()) if request.uri().path().starts_with("/v1/blobs/") => next.run(request).await,
        Ok(()) => timeout(ANSWER, next.run(request))
            .await
            .unwrap_or_else(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the answer took too long").into_response()),
    };
    let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a `Host` is a name of this machine itself.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a token allows. All are compared, each in constant time.
fn right_of(tokens: &[(Right, [u8; 32])], given: &str) -> Option<Right> {
    let given = digest(given);
    let held = tokens.iter().map(|(right, token)| (*right, bool::from(token.ct_eq(&given))));
    held.fold(None, |found, (right, same)| if same { found.max(Some(right)) } else { found })
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn read_tokens(path: &Path) -> Result<Vec<(Right, [u8; 32])>, AccessError> {
    let text = fs::read_to_string(path).map_err(|source| AccessError::Tokens { path: path.to_owned(), source })?;
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |problem: String| AccessError::Line { path: path.to_owned(), line: index + 1, problem };
        let mut words = line.split_whitespace();
        let right = match words.next() {
            None => continue,
            Some(word) if word.starts_with('#') => continue,
            Some("read") => Right::Read,
            Some("write") => Right::Write,
            Some(_) => return Err(wrong("expected `read TOKEN` or `write TOKEN`".to_owned())),
        };
        match (words.next(), words.next()) {
            (Some(token), None) if token.len() >= MIN_TOKEN => tokens.push((right, digest(token))),
            _ => return Err(wrong(format!("expected one token of at least {MIN_TOKEN} characters after the word"))),
        }
    }
    match tokens.is_empty() {
        true => Err(AccessError::Line {
            path: path.to_owned(),
            line: 1,
            problem: "expected at least one line `read TOKEN` or `write TOKEN`".to_owned(),
        }),
        false => Ok(tokens),
    }
}

/// Describes the token.
pub(super) struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", scheme);
        // A server on a loopback address may want none.
        let none: [&str; 0] = [];
        description.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new("token", none)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(access: &Access, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        access.check(&method, &path.parse().unwrap(), &map).err().map_or(200, |problem| problem.status)
    }

    #[test]
    fn loopback_hears_this_machine_and_no_page_from_elsewhere() {
        let access = Access::new("127.0.0.1:7878".parse().unwrap(), None, None).unwrap();
        for host in ["localhost:7878", "127.0.0.1:7878", "127.0.0.1", "[::1]:7878", "LOCALHOST"] {
            assert_eq!(request(&access, Method::POST, "/v1/jobs", &[("host", host)]), 200, "{host}");
            let origin = format!("http://{host}");
            assert_eq!(request(&access, Method::POST, "/v1/jobs", &[("host", host), ("origin", &origin)]), 200);
        }
        for host in ["evil.example", "localhost.evil.example:7878", "127.0.0.1.evil.example", "10.0.0.1:7878", ""] {
            assert_eq!(request(&access, Method::GET, "/v1/jobs", &[("host", host)]), 403, "{host}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:9999"] {
            let headers = [("host", "localhost:7878"), ("origin", origin)];
            assert_eq!(request(&access, Method::GET, "/v1/jobs", &headers), 403, "{origin}");
        }
    }

    #[test]
    fn other_addresses_need_tokens_that_read_or_write() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        let address = "0.0.0.0:7878".parse().unwrap();
        assert!(matches!(Access::new(address, None, None), Err(AccessError::Open { .. })));
        for (text, line) in
            [("", 1), ("# nobody\n", 1), ("read short", 1), ("read a b", 1), ("\nadmin 0123456789abcdef", 2)]
        {
            fs::write(&path, text).unwrap();
            let error = Access::new(address, Some(&path), None).err().unwrap();
            assert!(matches!(error, AccessError::Line { line: found, .. } if found == line), "{error}");
            assert!(!error.to_string().contains("0123456789abcdef"));
        }
        fs::write(&path, "# who looks\nread 0123456789abcdef\nwrite fedcba9876543210\n").unwrap();
        let access = Access::new(address, Some(&path), None).unwrap();
        let with = |method: Method, path: &str, token: &str| {
            let token = format!("Bearer {token}");
            request(&access, method, path, &[("host", "qtuned.example"), ("authorization", &token)])
        };
        assert_eq!(request(&access, Method::GET, "/v1/jobs", &[]), 401);
        assert_eq!(request(&access, Method::GET, "/healthz", &[]), 200);
        assert_eq!(request(&access, Method::GET, "/metrics", &[]), 401);
        assert_eq!(with(Method::GET, "/v1/jobs", "0123456789abcdeg"), 401);
        assert_eq!(with(Method::GET, "/v1/jobs", "0123456789abcdef"), 200);
        assert_eq!(with(Method::POST, "/v1/query", "0123456789abcdef"), 200);
        assert_eq!(with(Method::POST, "/v1/jobs", "0123456789abcdef"), 403);
        assert_eq!(with(Method::DELETE, "/v1/jobs/1", "fedcba9876543210"), 200);
    }

    #[test]
    fn jobs_read_only_below_the_data_root() {
        let folder = tempfile::TempDir::new().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        for file in ["root/m.onnx", "root/a.csv", "secret.onnx"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("secret.onnx"), root.join("link.onnx")).unwrap();
        let access = Access::new("127.0.0.1:0".parse().unwrap(), None, Some(&root)).unwrap();
        let confine = |model: &str, more: &str| {
            let text = format!(
                "{{name: a, model: {{onnx: {model}}}, data: {{images: {{csv: a.csv}}, split: {{calibrate: 1}}}}, \
                 budget: {{max_drop: 0.1}}{more}}}"
            );
            let spec = crate::job::parse(&text, &[]).unwrap();
            access
                .confine(Job { spec, folder: PathBuf::new(), root: None }, None)
                .map_err(|problem| problem.field.unwrap())
        };
        let job = confine("m.onnx", "").unwrap();
        assert_eq!(job.spec.model.onnx, root.canonicalize().unwrap().join("m.onnx"));
        assert_eq!(job.root, Some(root.canonicalize().unwrap()));
        let whole = root.join("m.onnx").display().to_string();
        assert!(confine(&whole, "").is_ok());
        for outside in ["../secret.onnx", "link.onnx", "/etc/passwd", "nowhere.onnx", "root/../../secret.onnx"] {
            assert_eq!(confine(outside, "").unwrap_err(), "model.onnx", "{outside}");
        }
        assert_eq!(confine("m.onnx", ", output: /tmp/x").unwrap_err(), "output");
    }

    #[test]
    fn jobs_measure_with_registered_programs_only() {
        let confine = |targets: &[&str], measure: &str| {
            let access = Access::new("127.0.0.1:0".parse().unwrap(), None, None).unwrap();
            let access = access.with_targets(targets.iter().map(|name| (*name).to_owned()));
            let text = format!(
                "{{name: a, model: {{onnx: m}}, data: {{images: {{csv: a.csv}}, split: {{calibrate: 1}}}}, \
                 budget: {{max_drop: 0.1}}, measure: {measure}}}"
            );
            let spec = crate::job::parse(&text, &[]).unwrap();
            let confined = access.confine(Job { spec, folder: PathBuf::new(), root: None }, None);
            confined.map(drop).map_err(|problem| (problem.field.unwrap(), problem.detail))
        };
        assert_eq!(confine(&["phone"], "{latency: {target: phone}}"), Ok(()));
        for (place, measure) in [
            ("measure.latency.command", "{latency: {command: [sh, -c, id, '{model}']}}"),
            ("measure.metric.command", "{metric: {command: [sh, '{model}']}}"),
            ("measure.programs.folder", "{programs: {folder: /}}"),
            ("measure.latency.target", "{latency: {target: watch}}"),
            ("measure.metric.target", "{metric: {target: Phone}}"),
        ] {
            for targets in [&["phone"][..], &[]] {
                assert_eq!(confine(targets, measure).unwrap_err().0, place);
            }
        }
        let (_, detail) = confine(&["phone", "board"], "{latency: {target: watch}}").unwrap_err();
        assert!(detail.contains("expected one of board, phone, found `watch`"), "{detail}");
    }
}
