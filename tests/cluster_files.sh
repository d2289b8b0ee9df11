#!/usr/bin/env bash
# Checks the files for clusters: tests/cluster_files.sh
#
# The Kubernetes manifests against the published schema (the PyPI package kubernetes-validate), and that what they ask for
# is what they are limited to; the Slurm script with stand-ins for qtuned and scontrol, in every way that a search can
# end; the systemd unit by systemd-analyze, where there is one. Needs python3 with venv, and PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo '== Kubernetes'
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'kubernetes-validate~=1.31' 'PyYAML~=6.0'
"$work/venv/bin/kubernetes-validate" --strict configs/kubernetes-job.yaml
"$work/venv/bin/python" - configs/kubernetes-job.yaml <<'PY'
import sys, yaml
jobs = list(yaml.safe_load_all(open(sys.argv[1])))
assert [job["spec"].get("completionMode") for job in jobs] == [None, "Indexed"], "expected a Job and an Indexed Job"
for job in jobs:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"], "latency needs whole cores"
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    ignored = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert ignored[0]["onExitCodes"]["values"] == [75], "an interrupted search is continued"
print("both jobs are as they must be")
PY

echo '== Slurm'
bash -n configs/slurm.sbatch
mkdir "$work/bin" "$work/run"
cat >"$work/bin/qtuned" <<'STUB'
#!/usr/bin/env bash
echo "$@" >>calls
trap 'echo stopped >>calls; exit 75' TERM
[ -e slow ] && { touch began; for _ in $(seq 100); do sleep 0.1; done; }
exit "$(cat code)"
STUB
cat >"$work/bin/scontrol" <<'STUB'
#!/usr/bin/env bash
echo "scontrol $*" >>calls
STUB
chmod +x "$work/bin/"*
batch="$PWD/configs/slurm.sbatch"
# task CODE EXPECTED: runs task 2 of 3 of array 7 with a search that ends so.
task() {
    (
        cd "$work/run"
        : >calls
        echo "$1" >code
        local ended=0
        PATH="$work/bin:$PATH" SLURM_JOB_ID=9 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=2 SLURM_CPUS_PER_TASK=4 \
            bash "$batch" a.yaml b.yaml c.yaml || ended=$?
        [ "$ended" = "$2" ] || { echo "a search that ends with $1: expected $2, found $ended"; exit 1; }
        grep -q '^run b.yaml --db qtuned-tasks/7-2.db --threads 4 --set output=qtuned-tasks/out-2$' calls
    )
}
task 0 0
task 1 1
task 2 2
task 3 0
task 75 0
grep -q '^scontrol requeue 7_2$' "$work/run/calls"
# The signal before the end of the time reaches the search, which is then continued.
touch "$work/run/slow"
(cd "$work/run" && : >calls && PATH="$work/bin:$PATH" SLURM_JOB_ID=9 exec bash "$batch" a.yaml) &
script=$!
until [ -e "$work/run/began" ]; do sleep 0.05; done
kill -TERM "$script"
wait "$script"
grep -q '^stopped$' "$work/run/calls" && grep -q '^scontrol requeue 9$' "$work/run/calls"
rm "$work/run/slow"
# No job files, and a task without one.
for files in '' 'a.yaml'; do
    ended=0
    # shellcheck disable=SC2086
    (cd "$work/run" && SLURM_ARRAY_TASK_ID=2 bash "$batch" $files 2>/dev/null) || ended=$?
    [ "$ended" = 2 ] || { echo "expected 2, found $ended"; exit 1; }
done
echo 'every end of a search is answered as it must be'

echo '== systemd'
if command -v systemd-analyze >/dev/null; then
    # The program and its user may not be installed here.
    sed -e "s|/usr/local/bin/qtuned|$work/bin/qtuned|" -e 's/^\(User\|Group\)=qtuned/\1=daemon/' \
        configs/qtuned.service >"$work/qtuned.service"
    systemd-analyze verify --man=no "$work/qtuned.service"
    echo 'the unit is well-formed'
else
    echo 'NOT TESTED: there is no systemd-analyze here'
fi
