#!/usr/bin/env bash
# Sends a daemon whatever its own description allows, and what it does not: tests/api_schema.sh [QTUNED] [EXAMPLES]
#
# schemathesis (PyPI) makes requests from /openapi.json and checks every answer: no 5xx, no status, content type or shape
# that the description does not have. The daemon has a job that ended, one that runs and one that waits.
set -euo pipefail
cd "$(dirname "$0")/.."
qtuned=$(realpath "${1:-target/release/qtuned}")
examples=${2:-60}
job="$PWD/configs/fashion-mnist.yaml"
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'schemathesis~=4.0'
cd "$work"
unset QTUNED_DB QTUNED_SERVER QTUNED_LOG

"$qtuned" serve --listen 127.0.0.1:0 --threads 1 2>serve.log &
daemon=$!
until grep -q 'serving on' serve.log; do sleep 0.05; done
url=$(grep -o 'http://[0-9.:]*' serve.log | head -1)
small=(--set data.split.search=200 --set search.max_trials=3 --set 'measure.latency={runs: 3, warmup: 1}' --server "$url")
"$qtuned" submit "$job" "${small[@]}" --watch >/dev/null || [ $? = 3 ]
long=(--set 'measure.latency={runs: 100000, warmup: 1}' --set search.until=exhausted --server "$url")
"$qtuned" submit "$job" "${long[@]}" --set name=runs >/dev/null
"$qtuned" submit "$job" "${long[@]}" --set name=waits >/dev/null

# Streams of events end only with their job: their test is tests/server.rs.
"$work/venv/bin/schemathesis" run "$url/openapi.json" --max-examples "$examples" --seed 1 \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance \
    --exclude-path '/v1/jobs/{id}/events' --request-timeout 30 --no-color --suppress-health-check all
kill -TERM "$daemon"
wait "$daemon" || true
! grep -q 'panicked' serve.log || { grep panicked serve.log; exit 1; }
daemon=
