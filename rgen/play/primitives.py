"""From a function in JAX to a program of `rgen.play.instructions`: the primitives of JAX that the page knows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from rgen.errors import InputError, command
from rgen.play.instructions import Arrays, Builder, Value, page_type, strides_of

# Calls, which are inlined: primitive -> the parameter that is its body
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "checkpoint": "jaxpr"}
# Elementwise primitives as JavaScript of a, b, c
FUNCTIONS = ("exp", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sqrt", "abs", "sign", "floor")
OPERATORS = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "pow": "**", "and": "&", "or": "|"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
MAPS = {
    **{name: f"Math.{name}(a)" for name in FUNCTIONS},
    **{name: f"a {sign} b" for name, sign in (OPERATORS | COMPARISONS).items()},
    **dict.fromkeys(("stop_gradient", "copy", "convert_element_type"), "a"),
    "neg": "-a",
    "not": "!a",
    "square": "a * a",
    "integer_pow": "a ** {y}",
    "max": "Math.max(a, b)",
    "min": "Math.min(a, b)",
    "clamp": "Math.min(Math.max(b, a), c)",
    "rsqrt": "1 / Math.sqrt(a)",
    "logistic": "1 / (1 + Math.exp(-a))",
    "one_minus_square": "(1 + a) * (1 - a)",  # of the derivative of tanh in later versions of JAX
    "is_finite": "isFinite(a)",
    "select_n": "a ? c : b",
}
LOGICAL = ("and", "or", "not", "select_n")  # of booleans only
# Reductions: their start, and JavaScript of what has been reduced so far, a, and the next element, b
REDUCES = {"reduce_sum": ("0", "a + b"), "reduce_max": ("-Infinity", "Math.max(a, b)"), "reduce_min": ("Infinity", "Math.min(a, b)")}
# Primitives that make zeros of zeros
SUMS = ("neg", "add", "add_any", "sub", "reduce_sum", "concatenate", "convert_element_type")


def compile_program(function: Callable, arrays: Arrays, given: Any, *inputs: Any) -> dict[str, Any]:
    """Compiles `function(given, *inputs)`.

    Args:
      function: a pure function of trees of arrays.
      arrays: where `given` and constants are put; they never change.
      inputs: examples of the inputs of a run.
    Returns:
      The program, see `Builder.program`; its inputs and outputs are the leaves of the trees.
    Raises:
      InputError: the function has a primitive that the page does not know.
    """
    traced = jax.make_jaxpr(function)(given, *inputs)
    build = Builder(arrays)
    known = [build.given(leaf) for leaf in jax.tree.leaves(given)]
    varying = [build.slot(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(inputs)]
    return build.program(varying, _jaxpr(build, traced.jaxpr, traced.consts, [*known, *varying]))


def _jaxpr(build: Builder, jaxpr: Jaxpr, consts: Any, operands: list[Value]) -> list[Value]:
    env: dict[Any, Value] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(build.constant, consts), *operands]))

    def read(var: Any) -> Value:
        return build.constant(var.val) if isinstance(var, Literal) else env[var]

    for eqn in jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        if eqn.primitive.name in CALLS:
            body = eqn.params[CALLS[eqn.primitive.name]]
            inner, own = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            found = _jaxpr(build, inner, own, values)
        else:
            found = _equation(build, eqn, values)
        env |= dict(zip(eqn.outvars, found if isinstance(found, list) else [found]))
    return [read(var) for var in jaxpr.outvars]


def _equation(build: Builder, eqn: Any, values: list[Value]) -> Value | list[Value]:
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if _surely_zero(name, [value.zero for value in values]):
        return Value(out.shape, out.dtype)
    if name in ("add", "add_any", "sub") and values[1].zero and values[0].shape == out.shape:
        return values[0]
    if name in MAPS:
        return _map(build, name, out, eqn.params, values)
    if name in REDUCES:
        axes = eqn.params["axes"]
        rows = build.arranged(values[0], [axis for axis in range(len(values[0].shape)) if axis not in axes], axes)
        return build.emit("reduce", [rows], out.shape, out.dtype, *REDUCES[name], rows.shape[1])
    if name not in OTHERS:
        raise _unknown(f"'{name}'")
    return OTHERS[name](build, out, eqn.params, *values)


def _unknown(what: str) -> InputError:
    return InputError(f"The page cannot compute {what}, which this network needs; draw with {command('sample')}, without --page.")


def _surely_zero(name: str, zeros: Sequence[bool]) -> bool:
    """Whether a result is 0, if no number is infinite: much of a gradient is."""
    if name in ("mul", "dot_general"):
        return any(zeros)
    if name == "div":
        return zeros[0]
    if name == "select_n":
        return all(zeros[1:])
    return name in SUMS and all(zeros)


def _map(build: Builder, name: str, out: Any, params: Any, values: list[Value]) -> Value:
    expression, kind, kinds = MAPS[name].format(**params), np.dtype(out.dtype).kind, [np.dtype(value.dtype).kind for value in values]
    if name in LOGICAL and kinds[0] != "b":
        raise _unknown(f"'{name}' of whole numbers")
    if name == "convert_element_type" and kind != kinds[0]:
        expression = {"b": "a != 0", "f": "a"}.get(kind, "Math.trunc(a)")
    elif name == "div" and kind in "iu":
        expression = "Math.trunc(a / b)"
    if expression == "a" and page_type(out.dtype) == page_type(values[0].dtype):
        return Value(out.shape, out.dtype, values[0].slot, values[0].number)
    return build.map(expression, values, out.shape, out.dtype)


# ---------------------------------------------------------------- other primitives: (builder, aval of the result, parameters, values)


def _iota(build: Builder, out: Any, p: Any) -> Value:
    shape = [n if axis == p["dimension"] else 1 for axis, n in enumerate(out.shape)]
    return build.given(np.broadcast_to(np.arange(out.shape[p["dimension"]]).reshape(shape), out.shape).astype(out.dtype))


def _reshape(build: Builder, out: Any, p: Any, value: Value) -> Value:
    return value.shaped(out.shape)


def _broadcast(build: Builder, out: Any, p: Any, value: Value) -> Value:
    strides = [0] * len(out.shape)
    for axis, n, step in zip(p["broadcast_dimensions"], value.shape, strides_of(value.shape)):
        strides[axis] = 0 if n == 1 else step
    return build.view(value, out.shape, strides)


def _transpose(build: Builder, out: Any, p: Any, value: Value) -> Value:
    strides = strides_of(value.shape)
    return build.view(value, out.shape, [strides[axis] for axis in p["permutation"]])


def _slice(build: Builder, out: Any, p: Any, value: Value) -> Value:
    strides = strides_of(value.shape)
    offset = sum(start * stride for start, stride in zip(p["start_indices"], strides))
    steps = p["strides"] or [1] * len(strides)
    return build.view(value, out.shape, [step * stride for step, stride in zip(steps, strides)], offset)


def _split(build: Builder, out: Any, p: Any, value: Value) -> list[Value]:
    strides, axis, found, start = strides_of(value.shape), p["axis"], [], 0
    for size in map(int, p["sizes"]):
        found.append(build.view(value, (*value.shape[:axis], size, *value.shape[axis + 1 :]), strides, start * strides[axis]))
        start += size
    return found


def _concatenate(build: Builder, out: Any, p: Any, *values: Value) -> Value:
    strides, axis = strides_of(out.shape), p["dimension"]
    starts = np.cumsum([0, *(value.shape[axis] for value in values)]).tolist()
    return build.put(values, out.shape, [(strides, start * strides[axis]) for start in starts])


def _stack(build: Builder, out: Any, p: Any, *values: Value) -> Value:
    axis = p["axis"]
    rows = [value.shaped((*value.shape[:axis], 1, *value.shape[axis:])) for value in values]
    return _concatenate(build, out, {"dimension": axis}, *rows)


def _pad(build: Builder, out: Any, p: Any, value: Value, fill: Value) -> Value:
    strides, padding = strides_of(out.shape), p["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in padding):
        raise _unknown("a padding that cuts off")
    offset = sum(low * stride for (low, _, _), stride in zip(padding, strides))
    inside = [(1 + gap) * step for (_, _, gap), step in zip(padding, strides)]
    around = build.view(fill, out.shape, [0] * len(strides))
    return build.put([around, value], out.shape, [(strides, 0), (inside, offset)])


def _dot(build: Builder, out: Any, p: Any, left: Value, right: Value) -> Value:
    (summed, summed_right), (batch, batch_right) = p["dimension_numbers"]
    free = [axis for axis in range(len(left.shape)) if axis not in (*summed, *batch)]
    free_right = [axis for axis in range(len(right.shape)) if axis not in (*summed_right, *batch_right)]
    rows, columns = build.arranged(left, batch, free, summed), build.arranged(right, batch_right, summed_right, free_right)
    return build.emit("dot", [rows, columns], out.shape, out.dtype, *rows.shape, columns.shape[2])


def _gather(build: Builder, out: Any, p: Any, table: Value, index: Value) -> Value:
    d = p["dimension_numbers"]
    lookup = _lookup(table.shape, d.collapsed_slice_dims, d.start_index_map, p["slice_sizes"], p["mode"], d.operand_batching_dims)
    axes = [*(axis for axis in range(len(out.shape)) if axis not in d.offset_dims), *d.offset_dims]
    shape = [out.shape[axis] for axis in axes]
    rows = build.emit("gather", [table, index], shape, out.dtype, *lookup)
    return build.arranged(rows, *([axes.index(axis)] for axis in range(len(axes))))


def _scatter_add(build: Builder, out: Any, p: Any, table: Value, index: Value, updates: Value) -> Value:
    d = p["dimension_numbers"]
    sizes = [updates.shape[axis] for axis in d.update_window_dims]
    for axis in sorted(d.inserted_window_dims):
        sizes.insert(axis, 1)
    lookup = _lookup(table.shape, d.inserted_window_dims, d.scatter_dims_to_operand_dims, sizes, p["mode"], d.operand_batching_dims)
    rows = build.arranged(updates, [axis for axis in range(len(updates.shape)) if axis not in d.update_window_dims], d.update_window_dims)
    return build.emit("scatter", [table, index, rows], out.shape, out.dtype, *lookup)


def _lookup(shape: Any, single: Any, axes: Any, sizes: Any, mode: Any, batching: Any) -> list:
    """[steps, limits, shape, strides, clip]: an index in each of `axes` says where a view of `sizes` begins, without the axes `single`."""
    if batching:
        raise _unknown("a lookup that is mapped by vmap")
    strides = strides_of(shape)
    window = [axis for axis in range(len(shape)) if axis not in single]
    clip = mode != jax.lax.GatherScatterMode.FILL_OR_DROP
    steps, limits = [strides[axis] for axis in axes], [shape[axis] - sizes[axis] for axis in axes]
    return [steps, limits, [sizes[axis] for axis in window], [strides[axis] for axis in window], clip]


OTHERS: dict[str, Callable[..., Value | list[Value]]] = {
    "iota": _iota,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "dot_general": _dot,
    "gather": _gather,
    "scatter-add": _scatter_add,
}
