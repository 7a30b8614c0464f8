#!/usr/bin/env bash
# MNIST, 28x28, Larochelle's static binarization: 81.99 (0.20) nats per image of the test split, 187 thousand parameters; 15 minutes on one core.
# Usage: runs/mnist-static.sh FOLDER, with the three files binarized_mnist_train.amat, binarized_mnist_valid.amat and binarized_mnist_test.amat.
# Further options go to rgen train, as --minutes 27; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
folder=${1:?"give the folder with Larochelle's three .amat files"}; shift
run=${RUN:-runs/mnist-static}
rgen train mnist-heads --data binarized-mnist --meta-batch 8 --optimizer muon --neighbours nearest-12 --minutes 15 --eval-every 1000 \
  --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 48
