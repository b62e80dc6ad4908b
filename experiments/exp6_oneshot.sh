#!/usr/bin/env bash
# 6. One-shot versus iterative pruning.
source "$(dirname "$0")/scale.sh"
base "0 50" 50
fc1 --prune_type lt reinit --attack=fgsm --attack_rate 0 50 --prune_schedule=oneshot \
    $ATTACK_FLAGS --runs_dir="$RUNS/oneshot"
report --experiment=6 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-fgsm0.5-*" \
    "$RUNS/oneshot/*"
