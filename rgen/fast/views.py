"""Weights as a jaxpr rearranges them, and the uses of them that are understood, each as rows that meet a kernel [H, m, n].

Axes of size 1 are left out everywhere; among the dimensions of a view they are -1.
"""

import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.lax import GatherScatterMode

from rgen.sequence import PyTree

Axes = tuple[int, ...]


def primitive(name: str) -> PyTree:
    """A primitive of JAX; None, with a warning, if this JAX has none of that name."""
    found = getattr(primitives, f"{name}_p", None)
    if found is None:
        warnings.warn(
            f"JAX {jax.__version__} has no primitive '{name}', by which rgen.fast knows some uses of a weight. Results are right, but "
            "weights that are used so are carried, which is slow. Use a JAX that this version of rgen was made for.",
            stacklevel=2,
        )
    return found


TRANSPOSE, SQUEEZE, BROADCAST, RESHAPE, CONVERT, COPY, PRODUCT, GATHER, SLICE = map(
    primitive,
    ("transpose", "squeeze", "broadcast_in_dim", "reshape", "convert_element_type", "copy", "dot_general", "gather", "dynamic_slice"),
)


class View(NamedTuple):
    """A leaf of the parameters with its axes in any order.

    Attributes:
      leaf: its number.
      dims: the leaf's axis that each dimension holds; -1 if that has size 1, or repeats the rest.
      shape: of the view.
    """

    leaf: int
    dims: Axes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, leaf: int, shape: tuple[int, ...]) -> "View":
        return cls(leaf, tuple(axis if size > 1 else -1 for axis, size in enumerate(shape)), shape)

    @property
    def repeats(self) -> bool:
        return any(axis < 0 and size > 1 for axis, size in zip(self.dims, self.shape))


class Contraction(NamedTuple):
    """A dot_general as rows [H, r, m] times a kernel.

    Attributes:
      axes: the leaf's axes that are H, m and n here; rows: r.
      enter, shape: the other operand is transposed and reshaped so, to rows [H, r, m].
      split, leave: rows [H, r, n] are reshaped and transposed so, to the result.
      columns: dimensions of the result that are H and n.
    """

    axes: tuple[Axes, Axes, Axes]
    rows: int
    enter: Axes
    shape: tuple[int, int, int]
    split: tuple[int, ...]
    leave: Axes
    columns: Axes

    def into_rows(self, value: jax.Array) -> jax.Array:
        return jnp.transpose(value, self.enter).reshape(self.shape)

    def from_rows(self, rows: jax.Array) -> jax.Array:
        return jnp.transpose(rows.reshape(self.split), self.leave)

    def transposed(self, order: Axes) -> "Contraction":
        """The same with a transposed result."""
        return self._replace(leave=tuple(self.leave[k] for k in order), columns=tuple(order.index(n) for n in self.columns))


class Lookup(NamedTuple):
    """How rows of a table are looked up, by numbers [1, r, 1]; rows [1, r, n] are reshaped to the result.

    Attributes:
      axes, rows: as of a `Contraction`.
      table: how many rows it has.
      clips: whether numbers beyond the table mean its nearest row; else NaN is read.
      columns: how many numbers there are for each row, of which the first is looked at; `jax.vmap` of a dynamic_slice has them all.
      result: shape of the result.
    """

    axes: tuple[Axes, Axes, Axes]
    rows: int
    table: int
    clips: bool
    columns: int
    result: tuple[int, ...]

    def into_rows(self, value: jax.Array) -> jax.Array:
        """Row numbers; `table` beyond the table, unless its nearest row is meant."""
        index = value.reshape(self.rows, self.columns)[None, :, :1].astype(jnp.int32)
        if self.clips:
            return jnp.clip(index, 0, self.table - 1)
        return jnp.where((index >= 0) & (index < self.table), index, self.table)

    def from_rows(self, rows: jax.Array) -> jax.Array:
        return rows.reshape(self.result)


def view_of(eqn: Any, view: View) -> View | None:
    """What an equation makes of a view, if that is a view."""
    kind, params, shape = eqn.primitive, eqn.params, eqn.outvars[0].aval.shape
    wide = [axis for axis, size in zip(view.dims, view.shape) if size > 1]
    if kind is TRANSPOSE:
        return view._replace(dims=tuple(view.dims[k] for k in params["permutation"]), shape=shape)
    if kind is BROADCAST and len(eqn.invars) == 1:
        source = dict(zip(params["broadcast_dimensions"], view.dims))
        return view._replace(dims=tuple(source.get(k, -1) for k in range(len(shape))), shape=shape)
    if kind is SQUEEZE or (kind is RESHAPE and params["dimensions"] is None):
        if [size for size in shape if size > 1] != [size for size in view.shape if size > 1]:
            return None
        axes = iter(wide)
        return view._replace(dims=tuple(next(axes) if size > 1 else -1 for size in shape), shape=shape)
    return view if kind in (CONVERT, COPY) else None


def contraction(eqn: Any, place: int, view: View) -> Contraction | None:
    """A dot_general whose operand number `place` is the view, computed in single or double precision as JAX does by default."""
    if eqn.primitive is not PRODUCT or view.repeats or eqn.params["precision"] != _default_precision():
        return None
    result, other = eqn.outvars[0].aval, eqn.invars[1 - place].aval
    if result.dtype not in (jnp.float32, jnp.float64) or {other.dtype, eqn.invars[place].aval.dtype} != {result.dtype}:
        return None
    sums, batches = eqn.params["dimension_numbers"]
    free = [k for k in range(len(view.dims)) if k not in (*sums[place], *batches[place])]
    outer = [k for k in range(len(other.shape)) if k not in (*sums[1 - place], *batches[1 - place])]
    # dimensions of the result: those of batches, then those of the left and of the right operand
    count = len(batches[place])
    at_free, at_outer = (count + len(outer), count) if place else (count, count + len(free))
    heads = sorted((view.dims[k], j, n) for n, (k, j) in enumerate(zip(batches[place], batches[1 - place])))
    inputs = sorted((view.dims[k], j) for k, j in zip(sums[place], sums[1 - place]))
    outputs = sorted((view.dims[k], at_free + i) for i, k in enumerate(free))
    of_heads, of_outputs = [n for *_, n in heads], [n for _, n in outputs]
    order = [*of_heads, *range(at_outer, at_outer + len(outer)), *of_outputs]
    enter = (*(j for _, j, _ in heads), *outer, *(j for _, j in inputs))
    rows = math.prod(other.shape[k] for k in outer)
    return Contraction(
        axes=(_axes(heads), _axes(inputs), _axes(outputs)),
        rows=rows,
        enter=enter,
        shape=(math.prod(other.shape[j] for _, j, _ in heads), rows, math.prod(other.shape[j] for _, j in inputs)),
        split=tuple(result.shape[n] for n in order),
        leave=tuple(np.argsort(order).tolist()),
        columns=(*of_heads, *of_outputs),
    )


def _axes(dims: list[tuple[int, ...]]) -> Axes:
    return tuple(axis for axis, *_ in dims if axis >= 0)


def _default_precision() -> PyTree:
    """The precision of a product that asks for none, as those of the memory."""
    return jax.make_jaxpr(jax.lax.dot)(jnp.ones(1), jnp.ones(1)).eqns[0].params["precision"]


def lookup(eqn: Any, view: View) -> Lookup | None:
    """A gather or dynamic_slice of whole rows of the view, along its first dimension."""
    kind, params, result = eqn.primitive, eqn.params, eqn.outvars[0].aval.shape
    whole = kind in (GATHER, SLICE) and params["slice_sizes"] == (1, *view.shape[1:])
    if not whole or view.repeats or view.dims[0] < 0:
        return None
    clips, columns = kind is SLICE or params["mode"] == GatherScatterMode.CLIP, 1
    if kind is GATHER:
        numbers, fill = params["dimension_numbers"], params["fill_value"]
        columns, window = len(numbers.start_index_map), len(view.dims) - len(numbers.collapsed_slice_dims)
        behind = tuple(range(len(result) - window, len(result)))
        if numbers.operand_batching_dims or numbers.offset_dims != behind or numbers.collapsed_slice_dims not in ((), (0,)):
            return None
        if numbers.start_index_map not in ((0,), tuple(range(len(view.dims))) if clips else (0,)):
            return None
        if not clips and (params["mode"] != GatherScatterMode.FILL_OR_DROP or not (fill is None or np.isnan(fill))):
            return None
    axes = (), view.dims[:1], tuple(axis for axis in view.dims[1:] if axis >= 0)
    return Lookup(axes, math.prod(result) // math.prod(view.shape[1:]), view.shape[0], clips, columns, result)


def bias_axes(product: Contraction, view: View) -> Axes | None:
    """The axes of a leaf that are H and n of a contraction's kernel, if its view is added to the result as a bias."""
    axes = tuple(view.dims[n] for n in product.columns if view.shape[n] > 1)
    return axes if sorted(axes) == sorted(axis for axis in view.dims if axis >= 0) else None
