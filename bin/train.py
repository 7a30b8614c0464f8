#!/usr/bin/env python
"""Meta-train a run from a preset: bin/train.py digits-maml --run runs/digits."""

from rgen.commands import run

if __name__ == "__main__":
    run("train")
