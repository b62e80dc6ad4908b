#!/usr/bin/env bash
# 4. Are architectures affected differently?
source "$(dirname "$0")/scale.sh"
base "0 50"
study --prune_type lt reinit --arch_type $ARCHS --dataset=$DATASET --attack=fgsm --attack_rate 0 50 --seed $ARCH_SEEDS $ARCH_SCHEDULE $ATTACK_FLAGS \
    --runs_dir="$RUNS/arch"
report --experiment=4 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-fgsm0.5-*" "$RUNS/arch/*"
