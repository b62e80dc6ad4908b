#!/usr/bin/env bash
# 4. Are architectures affected differently?
source "$(dirname "$0")/scale.sh"
study --prune_type lt reinit --arch_type $ARCHS --dataset=$ARCH_DATASET --attack=fgsm \
    --attack_rate 0 50 --seed $ARCH_SEEDS $ARCH_SCHEDULE $ATTACK_FLAGS --runs_dir="$RUNS/arch"
report --experiment=4 "$RUNS/arch/*"
