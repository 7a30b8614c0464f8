"""Programs that a page runs: flat, all sizes known, of seven instructions, which `engine.js` carries out.

An instruction is [operation, slot of the result, ...]; a slot is an array of its own, and a reshape of it is the same slot.

  map      expression of $0, $1, ..., slots of these: elementwise, and what has one element goes with all
  view     slot, shape, strides, offset: the elements at the offset plus the sum of index times stride
  put      number, [[slot, shape, strides, offset], ...]: an array full of the number, where slots are put into views of it
  reduce   slot, kind, count: each `count` elements to one
  dot      slot, slot, B, M, K, N: [B, M, K] times [B, K, N]
  gather   table, index, steps, limits, shape, strides, clip: for each index a view of the table
  scatter  table, index, rows, and the same: the table, with a row added to the view of each index
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

# operation -> where the slots of its operands stand; those of "map" and "put" stand in lists
_PLACES = {"view": (2,), "reduce": (2,), "dot": (2, 3), "gather": (2, 3), "scatter": (2, 3, 4)}


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

    def emit(self, operation: str, shape: Sequence[int], dtype: Any, *rest: Any) -> Value:
        result = self.slot(shape, dtype)
        self._code.append([operation, result.slot, *rest])
        return result

    def map(self, expression: str, operands: Sequence[Value], shape: Sequence[int], dtype: Any) -> Value:
        """An elementwise instruction: the expression in JavaScript of a, b, c, which stand for the operands."""
        names, slots = {}, []
        for letter, operand in zip("abc", operands):
            if operand.slot is None:
                names[letter] = f"({_script(operand.number)})"
                continue
            if operand.shape != tuple(shape) and prod(operand.shape) != 1:
                strides = [0 if n == 1 else step for n, step in zip(operand.shape, strides_of(operand.shape))]
                operand = self.view(operand, shape, strides)
            slots += [] if operand.slot in slots else [operand.slot]
            names[letter] = f"${slots.index(operand.slot)}"
        return self.emit("map", shape, dtype, _substitute(expression, names), slots)

    def view(self, value: Value, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Value:
        as_it_is = all(n == 1 or step == own for n, step, own in zip(shape, strides, strides_of(shape)))
        if value.slot is None or (as_it_is and prod(shape) == prod(value.shape)):
            return value.shaped(shape)
        return self.emit("view", shape, value.dtype, value.slot, list(shape), list(strides), offset)

    def put(self, values: Sequence[Value], number: float, shape: Sequence[int], places: Sequence[tuple[Sequence[int], int]]) -> Value:
        """Values at places (strides, offset) of an array that is full of a number."""
        parts = [
            [self.stored(value), list(value.shape), list(strides), offset]
            for value, (strides, offset) in zip(values, places)
            if value.slot is not None or value.number != number
        ]
        return self.emit("put", shape, values[0].dtype, number, parts)

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
        for line in code:
            varying |= set() if varying.isdisjoint(_operands(line)) else {line[1]}
        stages = [[line for line in code if (line[1] in varying) == later] for later in (False, True)]
        reads = Counter(slot for line in code for slot in _operands(line)) + Counter(outputs)
        once, each = (_fused(stage, reads, self._slots) for stage in stages)
        used = sorted({slot for line in once + each for slot in (line[1], *_operands(line))} | {*inputs, *outputs})
        new = {slot: number for number, slot in enumerate(used)}
        return {
            "slots": [self._slots[slot] for slot in used],
            "given": [[new[slot], array] for slot, array in self._held.items() if slot in new],
            "inputs": [new[slot] for slot in inputs],
            "outputs": [new[slot] for slot in outputs],
            "once": [_renamed(line, new) for line in once],
            "each": [_renamed(line, new) for line in each],
        }


def _script(number: float) -> str:
    """A number as JavaScript."""
    return str(number).replace("inf", "Infinity").replace("nan", "NaN").replace("True", "1").replace("False", "0")


def _substitute(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"\$\d+|\b[abc]\b", lambda found: names[found[0]], expression)


def _operands(line: list) -> list[int]:
    if line[0] == "map":
        return line[3]
    return [part[0] for part in line[3]] if line[0] == "put" else [line[place] for place in _PLACES[line[0]]]


def _renamed(line: list, new: dict[int, int]) -> list:
    line = [line[0], new[line[1]], *line[2:]]
    if line[0] == "map":
        line[3] = [new[slot] for slot in line[3]]
    elif line[0] == "put":
        line[3] = [[new[slot], *rest] for slot, *rest in line[3]]
    else:
        for place in _PLACES[line[0]]:
            line[place] = new[line[place]]
    return line


def _live(code: list[list], outputs: list[int]) -> list[list]:
    """What the outputs need."""
    needed, live = set(outputs), []
    for line in reversed(code):
        if line[1] in needed:
            live.append(line)
            needed |= set(_operands(line))
    return live[::-1]


def _fused(code: list[list], reads: Counter, slots: list[tuple[str, int]]) -> list[list]:
    """With each elementwise instruction that is read once, by another one of its size, as a part of that one's expression."""
    made: dict[int, list] = {}
    for line in code:
        if line[0] != "map":
            continue
        names, operands = {}, []
        for number, slot in enumerate(line[3]):
            once = reads[slot] == 1 and len(re.findall(rf"\${number}\b", line[2])) == 1 and slots[slot] == slots[line[1]]
            expression, inner = made.pop(slot)[2:] if once and slot in made else ("$0", [slot])
            operands += [operand for operand in inner if operand not in operands]
            placed = _substitute(expression, {f"${i}": f"${operands.index(operand)}" for i, operand in enumerate(inner)})
            names[f"${number}"] = placed if expression == "$0" else f"({placed})"
        made[line[1]] = ["map", line[1], _substitute(line[2], names), operands]
    return [made.get(line[1], line) for line in code if line[0] != "map" or line[1] in made]
