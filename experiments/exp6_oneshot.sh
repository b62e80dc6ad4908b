#!/usr/bin/env bash
# 6. One-shot versus iterative pruning.
source "$(dirname "$0")/scale.sh"
base "0 50"
study --prune_type lt reinit --arch_type=fc1 --dataset=$DATASET --attack=fgsm --attack_rate 0 50 --seed $SEEDS --prune_schedule=oneshot $SCHEDULE \
    $ATTACK_FLAGS --runs_dir="$RUNS/oneshot"
report --experiment=6 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-fgsm0.5-*" "$RUNS/oneshot/*"
