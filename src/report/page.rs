//! The web page: files that the server sends as they are, and what the report is put together from.

/// The style of page and report.
pub(super) const STYLE: &str = include_str!("page/style.css");
/// What draws a job, each module before those that import it; shared by page and report.
pub(super) const MODULES: [&str; 6] = [ELEMENTS, PICTURES, TRIALS, GROUPS, DEPLOYMENT, JOB];
const ELEMENTS: &str = include_str!("page/elements.js");
const PICTURES: &str = include_str!("page/pictures.js");
const TRIALS: &str = include_str!("page/trials.js");
const GROUPS: &str = include_str!("page/groups.js");
const DEPLOYMENT: &str = include_str!("page/deployment.js");
const JOB: &str = include_str!("page/job.js");
/// Chart.js, MIT; see `page/chart.LICENSE.md`.
pub(super) const CHART: &str = include_str!("page/chart.umd.min.js");

/// What the page may do, for the header `Content-Security-Policy`: nothing but load its own files and ask its own
/// server.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file of the web page at this path, and its content type.
pub fn asset(path: &str) -> Option<(&'static str, &'static [u8])> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/style.css" => ("text/css; charset=utf-8", STYLE),
        "/app.js" => (SCRIPT, include_str!("page/app.js")),
        "/elements.js" => (SCRIPT, ELEMENTS),
        "/pictures.js" => (SCRIPT, PICTURES),
        "/trials.js" => (SCRIPT, TRIALS),
        "/groups.js" => (SCRIPT, GROUPS),
        "/deployment.js" => (SCRIPT, DEPLOYMENT),
        "/job.js" => (SCRIPT, JOB),
        "/chart.umd.min.js" => (SCRIPT, CHART),
        "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        _ => return None,
    };
    Some((content_type, text.as_bytes()))
}
