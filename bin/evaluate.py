#!/usr/bin/env python
"""Exact held-out nats of a run: bin/evaluate.py --run runs/digits --split test."""

import tyro

from rgen import cli
from rgen.config import EvaluateConfig

if __name__ == "__main__":
    cli.main(lambda: tyro.cli(EvaluateConfig), "rgen.evaluate", "main")
