-- How sure a score is: where the drop of each trial lies, and what the certify split says of the finalists.

-- A trial is evaluated until it is surely outside the budget of its job, so its drop is known as an interval: fractions
-- of the samples of the search split, at the confidence of the job; NULL for the metric sqnr. For a trial that has seen
-- all samples the three are the same.
ALTER TABLE job_trials ADD COLUMN drop_seen REAL;
ALTER TABLE job_trials ADD COLUMN drop_low  REAL;
ALTER TABLE job_trials ADD COLUMN drop_high REAL;

-- The trials that a job named before it opened the certify split, in the order of the choice, and how they did there.
CREATE TABLE finalists (
    job_id     INTEGER NOT NULL REFERENCES jobs (id),
    place      INTEGER NOT NULL CHECK (place >= 0),
    -- Number of the trial in job_trials.
    trial      INTEGER NOT NULL CHECK (trial >= 0),
    -- With this probability no bound of the job is too low.
    confidence REAL    NOT NULL,
    -- Samples that fp32 gets right and the trial wrong, and the other way round; right in fp32; all. NULL for a finalist
    -- that was not needed, since an earlier one holds.
    lost       INTEGER CHECK (lost >= 0),
    won        INTEGER CHECK (won >= 0),
    base       INTEGER CHECK (base >= 0),
    total      INTEGER CHECK (total >= 0),
    -- Upper bound on the drop in the population, absolute or relative as the budget has it.
    bound      REAL,
    -- Whether the bound is within the budget.
    holds      INTEGER CHECK (holds IN (0, 1)),
    PRIMARY KEY (job_id, place),
    CHECK ((lost IS NULL) = (holds IS NULL) AND (lost IS NULL) = (won IS NULL) AND (lost IS NULL) = (base IS NULL)
        AND (lost IS NULL) = (total IS NULL))
) STRICT, WITHOUT ROWID;

-- What each group takes in a run of one sample, in ns: medians, in all of the starting qconfig and in fp32. Measured for
-- strategies that go by it, once, so that a search that continues proposes the same.
CREATE TABLE group_times (
    sensitivity_key TEXT    NOT NULL REFERENCES sensitivity_runs (key),
    position        INTEGER NOT NULL CHECK (position >= 0),
    int8_ns         REAL    NOT NULL CHECK (int8_ns >= 0),
    fp32_ns         REAL    NOT NULL CHECK (fp32_ns >= 0),
    PRIMARY KEY (sensitivity_key, position)
) STRICT, WITHOUT ROWID;

DROP VIEW front;
DROP VIEW trial_summary;

-- One row a trial of a job, with everything derived. Membership of the front is pareto::front in SQL: the trial has seen
-- all samples, and no other such trial of the job is weakly better in score and median latency and strictly better in
-- one; a test compares them.
CREATE VIEW trial_summary AS
WITH measured AS MATERIALIZED (
    SELECT jt.job_id, jt.number, t.key, t.metric, t.score, t.correct, t.total, t.seconds,
           t.int8_groups, jt.fp32_groups, json_array_length(jt.fp32_groups) AS fp32_group_count,
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
       -- Samples lost against fp32, over the samples seen; NULL for the metric sqnr. Those recorded without it have seen
       -- all samples.
       coalesce(m.drop_seen, (base.correct - m.correct) * 1.0 / m.total) AS score_drop,
       -- Over those that fp32 gets right, for a trial that has seen all samples.
       iif(m.total = base.total, (base.correct - m.correct) * 1.0 / base.correct, NULL) AS relative_drop,
       -- Where the drop lies on the whole split.
       coalesce(m.drop_low, (base.correct - m.correct) * 1.0 / m.total)  AS drop_low,
       coalesce(m.drop_high, (base.correct - m.correct) * 1.0 / m.total) AS drop_high,
       m.q1_ns, m.median_ns, m.q3_ns, m.fp32_median_ns,
       m.fp32_median_ns / m.median_ns                  AS speed_up,
       m.weight_bytes, m.activation_bytes, m.int8_groups, m.fp32_group_count, m.fp32_groups,
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
