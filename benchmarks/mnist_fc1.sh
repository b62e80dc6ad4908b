#!/usr/bin/env bash
# fc1 on MNIST: lt and reinit, clean and half FGSM, 5 seeds, 15 rounds of 3 epochs, 20 % a round; one thread.
#     bash benchmarks/mnist_fc1.sh data
# About a minute a run on one core, 20 runs; leaves benchmarks/mnist-fc1-summary.csv and docs/mnist-fc1-attacked.png.
set -euo pipefail
data=${1:-data}
python=${PYTHON:-.venv/bin/python}
for seed in 0 1 2 3 4; do
    for mix in 0 0.5; do
        for type in lt reinit; do
            $python main.py --prune_type=$type --dataset=mnist --attack=fgsm --mix_ratio=$mix --seed=$seed --prune_percent=20 \
                --prune_iterations=15 --end_iter=3 --threads=1 --data_dir="$data" --runs_dir=runs/mnist_fc1
        done
    done
done
$python plots.py runs/mnist_fc1/* -o plots/mnist_fc1
cp plots/mnist_fc1/mnist-fc1-summary.csv benchmarks/
mkdir -p docs
cp plots/mnist_fc1/mnist-fc1-attacked.png docs/
