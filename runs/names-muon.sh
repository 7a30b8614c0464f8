#!/usr/bin/env bash
# Names by Muon, with noise on the weights: 1.912 nats per symbol of the test split (seed 0), 101 thousand parameters; 10 minutes on one core.
# These are the weights of pretrained:names.
# Usage: runs/names-muon.sh names.txt, the file of github.com/karpathy/makemore.
# Further options go to rgen train, as --seed 1; RUN=FOLDER names another folder. To continue an interrupted run, give the same command again.
set -euo pipefail
file=${1:?"give a text file, one sequence per line"}; shift
run=${RUN:-runs/names-muon}
rgen train names-heads --optimizer muon --weight-decay 0.3 --weight-noise 0.15 --minutes 10 --eval-every 2500 --data "$file" --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json" --overwrite
rgen sample --run "$run" --count 20
