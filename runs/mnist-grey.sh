#!/usr/bin/env bash
# MNIST of 28x28 pixels in 256 levels of grey: 443.86 (1.67) nats per image of the test split, 0.8168 bits per dim; 20 minutes on one core.
# Usage: runs/mnist-grey.sh FOLDER, with MNIST's four official files.
# Further options go to rgen train, as --seed 1; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
folder=${1:?"give a folder with the four official MNIST .gz files"}; shift
run=${RUN:-runs/mnist-grey}
rgen train mnist-heads --levels 256 --optimizer muon --outer-rate 3e-3 --meta-batch 8 --minutes 20 --eval-every 500 --eval-count 300 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 48
