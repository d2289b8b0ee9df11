use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    confidence::Pairs,
    dataset::DataSpec,
    evaluate::{Evaluation, Fingerprint, Latency, Metric, Quartiles, Score},
    graph::GroupId,
    job::{Job, JobLock, LockedHashes},
    pareto,
    pipeline::{Certificate, Certified, Finalist, GroupFacts, Ledger, TrialFacts},
    quant::{Preset, QConfigFile, QConfigMapping, Repair},
    search::{Budget, DropInterval, DropKind, Finish, GroupTime, Key, Trial},
    sensitivity::GroupSensitivity,
};

/// One second later at every look.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(Ticks(AtomicI64::new(1_000_000)))
}

async fn open(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("qtuned.db"), clock()).await.unwrap()
}

pub(super) fn lock(name: &str, max_drop: f64) -> JobLock {
    let text = format!(
        "{{name: {name}, model: {{onnx: m}}, data: {{images: {{csv: a}}, split: {{calibrate: 1}}}}, \
         budget: {{max_drop: {max_drop}}}}}"
    );
    let spec = crate::job::parse(&text, &[]).unwrap();
    let _: &DataSpec = &spec.data;
    let hash = "a".repeat(64);
    let sha256 = LockedHashes { model: hash.clone(), calibrate: hash.clone(), search: hash.clone(), certify: hash };
    JobLock::new(&Job { spec, folder: "/".into(), root: None }, sha256)
}

fn latency(candidate_ns: Vec<u64>, fp32_ns: Vec<u64>) -> Latency {
    let fingerprint =
        Fingerprint { cpu: "cpu".into(), kernel: "k".into(), threads: 1, batch: 1, quota_milli_cpus: Some(1500) };
    Latency { candidate_ns, fp32_ns, fingerprint }
}

pub(super) fn trial(id: u8, right: usize, ns: Option<Vec<u64>>) -> Trial {
    let correct: Vec<bool> = (0..20).map(|i| i < right).collect();
    Trial {
        key: Key([id; 32]),
        repairs: vec![Repair::ObserverAuto, Repair::PerChannel],
        fp32_groups: vec![GroupId(0), GroupId(2)],
        int8_groups: 1,
        evaluation: Evaluation { score: Score::Count { correct: right as u64, total: 20 }, correct, seconds: 0.5 },
        latency: ns.map(|ns| latency(ns, vec![200, 100])),
        weight_bytes: 10,
        activation_bytes: 5,
    }
}

pub(super) fn facts() -> TrialFacts {
    let file = QConfigFile {
        job: "a".into(),
        model_sha256: "a".repeat(64),
        trial: 0,
        score: 1.0,
        mapping: QConfigMapping::preset(Preset::Onednn),
        groups: vec![],
    };
    TrialFacts { fp32_names: vec!["a".into(), "c".into()], drop: None, qconfig_json: "{}".into(), file }
}

#[tokio::test]
async fn a_trial_reads_back_as_recorded_and_is_recorded_once() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    let first = trial(1, 13, Some(vec![3, 1, 2]));
    for _ in 0..2 {
        store.record_trial(job, 0, Metric::Top1, &first, &facts()).await.unwrap();
    }
    assert_eq!(store.trial(job, &first.key).await.unwrap(), Some(first.clone()));
    assert_eq!(store.trial(job, &Key([9; 32])).await.unwrap(), None);

    // Latencies taken again are kept beside the old ones, and the job goes by them.
    let again = Trial { latency: Some(latency(vec![7], vec![8])), ..first.clone() };
    store.record_trial(job, 0, Metric::Top1, &again, &facts()).await.unwrap();
    assert_eq!(store.trial(job, &first.key).await.unwrap(), Some(again));
    let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM latency_runs").fetch_one(&store.pool).await.unwrap();
    assert_eq!(runs, 2);

    // The fold proposes the same at the same place; anything else is refused, and leaves nothing behind.
    let other = trial(2, 13, None);
    let error = store.record_trial(job, 0, Metric::Top1, &other, &facts()).await.unwrap_err();
    assert!(error.to_string().contains("was another one"), "{error}");
    assert_eq!(store.trial(job, &other.key).await.unwrap(), None);
}

#[tokio::test]
async fn jobs_that_share_a_trial_may_come_from_different_starts() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let first = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    let second = store.begin_job(&lock("a", 0.2), "me").await.unwrap().id;
    let shared = trial(1, 13, None);
    store.record_trial(first, 0, Metric::Top1, &shared, &facts()).await.unwrap();
    let other = Trial { fp32_groups: vec![GroupId(2)], ..shared.clone() };
    let names = TrialFacts { fp32_names: vec!["c".into()], ..facts() };
    store.record_trial(second, 0, Metric::Top1, &other, &names).await.unwrap();
    assert_eq!(store.trial(first, &shared.key).await.unwrap(), Some(shared));
    assert_eq!(store.trial(second, &other.key).await.unwrap(), Some(other));
    let repairs = [Repair::ObserverAuto, Repair::PerChannel];
    assert_eq!(store.summaries(first).await.unwrap()[0].repairs, repairs);
    assert_eq!(store.summaries(first).await.unwrap()[0].fp32_groups, ["a", "c"]);
    assert_eq!(store.summaries(second).await.unwrap()[0].fp32_groups, ["c"]);
}

#[tokio::test]
async fn a_trial_that_was_stopped_is_shown_with_its_interval_and_is_not_on_the_front() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    store.record_trial(job, 0, Metric::Top1, &trial(1, 18, Some(vec![100])), &facts()).await.unwrap();
    let mut stopped = trial(2, 3, Some(vec![1]));
    stopped.evaluation.correct.truncate(8);
    stopped.evaluation.score = Score::Count { correct: 3, total: 8 };
    let drop = DropInterval { seen: 0.625, low: 0.25, high: 0.875 };
    let known = TrialFacts { drop: Some(drop), ..facts() };
    store.record_trial(job, 1, Metric::Top1, &stopped, &known).await.unwrap();
    assert_eq!(store.trial(job, &stopped.key).await.unwrap(), Some(stopped));
    let shown = store.summaries(job).await.unwrap();
    assert_eq!((shown[0].complete, shown[0].on_front, shown[0].score_drop), (true, true, Some(0.0)));
    let of = |s: &TrialSummary| (s.complete, s.on_front, s.score_drop, s.drop_low, s.drop_high);
    assert_eq!(of(&shown[1]), (false, false, Some(0.625), Some(0.25), Some(0.875)));
}

#[tokio::test]
async fn a_certificate_reads_back_as_recorded_and_goes_with_its_job() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    assert_eq!(store.certificate(job).await.unwrap(), None);
    let pairs = Pairs { lost: 3, won: 1, base: 17, total: 20 };
    let failed = Certified { pairs, bound: Some(0.25), holds: false };
    let held = Certified { pairs: Pairs { lost: 0, ..pairs }, bound: None, holds: true };
    let finalist = |trial, certified| Finalist { trial, certified, observed: None };
    let finalists = vec![finalist(4, Some(failed)), finalist(2, Some(held)), finalist(3, None)];
    let certificate = Certificate { confidence: 0.95, finalists };
    for recorded in [Certificate { finalists: vec![finalist(1, None)], ..certificate.clone() }, certificate.clone()] {
        store.record_certificate(job, &recorded).await.unwrap();
        assert_eq!(store.certificate(job).await.unwrap(), Some(recorded));
    }
    assert_eq!(certificate.holds(), Some(2));
    store.end_job(job, "me", &JobEnd::Interrupted, 75).await.unwrap();
    store.remove(job).await.unwrap();
    assert_eq!(store.certificate(job).await.unwrap(), None);
}

#[tokio::test]
async fn decibels_may_be_infinite_and_bits_must_agree() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    let mut equal = trial(1, 0, None);
    equal.evaluation =
        Evaluation { score: Score::Number { value: f64::INFINITY, total: 4 }, correct: vec![], seconds: 1.0 };
    store.record_trial(job, 0, Metric::Sqnr, &equal, &facts()).await.unwrap();
    assert_eq!(store.trial(job, &equal.key).await.unwrap(), Some(equal.clone()));
    equal.key = Key([2; 32]);
    equal.evaluation.score = Score::Number { value: f64::NAN, total: 4 };
    assert!(store.record_trial(job, 1, Metric::Sqnr, &equal, &facts()).await.is_err());
    let mut wrong = trial(3, 5, None);
    wrong.evaluation.correct[0] = false;
    assert!(store.record_trial(job, 1, Metric::Top1, &wrong, &facts()).await.is_err());
}

#[tokio::test]
async fn scores_are_numbers_and_their_drops_differences() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).await;
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    let budget = Budget::Drop { max_drop: 0.5, kind: DropKind::Absolute };
    let scored = |id: u8, value: f64| {
        let evaluation = Evaluation { score: Score::Number { value, total: 20 }, correct: vec![], seconds: 1.0 };
        Trial { evaluation, ..trial(id, 0, Some(vec![100 + u64::from(id)])) }
    };
    let (fp32, int8) = (scored(1, 27.5), scored(2, 27.125));
    for (number, trial) in [&fp32, &int8].into_iter().enumerate() {
        let drop = budget.drop_interval(&fp32.evaluation, &trial.evaluation, 0.95);
        store.record_trial(job, number, Metric::Score, trial, &TrialFacts { drop, ..facts() }).await.unwrap();
        assert_eq!(store.trial(job, &trial.key).await.unwrap().as_ref(), Some(trial));
    }
    let summaries = store.summaries(job).await.unwrap();
    let shown = |trial: &TrialSummary| (trial.metric, trial.score, trial.correct, trial.score_drop, trial.complete);
    assert_eq!(shown(&summaries[0]), (Metric::Score, 27.5, None, Some(0.0), true));
    assert_eq!(shown(&summaries[1]), (Metric::Score, 27.125, None, Some(0.375), true));
    assert_eq!(summaries[1].measured(), int8.evaluation.score);
    let relative: Vec<f64> = sqlx::query_scalar("SELECT relative_drop FROM trial_summary ORDER BY number")
        .fetch_all(&store.pool)
        .await
        .unwrap();
    assert_eq!(relative, [0.0, 0.375 / 27.5]);
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    // A metric that counts has a count.
    assert!(store.record_trial(job, 2, Metric::Top1, &scored(3, 1.0), &facts()).await.is_err());
}

#[tokio::test]
async fn the_same_lock_continues_its_job() {
    let folder = TempDir::new().unwrap();
    let (path, ticks) = (folder.path().join("qtuned.db"), clock());
    let store = Store::open(&path, Arc::clone(&ticks)).await.unwrap();
    let first = store.begin_job(&lock("a", 0.1), "me").await.unwrap();
    assert_eq!(first.continued, None);
    store.record_trial(first.id, 0, Metric::Top1, &trial(1, 3, None), &facts()).await.unwrap();
    store.end_job(first.id, "me", &JobEnd::Interrupted, 75).await.unwrap();
    store.close().await;

    let store = Store::open(&path, ticks).await.unwrap();
    let again = store.begin_job(&lock("a", 0.1), "me").await.unwrap();
    assert_eq!(again, BegunJob { id: first.id, continued: Some(1) });
    let other = store.begin_job(&lock("a", 0.2), "me").await.unwrap();
    assert_ne!(other.id, first.id);
    let end = JobEnd::Succeeded { finish: Finish::WithinBudget, chosen: 0, within_budget: false };
    store.end_job(first.id, "me", &end, 3).await.unwrap();

    let row = store.find_job(Some(&first.id.to_string())).await.unwrap();
    assert_eq!((row.state, row.finish, row.chosen), (JobState::Succeeded, Some(Finish::WithinBudget), Some(0)));
    assert_eq!((row.within_budget, row.trials), (Some(false), 1));
    assert!(Some(row.created_ms) < row.started_ms && row.started_ms < row.finished_ms);
    assert_eq!(store.find_job(Some("a")).await.unwrap().id, other.id);
    assert_eq!(store.find_job(None).await.unwrap().id, other.id);
    assert!(matches!(store.find_job(Some("b")).await, Err(StoreError::NoSuchJob { .. })));
    let events: Vec<String> =
        sqlx::query_scalar("SELECT kind FROM events ORDER BY id").fetch_all(&store.pool).await.unwrap();
    assert_eq!(events, ["started", "trial", "interrupted", "continued", "started", "succeeded"]);
}

fn group(position: usize, id: &str, output: Option<f64>) -> GroupFacts {
    let sensitivity = output.map(|output| GroupSensitivity {
        group: GroupId(position),
        weight: (position != 1).then_some(30.5),
        local: f64::INFINITY,
        accumulated: 12.0,
        output,
        range: (-1.5, 6.0),
    });
    GroupFacts { id: id.into(), object_type: "Conv".into(), macs: 7, parameters: 3, sensitivity }
}

#[test]
fn the_ledger_keeps_sensitivities_by_key() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let store = runtime.block_on(open(&folder));
    let job = runtime.block_on(store.begin_job(&lock("a", 0.1), "me")).unwrap().id;
    let mut ledger = StoreLedger::new(store.clone(), job, Metric::Top1, runtime.handle().clone());
    let key = Key([5; 32]);
    assert!(ledger.sensitivities(&key).unwrap().is_none());
    let groups = vec![group(0, "a", Some(20.0)), group(1, "b", Some(f64::INFINITY)), group(2, "c", None)];
    ledger.record_sensitivities(&key, &groups).unwrap();
    ledger.record_sensitivities(&key, &groups).unwrap();
    let found = ledger.sensitivities(&key).unwrap().unwrap();
    assert_eq!(found, groups.iter().filter_map(|g| g.sensitivity.clone()).collect::<Vec<_>>());
    assert_eq!(runtime.block_on(store.job_groups(job)).unwrap(), groups);
    assert_eq!(ledger.group_times(&key).unwrap(), None);
    let times = [(3.5, 10.0), (0.0, 0.0), (2.0, 1.0)].map(|(int8_ns, fp32_ns)| GroupTime { int8_ns, fp32_ns });
    for _ in 0..2 {
        ledger.record_group_times(&key, &times).unwrap();
        assert_eq!(ledger.group_times(&key).unwrap(), Some(times.to_vec()));
    }
    ledger.record_sensitivities(&Key([6; 32]), &[]).unwrap();
    assert_eq!(ledger.sensitivities(&Key([6; 32])).unwrap(), Some(vec![]));
    assert!(ledger.record_sensitivities(&Key([7; 32]), &groups[1..2]).is_err());

    let counted = trial(1, 4, Some(vec![5]));
    ledger.record_trial(0, &counted, &facts()).unwrap();
    assert_eq!(ledger.trial(&counted.key).unwrap(), Some(counted));
    ledger.event("note", "x").unwrap();
}

#[tokio::test]
async fn queries_read_and_cannot_write() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("qtuned.db");
    let store = open(&folder).await;
    store.begin_job(&lock("a", 0.1), "me").await.unwrap();
    let rows = Store::query(&path, "SELECT id, name, 9e999 AS r, NULL AS n, x'0aff' AS b FROM jobs", QueryLimits::NONE)
        .await
        .unwrap();
    assert_eq!(rows.columns, ["id", "name", "r", "n", "b"]);
    assert_eq!(
        rows.rows,
        [[Cell::Integer(1), Cell::Text("a".into()), Cell::Real(f64::INFINITY), Cell::Null, Cell::Blob(vec![10, 255])]]
    );
    let json = serde_json::to_string(&rows.rows[0]).unwrap();
    assert_eq!(json, r#"[1,"a","inf",null,{"hex":"0aff"}]"#);
    assert_eq!(serde_json::from_str::<Vec<Cell>>(&json).unwrap(), rows.rows[0]);
    let empty = Store::query(&path, "SELECT * FROM front", QueryLimits::NONE).await.unwrap();
    assert!(empty.rows.is_empty() && empty.columns.contains(&"on_front".to_owned()));
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let time = std::time::Duration::from_millis(100);
    let limits = QueryLimits { rows: 3, bytes: 1000, value: Some(1 << 20), time };
    let some = Store::query(&path, many, limits).await.unwrap();
    assert_eq!((some.rows.len(), some.truncated), (3, true));
    let endless = Store::query(&path, &format!("SELECT count(*) FROM ({many})"), limits).await.unwrap_err();
    assert_eq!(endless.to_string(), "the statement took longer than 0 s");
    let large = Store::query(&path, "SELECT zeroblob(1001)", limits).await.unwrap_err();
    assert_eq!(large.to_string(), "the result has more than 1000 bytes");
    // A value that is made on the way takes as much memory as one in the result.
    for sql in ["SELECT zeroblob(1 << 30)", "SELECT length(hex(randomblob(1 << 20)))"] {
        let huge = Store::query(&path, sql, limits).await.unwrap_err();
        assert_eq!(huge.to_string(), "string or blob too big", "{sql}");
    }
    for (sql, problem) in [
        ("", "expected a SELECT statement, found nothing"),
        ("-- nothing", "expected a SELECT statement, found nothing"),
        ("SELECT 1; SELECT 2", "expected one statement, found more"),
        ("SELECT 'a' ; DROP TABLE jobs", "expected one statement, found more"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT", "incomplete input"),
        ("(SELECT 1)", "near \"(\": syntax error"),
        ("WITH a AS (SELECT 1) DELETE FROM jobs", "queries only read"),
        ("DELETE FROM jobs", "queries only read"),
        ("VACUUM INTO 'x'", "queries only read"),
        ("ATTACH 'x' AS y", "queries only read"),
        ("BEGIN IMMEDIATE", "queries only read"),
        ("PRAGMA query_only = OFF", "queries only read"),
        ("PRAGMA journal_mode = DELETE", "queries only read"),
        ("CREATE TEMP TABLE t (a)", "queries only read"),
    ] {
        let refused = Store::query(&path, sql, QueryLimits::NONE).await;
        let Err(StoreError::Refused(text)) = refused else { panic!("{sql}: {refused:?}") };
        assert!(text.starts_with(problem), "{sql}: {text}");
    }
    for sql in [
        "select 1;",
        "  WITH a AS (SELECT 1) SELECT * FROM a ; -- done; really",
        "/* a; b */ VALUES (';', 'it''s;')",
        "EXPLAIN QUERY PLAN SELECT 1",
        "SELECT name FROM pragma_table_info('jobs')",
    ] {
        Store::query(&path, sql, QueryLimits::NONE).await.unwrap();
    }
    assert_eq!(store.jobs(&JobFilter::default()).await.unwrap().len(), 1);
    // The views can be read by everyone, whatever they show.
    for view in ["trial_summary", "sensitivity", "latency_quartiles"] {
        Store::query(&path, &format!("SELECT * FROM {view}"), QueryLimits::NONE).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The views say what the code says: quartiles to the last bit, and who is on the front.
    #[test]
    fn views_agree_with_the_definitions(
        made in prop::collection::vec(
            (0usize..6, prop::option::weighted(0.9, prop::collection::vec(1u64..5, 1..8))), 1..9),
    ) {
        let trials: Vec<Trial> =
            made.into_iter().enumerate().map(|(i, (right, ns))| trial(i as u8, right + 1, ns)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let summaries = runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let store = open(&folder).await;
            let other = store.begin_job(&lock("other", 0.1), "me").await.unwrap().id;
            let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
            // Another job with a trial that beats all must not matter.
            let best = Trial { key: Key([200; 32]), ..trial(0, 20, Some(vec![1])) };
            store.record_trial(other, 0, Metric::Top1, &best, &facts()).await.unwrap();
            for (number, trial) in trials.iter().enumerate() {
                store.record_trial(job, number, Metric::Top1, trial, &facts()).await.unwrap();
            }
            let summaries = store.summaries(job).await.unwrap();
            store.close().await;
            summaries
        });
        let shown: Vec<bool> = summaries.iter().map(|s| s.on_front).collect();
        prop_assert_eq!(shown, pareto::front(&trials));
        for (summary, trial) in summaries.iter().zip(&trials) {
            let latency = trial.latency.as_ref();
            let quartiles = latency.and_then(Latency::candidate);
            let shown = summary.median_ns.map(|median| Quartiles {
                q1: summary.q1_ns.unwrap(), median, q3: summary.q3_ns.unwrap(),
            });
            prop_assert_eq!(shown, quartiles);
            prop_assert_eq!(summary.speed_up, latency.and_then(Latency::speed_up));
            prop_assert_eq!(summary.score, trial.evaluation.score.value());
            prop_assert_eq!(&summary.fp32_groups, &facts().fp32_names);
        }
    }
}
