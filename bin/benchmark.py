#!/usr/bin/env python
"""Time the meta-gradients: bin/benchmark.py --network text-mlp --meta-batch 8 --length 128."""

from rgen.commands import run

if __name__ == "__main__":
    run("benchmark")
