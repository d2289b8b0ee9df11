-- The record of qtuned: jobs, the trials they made, and what was measured in them.
--
-- Times are milliseconds since 1970-01-01 UTC. Keys and hashes are SHA-256 in lowercase hexadecimal. Ratios in dB
-- are REAL; "nothing is lost" is +infinity, which SQLite writes as 9e999 and shows as Inf.

-- One row a job. A job is found again by its identity: the hash of its lock without the output folder.
CREATE TABLE jobs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT    NOT NULL,
    identity        TEXT    NOT NULL UNIQUE CHECK (length(identity) = 64),
    -- Every default filled in, paths whole, hashes of model and data: YAML.
    lock            TEXT    NOT NULL,
    metric          TEXT    NOT NULL CHECK (metric IN ('top1', 'top5', 'agreement', 'sqnr')),
    model_sha256    TEXT    NOT NULL CHECK (length(model_sha256) = 64),
    -- What the importer says of the model: a JSON object, once it is known.
    model           TEXT    CHECK (model IS NULL OR json_valid(model)),
    qtuned_version  TEXT    NOT NULL,
    -- A job that was killed stays 'running' until it is started again.
    state           TEXT    NOT NULL CHECK (state IN ('running', 'interrupted', 'succeeded', 'failed')),
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
    started_ms      INTEGER NOT NULL,
    finished_ms     INTEGER
) STRICT;

CREATE INDEX jobs_by_name ON jobs (name, id);

-- One row a sensitivity analysis. Jobs with the same model, data and qconfig share it.
CREATE TABLE sensitivity_runs (
    key         TEXT    PRIMARY KEY NOT NULL CHECK (length(key) = 64),
    created_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The groups of a model in topological order, and what each loses in int8. The four ratios are NULL for a group
-- that the starting qconfig leaves in fp32; weight_db also for a group without weights.
CREATE TABLE groups (
    sensitivity_key TEXT    NOT NULL REFERENCES sensitivity_runs (key),
    position        INTEGER NOT NULL CHECK (position >= 0),
    id              TEXT    NOT NULL,
    object_type     TEXT    NOT NULL,
    macs            INTEGER NOT NULL CHECK (macs >= 0),
    parameters      INTEGER NOT NULL CHECK (parameters >= 0),
    weight_db       REAL,
    local_db        REAL,
    accumulated_db  REAL,
    output_db       REAL,
    range_min       REAL,
    range_max       REAL,
    PRIMARY KEY (sensitivity_key, position),
    UNIQUE (sensitivity_key, id),
    CHECK ((local_db IS NULL) = (output_db IS NULL) AND (local_db IS NULL) = (accumulated_db IS NULL)
        AND (local_db IS NULL) = (range_min IS NULL) AND (local_db IS NULL) = (range_max IS NULL))
) STRICT, WITHOUT ROWID;

-- One row a qconfig that was measured: an append-only fact, shared by all jobs that measure the same.
CREATE TABLE trials (
    id               INTEGER PRIMARY KEY,
    key              TEXT    NOT NULL UNIQUE CHECK (length(key) = 64),
    qconfig          TEXT    NOT NULL CHECK (json_valid(qconfig)),
    int8_groups      INTEGER NOT NULL CHECK (int8_groups >= 0),
    metric           TEXT    NOT NULL CHECK (metric IN ('top1', 'top5', 'agreement', 'sqnr')),
    -- Samples that were right; NULL for the metric sqnr.
    correct          INTEGER CHECK (correct BETWEEN 0 AND total),
    total            INTEGER NOT NULL CHECK (total >= 0),
    -- A fraction, or dB for the metric sqnr. Larger is better.
    score            REAL    NOT NULL,
    -- Bit i % 8, counted from the least, of byte i / 8 says whether sample i was right.
    correct_bits     BLOB    NOT NULL,
    seconds          REAL    NOT NULL,
    weight_bytes     INTEGER NOT NULL CHECK (weight_bytes >= 0),
    activation_bytes INTEGER NOT NULL CHECK (activation_bytes >= 0),
    created_ms       INTEGER NOT NULL,
    CHECK ((metric = 'sqnr') = (correct IS NULL))
) STRICT;

-- Where and how the latencies of a trial were taken. They compare only where all of these are the same.
CREATE TABLE latency_runs (
    id               INTEGER PRIMARY KEY,
    trial_id         INTEGER NOT NULL REFERENCES trials (id),
    cpu              TEXT    NOT NULL,
    kernel           TEXT    NOT NULL,
    threads          INTEGER NOT NULL CHECK (threads >= 0),
    batch            INTEGER NOT NULL CHECK (batch >= 0),
    -- CPUs that a cgroup quota allowed, in thousandths; NULL without a quota.
    quota_milli_cpus INTEGER,
    created_ms       INTEGER NOT NULL
) STRICT;

CREATE INDEX latency_runs_by_trial ON latency_runs (trial_id, id);

-- Every run of the candidate and of fp32, in the order taken.
CREATE TABLE latency_samples (
    run_id  INTEGER NOT NULL REFERENCES latency_runs (id),
    role    TEXT    NOT NULL CHECK (role IN ('candidate', 'fp32')),
    ordinal INTEGER NOT NULL CHECK (ordinal >= 0),
    ns      INTEGER NOT NULL CHECK (ns >= 0),
    PRIMARY KEY (run_id, role, ordinal)
) STRICT, WITHOUT ROWID;

-- Which trials a job made or found, in its order, and which latencies it went by.
CREATE TABLE job_trials (
    job_id         INTEGER NOT NULL REFERENCES jobs (id),
    number         INTEGER NOT NULL CHECK (number >= 0),
    trial_id       INTEGER NOT NULL REFERENCES trials (id),
    latency_run_id INTEGER REFERENCES latency_runs (id),
    -- Groups in fp32 that this job's starting qconfig quantizes: their ids, and their positions among all groups.
    -- Another job may come to the same trial from another start.
    fp32_groups    TEXT    NOT NULL CHECK (json_type(fp32_groups) = 'array'),
    fp32_positions TEXT    NOT NULL CHECK (json_type(fp32_positions) = 'array'),
    created_ms     INTEGER NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_trials_by_trial ON job_trials (trial_id);

-- What happened, for people who look later.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    time_ms INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    detail  TEXT    NOT NULL
) STRICT;

CREATE INDEX events_by_job ON events (job_id, id);

-- Quartiles by linear interpolation between order statistics (Hyndman and Fan, type 7): quartile k of n samples is
-- at place k·(n − 1)/4. The same numbers, to the last bit, as evaluate::Quartiles::of; a test compares them.
CREATE VIEW latency_quartiles AS
WITH ranked AS (
    SELECT run_id, role, CAST(ns AS REAL) AS ns,
           row_number() OVER (PARTITION BY run_id, role ORDER BY ns) - 1 AS place,
           count(*) OVER (PARTITION BY run_id, role) - 1 AS last
    FROM latency_samples
),
ends AS (
    SELECT run_id, role, count(*) AS samples, max(last) AS last,
           max(CASE WHEN place = last / 4           THEN ns END) AS low1,
           max(CASE WHEN place = (last + 3) / 4     THEN ns END) AS high1,
           max(CASE WHEN place = 2 * last / 4       THEN ns END) AS low2,
           max(CASE WHEN place = (2 * last + 3) / 4 THEN ns END) AS high2,
           max(CASE WHEN place = 3 * last / 4       THEN ns END) AS low3,
           max(CASE WHEN place = (3 * last + 3) / 4 THEN ns END) AS high3
    FROM ranked
    GROUP BY run_id, role
)
SELECT run_id, role, samples,
       low1 + (high1 - low1) * (last % 4 / 4.0)     AS q1_ns,
       low2 + (high2 - low2) * (2 * last % 4 / 4.0) AS median_ns,
       low3 + (high3 - low3) * (3 * last % 4 / 4.0) AS q3_ns
FROM ends;

-- One row a trial of a job, with everything derived. Membership of the front is pareto::front in SQL: no other trial
-- of the job is weakly better in score and median latency and strictly better in one; a test compares them.
CREATE VIEW trial_summary AS
WITH measured AS MATERIALIZED (
    SELECT jt.job_id, jt.number, t.key, t.metric, t.score, t.correct, t.total, t.seconds,
           t.int8_groups, jt.fp32_groups, json_array_length(jt.fp32_groups) AS fp32_group_count,
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
       -- Samples lost against fp32, over all samples and over those that fp32 gets right; NULL for the metric sqnr.
       (base.correct - m.correct) * 1.0 / m.total      AS score_drop,
       (base.correct - m.correct) * 1.0 / base.correct AS relative_drop,
       m.q1_ns, m.median_ns, m.q3_ns, m.fp32_median_ns,
       m.fp32_median_ns / m.median_ns                  AS speed_up,
       m.weight_bytes, m.activation_bytes, m.int8_groups, m.fp32_group_count, m.fp32_groups,
       m.median_ns IS NOT NULL AND NOT EXISTS (
           SELECT 1 FROM measured AS o
           WHERE o.job_id = m.job_id AND o.score >= m.score AND o.median_ns <= m.median_ns
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

-- What each group of a job's model loses in int8.
CREATE VIEW sensitivity AS
SELECT j.id AS job_id, j.name AS job_name, g.position, g.id AS group_id, g.object_type, g.macs, g.parameters,
       g.weight_db, g.local_db, g.accumulated_db, g.output_db, g.range_min, g.range_max
FROM jobs AS j
JOIN groups AS g ON g.sensitivity_key = j.sensitivity_key;
