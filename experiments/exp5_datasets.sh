#!/usr/bin/env bash
# 5. Do other data sets show the same? The same networks, schedule and steps on both.
source "$(dirname "$0")/scale.sh"
own_archs
other_data=$DATA_DIR
if [ "$OTHER" = smoke_colour ]; then # made, not downloaded
    other_data=$RUNS/made
    call -m experiments.make_data colour -o "$other_data"
fi
archs $OTHER $OTHER_FLAGS --runs_dir="$RUNS/data" --data_dir="$other_data"
report --experiment=5 "$RUNS/arch/*" "$RUNS/data/*"
