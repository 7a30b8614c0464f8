"""bin/benchmark.py: the meta-gradients side by side."""

import dataclasses
import json
import math
from pathlib import Path

from rgen.config import BenchmarkConfig
from rgen.timing import limits
from rgen.timing.benchmark import draw, machine, measure, table


def main(config: BenchmarkConfig) -> None:
    """bin/benchmark.py."""
    limit = limits.measure()
    rows, profiles = measure(config, limit)
    print(machine())
    print(f"Limits measured: {limit.flops / 1e9:.0f} GFLOP/s in matrix products, {limit.bytes / 1e9:.1f} GB/s read from memory")
    print("\n\n".join([table(rows), *profiles]))
    if config.json:
        values = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in dataclasses.asdict(row).items()} for row in rows]
        config.json.write_text(json.dumps(values, indent=2) + "\n")
    print(f"Picture: {draw(rows, config.out or Path('benchmark.png'))}")
