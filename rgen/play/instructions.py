"""Programs that a page runs: flat, all sizes known, of seven instructions, which `engine.js` carries out.

An instruction is [operation, slot of the result, slots of the operands, ...]; a slot is an array of its own, and a reshape of it is the
same slot. What follows, and what the instruction makes of its operands:

  map      expression of $0, $1, ..., in JavaScript: elementwise, and what has one element goes with all
  view     shape, strides, offset: the elements at the offset plus the sum of index times stride
  put      number, [[shape, strides, offset], ...]: an array full of the number, where each operand is put into its view
  reduce   start, expression of a and b, count: each `count` elements to one
  dot      B, M, K, N: [B, M, K] times [B, K, N]
  gather   steps, limits, shape, strides, clip; operands table and index: for each index a view of the table
  scatter  the same; operands table, index and rows: the table, with a row added to the view of each index

`engine.js` knows no primitive of JAX: expressions come from the tables of `rgen.play.primitives`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Value:
    """An array: that of a slot; or, if there is none, one number everywhere."""

    shape: tuple[int, ...]
    dtype: Any
    slot: int | None = None
    number: float = 0

    @property
    def zero(self) -> bool:
        return self.slot is None and self.number == 0

    def shaped(self, shape: Sequence[int]) -> "Value":
        return Value(tuple(shape), self.dtype, self.slot, self.number)


def strides_of(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def page_type(dtype: Any) -> np.dtype:
    """What the page keeps arrays of a type in."""
    return np.dtype({"f": np.float32, "i": np.int32, "u": np.int32, "b": np.uint8}[np.dtype(dtype).kind])


class Arrays:
    """The arrays that a page holds, each once."""

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self._numbers: dict[Any, int] = {}

    def number(self, array: Any) -> int:
        array = np.asarray(array)
        array = np.ascontiguousarray(array, page_type(array.dtype))
        key = array.dtype.str, array.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.held)
            self.held.append(array)
        return self._numbers[key]


class Builder:
    """One program under way."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._slots: list[tuple[str, int]] = []
        self._held: dict[int, int] = {}  # slot -> number of the array in it
        self._code: list[list] = []

    def slot(self, shape: Sequence[int], dtype: Any) -> Value:
        """A new array."""
        self._slots.append((page_type(dtype).name, prod(shape)))
        return Value(tuple(shape), dtype, len(self._slots) - 1)

    def given(self, array: Any) -> Value:
        """An array that the page holds, a weight or a constant."""
        array = np.asarray(array)
        value = self.slot(array.shape, array.dtype)
        self._held[len(self._slots) - 1] = self._arrays.number(array)
        return value

    def constant(self, array: Any) -> Value:
        array = np.asarray(array)
        return Value(array.shape, array.dtype, number=array.item()) if array.size == 1 else self.given(array)

    def stored(self, value: Value) -> int:
        """The slot of a value, which is made if it has none."""
        return self.map("a", [value], value.shape, value.dtype).slot if value.slot is None else value.slot  # type: ignore[reportReturnType]

    def emit(self, operation: str, operands: Sequence[Value], shape: Sequence[int], dtype: Any, *rest: Any) -> Value:
        slots = [self.stored(operand) for operand in operands]
        result = self.slot(shape, dtype)
        self._code.append([operation, result.slot, slots, *rest])
        return result

    def map(self, expression: str, operands: Sequence[Value], shape: Sequence[int], dtype: Any) -> Value:
        """An elementwise instruction: the expression in JavaScript of a, b, c, which stand for the operands."""
        names: dict[str, str] = {}
        arrays: dict[int, Value] = {}  # by their slots: each once
        for letter, operand in zip("abc", operands):
            if operand.slot is None:
                names[letter] = f"({_script(operand.number)})"
                continue
            if operand.shape != tuple(shape) and prod(operand.shape) != 1:
                strides = [0 if n == 1 else step for n, step in zip(operand.shape, strides_of(operand.shape))]
                operand = self.view(operand, shape, strides)
            slot = self.stored(operand)
            arrays[slot] = operand
            names[letter] = f"${list(arrays).index(slot)}"
        return self.emit("map", list(arrays.values()), shape, dtype, _substitute(expression, names))

    def view(self, value: Value, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Value:
        as_it_is = all(n == 1 or step == own for n, step, own in zip(shape, strides, strides_of(shape)))
        if value.slot is None or (as_it_is and prod(shape) == prod(value.shape)):
            return value.shaped(shape)
        return self.emit("view", [value], shape, value.dtype, list(shape), list(strides), offset)

    def put(self, values: Sequence[Value], number: float, shape: Sequence[int], places: Sequence[tuple[Sequence[int], int]]) -> Value:
        """Values at places (strides, offset) of an array that is full of a number."""
        parts = [part for part in zip(values, places) if part[0].slot is not None or part[0].number != number]
        views = [[list(value.shape), list(strides), offset] for value, (strides, offset) in parts]
        return self.emit("put", [value for value, _ in parts], shape, values[0].dtype, number, views)

    def arranged(self, value: Value, *groups: Sequence[int]) -> Value:
        """A view with the axes of each group as one axis."""
        strides, axes = strides_of(value.shape), [axis for group in groups for axis in group]
        moved = self.view(value, [value.shape[axis] for axis in axes], [strides[axis] for axis in axes])
        return moved.shaped([prod(value.shape[axis] for axis in group) for group in groups])

    def program(self, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        """The program, as `json.dumps` takes it.

        slots: [type, size] of each; given: [slot, number of the array that the page holds]; inputs: slots that are filled before each run;
        outputs: slots that are read after it; once: instructions that depend on what is given alone; each: the others, in order.
        """
        code, varying = _live(self._code, outputs), set(inputs)
        for _, result, operands, *_ in code:
            varying |= set() if varying.isdisjoint(operands) else {result}
        stages = [[line for line in code if (line[1] in varying) == later] for later in (False, True)]
        reads = Counter(slot for line in code for slot in line[2]) + Counter(outputs)
        once, each = (_fused(stage, reads, self._slots) for stage in stages)
        used = sorted({slot for line in once + each for slot in (line[1], *line[2])} | {*inputs, *outputs})
        new = {slot: number for number, slot in enumerate(used)}
        return {
            "slots": [self._slots[slot] for slot in used],
            "given": [[new[slot], array] for slot, array in self._held.items() if slot in new],
            "inputs": [new[slot] for slot in inputs],
            "outputs": [new[slot] for slot in outputs],
            "once": [_renamed(new, *line) for line in once],
            "each": [_renamed(new, *line) for line in each],
        }


def _script(number: float) -> str:
    """A number as JavaScript."""
    return str(number).replace("inf", "Infinity").replace("nan", "NaN").replace("True", "1").replace("False", "0")


def _substitute(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"\$\d+|\b[abc]\b", lambda found: names[found[0]], expression)


def _renamed(new: dict[int, int], operation: str, result: int, operands: list[int], *rest: Any) -> list:
    return [operation, new[result], [new[slot] for slot in operands], *rest]


def _live(code: list[list], outputs: list[int]) -> list[list]:
    """What the outputs need."""
    needed, live = set(outputs), []
    for line in reversed(code):
        if line[1] in needed:
            live.append(line)
            needed |= set(line[2])
    return live[::-1]


def _fused(code: list[list], reads: Counter, slots: list[tuple[str, int]]) -> list[list]:
    """With each elementwise instruction that is read once, by another one of its size, as a part of that one's expression."""
    made: dict[int, list] = {}
    for line in code:
        if line[0] != "map":
            continue
        names, operands = {}, []
        for number, slot in enumerate(line[2]):
            once = reads[slot] == 1 and len(re.findall(rf"\${number}\b", line[3])) == 1 and slots[slot] == slots[line[1]]
            inner, expression = made.pop(slot)[2:] if once and slot in made else ([slot], "$0")
            operands += [operand for operand in inner if operand not in operands]
            placed = _substitute(expression, {f"${i}": f"${operands.index(operand)}" for i, operand in enumerate(inner)})
            names[f"${number}"] = placed if expression == "$0" else f"({placed})"
        made[line[1]] = ["map", line[1], operands, _substitute(line[3], names)]
    return [made.get(line[1], line) for line in code if line[0] != "map" or line[1] in made]
