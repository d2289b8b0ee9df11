use sqlx::SqlitePool;
use tempfile::TempDir;

use super::*;
use crate::{
    confidence::Pairs,
    evaluate::{Metric, Score},
    pipeline::{Certificate, Certified, Finalist, Observed, TrialFacts},
    search::{DropInterval, Finish, GroupTime, Key},
    store::{
        JobEnd, JobFilter, JobId, JobState,
        tests::{clock, facts, lock, trial},
    },
};

/// Every row of every table, without the numbers that differ between databases.
async fn rows(pool: &SqlitePool) -> Vec<String> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT json_array(key, metric, score, hex(correct_bits), created_ms) FROM trials",
        "SELECT json_array(uid, name, state, submitted_ms, chosen, created_ms, finished_ms) FROM jobs",
        "SELECT json_array(j.uid, jt.number, t.key, r.created_ms, f.file IS NOT NULL, jt.drop_seen, jt.drop_low, jt.drop_high)
         FROM job_trials AS jt JOIN jobs AS j ON j.id = jt.job_id JOIN trials AS t ON t.id = jt.trial_id
         LEFT JOIN latency_runs AS r ON r.id = jt.latency_run_id AND r.trial_id = t.id
         LEFT JOIN qconfig_files AS f ON f.job_id = j.id AND f.number = jt.number",
        "SELECT json_array(t.key, r.created_ms, s.role, s.ordinal, s.ns)
         FROM latency_samples AS s JOIN latency_runs AS r ON r.id = s.run_id JOIN trials AS t ON t.id = r.trial_id",
        "SELECT json_array(j.uid, f.place, f.trial, f.confidence, f.lost, f.won, f.base, f.total, f.bound, f.holds, f.fp32_score,
             f.score)
         FROM finalists AS f JOIN jobs AS j ON j.id = f.job_id",
        "SELECT json_array(sensitivity_key, position, int8_ns, fp32_ns) FROM group_times",
        "SELECT json_array(j.uid, e.time_ms, e.kind, e.detail) FROM events AS e JOIN jobs AS j ON j.id = e.job_id",
    ] {
        let mut table: Vec<String> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
        table.sort();
        rows.extend(table);
    }
    rows
}

struct Bench {
    folder: TempDir,
}

impl Bench {
    async fn store(&self, name: &str) -> Store {
        Store::open(&self.folder.path().join(name), clock()).await.unwrap()
    }

    async fn merge(&self, into: &Store, name: &str) -> Merged {
        into.merge(&self.folder.path().join(name)).await.unwrap()
    }
}

async fn record(store: &Store, job: JobId, number: usize, id: u8, ns: Vec<u64>) {
    let drop = DropInterval { seen: 0.25, low: 0.125, high: 0.5 };
    let facts = TrialFacts { drop: Some(drop), ..facts() };
    store.record_trial(job, number, Metric::Top1, &trial(id, 13, Some(ns)), &facts).await.unwrap();
}

async fn succeed(store: &Store, job: JobId) {
    let end = JobEnd::Succeeded { finish: Finish::Exhausted, chosen: 0, within_budget: true };
    store.end_job(job, "me", &end, 0).await.unwrap();
}

#[tokio::test]
async fn databases_are_united_and_again_changes_nothing() {
    let bench = Bench { folder: TempDir::new().unwrap() };
    let (a, b) = (bench.store("a.db").await, bench.store("b.db").await);
    // Both have the trial 1, and different ones besides.
    let in_a = a.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    record(&a, in_a, 0, 1, vec![1, 2]).await;
    record(&a, in_a, 1, 2, vec![3]).await;
    let pairs = Pairs { lost: 3, won: 1, base: 17, total: 20 };
    let certified = Some(Certified { pairs, bound: Some(0.25), holds: true });
    let finalists = vec![Finalist { trial: 1, certified, observed: None }];
    a.record_certificate(in_a, &Certificate { confidence: 0.95, finalists }).await.unwrap();
    a.record_groups(&Key([8; 32]), &[]).await.unwrap();
    a.record_group_times(&Key([8; 32]), &[GroupTime { int8_ns: 1.5, fp32_ns: 4.0 }]).await.unwrap();
    succeed(&a, in_a).await;
    let in_b = b.begin_job(&lock("b", 0.1), "me").await.unwrap().id;
    record(&b, in_b, 0, 3, vec![4]).await;
    record(&b, in_b, 1, 1, vec![9, 9]).await;

    let all = bench.store("all.db").await;
    assert_eq!(bench.merge(&all, "a.db").await, Merged { jobs: 1, continued: 0, trials: 2 });
    assert_eq!(rows(&all.pool).await, rows(&a.pool).await);
    assert_eq!(bench.merge(&all, "b.db").await, Merged { jobs: 1, continued: 0, trials: 1 });
    let united = rows(&all.pool).await;
    for name in ["a.db", "b.db", "a.db"] {
        assert_eq!(bench.merge(&all, name).await, Merged::default());
    }
    assert_eq!(rows(&all.pool).await, united);
    assert_eq!(all.check().await.unwrap(), Vec::<String>::new());
    let names: Vec<(String, JobState, usize)> = all
        .jobs(&JobFilter::default())
        .await
        .unwrap()
        .into_iter()
        .map(|job| (job.name, job.state, job.trials))
        .collect();
    assert_eq!(names, [("b".into(), JobState::Interrupted, 2), ("a".into(), JobState::Succeeded, 2)]);
    // Each job goes by its own latencies of the trial that both have.
    let median = |trials: Vec<crate::store::TrialSummary>, number: usize| trials[number].median_ns;
    assert_eq!(median(all.summaries(JobId(1)).await.unwrap(), 0), Some(1.5));
    assert_eq!(median(all.summaries(JobId(2)).await.unwrap(), 1), Some(9.0));
    // Nobody here works on what another process has.
    assert!(all.claim("other").await.unwrap().is_none());

    // The job of b goes on, and is taken again under its number.
    record(&b, in_b, 2, 4, vec![5]).await;
    succeed(&b, in_b).await;
    assert_eq!(bench.merge(&all, "b.db").await, Merged { jobs: 0, continued: 1, trials: 1 });
    let job = all.job(JobId(2)).await.unwrap();
    assert_eq!((job.name.as_str(), job.state, job.trials), ("b", JobState::Succeeded, 3));
    assert_eq!(bench.merge(&all, "b.db").await, Merged::default());
    // In the other order it comes to the same.
    let other = bench.store("other.db").await;
    bench.merge(&other, "b.db").await;
    bench.merge(&other, "a.db").await;
    assert_eq!(rows(&other.pool).await.len(), rows(&all.pool).await.len());
    assert!(matches!(other.merge(&bench.folder.path().join("no.db")).await, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn scores_are_united_as_they_are() {
    let bench = Bench { folder: TempDir::new().unwrap() };
    let (a, all) = (bench.store("a.db").await, bench.store("all.db").await);
    let job = a.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    let mut scored = trial(1, 0, None);
    scored.evaluation.score = Score::Number { value: -0.5, total: 20 };
    scored.evaluation.correct.clear();
    let facts = TrialFacts { drop: Some(DropInterval { seen: 0.25, low: 0.25, high: 0.25 }), ..facts() };
    a.record_trial(job, 0, Metric::Score, &scored, &facts).await.unwrap();
    let finalist = Finalist { trial: 0, certified: None, observed: Some(Observed { fp32: 0.25, score: -0.75 }) };
    a.record_certificate(job, &Certificate { confidence: 0.95, finalists: vec![finalist] }).await.unwrap();
    succeed(&a, job).await;
    assert_eq!(bench.merge(&all, "a.db").await, Merged { jobs: 1, continued: 0, trials: 1 });
    assert_eq!(rows(&all.pool).await, rows(&a.pool).await);
    assert_eq!(all.certificate(JobId(1)).await.unwrap().unwrap().finalists, [finalist]);
    assert_eq!(all.trial(JobId(1), &scored.key).await.unwrap(), Some(scored));
    assert_eq!(all.check().await.unwrap(), Vec::<String>::new());
}
