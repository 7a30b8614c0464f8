#!/usr/bin/env python
"""Meta-train a run from a preset: bin/train.py digits-maml --run runs/digits."""

import tyro

from rgen import cli
from rgen.config import PRESETS

if __name__ == "__main__":
    cli.main(lambda: tyro.extras.overridable_config_cli(PRESETS), "rgen.train", "main")
