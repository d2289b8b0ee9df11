#!/usr/bin/env bash
# Kills a daemon in the middle of a job, again and again, and starts it again: tests/killed.sh [KILLS] [QTUNED]
#
# What holds afterwards: every fact that was recorded before a kill is there, unchanged, after every later one; no trial was
# made twice; the trials, sample by sample, are those of a search that nobody killed; what is chosen follows from the rows;
# and the database is whole.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-30}
qtuned=$(realpath "${2:-target/release/qtuned}")
job="$PWD/configs/fashion-mnist.yaml"
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
unset QTUNED_DB QTUNED_SERVER QTUNED_LOG

# Trials of about a second, of which half are latencies; more of them than there are kills.
sets=(--set search.until=exhausted --set search.max_trials=100 --set 'measure.latency={runs: 1500, warmup: 1}')
facts() {
    "$qtuned" query --json --db "$1" "
        SELECT json_array('trial', key, qconfig, hex(correct_bits), correct, total, score, seconds, created_ms) AS fact
            FROM trials
        UNION ALL SELECT json_array('latency', t.key, r.created_ms, r.cpu, r.kernel, s.role, s.ordinal, s.ns)
            FROM latency_samples AS s JOIN latency_runs AS r ON r.id = s.run_id JOIN trials AS t ON t.id = r.trial_id
        UNION ALL SELECT json_array('place', jt.job_id, jt.number, t.key, jt.fp32_groups)
            FROM job_trials AS jt JOIN trials AS t ON t.id = jt.trial_id
        UNION ALL SELECT json_array('group', sensitivity_key, position, id, weight_db, local_db, accumulated_db, output_db)
            FROM groups" | sed -n 's/^ *"fact": //p' | sort
}
one() { "$qtuned" query --json --db "$1" "$2" | grep -o '"v": .*' | cut -d' ' -f2-; }

echo "== a search that nobody kills"
"$qtuned" run "$job" "${sets[@]}" --db calm.db >/dev/null 2>&1 || [ $? = 3 ]

echo "== $kills kills"
"$qtuned" submit "$job" "${sets[@]}" --db killed.db
facts killed.db >before
state() { one killed.db "SELECT state AS v FROM jobs"; }
for kill in $(seq "$kills"); do
    "$qtuned" serve --db killed.db --listen 127.0.0.1:0 2>>serve.log &
    daemon=$!
    sleep "$(awk -v seed="$RANDOM$kill" 'BEGIN { srand(seed); print 0.05 + rand() * 1.9 }')"
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null || true
    daemon=
    facts killed.db >after
    lost=$(comm -23 before after | wc -l)
    printf 'kill %s: %s, %s trials, %s facts\n' "$kill" "$(state)" \
        "$(one killed.db 'SELECT count(*) AS v FROM job_trials')" "$(wc -l <after)"
    [ "$lost" = 0 ] || { echo "$lost facts were lost or changed:"; comm -23 before after | head; exit 1; }
    mv after before
    [ "$(state)" != '"succeeded"' ] || [ "$kill" = "$kills" ] || { echo 'the job ended before all kills were made'; exit 1; }
done

echo "== left alone"
"$qtuned" serve --db killed.db --listen 127.0.0.1:0 2>>serve.log &
daemon=$!
"$qtuned" watch 1 --db killed.db >/dev/null || [ $? = 3 ]
kill -TERM "$daemon"
wait "$daemon" || true
daemon=
[ "$(state)" = '"succeeded"' ] || { echo "expected an end, found $(state)"; exit 1; }
facts killed.db >after
[ "$(comm -23 before after | wc -l)" = 0 ] || { echo 'facts were lost at the end'; exit 1; }

# Latencies are taken once, and of up to four trials within the budget once more, in turn.
repeated=$(one killed.db "SELECT (SELECT count(*) - count(DISTINCT detail) FROM events WHERE kind = 'trial')
    + (SELECT count(*) FROM (SELECT 1 FROM latency_runs GROUP BY trial_id HAVING count(*) > 2))
    + (SELECT max(count(*) - count(DISTINCT trial_id) - 4, 0) FROM latency_runs) AS v")
[ "$repeated" = 0 ] || { echo "$repeated trials were made twice"; exit 1; }

# Everything of a trial but its times, in the order of the search.
trials="SELECT json_array(number, t.key, qconfig, hex(correct_bits), correct, total, score, fp32_groups) AS v
    FROM job_trials AS jt JOIN trials AS t ON t.id = jt.trial_id ORDER BY number"
one calm.db "$trials" >calm
one killed.db "$trials" >killed
cmp calm killed || { echo 'the trials are not those of a search that nobody killed'; exit 1; }

# The first finalist that is certified, or else the first: of those that have seen all samples and are within the budget, the
# fastest, and of those that are not surely slower the one with smaller weights, with fewer groups in fp32, the earlier.
first=$(python3 - killed.db <<'END'
import math, sqlite3, sys

db = sqlite3.connect(sys.argv[1])

def interval(run):
    """Of the median, with 95 % confidence."""
    samples = db.execute("SELECT ns FROM latency_samples WHERE run_id = ? AND role = 'candidate'", (run,))
    ns, below, beyond = sorted(value for value, in samples), 0.0, 0
    while beyond < len(ns) // 2:
        below += math.comb(len(ns), beyond) / 2 ** len(ns)
        if below > 0.025:
            break
        beyond += 1
    return ns[max(beyond - 1, 0)], ns[len(ns) - max(beyond, 1)]

(fp32, total), = db.execute("SELECT correct, total FROM trial_summary WHERE number = 0")
rows = db.execute("SELECT s.number, s.correct, s.weight_bytes, s.fp32_group_count, t.latency_run_id FROM trial_summary AS s "
                  "JOIN job_trials AS t USING (job_id, number) WHERE s.number > 0 AND s.complete")
within = [(weight, groups, number, interval(run)) for number, correct, weight, groups, run in rows.fetchall()
          if fp32 - correct <= 0.01 * total]
fastest = min(interval[1] for *_, interval in within)
print(min(trial[:3] for trial in within if trial[3][0] <= fastest)[2])
END
)
[ "$(one killed.db 'SELECT trial AS v FROM finalists WHERE place = 0')" = "$first" ] \
    || { echo "expected trial $first to be the first finalist"; exit 1; }
chosen=$(one killed.db 'SELECT trial AS v FROM finalists WHERE holds ORDER BY place LIMIT 1')
chosen=${chosen:-$first}
[ "$(one killed.db 'SELECT chosen AS v FROM jobs')" = "$chosen" ] || { echo "expected trial $chosen to be chosen"; exit 1; }
"$qtuned" db check --db killed.db
echo "$kills kills: nothing was lost, nothing was made twice, $(wc -l <killed) trials are the same bit for bit, trial $chosen is chosen"
