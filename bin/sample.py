#!/usr/bin/env python
"""Draw from a run: bin/sample.py --run runs/digits --count 64."""

import tyro

from rgen import cli
from rgen.config import SampleConfig

if __name__ == "__main__":
    cli.main(lambda: tyro.cli(SampleConfig), "rgen.sample", "main")
