#!/usr/bin/env python
"""Time the meta-gradients: bin/benchmark.py --network text-mlp --meta-batch 8 --length 128."""

import tyro

from rgen import cli
from rgen.config import BenchmarkConfig

if __name__ == "__main__":
    cli.main(lambda: tyro.cli(BenchmarkConfig), "rgen.benchmark", "main")
