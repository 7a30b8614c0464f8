#!/usr/bin/env bash
# MNIST, 28x28: 59.94 (0.17) nats per image of the test split (seed 0), 150 thousand numbers; 14 minutes on one core.
# Usage: runs/mnist-quick.sh FOLDER, which holds the four official .gz files.
# Further options are those of training, as --seed 1, and RUN names another folder. Stopped, the same command goes on.
set -euo pipefail
folder=${1:?"give a folder with the four official MNIST .gz files"}; shift
run=${RUN:-runs/mnist-quick}
rgen train mnist-heads --steps 1000 --eval-every 250 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json"
rgen sample --run "$run" --count 48
