use std::collections::HashSet;

use serde_json::Value;

use super::*;
use crate::{
    evaluate::{Fingerprint, Metric},
    graph::GroupId,
    job::{Job, LockedHashes, parse},
    pipeline::{Finalist, Observed},
    search::Finish,
    sensitivity::GroupSensitivity,
    store::{JobId, JobState},
};

/// What a page that trusts its data would run.
const HOSTILE: &str = "</script></title><img src=x onerror=alert(1)><!--<script>&amp;\u{0}{data}\u{2028}\"'";

fn job(budget: &str, state: JobState) -> JobRow {
    let text = format!(
        "{{name: small, model: {{onnx: models/m.onnx}}, data: {{images: {{csv: a}}, split: {{calibrate: 1}}}}, \
         budget: {budget}}}"
    );
    let hash = "a".repeat(64);
    let sha256 = LockedHashes { model: hash.clone(), calibrate: hash.clone(), search: hash.clone(), certify: hash };
    let lock = JobLock::new(&Job { spec: parse(&text, &[]).unwrap(), folder: "/".into(), root: None }, sha256);
    let done = state == JobState::Succeeded;
    JobRow {
        id: JobId(3),
        name: "small".into(),
        state,
        priority: 0,
        metric: lock.job.budget.metric,
        model_sha256: lock.sha256.model.clone(),
        trials: 3,
        progress: None,
        finish: done.then_some(Finish::WithinBudget),
        chosen: done.then_some(2),
        within_budget: done.then_some(true),
        error: None,
        created_ms: 1_700_000_000_000,
        submitted_ms: None,
        started_ms: Some(1_700_000_000_000),
        finished_ms: done.then_some(1_700_000_060_000),
        lock: lock.to_yaml().unwrap(),
        model: None,
    }
}

fn groups() -> Vec<GroupFacts> {
    let group = |position: usize, id: &str, weight: Option<f64>, output: Option<f64>| GroupFacts {
        id: id.into(),
        object_type: "Conv".into(),
        macs: 120_000,
        parameters: 90,
        sensitivity: output.map(|output| GroupSensitivity {
            group: GroupId(position),
            weight,
            local: 21.5,
            accumulated: 18.25,
            output,
            range: (0.0, 6.0),
        }),
    };
    vec![
        group(0, "first", Some(40.0), Some(4.5)),
        group(1, "add", None, Some(f64::INFINITY)),
        group(2, "last", None, None),
    ]
}

fn trial(number: usize, correct: u64, median: Option<f64>, fp32: &[&str]) -> TrialSummary {
    let fingerprint =
        Fingerprint { cpu: "cpu".into(), kernel: "avx2".into(), threads: 1, batch: 1, quota_milli_cpus: None };
    TrialSummary {
        number,
        key: format!("{number:02}").repeat(32),
        metric: Metric::Top1,
        score: correct as f64 / 200.0,
        correct: Some(correct),
        total: 200,
        complete: true,
        score_drop: Some((184.0 - correct as f64) / 200.0),
        drop_low: Some((184.0 - correct as f64) / 200.0),
        drop_high: Some((184.0 - correct as f64) / 200.0),
        q1_ns: median.map(|ns| ns - 10_000.0),
        median_ns: median,
        q3_ns: median.map(|ns| ns + 10_000.0),
        fp32_median_ns: median.map(|_| 2e6),
        speed_up: median.map(|ns| 2e6 / ns),
        weight_bytes: 42_000,
        activation_bytes: 4096,
        int8_groups: 2 - fp32.len(),
        repairs: vec![],
        fp32_groups: fp32.iter().map(|id| (*id).to_owned()).collect(),
        on_front: median.is_some(),
        chosen: number == 2,
        fingerprint: median.map(|_| fingerprint),
    }
}

fn trials() -> Vec<TrialSummary> {
    vec![
        trial(0, 184, Some(2e6), &["first", "add"]),
        trial(1, 140, Some(8e5), &[]),
        trial(2, 182, Some(1e6), &["first"]),
        trial(3, 183, None, &["add"]),
    ]
}

fn report() -> JobReport {
    JobReport::new(job("{max_drop: 0.02}", JobState::Succeeded), groups(), trials(), None).unwrap()
}

/// A report in which everything that comes from outside is hostile.
fn hostile() -> JobReport {
    let mut report = report();
    report.job.name = HOSTILE.into();
    report.job.error = Some(HOSTILE.into());
    report.model = HOSTILE.into();
    for trial in &mut report.trials {
        trial.summary.fp32_groups = vec![HOSTILE.into()];
        trial.summary.fingerprint.as_mut().into_iter().for_each(|f| f.cpu = HOSTILE.into());
    }
    report.groups.iter_mut().for_each(|group| group.id = HOSTILE.into());
    report
}

fn text(document: Document, report: &JobReport) -> String {
    String::from_utf8(document.of(report).unwrap()).unwrap()
}

/// What stands between two texts, the first time.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(inner, _)| inner).unwrap()
}

#[test]
fn json_has_what_the_pictures_need() {
    // The last digits of an interval are those of this machine's logarithm.
    insta::with_settings!({filters => [(r"(\d\.\d{6})\d+", "$1")]}, {
        insta::assert_snapshot!("json", text(Document::Json, &report()));
    });
}

#[test]
fn budgets_become_a_line_and_marks() {
    let within = |budget: &str| {
        let report = JobReport::new(job(budget, JobState::Running), groups(), trials(), None).unwrap();
        (report.budget.least_score.unwrap() as f32, report.trials.iter().map(|t| t.within_budget).collect::<Vec<_>>())
    };
    assert_eq!(within("{max_drop: 0.01}"), (0.91, vec![true, false, true, true]));
    assert_eq!(within("{max_drop: 0.25, drop: relative}"), (0.69, vec![true, true, true, true]));
    assert_eq!(within("{max_drop: 0.0}"), (0.92, vec![true, false, false, false]));
}

#[test]
fn hostile_names_stay_text_in_html() {
    let report = hostile();
    let html = text(Document::Html, &report);
    let data = between(&html, "<script type=\"application/json\" id=\"report\">", "</script>");
    assert_eq!(data.replace("\\u003c", "<"), serde_json::to_string(&report).unwrap());
    serde_json::from_str::<Value>(data).unwrap();
    let without = html.replace(data, "");
    assert_eq!(without.matches("<img").count() + without.matches("<!--").count(), 0);
    assert_eq!(without.matches("</script").count(), 3);
    assert_eq!(without.matches("</title").count(), 1);
    assert!(between(&html, "<title>", "</title>").starts_with("&lt;/script&gt;&lt;/title&gt;&lt;img"));
}

#[test]
fn html_loads_nothing_and_runs_only_its_own_scripts() {
    let html = text(Document::Html, &report());
    for load in [
        "<link",
        "<iframe",
        "<img",
        " src=",
        " href=",
        "url(",
        "@import",
        "import(",
        "import {",
        "importScripts",
        "fetch(",
        "sourceMappingURL",
        "eval(",
        "style=",
        "<base",
    ] {
        assert!(!html.contains(load), "{load}");
    }
    let address = regex::Regex::new("https?://[^\"'` \\n)]*").unwrap();
    let addresses: HashSet<&str> = address.find_iter(&html).map(|found| found.as_str()).collect();
    // Two are in notices of the library, one is the name of SVG.
    let known = ["https://www.chartjs.org", "https://github.com/kurkle/color#readme", "http://www.w3.org/2000/svg"];
    assert_eq!(addresses, HashSet::from(known));

    let policy = between(&html, "Content-Security-Policy\" content=\"", "\"");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let element = regex::Regex::new("(?s)<(style|script|script type=\"module\")>(.*?)</(style|script)>").unwrap();
    let elements: Vec<_> = element.captures_iter(&html).collect();
    assert_eq!(elements.len(), 3);
    for element in elements {
        assert!(policy.contains(&html::hash(&element[2])), "{}", &element[1]);
    }
}

#[test]
fn the_page_is_whole() {
    let asset = |path: &str| String::from_utf8(page::asset(path).unwrap().1.to_vec()).unwrap();
    let index = asset("/");
    let reference = regex::Regex::new("(?:src|href)=\"([^\"]*)\"").unwrap();
    let references: Vec<&str> = reference.captures_iter(&index).map(|found| found.get(1).unwrap().as_str()).collect();
    assert!(references.len() >= 4, "{references:?}");
    for path in references.into_iter().filter(|path| !path.starts_with('#')) {
        assert!(page::asset(path).is_some(), "{path}");
    }
    let import = regex::Regex::new("from \"\\.([^\"]*)\"").unwrap();
    for module in ["/app.js", "/job.js", "/deployment.js", "/groups.js", "/trials.js", "/pictures.js", "/elements.js"] {
        for imported in import.captures_iter(&asset(module)) {
            assert!(page::asset(&imported[1]).is_some(), "{}", &imported[1]);
        }
    }
    assert!(page::asset("/nothing").is_none() && page::asset("/../style.css").is_none());
    // The policy allows no script or style within the page.
    for inline in ["<style", "style=", "onclick=", "onload=", "javascript:"] {
        assert!(!index.contains(inline), "{inline}");
    }
    assert_eq!(index.matches("<script").count(), index.matches("<script src=").count());
}

#[test]
fn pictures_are_xml_with_every_mark() {
    let texts = |svg: &str| -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{error}\n{svg}"));
        let all = document.descendants().filter(|node| node.has_tag_name("text"));
        all.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
    };
    let trials = texts(&text(Document::TrialsSvg, &report()));
    for text in ["small: accuracy against latency", "budget: at least 90.00 %", "chosen", "0", "1", "2", "top-1, %"] {
        assert!(trials.iter().any(|t| t == text), "{text} in {trials:?}");
    }
    let groups = texts(&text(Document::GroupsSvg, &report()));
    for text in ["▲ fp32  first", "add", "▲ fp32  last", "∞", "accumulated", "SQNR, dB"] {
        assert!(groups.iter().any(|t| t == text), "{text} in {groups:?}");
    }
    for svg in [text(Document::TrialsSvg, &hostile()), text(Document::GroupsSvg, &hostile())] {
        assert!(texts(&svg).iter().any(|text| text.contains("</script></title>")));
        assert!(!svg.contains("<img") && !svg.contains("<script"));
    }
}

#[test]
fn a_job_without_results_has_a_report() {
    let empty = JobReport::new(job("{max_drop: 0.02}", JobState::Running), vec![], vec![], None).unwrap();
    assert_eq!(empty.budget.least_score, None);
    assert!(text(Document::TrialsSvg, &empty).contains("no trial with a latency yet"));
    text(Document::GroupsSvg, &empty);
    text(Document::Html, &empty);
    // Scores in dB, infinite for fp32.
    let mut trials = trials();
    for (trial, db) in trials.iter_mut().zip([f64::INFINITY, 12.0, 31.0, 30.0]) {
        (trial.metric, trial.score, trial.correct, trial.score_drop) = (Metric::Sqnr, db, None, None);
    }
    let decibel =
        JobReport::new(job("{metric: sqnr, min_db: 30}", JobState::Succeeded), groups(), trials, None).unwrap();
    assert_eq!(decibel.budget.least_score, Some(30.0));
    assert_eq!(decibel.trials.iter().map(|t| t.within_budget).collect::<Vec<_>>(), [true, false, true, true]);
    assert!(text(Document::TrialsSvg, &decibel).contains("budget: at least 30.00 dB"));
    assert_eq!(serde_json::to_value(&decibel).unwrap()["trials"][0]["score"], "inf");
}

#[test]
fn a_score_is_a_plain_number() {
    let mut trials = trials();
    for (trial, score) in trials.iter_mut().zip([27.5, 26.25, 27.25, 27.0]) {
        (trial.metric, trial.score, trial.correct, trial.score_drop) = (Metric::Score, score, None, Some(27.5 - score));
    }
    let observed = Some(Observed { fp32: 28.5, score: 27.75 });
    let finalists = vec![Finalist { trial: 2, certified: None, observed }];
    let certificate = Certificate { confidence: 0.95, finalists };
    let program = "{metric: score, max_drop: 0.3}, measure: {metric: {target: bleu}}";
    let scored = JobReport::new(job(program, JobState::Succeeded), groups(), trials, Some(&certificate)).unwrap();
    assert_eq!(scored.budget.least_score, Some(27.2));
    assert_eq!(scored.trials.iter().map(|t| t.within_budget).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(scored.trials.iter().all(|trial| trial.interval.is_none()));
    let FinalistReport { trial, total, drop, bound, holds, score, fp32_score, .. } = scored.finalists[0].clone();
    assert_eq!((trial, drop, score, fp32_score), (2, Some(0.75), Some(27.75), Some(28.5)));
    assert_eq!((total, bound, holds), (None, None, None));
    let svg = text(Document::TrialsSvg, &scored);
    assert!(svg.contains("budget: at least 27.2000") && !svg.contains('%'), "{svg}");
}

#[test]
fn documents_are_found_by_name() {
    for document in Document::ALL {
        assert_eq!(Document::by_file_name(document.file_name()), Some(document));
    }
    assert_eq!(Document::by_file_name("report"), None);
}

#[test]
fn groups_are_a_table() {
    insta::assert_snapshot!("groups_csv", text(Document::GroupsCsv, &report()));
}

#[test]
fn a_lock_that_cannot_be_read_is_named() {
    let mut job = job("{max_drop: 0.02}", JobState::Failed);
    job.lock = "{}".into();
    let error = JobReport::new(job, vec![], vec![], None).unwrap_err();
    assert_eq!(error.to_string(), "the lock of job `small` cannot be read");
}

#[test]
fn the_certificate_beside_the_results_is_shown_when_it_is_of_this_job() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut row = job("{max_drop: 0.02}", JobState::Succeeded);
    let mut lock: JobLock = serde_yaml::from_str(&row.lock).unwrap();
    lock.job.output = Some(folder.path().to_owned());
    row.lock = lock.to_yaml().unwrap();
    let certificate = |job: &str| {
        let hash = "a".repeat(64);
        let share = serde_json::json!({"correct": 9, "total": 10, "top1": 0.9, "interval": [0.6, 0.98]});
        serde_json::json!({
            "schema": verify::SCHEMA, "qtuned": "0.1.0", "job": job, "trial": 2,
            "sha256": {"model": hash, "qconfig": hash, "exported": hash, "certify": hash},
            "fingerprint": {"cpu": "x", "kernel": "avx2", "threads": 1, "batch": 1, "quota_milli_cpus": null},
            "fp32": share, "int8": share, "reread": {"same": 10, "total": 10},
            "engine": {
                "name": "ONNX Runtime", "build": HOSTILE, "accuracy": share, "agree": 10, "agreement": 1.0,
                "disagree": [], "largest_difference": 0.0, "sqnr_db": null, "layers": [], "qtuned_ns": 1e6, "engine_ns": 2e6,
            },
            "problems": [], "warnings": [],
        })
    };
    let shown = |text: &str| {
        fs::write(folder.path().join(verify::FILE), text).unwrap();
        JobReport::new(row.clone(), groups(), trials(), None).unwrap().deployment
    };
    let found = shown(&certificate("small").to_string()).unwrap();
    assert_eq!((found.trial, found.engine.as_ref().unwrap().sqnr_db), (2, None));
    assert_eq!(serde_json::to_value(&found).unwrap(), certificate("small"));
    let page = text(Document::Html, &JobReport::new(row.clone(), groups(), trials(), None).unwrap());
    assert!(page.contains("drawDeployment") && !page.contains("<img src=x"), "{page}");
    assert_eq!(shown(&certificate("another").to_string()), None);
    assert_eq!(shown("{}"), None);
}
