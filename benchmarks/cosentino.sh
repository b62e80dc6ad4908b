#!/usr/bin/env bash
# Cosentino et al. 2019, figure for MNIST: fc1 without biases, half clean half FGSM made online, 21
# rounds, lt; epochs cut to 5.
#     bash benchmarks/cosentino.sh data
# About five minutes a seed on one core; leaves benchmarks/mnist-fc1_nobias-summary.csv.
set -euo pipefail
data=${1:-data}
python=${PYTHON:-.venv/bin/python}
for seed in 0 1 2; do
    $python main.py --preset=cosentino --dataset=mnist --end_iter=5 --seed=$seed --threads=1 \
        --data_dir="$data" --runs_dir=runs/cosentino
done
$python plots.py runs/cosentino/* -o plots/cosentino
cp plots/cosentino/mnist-fc1_nobias-summary.csv benchmarks/
