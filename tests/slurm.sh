#!/usr/bin/env bash
# Runs configs/slurm.sbatch on a real Slurm of this machine alone: tests/slurm.sh [QTUNED]
#
# An array of four searches, of which one is requeued in the middle; their databases are united. Needs root and Debian's
# slurm-wlm and munge, which are installed where they are missing. Everything lives in a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
qtuned=$(realpath "${1:-target/release/qtuned}")
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
fi
work=$(mktemp -d)
processes=()
end() {
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
cd "$work"
unset QTUNED_DB QTUNED_SERVER QTUNED_LOG

echo '== a cluster of one machine'
host=$(hostname -s)
mkdir state spool munge
chmod 755 "$work" munge
dd if=/dev/urandom of=munge/key bs=1024 count=1 status=none
chmod 600 munge/key
munged --foreground --force --key-file=munge/key --socket="$work/munge/socket" --pid-file="$work/munge/pid" \
    --seed-file="$work/munge/seed" --log-file="$work/munge/log" >munged.log 2>&1 &
processes+=($!)
memory=$(($(awk '/^MemTotal/ { print $2 }' /proc/meminfo) / 1024 / 2))
cat >slurm.conf <<CONF
ClusterName=qtuned
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts again after this many seconds.
AuthInfo=socket=$work/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
KillWait=10
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
export SLURM_CONF=$work/slurm.conf
until [ -S munge/socket ]; do sleep 0.1; done
slurmctld -D -f slurm.conf >ctld.out 2>&1 &
processes+=($!)
slurmd -D -f slurm.conf >slurmd.out 2>&1 &
processes+=($!)
for _ in $(seq 300); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 0.1
done
sinfo -h -o '%N is %T' | grep idle || { tail -n 20 slurmctld.log slurmd.log ctld.out slurmd.out; exit 1; }

echo '== an array of four searches, one requeued in the middle'
for task in 1 2 3 4; do
    sed -e "s|\.\./|$root/|" -e "s/^name:.*/name: task-$task/" -e "s/seed: 0/seed: $task/" \
        "$root/configs/fashion-mnist.yaml" >"$task.yaml"
    printf 'search: {until: exhausted, max_trials: 8}\nmeasure: {latency: {runs: 1000, warmup: 1}}\n' >>"$task.yaml"
done
export QTUNED=$qtuned
mkdir qtuned-tasks
array=$(sbatch --parsable --array=1-4 --cpus-per-task=1 --mem=1G "$root/configs/slurm.sbatch" 1.yaml 2.yaml 3.yaml 4.yaml)
value() { "$qtuned" query --json --db "$1" "$2" 2>/dev/null | grep -o '"v": .*' | cut -d' ' -f2-; }
for _ in $(seq 1200); do
    made=$(value "qtuned-tasks/$array-2.db" 'SELECT count(*) AS v FROM job_trials' || echo 0)
    [ "${made:-0}" -ge 2 ] && break
    sleep 0.1
done
[ "${made:-0}" -ge 2 ] || { squeue; tail -n 20 slurmctld.log qtuned-tasks/*.log; exit 1; }
echo "task 2 has $made trials and is requeued"
scontrol requeue "${array}_2"
for _ in $(seq 3000); do
    [ -z "$(squeue -h -j "$array" 2>/dev/null)" ] && break
    sleep 0.1
done
[ -z "$(squeue -h -j "$array" 2>/dev/null)" ] || { squeue; tail -n 20 slurmctld.log; exit 1; }

echo '== united'
"$qtuned" merge "qtuned-tasks/$array"-*.db -o all.db
"$qtuned" jobs --db all.db
[ "$(value all.db "SELECT count(*) AS v FROM jobs WHERE state = 'succeeded'")" = 4 ] || { cat qtuned-tasks/*.log; exit 1; }
continued=$(value all.db "SELECT count(*) AS v FROM events AS e JOIN jobs AS j ON j.id = e.job_id
    WHERE e.kind = 'continued' AND j.name = 'task-2'")
[ "$continued" -ge 1 ] || { echo 'task 2 did not go on where it was'; exit 1; }
twice=$(value all.db "SELECT count(*) - count(DISTINCT job_id || ' ' || detail) AS v FROM events WHERE kind = 'trial'")
[ "$twice" = 0 ] || { echo "$twice trials were made twice"; exit 1; }
again=$("$qtuned" merge "qtuned-tasks/$array"-*.db -o all.db)
[ "$(grep -c ': 0 jobs and 0 trials are new, 0 jobs had gone on' <<<"$again")" = 4 ] || { echo "$again"; exit 1; }
"$qtuned" db check --db all.db
echo "four searches on Slurm, task 2 continued after $made trials; united twice, the same"
