#!/usr/bin/env bash
# 7. Robustness: do tickets of adversarial training (FGSM, PGD, TRADES; every image attacked, made
# against the net being trained) beat their reinit and their dense nets under white-box PGD and
# AutoAttack, and does robustness break before accuracy?
source "$(dirname "$0")/scale.sh"
robust() {
    study --arch_type=fc1 --dataset=$DATASET --seed $SEEDS $SCHEDULE \
        --prune_type lt reinit $ROBUST_FLAGS --eval_steps=40 "$@" --runs_dir="$RUNS/robust"
}
robust
robust --attack=fgsm --attack_mode=online
robust --attack=pgd --attack_mode online trades $ROBUST_STEPS
if [ -n "${AUTOATTACK:-}" ]; then # minutes a run: so many test images
    call attacks.py evaluate "$RUNS"/robust/*-lt-* "$RUNS"/robust/*-reinit-* --attacks autoattack \
        --examples="$AUTOATTACK" --data_dir="$DATA_DIR"
fi
report --experiment=7 "$RUNS/robust/*"
