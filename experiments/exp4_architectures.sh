#!/usr/bin/env bash
# 4. Are architectures affected differently?
source "$(dirname "$0")/scale.sh"
own_archs
report --experiment=4 "$RUNS/arch/*"
