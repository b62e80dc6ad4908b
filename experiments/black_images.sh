#!/usr/bin/env bash
# Appendix. What would black images have shown? Attacked floats in [0, 1] cast to uint8 without the
# factor 255, as the scripts before this tool did.
source "$(dirname "$0")/scale.sh"
fc1 --prune_type lt reinit --attack=fgsm --attack_rate 0 100 --seed $BLACK_SEEDS $ATTACK_FLAGS \
    --runs_dir="$RUNS/black"
call -m experiments.make_data black --dataset=$DATASET --attack=fgsm $ATTACK_FLAGS \
    --output "$RUNS/made" --data_dir="$DATA_DIR" --cache_dir="$CACHE_DIR" ${FLAGS:-}
fc1 --prune_type lt reinit --dataset ${DATASET}_black ${DATASET}_black_cleantest \
    --seed $BLACK_SEEDS --runs_dir="$RUNS/black" --data_dir="$RUNS/made"
report --experiment=black "$RUNS/black/*"
