#!/usr/bin/env python
"""Look inside a trained run: bin/inside.py --run runs/names."""

import tyro

from rgen import cli
from rgen.config import InsideConfig

if __name__ == "__main__":
    cli.main(lambda: tyro.cli(InsideConfig), "rgen.inside", "main")
