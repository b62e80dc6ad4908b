#!/usr/bin/env bash
# 5. Do other data sets show the same?
source "$(dirname "$0")/scale.sh"
base "0 50"
other_data=$DATA_DIR
if [ "$OTHER" = smoke_colour ]; then # made, not downloaded
    other_data=$RUNS/made
    call -m experiments.make_data colour -o "$other_data"
fi
fc1 --prune_type lt reinit --dataset=$OTHER --attack=fgsm --attack_rate 0 50 $OTHER_SCHEDULE \
    $OTHER_FLAGS --runs_dir="$RUNS/data" --data_dir="$other_data"
report --experiment=5 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-fgsm0.5-*" \
    "$RUNS/data/*"
