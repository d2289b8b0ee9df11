//! The report as one file: style, scripts and data are in it, and it is allowed to load nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{JobReport, ReportError, page};

/// Shows the report that is in the page.
const SHOW: &str = "new JobView(document.getElementById('job'))
    .update(JSON.parse(document.getElementById('report').textContent));";

/// A report that opens without a network.
///
/// Names and errors come from models and job files: they are data in it, never markup, and its content security policy
/// runs no script and applies no style but those that were compiled in.
///
/// # Errors
/// A report that JSON cannot hold.
pub(super) fn html(report: &JobReport) -> Result<String, ReportError> {
    let json = serde_json::to_string(report)?;
    // Within JSON `<` is part of a text. Without one nothing ends the element, or begins a comment in it.
    let data = json.replace('<', "\\u003c");
    let name = escape(&report.job.name);
    let style = page::STYLE;
    // The map of its source lies elsewhere.
    let chart = page::CHART.split("//# sourceMappingURL").next().unwrap_or_default();
    let modules: Vec<String> = page::MODULES.iter().map(|module| without_imports(module)).collect();
    let script = format!("{}\n{SHOW}\n", modules.join("\n"));
    let policy = format!(
        "default-src 'none'; script-src {} {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        hash(chart),
        hash(&script),
        hash(style)
    );
    Ok(format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name} · qtuned</title>
<style>{style}</style>
</head>
<body>
<main id="job"><noscript>The pictures are drawn by a script in this file, which is not allowed to run here.</noscript></main>
<script type="application/json" id="report">{data}</script>
<script>{chart}</script>
<script type="module">{script}</script>
</body>
</html>
"#
    ))
}

/// What a content security policy calls a script or style by.
pub(super) fn hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// A module that stands below those that it imports, in the same script.
fn without_imports(module: &str) -> String {
    let mut code = String::new();
    let mut importing = false;
    for line in module.lines() {
        importing |= line.starts_with("import ");
        if !importing {
            code.push_str(line);
            code.push('\n');
        }
        importing &= !line.ends_with(';');
    }
    code
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
