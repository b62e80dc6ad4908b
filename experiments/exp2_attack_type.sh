#!/usr/bin/env bash
# 2. Do attack types (FGSM, PGD, CW) differ in their effect? Half of the images are attacked, made
# against fc1. The controls: as many images left out, noise of the same radius and of FGSM's length.
source "$(dirname "$0")/scale.sh"
half() {
    fc1 --prune_type lt reinit $CW_SURROGATE $TYPES "$@" --runs_dir="$RUNS/types"
}
half --attack=fgsm --attack_rate=0 ${ATTACK_FLAGS}
half $CW_FLAGS --attack_rate=50
half --attack omit noise --attack_rate=50 ${ATTACK_FLAGS}
half $NOISE_LENGTH --attack_rate=50
half $CW --attack_rate=50
report --experiment=2 "$RUNS/types/*"
