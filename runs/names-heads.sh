#!/usr/bin/env bash
# Names: 1.965 nats per symbol of the test split (seed 0), 101 thousand parameters; a minute on one core.
# Usage: runs/names-heads.sh names.txt, the file of github.com/karpathy/makemore.
# Further options go to rgen train, as --seed 1; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
file=${1:?"give a text file, one sequence per line"}; shift
run=${RUN:-runs/names-heads}
rgen train names-heads --data "$file" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 20
