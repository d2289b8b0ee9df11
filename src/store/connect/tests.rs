use tempfile::TempDir;

use super::*;
use crate::store::{
    JobId, JobState, QueryLimits,
    tests::{clock, lock},
};

#[tokio::test]
async fn files_that_are_not_ours_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.db");
    let refused = async || Store::open(&path, clock()).await.err().unwrap();
    assert!(matches!(Store::open_existing(&path, clock()).await, Err(StoreError::Missing { .. })));

    std::fs::write(&path, "this is a text, and long enough to hold a header of SQLite".repeat(20)).unwrap();
    assert!(matches!(refused().await, StoreError::NotADatabase { .. }), "{:?}", refused().await);
    std::fs::remove_file(&path).unwrap();

    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut foreign = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE t (a)").execute(&mut foreign).await.unwrap();
    foreign.close().await.unwrap();
    assert!(matches!(refused().await, StoreError::Foreign { .. }));
    std::fs::remove_file(&path).unwrap();

    let store = Store::open(&path, clock()).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (29990101000000, 'x', 1, x'00', 0)",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    store.close().await;
    assert!(matches!(refused().await, StoreError::Newer { version: 29990101000000, .. }));
    assert!(matches!(Store::query(&path, "SELECT 1", QueryLimits::NONE).await, Err(StoreError::Newer { .. })));
    assert!(matches!(Store::open_existing(&path, clock()).await, Err(StoreError::Newer { .. })));
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_brought_up_to_date() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("qtuned.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let first = MIGRATIONS.iter().next().unwrap().clone();
    Migrator::with_migrations(vec![first]).run_direct(None, &mut old, false).await.unwrap();
    let yaml = lock("old", 0.1).to_yaml().unwrap();
    sqlx::query(
        "INSERT INTO jobs (id, name, identity, lock, metric, model_sha256, qtuned_version, state, created_ms, started_ms)
         VALUES (7, 'old', ?1, ?2, 'top1', ?1, '0.1.0', 'running', 1, 2)",
    )
    .bind("a".repeat(64))
    .bind(yaml)
    .execute(&mut old)
    .await
    .unwrap();
    sqlx::query("INSERT INTO events (job_id, time_ms, kind, detail) VALUES (7, 2, 'started', '')")
        .execute(&mut old)
        .await
        .unwrap();
    old.close().await.unwrap();

    let store = Store::open(&path, clock()).await.unwrap();
    let row = store.find_job(Some("old")).await.unwrap();
    // Of its process nothing is known any more.
    assert_eq!((row.id.0, row.state, row.started_ms, row.submitted_ms), (7, JobState::Interrupted, Some(2), None));
    assert_eq!(store.events(row.id, 0, 10).await.unwrap().len(), 1);
    assert!(store.claim("me").await.unwrap().is_none());
    store.retry(row.id).await.unwrap();
    assert_eq!(store.claim("me").await.unwrap().unwrap().job.continued, Some(0));
    let broken: Vec<sqlx::sqlite::SqliteRow> =
        sqlx::query("PRAGMA foreign_key_check").fetch_all(&store.pool).await.unwrap();
    assert!(broken.is_empty());
}

#[tokio::test]
async fn jobs_and_trials_are_kept_when_their_tables_are_made_again() {
    const SCORE: i64 = 20261128000002;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("qtuned.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let before: Vec<_> = MIGRATIONS.iter().filter(|m| m.version < SCORE).cloned().collect();
    Migrator::with_migrations(before).run_direct(None, &mut old, false).await.unwrap();
    let (hash, yaml) = ("a".repeat(64), lock("old", 0.1).to_yaml().unwrap());
    let rows = [
        "INSERT INTO jobs (id, uid, name, identity, idempotency_key, lock, metric, model_sha256, model, qtuned_version,
             state, priority, submitted_ms, owner, lease_until_ms, cancel_ms, progress, finish, chosen, within_budget, error,
             exit_code, created_ms, started_ms, finished_ms, upload)
         VALUES (7, 'u', 'old', ?1, 'i', ?2, 'top1', ?1, '{}', '0.1.0', 'succeeded', 3, 4, 'me', 5, 6, '{}', 'exhausted', 1,
             1, 'e', 0, 1, 2, 3, ?1), (9, 'v', 'gone', ?1, NULL, ?2, 'sqnr', ?1, '{}', '0.1.0', 'running', 0, 4, 'me', 5,
             NULL, '{}', NULL, NULL, NULL, NULL, NULL, 1, 2, 3, NULL)",
        "INSERT INTO trials VALUES (5, ?1, '{}', 3, 'top1', 4, 4, 1.0, x'0f', 0.5, 10, 20, 30),
             (6, substr(?1, 2) || 'b', '{}', 3, 'top1', 3, 4, 0.75, x'07', 0.5, 10, 20, 30)",
        "INSERT INTO latency_runs VALUES (8, 6, 'cpu', 'k', 1, 1, NULL, 30)",
        "INSERT INTO latency_samples VALUES (8, 'candidate', 0, 50), (8, 'fp32', 0, 100)",
        "INSERT INTO job_trials (job_id, number, trial_id, latency_run_id, fp32_groups, fp32_positions, drop_seen, drop_low,
             drop_high, created_ms)
         VALUES (7, 0, 5, NULL, '[]', '[]', 0, 0, 0, 1), (7, 1, 6, 8, '[]', '[]', 0.25, 0.25, 0.25, 1)",
        "INSERT INTO finalists VALUES (7, 0, 1, 0.95, 1, 0, 4, 4, 0.5, 1)",
        "INSERT INTO events (job_id, time_ms, kind, detail) VALUES (7, 2, 'started', '')",
        "INSERT INTO log_lines (job_id, time_ms, level, message) VALUES (7, 2, 'WARN', 'x')",
        "DELETE FROM jobs WHERE id = 9",
    ];
    for sql in rows {
        sqlx::query(sql).bind(&hash).bind(&yaml).execute(&mut old).await.unwrap();
    }
    const ALL: [&str; 4] = [
        "SELECT concat_ws('|', id, uid, name, identity, idempotency_key, lock, metric, model_sha256, model, qtuned_version,
             state, priority, submitted_ms, owner, lease_until_ms, cancel_ms, progress, finish, chosen, within_budget, error,
             exit_code, created_ms, started_ms, finished_ms, upload) FROM jobs",
        "SELECT concat_ws('|', id, key, qconfig, int8_groups, metric, correct, total, score, hex(correct_bits), seconds,
             weight_bytes, activation_bytes, created_ms) FROM trials",
        "SELECT concat_ws('|', job_id, number, key, metric, score, correct, total, complete, score_drop, relative_drop,
             drop_low, drop_high, median_ns, speed_up, on_front, chosen) FROM trial_summary",
        "SELECT concat_ws('|', name, sql) FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name",
    ];
    let mut kept: Vec<Vec<String>> = Vec::new();
    for sql in ALL {
        kept.push(sqlx::query_scalar(sql).fetch_all(&mut old).await.unwrap());
    }
    assert_eq!(kept.iter().map(Vec::len).collect::<Vec<_>>()[..3], [1, 2, 2]);
    old.close().await.unwrap();

    let store = Store::open(&path, clock()).await.unwrap();
    for (sql, kept) in ALL.into_iter().zip(&kept) {
        let now: Vec<String> = sqlx::query_scalar(sql).fetch_all(&store.pool).await.unwrap();
        assert_eq!(now, *kept);
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    assert_eq!(store.certificate(JobId(7)).await.unwrap().unwrap().holds(), Some(1));
    // The number of a job that was removed is not given again.
    assert_eq!(store.begin_job(&lock("new", 0.1), "me").await.unwrap().id.0, 10);
}

#[tokio::test]
async fn a_new_database_is_opened_by_many_at_once() {
    for _ in 0..20 {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("qtuned.db");
        let all = (0..8).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { Store::open(&path, clock()).await.map(drop) })
        });
        for opened in all.collect::<Vec<_>>() {
            opened.await.unwrap().unwrap();
        }
    }
}

#[test]
fn the_deepest_mount_decides() {
    let mounts = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 0:30 / /home rw shared:1 - nfs4 server:/home rw
24 23 0:31 / /home/a\\040b rw - xfs /dev/sdb rw
25 22 0:32 / /scratch rw - lustre l rw";
    let on = |folder: &str| network_mount(mounts, Path::new(folder));
    assert_eq!(on("/var"), None);
    assert_eq!(on("/home/me").as_deref(), Some("nfs4"));
    assert_eq!(on("/home/a b/c"), None);
    assert_eq!(on("/scratch").as_deref(), Some("lustre"));
    assert_eq!(on("/scratchy"), None);
}
