"""`rgen benchmark`: the meta-gradients side by side."""

import dataclasses
import json
import math
from pathlib import Path

import jax

from rgen.config import BenchmarkConfig
from rgen.host.files import check_results, replace
from rgen.timing import limits, original, targets
from rgen.timing.benchmark import draw, measure, table
from rgen.timing.machine import machine


def main(config: BenchmarkConfig) -> None:
    """`rgen benchmark`."""
    picture = None if config.target or config.original else config.out or Path("benchmark.png")
    check_results([("json", config.json), ("out", picture)], config.replaces)
    if config.target:
        return compile_for_targets(config)
    if config.original:
        return compare(config, config.original)
    assert picture
    limit = limits.measure()
    rows, profiles = measure(config, limit)
    print(machine())
    print(limit)
    print("\n\n".join([table(rows), *profiles]))
    write_json(config, rows)
    replace(picture, draw(rows), config.replaces("out"))
    print(f"Picture: {picture}")


def compare(config: BenchmarkConfig, checkout: Path) -> None:
    """With --original."""
    original.check(checkout)
    limit = limits.measure()
    rows = original.measure(config)
    print(machine())
    print(limit)
    print(original.table(rows))
    write_json(config, rows)


def compile_for_targets(config: BenchmarkConfig) -> None:
    """With --target: nothing is run, and no accelerator is asked for."""
    jax.config.update("jax_platforms", "cpu")
    for name in config.target:
        targets.described(name)  # what is missing is said before anything is compiled
    rows = targets.measure(config)
    print(machine())
    print(targets.table(rows))
    write_json(config, rows)


def write_json(config: BenchmarkConfig, rows: list) -> None:
    """The rows as objects, with --json; what is not known is null."""
    if config.json:
        values = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in dataclasses.asdict(row).items()} for row in rows]
        replace(config.json, (json.dumps(values, indent=2) + "\n").encode(), config.overwrite)
