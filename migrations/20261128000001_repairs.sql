-- Repairs: changes of the starting qconfig that a search tries on all groups before any goes back to fp32.

-- Names of the repairs of a trial, in order, as JSON.
ALTER TABLE job_trials ADD COLUMN repairs TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(repairs));

DROP VIEW front;
DROP VIEW trial_summary;

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
