#!/usr/bin/env python
"""Meta-train a run from a preset: bin/train.py digits-maml --run runs/digits."""

import sys

import tyro

from rgen import cli, config


def parse() -> config.TrainConfig:
    config.choose_preset(sys.argv[1:])
    return tyro.extras.overridable_config_cli(config.PRESETS)


if __name__ == "__main__":
    cli.main(parse, "rgen.train", "main")
