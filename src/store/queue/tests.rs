use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tempfile::TempDir;

use super::*;
use crate::{
    evaluate::Metric,
    store::{
        Clock, JobFilter, JobProgress, JobState, LogLine, Word,
        tests::{facts, lock, trial},
    },
};

/// A clock that stands until it is set.
#[derive(Clone, Default)]
struct Hands(Arc<AtomicI64>);

impl Hands {
    fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Bench {
    folder: TempDir,
    clock: Hands,
    store: Store,
}

async fn bench() -> Bench {
    let (folder, clock) = (TempDir::new().unwrap(), Hands::default());
    clock.forward(Duration::from_secs(1_000_000));
    let store = Store::open(&folder.path().join("qtuned.db"), Arc::new(clock.clone())).await.unwrap();
    Bench { folder, clock, store }
}

fn submission(name: &str) -> Submission {
    Submission {
        lock: lock(name, 0.1),
        model: "{}".into(),
        upload: None,
        priority: 0,
        again: false,
        idempotency_key: None,
    }
}

impl Bench {
    async fn submit(&self, name: &str) -> JobId {
        self.store.submit(&submission(name)).await.unwrap().id
    }

    async fn state(&self, id: JobId) -> JobState {
        self.store.job(id).await.unwrap().state
    }

    async fn claim(&self, owner: &str) -> Option<JobId> {
        self.store.claim(owner).await.unwrap().map(|claimed| claimed.job.id)
    }
}

#[tokio::test]
async fn the_largest_priority_goes_first_and_then_the_oldest() {
    let bench = bench().await;
    let mut ids = Vec::new();
    for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
        let submission = Submission { priority, ..submission(name) };
        ids.push(bench.store.submit(&submission).await.unwrap().id);
    }
    let mut claimed = Vec::new();
    while let Some(id) = bench.claim("me").await {
        claimed.push(id);
    }
    assert_eq!(claimed, [ids[1], ids[3], ids[0], ids[2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_claimed_once_however_many_ask() {
    let bench = bench().await;
    let mut submitted = BTreeSet::new();
    for name in ["a", "b", "c", "d", "e"] {
        submitted.insert(bench.submit(name).await);
    }
    let mut workers = Vec::new();
    for worker in 0..4 {
        let path = bench.folder.path().join("qtuned.db");
        let store = Store::open(&path, Arc::new(bench.clock.clone())).await.unwrap();
        workers.push(tokio::spawn(async move {
            let (owner, mut claimed) = (format!("worker {worker}"), Vec::new());
            while let Some(job) = store.claim(&owner).await.unwrap() {
                claimed.push(job.job.id);
            }
            claimed
        }));
    }
    let mut claimed = Vec::new();
    for worker in workers {
        claimed.extend(worker.await.unwrap());
    }
    assert_eq!((claimed.len(), claimed.into_iter().collect()), (5, submitted));
}

#[tokio::test]
async fn the_same_job_is_submitted_once_unless_it_is_asked_again() {
    let bench = bench().await;
    let first = bench.store.submit(&submission("a")).await.unwrap();
    assert!(first.new);
    let same = bench.store.submit(&submission("a")).await.unwrap();
    assert_eq!(same, Submitted { id: first.id, new: false });
    let again = Submission { again: true, ..submission("a") };
    let second = bench.store.submit(&again).await.unwrap();
    assert!(second.new && second.id > first.id);

    // The latest of them is the one that is meant. Once it has failed it is queued again.
    bench.store.cancel(first.id).await.unwrap();
    assert_eq!(bench.claim("me").await, Some(second.id));
    bench.store.end_job(second.id, "me", &JobEnd::Failed { error: "x".into() }, 1).await.unwrap();
    assert_eq!(bench.store.submit(&submission("a")).await.unwrap(), Submitted { id: second.id, new: false });
    let row = bench.store.job(second.id).await.unwrap();
    assert_eq!((row.state, row.error), (JobState::Queued, None));

    // A request that is sent again does nothing, whatever became of its job.
    let keyed = |name| Submission { idempotency_key: Some("k".into()), ..submission(name) };
    let third = bench.store.submit(&keyed("b")).await.unwrap();
    bench.store.cancel(third.id).await.unwrap();
    assert_eq!(bench.store.submit(&keyed("b")).await.unwrap(), Submitted { id: third.id, new: false });
    assert_eq!(bench.state(third.id).await, JobState::Cancelled);
    let reused = bench.store.submit(&keyed("c")).await.unwrap_err();
    assert!(matches!(reused, StoreError::KeyReused { id } if id == third.id), "{reused}");
}

#[tokio::test]
async fn a_job_whose_process_is_silent_for_its_lease_is_taken_over() {
    let bench = bench().await;
    let id = bench.submit("a").await;
    assert_eq!(bench.claim("dead").await, Some(id));
    bench.store.record_trial(id, 0, Metric::Top1, &trial(1, 3, None), &facts()).await.unwrap();
    let progress = JobProgress { stage: "evaluate".into(), ..JobProgress::default() };
    bench.clock.forward(LEASE / 2);
    bench.store.beat(id, "dead", &progress).await.unwrap();
    assert_eq!(bench.store.job(id).await.unwrap().progress, Some(progress));
    bench.clock.forward(LEASE);
    assert_eq!((bench.claim("heir").await, bench.state(id).await), (None, JobState::Running));
    bench.clock.forward(Duration::from_millis(1));
    assert_eq!(bench.state(id).await, JobState::Interrupted);
    let filter = JobFilter { state: Some(JobState::Interrupted), ..JobFilter::default() };
    assert_eq!(bench.store.jobs(&filter).await.unwrap().len(), 1);

    let claimed = bench.store.claim("heir").await.unwrap().unwrap();
    assert_eq!(claimed.job, BegunJob { id, continued: Some(1) });
    assert_eq!(claimed.lock, lock("a", 0.1));
    // Whoever lost it changes nothing any more.
    assert_eq!(bench.store.hear(id, "dead").await.unwrap(), Word::Lost);
    let late = bench.store.end_job(id, "dead", &JobEnd::Interrupted, 75).await.unwrap_err();
    assert!(matches!(late, StoreError::Lost { .. }), "{late}");
    assert_eq!(bench.store.hear(id, "heir").await.unwrap(), Word::GoOn);

    // A process that is known to be gone is not waited for; `run` refuses a job that one has.
    let refused = bench.store.begin_job(&lock("a", 0.1), "runner").await.unwrap_err();
    assert!(matches!(refused, StoreError::Running { ref owner, .. } if owner == "heir"), "{refused}");
    assert_eq!(bench.store.owners().await.unwrap(), ["heir"]);
    bench.store.bury("heir").await.unwrap();
    assert!(bench.store.owners().await.unwrap().is_empty());
    assert_eq!(bench.store.begin_job(&lock("a", 0.1), "runner").await.unwrap().continued, Some(1));
}

#[tokio::test]
async fn what_waits_is_cancelled_at_once_and_what_runs_is_asked_to_stop() {
    let bench = bench().await;
    let id = bench.submit("a").await;
    bench.store.cancel(id).await.unwrap();
    assert_eq!((bench.state(id).await, bench.claim("me").await), (JobState::Cancelled, None));
    let refused = bench.store.cancel(id).await.unwrap_err();
    assert_eq!(refused.to_string(), "job 1 is cancelled and cannot be cancelled");
    bench.store.retry(id).await.unwrap();
    assert_eq!(bench.claim("me").await, Some(id));
    assert!(bench.store.retry(id).await.is_err() && bench.store.remove(id).await.is_err());
    assert_eq!(bench.store.hear(id, "me").await.unwrap(), Word::GoOn);
    bench.store.cancel(id).await.unwrap();
    assert_eq!(bench.store.hear(id, "me").await.unwrap(), Word::Cancel);
    bench.store.end_job(id, "me", &JobEnd::Cancelled, 1).await.unwrap();
    assert_eq!(bench.state(id).await, JobState::Cancelled);
    let events = bench.store.events(id, 0, 100).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["queued", "cancelled", "queued", "started", "cancel_asked", "cancelled"]);
    assert_eq!(bench.store.events(id, events[3].id, 1).await.unwrap(), events[4..5]);
}

#[tokio::test]
async fn a_job_is_removed_with_what_only_it_has() {
    let bench = bench().await;
    let (first, second) = (bench.submit("a").await, bench.submit("b").await);
    let shared = trial(1, 3, Some(vec![5]));
    let own = trial(2, 3, Some(vec![6]));
    bench.store.record_trial(first, 0, Metric::Top1, &shared, &facts()).await.unwrap();
    bench.store.record_trial(first, 1, Metric::Top1, &own, &facts()).await.unwrap();
    bench.store.record_trial(second, 0, Metric::Top1, &shared, &facts()).await.unwrap();
    let qconfig = bench.store.qconfig_file(first, 1).await.unwrap();
    assert_eq!(serde_yaml::from_str::<crate::quant::QConfigFile>(&qconfig).unwrap(), facts().file);
    bench.store.remove(first).await.unwrap();
    assert!(matches!(bench.store.job(first).await, Err(StoreError::NoSuchJob { .. })));
    assert!(matches!(bench.store.remove(first).await, Err(StoreError::NoSuchJob { .. })));
    assert!(matches!(bench.store.qconfig_file(first, 1).await, Err(StoreError::NoQConfig { .. })));
    assert_eq!(bench.store.trial(second, &shared.key).await.unwrap(), Some(shared));
    assert_eq!(bench.store.trial(second, &own.key).await.unwrap(), None);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM latency_runs").fetch_one(&bench.store.pool).await.unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn lines_are_kept_with_their_job() {
    let bench = bench().await;
    let id = bench.submit("a").await;
    let line = |text: &str| LogLine { id: 0, time_ms: 7, level: "INFO".into(), message: text.into() };
    let lines = [(id, line("one")), (JobId(99), line("of a job that is gone")), (id, line("two"))];
    bench.store.log(&lines).await.unwrap();
    let kept = bench.store.log_lines(id, 0, 10).await.unwrap();
    assert_eq!(kept.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(bench.store.log_lines(id, kept[0].id, 10).await.unwrap(), kept[1..]);
}

#[tokio::test]
async fn a_full_disk_is_told_from_other_errors() {
    let bench = bench().await;
    let id = bench.submit("a").await;
    let mut connection = bench.store.pool.acquire().await.unwrap();
    sqlx::query("PRAGMA max_page_count = 1").execute(&mut *connection).await.unwrap();
    let note = "x".repeat(100_000);
    let error = StoreError::Sql(
        sqlx::query("INSERT INTO events (job_id, time_ms, kind, detail) VALUES (?, 0, '', ?)")
            .bind(id.0)
            .bind(note)
            .execute(&mut *connection)
            .await
            .unwrap_err(),
    );
    assert!(crate::store::is_full(&error), "{error:?}");
    assert!(!crate::store::is_full(&StoreError::NoJobs));
}
