#!/usr/bin/env bash
# The same with 43 thousand numbers: 27.16 (0.08) nats per image; 2 minutes on one core.
# Usage: runs/small-mnist-narrow.sh FOLDER, which holds the four official .gz files.
# Further options are those of training, as --seed 1, and RUN names another folder. Stopped, the same command goes on.
set -euo pipefail
folder=${1:?"give a folder with the four official MNIST .gz files"}; shift
run=${RUN:-runs/small-mnist-narrow}
rgen train small-mnist-heads --width 64 --data-dir "$folder" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json"
rgen sample --run "$run" --count 48
