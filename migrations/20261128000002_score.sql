-- The metric score: a number that a program of the user's prints.
--
-- SQLite cannot change a constraint, so the tables of jobs and of trials are made again under their names, with the same
-- rows. The rows of other tables that refer to them are without them meanwhile, which is checked again at the end of the
-- transaction.
PRAGMA defer_foreign_keys = ON;

DROP VIEW front;
DROP VIEW trial_summary;

CREATE TEMP TABLE jobs_before AS SELECT * FROM main.jobs;
-- The largest number that a job ever had, so that none has it again.
CREATE TEMP TABLE numbers_before AS SELECT name, seq FROM main.sqlite_sequence WHERE name = 'jobs';
DROP TABLE main.jobs;

-- One row a job. A job is found again by its identity, the hash of its lock without the output folder: the latest
-- of those that have it.
CREATE TABLE jobs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The same in every database that the job is copied to.
    uid             TEXT    NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(16)))),
    name            TEXT    NOT NULL,
    identity        TEXT    NOT NULL CHECK (length(identity) = 64),
    -- A name that a client gave to its request, so that sending it again does nothing.
    idempotency_key TEXT    UNIQUE,
    -- Every default filled in, paths whole, hashes of model and data: YAML.
    lock            TEXT    NOT NULL,
    metric          TEXT    NOT NULL CHECK (metric IN ('top1', 'top5', 'agreement', 'sqnr', 'score')),
    model_sha256    TEXT    NOT NULL CHECK (length(model_sha256) = 64),
    -- What the importer says of the model: a JSON object, once it is known.
    model           TEXT    CHECK (model IS NULL OR json_valid(model)),
    qtuned_version  TEXT    NOT NULL,
    -- A job whose process was killed stays 'running'; it counts as interrupted once its lease is over.
    state           TEXT    NOT NULL
        CHECK (state IN ('queued', 'running', 'interrupted', 'succeeded', 'failed', 'cancelled')),
    -- The larger goes first.
    priority        INTEGER NOT NULL DEFAULT 0,
    -- When it was put in the queue, whose workers take it up until it ends; NULL for a job of `qtuned run`.
    submitted_ms    INTEGER,
    -- The process that runs it, and until when that is believed without a sign of life.
    owner           TEXT,
    lease_until_ms  INTEGER NOT NULL DEFAULT 0,
    -- When its process was asked to cancel it.
    cancel_ms       INTEGER,
    -- What it is doing: a JSON object, while it runs.
    progress        TEXT    CHECK (progress IS NULL OR json_valid(progress)),
    -- Why the search ended.
    finish          TEXT    CHECK (finish IN ('within_budget', 'exhausted', 'max_trials', 'max_time')),
    -- Number of the chosen trial in job_trials.
    chosen          INTEGER CHECK (chosen >= 0),
    -- Whether the chosen trial is within the budget and not fp32.
    within_budget   INTEGER CHECK (within_budget IN (0, 1)),
    error           TEXT,
    exit_code       INTEGER,
    sensitivity_key TEXT    REFERENCES sensitivity_runs (key),
    created_ms      INTEGER NOT NULL,
    -- When it was last started; NULL before.
    started_ms      INTEGER,
    finished_ms     INTEGER,
    -- The uploaded files that the job reads: a folder of the server's, named by the hash of its list. NULL for a job that
    -- reads other files.
    upload          TEXT    CHECK (upload IS NULL OR length(upload) = 64),
    CHECK (state != 'queued' OR submitted_ms IS NOT NULL)
) STRICT;

INSERT INTO jobs (id, uid, name, identity, idempotency_key, lock, metric, model_sha256, model, qtuned_version, state,
    priority, submitted_ms, owner, lease_until_ms, cancel_ms, progress, finish, chosen, within_budget, error, exit_code,
    sensitivity_key, created_ms, started_ms, finished_ms, upload)
SELECT id, uid, name, identity, idempotency_key, lock, metric, model_sha256, model, qtuned_version, state,
    priority, submitted_ms, owner, lease_until_ms, cancel_ms, progress, finish, chosen, within_budget, error, exit_code,
    sensitivity_key, created_ms, started_ms, finished_ms, upload
FROM jobs_before;
DELETE FROM sqlite_sequence WHERE name = 'jobs';
INSERT INTO sqlite_sequence (name, seq) SELECT name, seq FROM numbers_before;
DROP TABLE jobs_before;
DROP TABLE numbers_before;

CREATE INDEX jobs_by_name ON jobs (name, id);
CREATE INDEX jobs_by_identity ON jobs (identity, id);
-- What a worker looks through for its next job.
CREATE INDEX jobs_to_do ON jobs (priority DESC, submitted_ms, id)
    WHERE submitted_ms IS NOT NULL AND state IN ('queued', 'running', 'interrupted');

CREATE TEMP TABLE trials_before AS SELECT * FROM main.trials;
DROP TABLE main.trials;

-- One row a qconfig that was measured: an append-only fact, shared by all jobs that measure the same.
CREATE TABLE trials (
    id               INTEGER PRIMARY KEY,
    key              TEXT    NOT NULL UNIQUE CHECK (length(key) = 64),
    qconfig          TEXT    NOT NULL CHECK (json_valid(qconfig)),
    int8_groups      INTEGER NOT NULL CHECK (int8_groups >= 0),
    metric           TEXT    NOT NULL CHECK (metric IN ('top1', 'top5', 'agreement', 'sqnr', 'score')),
    -- Samples that were right; NULL for the metrics that do not count.
    correct          INTEGER CHECK (correct BETWEEN 0 AND total),
    total            INTEGER NOT NULL CHECK (total >= 0),
    -- A fraction, dB for the metric sqnr, or for score the number that a program printed. Larger is better.
    score            REAL    NOT NULL,
    -- Bit i % 8, counted from the least, of byte i / 8 says whether sample i was right.
    correct_bits     BLOB    NOT NULL,
    seconds          REAL    NOT NULL,
    weight_bytes     INTEGER NOT NULL CHECK (weight_bytes >= 0),
    activation_bytes INTEGER NOT NULL CHECK (activation_bytes >= 0),
    created_ms       INTEGER NOT NULL,
    CHECK ((metric IN ('sqnr', 'score')) = (correct IS NULL))
) STRICT;

INSERT INTO trials (id, key, qconfig, int8_groups, metric, correct, total, score, correct_bits, seconds, weight_bytes,
    activation_bytes, created_ms)
SELECT id, key, qconfig, int8_groups, metric, correct, total, score, correct_bits, seconds, weight_bytes,
    activation_bytes, created_ms
FROM trials_before;
DROP TABLE trials_before;

-- The scores of fp32 and of the finalist on the certify split, of the metric score, from which no bound follows.
ALTER TABLE finalists ADD COLUMN fp32_score REAL;
ALTER TABLE finalists ADD COLUMN score      REAL;

-- One row a trial of a job, with everything derived. Membership of the front is pareto::front in SQL: the trial has seen
-- all samples, and no other such trial of the job is weakly better in score and median latency and strictly better in
-- one; a test compares them.
CREATE VIEW trial_summary AS
WITH measured AS MATERIALIZED (
    SELECT jt.job_id, jt.number, t.key, t.metric, t.score, t.correct, t.total, t.seconds,
           t.int8_groups, jt.repairs, jt.fp32_groups,
           json_array_length(jt.fp32_groups) AS fp32_group_count,
           jt.drop_seen, jt.drop_low, jt.drop_high,
           t.weight_bytes, t.activation_bytes, t.qconfig,
           c.q1_ns, c.median_ns, c.q3_ns, f.median_ns AS fp32_median_ns,
           r.cpu, r.kernel, r.threads, r.batch, r.quota_milli_cpus
    FROM job_trials AS jt
    JOIN trials AS t ON t.id = jt.trial_id
    LEFT JOIN latency_runs AS r ON r.id = jt.latency_run_id
    LEFT JOIN latency_quartiles AS c ON c.run_id = r.id AND c.role = 'candidate'
    LEFT JOIN latency_quartiles AS f ON f.run_id = r.id AND f.role = 'fp32'
)
SELECT m.job_id, j.name AS job_name, m.number, m.key, m.metric, m.score, m.correct, m.total,
       -- Whether it has seen all samples of the search split.
       m.total = base.total                            AS complete,
       -- Samples lost against fp32, over the samples seen; for the metric score what it lost, in its unit; NULL for the
       -- metric sqnr. Those recorded without it have seen all samples.
       coalesce(m.drop_seen, (base.correct - m.correct) * 1.0 / m.total) AS score_drop,
       -- Over those that fp32 gets right, or over its score, for a trial that has seen all samples.
       iif(m.total = base.total,
           coalesce((base.correct - m.correct) * 1.0 / base.correct, m.drop_seen / iif(base.score > 0, base.score, NULL)),
           NULL)                                       AS relative_drop,
       -- Where the drop lies on the whole split.
       coalesce(m.drop_low, (base.correct - m.correct) * 1.0 / m.total)  AS drop_low,
       coalesce(m.drop_high, (base.correct - m.correct) * 1.0 / m.total) AS drop_high,
       m.q1_ns, m.median_ns, m.q3_ns, m.fp32_median_ns,
       m.fp32_median_ns / m.median_ns                  AS speed_up,
       m.weight_bytes, m.activation_bytes, m.int8_groups, m.repairs, m.fp32_group_count,
       m.fp32_groups,
       m.median_ns IS NOT NULL AND m.total = base.total AND NOT EXISTS (
           SELECT 1 FROM measured AS o
           WHERE o.job_id = m.job_id AND o.total = base.total AND o.score >= m.score AND o.median_ns <= m.median_ns
             AND (o.score > m.score OR o.median_ns < m.median_ns)
       )                                               AS on_front,
       j.chosen IS NOT NULL AND j.chosen = m.number    AS chosen,
       m.seconds, m.cpu, m.kernel, m.threads, m.batch, m.quota_milli_cpus, m.qconfig
FROM measured AS m
JOIN jobs AS j ON j.id = m.job_id
JOIN measured AS base ON base.job_id = m.job_id AND base.number = 0;

-- The trials of each job that no other beats in score and latency.
CREATE VIEW front AS
SELECT * FROM trial_summary WHERE on_front;
