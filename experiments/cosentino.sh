#!/usr/bin/env bash
# Appendix. Do tickets that train on FGSM images, half of each batch made against the net, do what
# Cosentino et al. 2019 report? Their protocol (21 rounds of 30,000 iterations) beside their figures.
source "$(dirname "$0")/scale.sh"
study --dataset=$DATASET --seed $SEEDS --prune_type lt reinit $ROBUST --attack=fgsm \
    --runs_dir="$RUNS/robust-fgsm"
report --experiment=cosentino "$RUNS/robust-fgsm/*"
