#!/usr/bin/env bash
# MNIST, 28x28, stochastically binarized: 79.28 (0.20) nats per image of the test split, 187 thousand parameters; 135 minutes on one core.
# Usage: runs/mnist-dynamic.sh FOLDER, with MNIST's four official files.
# Further options go to rgen train, as --minutes 180 to go on to 79.17 nats; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
folder=${1:?"give the folder with MNIST's four official files"}; shift
run=${RUN:-runs/mnist-dynamic}
rgen train mnist-heads --binarize dynamic --meta-batch 8 --optimizer muon --neighbours nearest-12 --minutes 135 --eval-every 4000 \
  --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 48
