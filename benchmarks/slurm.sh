#!/usr/bin/env bash
# docs/runs.md's recipe for Slurm on a real one: an array of runs, of which each is signalled before
# its time limit and put back into the queue, ends with the numbers of undisturbed runs.
#     bash benchmarks/slurm.sh         # as root, where apt can install slurm and munge; `make slurm`
# It starts a Slurm of one node for itself, with all its files in a temporary folder, and stops it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
[ "$(id -u)" = 0 ] || { echo "slurm.sh: error: root is needed to start a Slurm" >&2; exit 2; }
if ! command -v slurmctld slurmd sbatch munged > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge > /dev/null
fi
room=$(mktemp -d)
node=$(hostname -s)
export SLURM_CONF=$room/slurm.conf
mkdir -p "$room/state" "$room/spool" /run/munge
chown munge: /run/munge
[ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom > /etc/munge/munge.key
    chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
cat > "$SLURM_CONF" << END
ClusterName=one
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$room/state
SlurmdSpoolDir=$room/spool
SlurmctldPidFile=$room/slurmctld.pid
SlurmdPidFile=$room/slurmd.pid
SlurmctldLogFile=$room/slurmctld.log
SlurmdLogFile=$room/slurmd.log
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName=$node CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
stop() {
    for daemon in slurmd slurmctld; do
        [ -s "$room/$daemon.pid" ] && kill "$(cat "$room/$daemon.pid")" 2> /dev/null || true
    done
    pkill -u munge munged 2> /dev/null || true
}
trap stop EXIT
runuser -u munge -- munged --force
slurmctld
slurmd
for _ in $(seq 30); do sinfo -h -o %t 2> /dev/null | grep -q idle && break; sleep 1; done
sinfo

# the signal comes a minute before a limit of two, and a run takes longer than that
flags="--dataset=digits --prune_iterations=4 --end_iter=${EPOCHS:-700} --threads=1"
"$PYTHON" main.py $flags --seed 0 1 --runs_dir="$room/array" --print_commands |
    sed "s#^python #$PYTHON #" > "$room/commands.txt"
count=$(wc -l < "$room/commands.txt")
job=$(sbatch --parsable --array="1-$count" --time=2 --output="$room/task-%a.log" \
    experiments/array.sbatch "$room/commands.txt")
echo "job $job: $count tasks; their logs are in $room"
while squeue -h -j "$job" 2> /dev/null | grep -q .; do sleep 5; done
"$PYTHON" main.py $flags --seed 0 1 --runs_dir="$room/whole" --workers=1 --quiet
requeued=$(cat "$room"/task-*.log | grep -c "stopped; the same command goes on" || true)
status=0
for whole in "$room"/whole/*; do
    array=$room/array/$(basename "$whole")
    [ -e "$array/DONE" ] || { echo "not done: $array"; status=1; continue; }
    for table in rounds epochs; do
        # but for the last column of rounds.csv, the seconds
        cmp <(sed 's/,[^,]*$//' "$whole/$table.csv") \
            <(sed 's/,[^,]*$//' "$array/$table.csv") || status=1
    done
    for mask in "$whole"/masks/*; do cmp "$mask" "$array/masks/$(basename "$mask")" || status=1; done
done
[ "$requeued" -ge "$count" ] || { echo "only $requeued signals reached a run"; status=1; }
[ $status = 0 ] && echo "slurm: $count runs, signalled $requeued times, equal to undisturbed ones"
exit $status
