"""Programs for a page: lists of seven kinds of instruction on arrays of fixed sizes, which `engine.js` runs.

An instruction is [operation, slot of the result, slots of the operands, ...]. A slot is an array; reshaping it gives the same slot.
The further parts of each instruction, and its result:

  map      expression in JavaScript of a, b, c, which are the operands: elementwise, and what has one element goes with all
  view     shape, strides, offset: the elements at the offset plus the sum of index times stride
  put      [shape, strides, offset] of each operand: an array in which each operand is put into its view
  reduce   start, expression of a and b, count: each `count` elements to one
  dot      B, M, K, N: [B, M, K] times [B, K, N]
  gather   steps, limits, shape, strides, clip; operands table and index: for each index a view of the table
  scatter  the same; operands table, index and rows: the table, with a row added to the view of each index

`engine.js` knows no primitive of JAX: expressions come from the tables of `rgen.play.primitives`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Value:
    """The array in a slot, with the shape that it has in JAX; or, without a slot, one number everywhere."""

    shape: tuple[int, ...]
    dtype: Any
    slot: int | None = None
    number: float = 0

    @property
    def zero(self) -> bool:
        return self.slot is None and self.number == 0

    def shaped(self, shape: Sequence[int]) -> "Value":
        return replace(self, shape=tuple(shape))


def strides_of(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def page_type(dtype: Any) -> np.dtype:
    """What the page keeps arrays of a type in."""
    return np.dtype({"f": np.float32, "i": np.int32, "u": np.int32, "b": np.uint8}[np.dtype(dtype).kind])


class Arrays:
    """The arrays in a page, each once."""

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self._numbers: dict[Any, int] = {}

    def number(self, array: Any) -> int:
        array = np.asarray(array)
        array = np.ascontiguousarray(array, page_type(array.dtype))
        number = self._numbers.setdefault((array.dtype.str, array.tobytes()), len(self.held))
        if number == len(self.held):
            self.held.append(array)
        return number


class Builder:
    """Collects the instructions of one program."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._slots: list[tuple[str, int]] = []
        self._given: list[tuple[int, int]] = []  # slots, and the numbers of the arrays in them
        self._code: list[list] = []

    def slot(self, shape: Sequence[int], dtype: Any) -> Value:
        """A new array."""
        self._slots.append((page_type(dtype).name, prod(shape)))
        return Value(tuple(shape), dtype, len(self._slots) - 1)

    def given(self, array: Any) -> Value:
        """An array in the page, a weight or a constant."""
        array = np.asarray(array)
        value = self.slot(array.shape, array.dtype)
        self._given.append((len(self._slots) - 1, self._arrays.number(array)))
        return value

    def constant(self, array: Any) -> Value:
        array = np.asarray(array)
        return Value(array.shape, array.dtype, number=array.item()) if array.size == 1 else self.given(array)

    def stored(self, value: Value) -> int:
        """The slot of a value; a new one if it has none."""
        if value.slot is None:
            return self.stored(self.given(np.full(value.shape, value.number, value.dtype)))
        return value.slot

    def emit(self, operation: str, operands: Sequence[Value], shape: Sequence[int], dtype: Any, *rest: Any) -> Value:
        slots = [self.stored(operand) for operand in operands]
        result = self.slot(shape, dtype)
        self._code.append([operation, result.slot, slots, *rest])
        return result

    def map(self, expression: str, operands: Sequence[Value], shape: Sequence[int], dtype: Any) -> Value:
        """An elementwise instruction, in JavaScript of a, b, c, which stand for the operands."""
        fit = []
        for value in operands:
            if value.slot is None:
                value = value.shaped((1,))
            elif value.shape != tuple(shape) and prod(value.shape) != 1:
                value = self.view(value, shape, [0 if n == 1 else step for n, step in zip(value.shape, strides_of(value.shape))])
            fit.append(value)
        return self.emit("map", fit, shape, dtype, expression)

    def view(self, value: Value, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Value:
        as_it_is = all(n == 1 or step == own for n, step, own in zip(shape, strides, strides_of(shape)))
        if value.slot is None or (as_it_is and prod(shape) == prod(value.shape)):
            return value.shaped(shape)
        return self.emit("view", [value], shape, value.dtype, list(shape), list(strides), offset)

    def put(self, values: Sequence[Value], shape: Sequence[int], places: Sequence[tuple[Sequence[int], int]]) -> Value:
        """An array of several values, each at its place (strides, offset)."""
        views = [[list(value.shape), list(strides), offset] for value, (strides, offset) in zip(values, places)]
        return self.emit("put", values, shape, values[0].dtype, views)

    def arranged(self, value: Value, *groups: Sequence[int]) -> Value:
        """A view with the axes of each group as one axis."""
        strides, axes = strides_of(value.shape), [axis for group in groups for axis in group]
        moved = self.view(value, [value.shape[axis] for axis in axes], [strides[axis] for axis in axes])
        return moved.shaped([prod(value.shape[axis] for axis in group) for group in groups])

    def program(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[str, Any]:
        """The program, as `json.dumps` takes it.

        slots: [type, size] of each; given: [slot, number of the array in the page]; inputs: slots that are filled before each run; outputs:
        slots that are read after it; code: the instructions that the outputs need.
        """
        slots = [self.stored(value) for value in outputs]
        needed, code = set(slots), []
        for line in reversed(self._code):
            if line[1] in needed:
                code.insert(0, line)
                needed.update(line[2])
        return {
            "slots": self._slots,
            "given": self._given,
            "inputs": [value.slot for value in inputs],
            "outputs": slots,
            "code": code,
        }
