#!/usr/bin/env bash
# MNIST, 28x28, stochastically binarized: 83.05 (0.21) nats per image of the test split, 150 thousand parameters; 20 minutes on one core.
# Usage: runs/mnist-binarized.sh FOLDER, with MNIST's four official files.
# Further options go to rgen train, as --minutes 74; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
folder=${1:?"give the folder with MNIST's four official files"}; shift
run=${RUN:-runs/mnist-binarized}
rgen train mnist-heads --binarize dynamic --minutes 20 --eval-every 500 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 48
