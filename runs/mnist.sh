#!/usr/bin/env bash
# MNIST, 28x28: 55.98 (0.16) nats per image of the test split, 150 thousand numbers; 70 minutes on one core.
# Usage: runs/mnist.sh FOLDER, which holds the four official .gz files.
# Further options are those of training, as --seed 1, and RUN names another folder. Stopped, the same command goes on.
set -euo pipefail
folder=${1:?"give a folder with the four official MNIST .gz files"}; shift
run=${RUN:-runs/mnist}
rgen train mnist-heads --steps 5000 --eval-every 500 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json"
rgen sample --run "$run" --count 48
