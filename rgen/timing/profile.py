"""Where the time of a call goes, by kind of XLA operation."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from rgen.host.files import temporary


def by_operation(call: Callable[[], Any], most: int = 8) -> list[tuple[str, float, int]]:
    """Runs a call under JAX's profiler: (operation, its number left out; seconds, summed over threads; calls), the longest first."""
    with temporary() as folder:
        with jax.profiler.trace(folder):
            call()
        events = [
            event
            for file in folder.rglob("*.trace.json.gz")
            for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
            if "dur" in event and event.get("args", {}).get("hlo_op")
        ]
    seconds, calls = Counter(), Counter()
    for event in events:
        kind = re.sub(r"[.\d]+$", "", event["args"]["hlo_op"])
        seconds[kind] += event["dur"] / 1e6
        calls[kind] += 1
    return [(kind, took, calls[kind]) for kind, took in seconds.most_common(most)]


def table(title: str, rows: list[tuple[str, float, int]]) -> str:
    """The rows under a title, with their share of the seconds listed."""
    total = sum(seconds for _, seconds, _ in rows) or 1.0
    head = f"{title:<52}{'seconds':>10}{'share':>8}{'calls':>10}"
    return "\n".join([head, *(f"  {kind:<50}{seconds:>10.3f}{seconds / total:>8.0%}{calls:>10,}" for kind, seconds, calls in rows)])
