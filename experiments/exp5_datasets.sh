#!/usr/bin/env bash
# 5. Do other data sets show the same?
source "$(dirname "$0")/scale.sh"
base "0 50" 50
other_data=$DATA_DIR
if [ "$OTHER" = smoke_colour ]; then # made, not downloaded
    other_data=$RUNS/made
    call -m experiments.make_data colour -o "$other_data"
fi
other() {
    fc1 --prune_type lt reinit --dataset=$OTHER $OTHER_SCHEDULE $OTHER_FLAGS "$@" \
        --runs_dir="$RUNS/data" --data_dir="$other_data"
}
other --attack=fgsm --attack_rate 0 50
other --attack omit noise --attack_rate=50
report --experiment=5 "${HALF[@]}" "$RUNS/data/*"
