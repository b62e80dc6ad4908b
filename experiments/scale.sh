# What the experiments share; each reads it first. Set from outside:
#   SCALE=smoke (digits, a minute each) | small (MNIST, half an hour of two cores each) |
#         long (nets trained to their end: what is published; ten hours of two cores in all) |
#         paper (35 rounds x 12 epochs, a GPU)
#   PYTHON, DATA_DIR (only read), RUNS_DIR, CACHE_DIR, REPORT, ARCHS, ARCH_DATASET and ARCH_SEEDS
#   (small), LARGE (networks of large.sh), FLAGS (more flags for every run, such as --device=cpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SCALE=${SCALE:-smoke} PYTHON=${PYTHON:-python} DATA_DIR=${DATA_DIR:-data}
CACHE_DIR=${CACHE_DIR:-cache} REPORT=${REPORT:-report} RUNS=${RUNS_DIR:-runs}/$SCALE
# early stopping is an outcome, so all validate each so many steps; cw is slow: it is made against
# fc1, and so are the attacks that it is compared with
VALID="--valid_steps=100 --eval_attacks fgsm pgd" ATTACK_FLAGS="" CW_SURROGATE="--surrogate=fc1"
NOISE_LENGTH="--attack=noise --norm=l2"
# long and paper: the papers' own protocols whole, tested as they test
ARCH_FEW="" FRANKLE="" TYPES="" ROBUST="--preset=cosentino --eval_steps=10 --eval_step_size=0.05"
case $SCALE in
smoke)
    DATASET=digits RATES="0 50" SEEDS="0 1" BLACK_SEEDS=$SEEDS
    SCHEDULE="--prune_percent=60 --prune_iterations=3 --end_iter=3"
    VALID="--valid_steps=20 --eval_attacks fgsm pgd"
    ATTACK_FLAGS="--surrogate=fc1 --epsilon=0.1"
    NOISE_LENGTH="--attack=noise --norm=l2 --surrogate=fc1 --epsilon=0.6"
    CW_FLAGS="--attack fgsm pgd --epsilon=0.1" CW="--attack=cw --confidence=5 --attack_steps=30"
    ARCH_DATASET=$DATASET ARCHS=${ARCHS:-fc1 lenet5} ARCH_SEEDS=$SEEDS
    ARCH_SCHEDULE="--prune_percent=84 --prune_iterations=2 --end_iter=1"
    OTHER="smoke_colour" OTHER_FLAGS="--surrogate=fc1 --surrogate_epochs=10 --epsilon=0.1"
    LARGE=${LARGE:-$ARCHS} LARGE_FLAGS=$ATTACK_FLAGS
    FRANKLE="--prune_percent=60 --prune_iterations=4 --end_iter=5"
    ROBUST="--arch_type=fc1 $SCHEDULE --attack_mode=online --epsilon=0.1 --eval_steps=40" ;;
small)
    DATASET=mnist RATES="0 50" SEEDS="0 1 2" BLACK_SEEDS=$SEEDS
    SCHEDULE="--prune_percent=36 --prune_iterations=7 --end_iter=4" # every second round of 20 %
    CW_FLAGS="--attack fgsm pgd" CW="--attack=cw --confidence=5"
    # on MNIST lenet5 alone would take hours
    ARCH_DATASET=${ARCH_DATASET:-digits} ARCHS=${ARCHS:-fc1 lenet5}
    ARCH_SEEDS=${ARCH_SEEDS:-$SEEDS}
    ARCH_SCHEDULE="--prune_percent=60 --prune_iterations=3 --end_iter=5 --precision=bf16"
    ARCH_SCHEDULE+=" --eval_attacks fgsm" # pgd takes lenet5 as long as training does
    OTHER="cifar10_18k" OTHER_FLAGS="--surrogate=resnet20 --surrogate_epochs=3"
    LARGE=${LARGE:-alexnet vgg16} LARGE_FLAGS=""
    FRANKLE="--prune_iterations=14 --end_iter=8"
    ROBUST="--arch_type=fc1 $SCHEDULE --attack_mode=online --epsilon=0.1 --eval_steps=40"
    ROBUST+=" --attack_steps=5 --attack_step_size=0.03" ;;
long)
    DATASET=mnist RATES="0 25 50 75" SEEDS="0 1 2 3 4" BLACK_SEEDS="0 1 2"
    SCHEDULE="--prune_percent=20 --prune_iterations=14 --end_iter=12 --attack_seed=seed"
    # question 2 has seven arms: every second round of 20 %
    TYPES="--prune_percent=36 --prune_iterations=7"
    CW_FLAGS="--attack fgsm pgd" CW="--attack=cw --confidence=5"
    # two cores train convolutions on 5,500 images of each data set; late rewinding and warm-up as
    # resnet20 needs them, for all
    ARCH_DATASET=${ARCH_DATASET:-mnist} ARCHS=${ARCHS:-fc1 lenet5 resnet20}
    ARCH_SEEDS=${ARCH_SEEDS:-0 1 2} ARCH_FEW="--train_fraction=0.1"
    ARCH_SCHEDULE="--prune_percent=60 --prune_iterations=4 --end_iter=8 --rewind_epoch=1"
    ARCH_SCHEDULE+=" --warmup_steps=100 --eval_attacks fgsm --attack_seed=seed"
    # python -m experiments.make_data subset --dataset=cifar10_18k --images=6000 -o DATA_DIR
    OTHER="cifar10_18k_6000" OTHER_FLAGS="--surrogate=resnet20 --surrogate_epochs=10"
    LARGE=${LARGE:-alexnet vgg16 resnet18 densenet121}
    # one pruning, four epochs: 30 to 90 minutes of a core a network, eighteen runs each
    LARGE_FLAGS="--prune_percent=84 --prune_iterations=2 --end_iter=4 --warmup_steps=20"
    LARGE_FLAGS+=" --valid_steps=20 --precision=bf16" ;;
paper)
    DATASET=mnist RATES="0 10 20 30 40 50 60 70 80 90 100" SEEDS="0 1 2 3 4" BLACK_SEEDS="0 1 2"
    SCHEDULE="--prune_percent=10 --prune_iterations=35 --end_iter=12 --attack_seed=seed"
    CW_SURROGATE="" CW_FLAGS="--attack fgsm pgd" CW="--attack=cw --confidence=5"
    ARCH_DATASET=$DATASET ARCHS=${ARCHS:-fc1 lenet5 vgg16 resnet20} ARCH_SEEDS="0 1 2"
    ARCH_SCHEDULE=$SCHEDULE
    OTHER="cifar10" OTHER_FLAGS=""
    LARGE=${LARGE:-alexnet vgg16 resnet18 densenet121} LARGE_FLAGS="" ;;
*)
    echo "SCALE=$SCALE: smoke, small, long or paper is needed" >&2; exit 2 ;;
esac
# attacked shares below 100 %, which is another task and leaves nothing to leave out
SHARES=$(for rate in $RATES; do case $rate in 0|100) ;; *) echo -n "$rate " ;; esac; done)
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
study() { call main.py --data_dir="$DATA_DIR" --cache_dir="$CACHE_DIR" $VALID "$@" ${FLAGS:-}; }

# fc1 FLAGS...: the same for fc1 on the experiments' own data set
fc1() { study --arch_type=fc1 --dataset=$DATASET --seed $SEEDS $SCHEDULE "$@"; }

# what several experiments compare with: fc1 at the attack rates $1, and at $2 with as many images
# left out and with noise; whichever experiment comes first trains it, the others find it
base() {
    fc1 --prune_type lt reinit --attack=fgsm --attack_rate $1 $ATTACK_FLAGS --runs_dir="$RUNS/main"
    fc1 --prune_type lt reinit --attack omit noise --attack_rate $2 $ATTACK_FLAGS \
        --runs_dir="$RUNS/main"
}

# archs DATASET FLAGS...: each network clean, half attacked and half left out
archs() {
    for attack in "fgsm --attack_rate 0 50" "omit --attack_rate=50"; do
        study --prune_type lt reinit --arch_type $ARCHS --dataset="$1" --seed $ARCH_SEEDS \
            $ARCH_SCHEDULE --attack=$attack "${@:2}"
    done
}

# the networks on the experiments' own data set; of questions 4 and 5 whichever comes first
own_archs() { archs $ARCH_DATASET $ARCH_FEW $ATTACK_FLAGS --runs_dir="$RUNS/arch"; }

report() { "$PYTHON" report.py -o "$REPORT" --command "$COMMANDS" "$@"; }
