#!/usr/bin/env python
"""Compare the two forms of a run's inner loop: bin/check.py --run runs/digits."""

from rgen.commands import run

if __name__ == "__main__":
    run("check")
