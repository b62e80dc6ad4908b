#!/usr/bin/env bash
# Appendix. Do large networks show what question 4 finds? The same arms for each, on the digits and
# in few epochs, which two cores can train; benchmarks/gpu.sh has these networks on MNIST.
source "$(dirname "$0")/scale.sh"
ARCHS=$LARGE archs digits $LARGE_FLAGS --runs_dir="$RUNS/large"
report --experiment=large "$RUNS/large/*"
