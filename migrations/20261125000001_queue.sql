-- The queue: jobs wait, are claimed by a process for a while, and can be cancelled; what a job does is noted.
--
-- SQLite cannot change a constraint, so the table of jobs is made again under its name, with the same rows. The rows
-- of other tables that refer to it are without it meanwhile, which is checked again at the end of the transaction.
PRAGMA defer_foreign_keys = ON;

CREATE TEMP TABLE jobs_before AS SELECT * FROM main.jobs;
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
    metric          TEXT    NOT NULL CHECK (metric IN ('top1', 'top5', 'agreement', 'sqnr')),
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
    CHECK (state != 'queued' OR submitted_ms IS NOT NULL)
) STRICT;

INSERT INTO jobs (id, name, identity, lock, metric, model_sha256, model, qtuned_version, state, finish, chosen,
    within_budget, error, exit_code, sensitivity_key, created_ms, started_ms, finished_ms)
SELECT id, name, identity, lock, metric, model_sha256, model, qtuned_version, state, finish, chosen,
    within_budget, error, exit_code, sensitivity_key, created_ms, started_ms, finished_ms
FROM jobs_before;
DROP TABLE jobs_before;

CREATE INDEX jobs_by_name ON jobs (name, id);
CREATE INDEX jobs_by_identity ON jobs (identity, id);
-- What a worker looks through for its next job.
CREATE INDEX jobs_to_do ON jobs (priority DESC, submitted_ms, id)
    WHERE submitted_ms IS NOT NULL AND state IN ('queued', 'running', 'interrupted');

-- The qconfig of a trial written whole, with every scale and zero point: YAML, compressed with gzip. Trials that were
-- recorded before this table have none.
CREATE TABLE qconfig_files (
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL CHECK (number >= 0),
    file   BLOB    NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT;

-- What was logged while a job ran.
CREATE TABLE log_lines (
    id      INTEGER PRIMARY KEY,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    time_ms INTEGER NOT NULL,
    level   TEXT    NOT NULL,
    message TEXT    NOT NULL
) STRICT;

CREATE INDEX log_lines_by_job ON log_lines (job_id, id);
