#!/usr/bin/env bash
# 3. Are the tickets of the original and the attacked data the same? If not, by how much? Tickets of
# other changes of the data, as many images left out and noise, are the controls.
source "$(dirname "$0")/scale.sh"
base "0 50" 50
# the ceiling: the same data and theta_0, the batches in another order
fc1 --prune_type lt --attack=fgsm --attack_rate 0 50 --order_seed=100 $ATTACK_FLAGS \
    --runs_dir="$RUNS/order"
fc1 --prune_type lt --attack omit noise --attack_rate=50 --order_seed=100 $ATTACK_FLAGS \
    --runs_dir="$RUNS/order"
clean="$DATASET-fc1-fgsm0-lt-s" attacked="$DATASET-fc1-fgsm0.5-lt-s"
omitted="$DATASET-fc1-omit0.5-lt-s" noise="$DATASET-fc1-noise0.5-lt-s"
call tickets.py --a "$RUNS/main/$clean*" "$RUNS/order/$clean*" \
    --b "$RUNS/main/$attacked*" "$RUNS/order/$attacked*" \
    --beside "half left out" "$RUNS/main/$omitted*" "$RUNS/order/$omitted*" \
    --beside "half noise" "$RUNS/main/$noise*" "$RUNS/order/$noise*" -o "$RUNS/tickets" \
    --function --data_dir="$DATA_DIR"
# each ticket trained on the other's data, beside fresh weights under its masks and a random ticket
# of the same layer densities
for from_to in "$clean 50" "$attacked 0"; do
    fc1 --prune_type lt reinit shuffle --attack=fgsm --attack_rate=${from_to#* } $ATTACK_FLAGS \
        --ticket="$RUNS/main/${from_to% *}{seed}-*" --runs_dir="$RUNS/transfer"
done
# what of it any change of the data would do: tickets of noise
fc1 --prune_type lt --attack=fgsm --attack_rate 0 50 $ATTACK_FLAGS \
    --ticket="$RUNS/main/$noise{seed}-*" --runs_dir="$RUNS/transfer"
report --experiment=3 "$RUNS/main/$DATASET-fc1-fgsm0-*" "$RUNS/main/$DATASET-fc1-fgsm0.5-*" \
    "$RUNS/transfer/*" --tickets "$RUNS/tickets"
