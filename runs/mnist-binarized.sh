#!/usr/bin/env bash
# MNIST, 28x28, binarized by chance: 83.05 (0.21) nats per image of the test split, 150 thousand numbers; 20 minutes on one core.
# Usage: runs/mnist-binarized.sh FOLDER, which holds MNIST's four official files.
# Further options are those of training, as --minutes 74, and RUN names another folder. Stopped, the same command goes on.
set -euo pipefail
folder=${1:?"give the folder with MNIST's four official files"}; shift
run=${RUN:-runs/mnist-binarized}
rgen train mnist-heads --binarize dynamic --minutes 20 --eval-every 500 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json"
rgen sample --run "$run" --count 48
