#!/usr/bin/env bash
# All there is to do on a first GPU, in pieces of less than ten minutes that go on where they were:
#     DATA_DIR=data bash benchmarks/gpu.sh PART     # the same again, until it says "done"
# PART is one of
#     tests       the tests that need a GPU
#     equality    the same runs on the CPU, on the GPU, and together on the GPU: the same tickets?
#     speed       benchmarks/speed-cuda.json
#     exp1        experiment 1 at paper scale
#     types frankle cosentino                              question 2 and two appendices, fc1 at scale long
#     lenet5 resnet20 alexnet vgg16 resnet18 densenet121   question 4 on MNIST, three seeds
#     cifar10-lenet5 cifar10-resnet20                      question 5 on a subset of CIFAR-10
# Parts share a GPU side by side once nvidia-cuda-mps-control -d runs, fc1 then at a third of its pace.
# SCALE=smoke does them small, on a CPU too. What comes of a part lies in runs/gpu/SCALE (RUNS_DIR).
# It takes torch 2.9 or later, and neither numba, nor Ray, nor a network: DATA_DIR has MNIST and the
# .npz that experiments/scale.sh names. DeepRobust and texttable, if they are not there, come along
# in a folder of PYTHONPATH (pip install --no-deps --target).
set -euo pipefail
cd "$(dirname "$0")/.."
PART=${1:-} SCALE=${SCALE:-paper} PYTHON=${PYTHON:-python} LIMIT=${LIMIT:-540} # seconds a piece
DATA_DIR=${DATA_DIR:-data} CACHE_DIR=${CACHE_DIR:-cache}
ROOM=${RUNS_DIR:-runs}/gpu/$SCALE
PARTS="tests equality speed exp1 types frankle cosentino lenet5 resnet20 alexnet vgg16 resnet18 densenet121 cifar10-lenet5
    cifar10-resnet20"
sorry() { echo "gpu.sh: error: $*" >&2; exit 2; }

[[ -n $PART && " $(echo $PARTS) " = *" $PART "* ]] || sorry "PART '$PART': one of" $PARTS
SEEDS="0 1 2" SPEED="--cuda --go_on" DEVICE=cuda NET="--precision=tf32" SCALE_OF_NETS=long
SMALL="--prune_percent=20 --prune_iterations=12 --end_iter=6"
case $SCALE in
paper)
    "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" ||
        sorry "torch sees no CUDA device here: SCALE=smoke does it small, on a CPU too" ;;
smoke)
    SEEDS="0 1" SPEED=--quick DEVICE=auto NET="" SCALE_OF_NETS=smoke
    SMALL="--prune_percent=84 --prune_iterations=2 --end_iter=1" ;;
*) sorry "SCALE=$SCALE: paper or smoke is needed" ;;
esac

# study FOLDER FLAGS...: runs in a folder of the room, gone on with where they are
study() {
    "$PYTHON" main.py --runs_dir="$ROOM/$1" --data_dir="$DATA_DIR" --cache_dir="$CACHE_DIR" \
        "${@:2}" ${FLAGS:-}
}

# net ARCH [other]: what questions 4 and 5 ask of a network, with experiments/scale.sh's own flags
net() {
    (
        export ARCHS=$1 RUNS_DIR=$ROOM FLAGS="--device=$DEVICE $NET ${FLAGS:-}"
        SCALE=$SCALE_OF_NETS
        source experiments/scale.sh
        # the other data set of smoke would have to be made first
        if [ "${2:-}" = other ] && [ "$SCALE" = long ]; then archs $OTHER $OTHER_FLAGS --runs_dir="$ROOM/$PART"
        else archs $ARCH_DATASET $ARCH_FEW $ATTACK_FLAGS --runs_dir="$ROOM/$PART"; fi
    )
    "$PYTHON" plots.py "$ROOM/$PART"/* -o "$ROOM/plots/$PART"
}

# script NAME: an experiment of fc1 with experiments/scale.sh's own flags, its runs together
script() {
    SCALE=$SCALE_OF_NETS RUNS_DIR=$ROOM REPORT=$ROOM/report \
        FLAGS="--device=$DEVICE --cohort_size=16 ${FLAGS:-}" bash "experiments/$1.sh"
}

# the same flags by torch on the CPU, on the GPU one by one, and all together; and once more on the
# CPU, on two threads, which only add up in another order: how far rounding alone takes tickets apart
equality() {
    local flags="--dataset=digits --arch_type=conv2 --optimizer=sgd --lr=0.01 --seed $SEEDS $SMALL"
    study equality/cpu $flags --device=cpu --cohort_size=1 --threads=1
    study equality/rounding $flags --device=cpu --cohort_size=1 --threads=2
    study equality/gpu $flags --device=$DEVICE --cohort_size=1
    study equality/together $flags --device=$DEVICE --cohort_size=3
    for other in rounding gpu together; do
        "$PYTHON" tickets.py --a "$ROOM/equality/cpu/*" --b "$ROOM/equality/$other/*" \
            -o "$ROOM/equality/tickets-$other"
    done
}

work() {
    case $PART in
    tests) "$PYTHON" -m pytest -rs tests/test_{graph,step,meta,measure}.py ;;
    equality) equality ;;
    speed) "$PYTHON" benchmarks/speed.py --data_dir="$DATA_DIR" $SPEED \
        --parts epochs networks cohorts sizes ;;
    exp1) RUNS_DIR=$ROOM REPORT=$ROOM/report bash experiments/exp1_attack_rate.sh ;;
    types) script exp2_attack_type ;;
    frankle | cosentino) script "$PART" ;;
    cifar10-*) net "${PART#cifar10-}" other ;;
    *) net "$PART" ;;
    esac
}

# A piece: main.py keeps where it is when timeout's signal comes, and the next piece goes on there
if [ -z "${IN_A_PIECE:-}" ]; then
    mkdir -p "$ROOM"
    code=0
    IN_A_PIECE=1 SCALE=$SCALE timeout --kill-after=40 "$LIMIT" bash benchmarks/gpu.sh "$PART" || code=$?
    echo "$SECONDS" >> "$ROOM/$PART.seconds"
    total=$(awk '{ sum += $1 } END { print sum }' "$ROOM/$PART.seconds")
    case $code in
    0) echo "$PART: done in $total s" ;;
    124 | 137) echo "$PART: $total s so far; the same command goes on"; code=75 ;;
    *) echo "$PART: failed, exit code $code" >&2 ;;
    esac
    exit $code
fi
export SCALE PYTHON DATA_DIR CACHE_DIR
work
