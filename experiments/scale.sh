# What the experiments share; each reads it first. Set from outside:
#   SCALE=smoke (digits, a minute each) | small (MNIST, what two cores do in half an hour each) |
#         paper (35 rounds x 12 epochs, a GPU)
#   PYTHON, DATA_DIR (only read), RUNS_DIR, CACHE_DIR, REPORT, ARCHS, ARCH_DATASET and ARCH_SEEDS
#   (small), FLAGS (more flags for every run, such as --device=cpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SCALE=${SCALE:-smoke} PYTHON=${PYTHON:-python} DATA_DIR=${DATA_DIR:-data}
CACHE_DIR=${CACHE_DIR:-cache} REPORT=${REPORT:-report} RUNS=${RUNS_DIR:-runs}/$SCALE
# cw is slow: at smoke it takes fewer steps, at small it is made against fc1, and so are the attacks
# that it is compared with
case $SCALE in
smoke)
    DATASET=digits RATES="0 50" SEEDS="0 1" BLACK_SEEDS=$SEEDS
    SCHEDULE="--prune_percent=60 --prune_iterations=3 --end_iter=3"
    ATTACKS="pgd noise" ATTACK_FLAGS="--surrogate=fc1 --epsilon=0.1"
    CW_FLAGS="--attack=cw --confidence=5 --surrogate=fc1 --attack_steps=30"
    ARCH_DATASET=$DATASET ARCHS=${ARCHS:-fc1 lenet5} ARCH_SEEDS=$SEEDS
    ARCH_SCHEDULE="--prune_percent=84 --prune_iterations=2 --end_iter=1"
    OTHER="smoke_colour" OTHER_FLAGS="--surrogate=fc1 --surrogate_epochs=10 --epsilon=0.1"
    OTHER_SCHEDULE=$SCHEDULE ;;
small)
    DATASET=mnist RATES="0 25 50 75 100" SEEDS="0 1 2 3 4" BLACK_SEEDS="0 1 2"
    SCHEDULE="--prune_percent=20 --prune_iterations=12 --end_iter=3"
    # cw takes 0.4 s an image against DeepRobust's CNN and a thirtieth of that against fc1
    ATTACKS="noise" ATTACK_FLAGS="" CW_FLAGS="--attack fgsm pgd cw --confidence=5 --surrogate=fc1"
    # on MNIST lenet5 alone would take hours
    ARCH_DATASET=${ARCH_DATASET:-digits} ARCHS=${ARCHS:-fc1 lenet5 resnet20}
    ARCH_SEEDS=${ARCH_SEEDS:-$SEEDS}
    ARCH_SCHEDULE="--prune_percent=40 --prune_iterations=6 --end_iter=6"
    OTHER="cifar10_18k" OTHER_FLAGS="--surrogate=resnet20 --surrogate_epochs=10"
    OTHER_SCHEDULE="--prune_percent=20 --prune_iterations=12 --end_iter=6" ;;
paper)
    DATASET=mnist RATES="0 10 20 30 40 50 60 70 80 90 100" SEEDS="0 1 2 3 4" BLACK_SEEDS="0 1 2"
    SCHEDULE="--prune_percent=10 --prune_iterations=35 --end_iter=12"
    ATTACKS="pgd noise" ATTACK_FLAGS="" CW_FLAGS="--attack=cw --confidence=5"
    ARCH_DATASET=$DATASET ARCHS=${ARCHS:-fc1 lenet5 vgg16 resnet20} ARCH_SEEDS="0 1 2"
    ARCH_SCHEDULE=$SCHEDULE
    OTHER="cifar10" OTHER_FLAGS="" OTHER_SCHEDULE=$SCHEDULE ;;
*)
    echo "SCALE=$SCALE: smoke, small or paper is needed" >&2; exit 2 ;;
esac
COMMANDS=""

# call SCRIPT ARGUMENTS...: run it, and remember the line for the report
call() {
    local line
    line="python $(printf ' %q' "$@" | cut -c 2-)"
    echo "+ $line"
    COMMANDS+="$line"$'\n'
    "$PYTHON" "$@"
}

# study FLAGS...: train what the flags say; of a flag that is given twice the last counts
study() { call main.py --data_dir="$DATA_DIR" --cache_dir="$CACHE_DIR" "$@" ${FLAGS:-}; }

# fc1 FLAGS...: the same for fc1 on the experiments' own data set
fc1() { study --arch_type=fc1 --dataset=$DATASET --seed $SEEDS $SCHEDULE "$@"; }

# what several experiments compare with: fc1 at the attack rates $1; whichever experiment comes
# first trains it, the others find it
base() {
    fc1 --prune_type lt reinit --attack=fgsm --attack_rate $1 $ATTACK_FLAGS --runs_dir="$RUNS/main"
}

report() { "$PYTHON" report.py -o "$REPORT" --command "$COMMANDS" "$@"; }
