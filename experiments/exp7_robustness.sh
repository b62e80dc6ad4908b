#!/usr/bin/env bash
# 7. Robustness: do tickets of adversarial training (FGSM, PGD, made against the net being trained;
# TRADES where nets are small) beat their reinit and their dense nets under white-box PGD and
# AutoAttack, and does robustness break before accuracy? At the scales long and paper this is
# Cosentino's protocol, half of each batch attacked, beside his figures; else all of it is.
source "$(dirname "$0")/scale.sh"
robust() {
    study --dataset=$DATASET --seed $SEEDS --prune_type lt reinit $ROBUST "$@" \
        --runs_dir="$RUNS/robust"
}
robust --attack=fgsm --attack_rate=0
robust --attack=fgsm
robust --attack=pgd
case $SCALE in smoke | small) robust --attack=pgd --attack_mode=trades ;; esac
# up to a minute a round: on so many test images, of AUTOATTACK_ROUNDS (all those with 50 to 5 % of
# the weights, which the answer takes in) or of all rounds
if [ -n "${AUTOATTACK:-}" ]; then
    call attacks.py evaluate "$RUNS"/robust/*-lt-* "$RUNS"/robust/*-reinit-* --attacks autoattack \
        --examples="$AUTOATTACK" ${AUTOATTACK_ROUNDS:+--rounds $AUTOATTACK_ROUNDS} \
        --data_dir="$DATA_DIR"
fi
report --experiment=7 "$RUNS/robust/*"
