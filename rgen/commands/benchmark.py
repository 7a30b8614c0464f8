"""`rgen benchmark`: the meta-gradients side by side."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from rgen.config import BenchmarkConfig
from rgen.host.files import check_results, replace
from rgen.timing import benchmark, original, targets
from rgen.timing.machine import machine


def main(config: BenchmarkConfig) -> None:
    """Times on this machine; with --target only compiles; with --original times the original program too."""
    picture = None if config.target or config.original else config.out or Path("benchmark.png")
    check_results([("json", config.json), ("out", picture)], config.replaces)
    how: Any = benchmark
    if config.target:
        how = targets
        jax.config.update("jax_platforms", "cpu")  # nothing is run, and no accelerator is asked for
        for name in config.target:
            targets.described(name)  # what is missing is said before anything is compiled
    elif config.original:
        how = original
        original.check(config.original)
    rows = how.measure(config)
    print(machine())
    print(how.table(config, rows))
    if config.json:
        content = json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"
        replace(config.json, content.encode(), config.overwrite)
    if picture:
        replace(picture, benchmark.draw(rows), config.replaces("out"))
        print(f"Picture: {picture}")
