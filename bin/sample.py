#!/usr/bin/env python
"""Draw from a run: bin/sample.py --run runs/digits --count 64."""

from rgen.commands import run

if __name__ == "__main__":
    run("sample")
