"""What a compiled program does, read from its text: how many kernels its loops launch, and what its devices send each other."""

import math
import re
from typing import NamedTuple

# Neither launched nor moving anything; a loop or a branch is what is in it
FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id", "opt-barrier"),
    *("while", "conditional", "call", "async-done", "copy-done", "all-reduce-done", "all-gather-done", "collective-permute-done"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}  # others have 4


class Loops(NamedTuple):
    """Of a program's loops, all times that they run counted.

    Attributes:
      forward, backward: kernels launched in loops, before and in the reverse sweep.
      collectives, bytes: how often devices exchange something, in all of the program, and how many bytes each gives.
    """

    forward: float
    backward: float
    collectives: float
    bytes: float


class Instruction(NamedTuple):
    """One line of a computation: shape, kind, and the whole line."""

    shape: str
    kind: str
    line: str


def loops(text: str) -> Loops:
    """Reads the text of a compiled program (`jax.stages.Compiled.as_text`)."""
    computations, entry = _computations(text)

    def launched(name: str, where: str) -> Loops:
        found = Loops(0, 0, 0, 0)
        for instruction in computations.get(name, ()):
            found = _plus(found, 1, _own(instruction, where))
            for callee, times in _called(instruction, computations):
                found = _plus(found, times, launched(callee, _within(instruction, where)))
        return found

    return launched(entry, "outside")


def _within(instruction: Instruction, where: str) -> str:
    """Where the body of a loop is: JAX names the loops of a reverse sweep by the transposition that made them."""
    if instruction.kind != "while":
        return where
    name = re.search(r'op_name="([^"]*)"', instruction.line)
    return "backward" if where == "backward" or (name and "transpose(" in name[1]) else "forward"


def _plus(a: Loops, times: float, b: Loops) -> Loops:
    return Loops(*(x + times * y for x, y in zip(a, b)))


def _own(instruction: Instruction, where: str) -> Loops:
    exchanged = instruction.kind.removesuffix("-start") in COLLECTIVES
    launched = instruction.kind not in FREE
    size = _size(instruction.shape) if exchanged else 0
    return Loops(launched and where == "forward", launched and where == "backward", exchanged, size)


def _called(instruction: Instruction, computations: dict) -> list[tuple[str, float]]:
    """(computation, how often it runs) of what a loop, a branch or a call runs."""
    line = instruction.line
    if instruction.kind == "while":
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        condition = re.search(r"condition=%([\w.-]+)", line)
        limit = max((int(n) for i in computations.get(condition[1] if condition else "", ()) for n in _integers(i)), default=1)
        body = re.search(r"body=%([\w.-]+)", line)
        return [(body[1], float(known[1]) if known else limit)] if body else []
    if instruction.kind in ("call", "conditional"):
        names = re.findall(r"(?:to_apply|true_computation|false_computation)=%([\w.-]+)", line)
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        names += re.findall(r"%([\w.-]+)", branches[1]) if branches else []
        return [(name, 1.0) for name in names]
    return []


def _integers(instruction: Instruction) -> list[str]:
    return re.findall(r"constant\((\d+)\)", instruction.line) if instruction.shape.startswith("s32[]") else []


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(name of a computation -> its instructions, name of the one that is run)."""
    found: dict[str, list[Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            current = head[2]
            entry = current if head[1] else entry
            found[current] = []
        elif (one := re.match(r"\s+(?:ROOT )?%[\w.-]+ = (.*?)\s([a-z][\w-]*)\(", line)) and current:
            found[current].append(Instruction(one[1], one[2], line))
    return found, entry


def _size(shape: str) -> float:
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(BYTES.get(kind, 4) * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in arrays)
