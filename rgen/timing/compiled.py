"""What a compiled program does, read from its text: how many kernels its loops launch, and what its devices send each other."""

import math
import re
from typing import NamedTuple

import numpy as np

# These neither launch a kernel nor move anything; a loop or a branch is what is in it
FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id", "opt-barrier"),
    *("while", "conditional", "call", "async-done", "copy-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}  # others have 4
CALLED = re.compile(r"(?:to_apply|(?:true|false|branch)_computations?)=(%[\w.-]+|\{[^}]*\})")


class Loops(NamedTuple):
    """What one run of a program does.

    Attributes:
      forward, backward: kernels launched in loops, before and in the reverse sweep.
      collectives, bytes: how often devices exchange something, in all of the program, and how many bytes each gives.
    """

    forward: float
    backward: float
    collectives: float
    bytes: float


def loops(text: str) -> Loops:
    """Reads the text of a compiled program (`jax.stages.Compiled.as_text`)."""
    computations, entry = _computations(text)

    def count(name: str, sweep: str) -> np.ndarray:
        """The numbers of `Loops` for a computation that runs outside of loops, or in a forward or backward one."""
        total = np.zeros(4)
        for shape, kind, line in computations.get(name, ()):
            launches, exchanges = kind not in FREE, kind.removesuffix("-start") in COLLECTIVES
            total += [launches and sweep == "forward", launches and sweep == "backward", exchanges, _size(shape) if exchanges else 0]
            if kind == "while":
                # JAX names the loops of a reverse sweep by the transposition that made them
                backward = sweep == "backward" or "transpose(" in _find(r'op_name="([^"]*)"', line)
                body = _find(r"body=%([\w.-]+)", line)
                total += _trips(line, computations) * count(body, "backward" if backward else "forward")
            elif kind in ("call", "conditional"):
                for part in CALLED.findall(line):
                    for callee in re.findall(r"%([\w.-]+)", part):
                        total += count(callee, sweep)
        return total

    return Loops(*count(entry, "").tolist())


def _trips(line: str, computations: dict[str, list[tuple[str, str, str]]]) -> int:
    """How often a loop runs: as its line says, else the limit in its condition."""
    if known := _find(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(known)
    condition = computations.get(_find(r"condition=%([\w.-]+)", line), ())
    limits = (_find(r"constant\((\d+)\)", line) for shape, _, line in condition if shape.startswith("s32[]"))
    return max((int(limit) for limit in limits if limit), default=1)


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """(name of a computation -> shape, kind and whole line of each instruction; name of the one that is run)."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            current = head[2]
            entry = current if head[1] else entry
            found[current] = []
        elif (one := re.match(r"\s+(?:ROOT )?%[\w.-]+ = (.*?)\s([a-z][\w-]*)\(", line)) and current:
            found[current].append((one[1], one[2], line))
    return found, entry


def _find(pattern: str, line: str) -> str:
    """What the pattern's group matches, or nothing."""
    match = re.search(pattern, line)
    return match[1] if match else ""


def _size(shape: str) -> float:
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(BYTES.get(kind, 4) * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in arrays)
