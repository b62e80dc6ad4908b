#!/usr/bin/env bash
# 2. Do attack types (FGSM, PGD, CW; noise is the control) differ in their effect? Half of the
# images are attacked.
source "$(dirname "$0")/scale.sh"
base "0 50"
fc1 --prune_type lt reinit --attack $ATTACKS --attack_rate=50 $ATTACK_FLAGS \
    --runs_dir="$RUNS/main"
fc1 --prune_type lt reinit $CW_FLAGS --attack_rate=50 --runs_dir="$RUNS/cw"
report --experiment=2 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-*0.5-*" \
    "$RUNS/cw/*"
