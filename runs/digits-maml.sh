#!/usr/bin/env bash
# The embedded digits, 8x8: 16.52 (0.34) nats per image of the test split, 40 thousand numbers; a minute on one core.
# Usage: runs/digits-maml.sh
# Further options are those of training, as --seed 1, and RUN names another folder. Stopped, the same command goes on.
set -euo pipefail
run=${RUN:-runs/digits-maml}
rgen train digits-maml --run "$run" --resume "$@"
rgen evaluate --run "$run" --json "$run/test.json"
rgen sample --run "$run" --count 64
