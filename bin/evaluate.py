#!/usr/bin/env python
"""Exact held-out nats of a run: bin/evaluate.py --run runs/digits --split test."""

from rgen.commands import run

if __name__ == "__main__":
    run("evaluate")
