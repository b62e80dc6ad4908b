# What the six experiments share; each reads it first. Set from outside:
#   SCALE=smoke (digits, a minute each) | small (MNIST, what two cores do in half an hour each) | paper (35 rounds x 12 epochs, a GPU)
#   PYTHON, DATA_DIR, RUNS_DIR, CACHE_DIR, REPORT, FLAGS (more flags for every run, such as --device=cpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SCALE=${SCALE:-smoke} PYTHON=${PYTHON:-python} DATA_DIR=${DATA_DIR:-data} CACHE_DIR=${CACHE_DIR:-cache} REPORT=${REPORT:-report}
RUNS=${RUNS_DIR:-runs}/$SCALE
OTHER_FLAGS=""
case $SCALE in
smoke)
    DATASET=digits RATES="0 50" SEEDS="0 1" SCHEDULE="--prune_percent=60 --prune_iterations=3 --end_iter=3"
    ATTACKS="pgd noise" ATTACK_FLAGS="--surrogate=fc1 --epsilon=0.1"
    ARCHS="lenet5" ARCH_SEEDS=$SEEDS ARCH_SCHEDULE=$SCHEDULE
    OTHER="smoke_colour" OTHER_FLAGS="--surrogate=fc1 --surrogate_epochs=10 --epsilon=0.1" OTHER_SCHEDULE=$SCHEDULE ;;
small)
    DATASET=mnist RATES="0 25 50 75 100" SEEDS="0 1 2 3 4" SCHEDULE="--prune_percent=20 --prune_iterations=12 --end_iter=3"
    ATTACKS="pgd noise" ATTACK_FLAGS=""
    ARCHS="lenet5" ARCH_SEEDS="0 1 2" ARCH_SCHEDULE="--prune_percent=40 --prune_iterations=6 --end_iter=1 --precision=bf16"
    OTHER="cifar10_18k" OTHER_FLAGS="--surrogate=resnet20 --surrogate_epochs=10" OTHER_SCHEDULE="--prune_percent=20 --prune_iterations=12 --end_iter=6" ;;
paper)
    DATASET=mnist RATES="0 10 20 30 40 50 60 70 80 90 100" SEEDS="0 1 2 3 4" SCHEDULE="--prune_percent=10 --prune_iterations=35 --end_iter=12"
    ATTACKS="pgd cw noise" ATTACK_FLAGS="--confidence=5"
    ARCHS="lenet5 vgg16 resnet20" ARCH_SEEDS="0 1 2" ARCH_SCHEDULE=$SCHEDULE
    OTHER="cifar10" OTHER_SCHEDULE=$SCHEDULE ;;
*)
    echo "SCALE=$SCALE: smoke, small or paper is needed" >&2; exit 2 ;;
esac
COMMON="--data_dir=$DATA_DIR --cache_dir=$CACHE_DIR ${FLAGS:-}"
