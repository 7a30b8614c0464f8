#!/usr/bin/env python
"""Look inside a trained run: bin/inside.py --run runs/names."""

from rgen.commands import run

if __name__ == "__main__":
    run("inside")
