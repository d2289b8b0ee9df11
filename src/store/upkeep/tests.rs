use tempfile::TempDir;

use super::*;
use crate::{
    evaluate::Metric,
    store::{
        JobEnd,
        tests::{clock, facts, lock, trial},
    },
};

async fn bench(folder: &TempDir) -> (Store, JobId) {
    let store = Store::open(&folder.path().join("qtuned.db"), clock()).await.unwrap();
    let job = store.begin_job(&lock("a", 0.1), "me").await.unwrap().id;
    store.record_trial(job, 0, Metric::Top1, &trial(1, 13, Some(vec![1])), &facts()).await.unwrap();
    (store, job)
}

#[tokio::test]
async fn a_whole_database_has_nothing_wrong_and_each_damage_is_told() {
    let folder = TempDir::new().unwrap();
    let (store, _) = bench(&folder).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    for (damage, told) in [
        ("UPDATE trials SET correct = 12", "the bits of trial 0101"),
        ("UPDATE trials SET total = 99, correct = 13", "the bits of trial 0101"),
        (
            "UPDATE qconfig_files SET file = x'00'",
            "job 1, trial 0: the database holds a qconfig file that cannot be read",
        ),
        ("UPDATE jobs SET lock = 'x'", "job 1: the database holds a job's lock that cannot be read"),
        ("INSERT INTO events (job_id, time_ms, kind, detail) VALUES (9, 0, '', '')", "refers to a row of jobs"),
    ] {
        let mut connection = store.pool.acquire().await.unwrap();
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *connection).await.unwrap();
        sqlx::query(damage).execute(&mut *connection).await.unwrap();
        drop(connection);
        let wrong = store.check().await.unwrap();
        assert!(wrong.iter().any(|text| text.contains(told)), "{damage}: {wrong:?}");
    }
}

#[tokio::test]
async fn a_backup_is_whole_and_overwrites_nothing() {
    let folder = TempDir::new().unwrap();
    let (store, job) = bench(&folder).await;
    let copy = folder.path().join("copy.db");
    // What a copy that was cut off has left is no obstacle.
    fs::write(folder.path().join("copy.db.part"), "half").unwrap();
    store.backup(&copy).await.unwrap();
    let copied = Store::open_existing(&copy, clock()).await.unwrap();
    assert_eq!(copied.summaries(job).await.unwrap(), store.summaries(job).await.unwrap());
    assert_eq!(copied.check().await.unwrap(), Vec::<String>::new());
    assert!(matches!(store.backup(&copy).await, Err(StoreError::Copy { .. })));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().path().ends_with(".part")).count(),
        0
    );
}

#[tokio::test]
async fn jobs_that_ended_long_ago_are_forgotten_and_their_room_is_given_back() {
    let folder = TempDir::new().unwrap();
    let (store, old) = bench(&folder).await;
    store.end_job(old, "me", &JobEnd::Cancelled, 1).await.unwrap();
    let ended = store.job(old).await.unwrap().finished_ms.unwrap();
    let running = store.begin_job(&lock("b", 0.1), "me").await.unwrap().id;
    assert_eq!(store.forget(ended).await.unwrap(), []);
    let gone = store.forget(ended + 1).await.unwrap();
    assert_eq!(gone.iter().map(|job| job.id).collect::<Vec<_>>(), [old]);
    assert!(store.job(old).await.is_err() && store.job(running).await.is_ok());
    assert!(store.trial(running, &trial(1, 13, None).key).await.unwrap().is_none());
    store.vacuum().await.unwrap();
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
}
