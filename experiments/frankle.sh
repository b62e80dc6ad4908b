#!/usr/bin/env bash
# Appendix. Do tickets on clean data do what Frankle & Carbin 2019 say of Lenet-300-100? Their own
# protocol (21 rounds of 50,000 iterations), beside the figures that their text states.
source "$(dirname "$0")/scale.sh"
study --preset=frankle --dataset=$DATASET --seed $SEEDS --prune_type lt reinit $FRANKLE \
    --eval_attacks fgsm --runs_dir="$RUNS/frankle"
report --experiment=frankle "$RUNS/frankle/*"
