#!/usr/bin/env bash
# 1. Can winning tickets be found with an attacked data set? How does the attack rate change the
# result? As many images left out, and noise, are the controls.
source "$(dirname "$0")/scale.sh"
base "$RATES" "$SHARES"
report --experiment=1 "$RUNS/main/$DATASET-fc1-*"
