#!/usr/bin/env bash
# 1. Can winning tickets be found with an attacked data set? How does the attack rate change the result?
source "$(dirname "$0")/scale.sh"
$PYTHON main.py --prune_type lt reinit --arch_type=fc1 --dataset=$DATASET --attack=fgsm --attack_rate $RATES --seed $SEEDS $SCHEDULE \
    $ATTACK_FLAGS --runs_dir=$RUNS/main $COMMON
$PYTHON report.py --experiment=1 "$RUNS"/main/$DATASET-fc1-fgsm* -o "$REPORT"
