#!/usr/bin/env bash
# 4. Are architectures affected differently?
source "$(dirname "$0")/scale.sh"
arch() {
    study --prune_type lt reinit --arch_type $ARCHS --dataset=$ARCH_DATASET --seed $ARCH_SEEDS \
        $ARCH_SCHEDULE $ATTACK_FLAGS "$@" --runs_dir="$RUNS/arch"
}
arch --attack=fgsm --attack_rate 0 50
arch --attack=omit --attack_rate=50
report --experiment=4 "$RUNS/arch/*"
