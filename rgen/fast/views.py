"""Weights as a jaxpr rearranges them, and the ways to use them that are understood, each as rows that meet a kernel [H, m, n].

Axes of size 1 carry nothing and are left out everywhere.
"""

import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import primitives
from jax.lax import GatherScatterMode

Axes = tuple[int, ...]


def primitive(name: str) -> Any:
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
    """A leaf of the parameters, perhaps transposed or reshaped.

    Attributes:
      leaf: its number; sizes: of its axes.
      dims: for each dimension, the leaf's axes that it holds; none if it has size 1 or repeats.
      shape: of the view.
      exact: whether its type is the leaf's own; in another, what SGD adds up would be rounded otherwise.
    """

    leaf: int
    sizes: tuple[int, ...]
    dims: tuple[Axes, ...]
    shape: tuple[int, ...]
    exact: bool = True

    @classmethod
    def of(cls, leaf: int, aval: Any) -> "View":
        return cls(leaf, aval.shape, tuple((k,) if size > 1 else () for k, size in enumerate(aval.shape)), aval.shape)

    @property
    def repeats(self) -> bool:
        return any(size > 1 and not axes for axes, size in zip(self.dims, self.shape))


class Contraction(NamedTuple):
    """How a dot_general is rows [H, r, m] times a kernel: the other operand is transposed by `enter` and reshaped; rows [H, r, n] are
    reshaped to `split` and transposed by `leave`.

    Attributes:
      axes: the leaf's axes that are H, m and n here; rows: r.
      labels: for each dimension of the result, the leaf's axes that it holds.
    """

    axes: tuple[Axes, Axes, Axes]
    rows: int
    enter: Axes
    shape: tuple[int, int, int]
    split: tuple[int, ...]
    leave: Axes
    labels: tuple[Axes, ...]

    def into_rows(self, value: jax.Array) -> jax.Array:
        return jnp.transpose(value, self.enter).reshape(self.shape)

    def from_rows(self, rows: jax.Array) -> jax.Array:
        return jnp.transpose(rows.reshape(self.split), self.leave)


class Lookup(NamedTuple):
    """How rows of a table are looked up: row numbers [1, r, 1]; rows [1, r, n] are reshaped to `split`, transposed by `leave` and
    reshaped to `out`.

    Attributes:
      axes: as of a `Contraction`; table: how many rows it has.
      start: which of the start indices says the row; -1 if they are one array.
      mode: "fill" (beyond the table NaN is read) or "clip" (its nearest row); None if it is not understood.
    """

    axes: tuple[Axes, Axes, Axes]
    rows: int
    table: int
    start: int
    split: tuple[int, ...]
    leave: Axes
    out: tuple[int, ...]
    mode: str | None

    @property
    def unasked(self) -> bool:
        """Whether what happens beyond the table is JAX's choice, not that of the network's author: `table[i]`, a dynamic_slice, clips."""
        return self.mode == "fill" or self.start >= 0

    def into_rows(self, value: jax.Array) -> jax.Array:
        """Row numbers; `table` beyond the table, if that is not its nearest row."""
        index = value.reshape(1, self.rows, 1).astype(jnp.int32)
        if self.mode == "clip":
            return jnp.clip(index, 0, self.table - 1)
        return jnp.where((index >= 0) & (index < self.table), index, self.table)

    def from_rows(self, rows: jax.Array) -> jax.Array:
        return jnp.transpose(rows.reshape(self.split), self.leave).reshape(self.out)


def view_of(eqn: Any, view: View) -> View | None:
    """What an equation makes of a view, if that is a view."""
    kind, params, shape = eqn.primitive, eqn.params, eqn.outvars[0].aval.shape
    if kind is TRANSPOSE:
        return view._replace(dims=tuple(view.dims[k] for k in params["permutation"]), shape=shape)
    if kind is SQUEEZE:
        kept = [k for k in range(len(view.dims)) if k not in params["dimensions"]]
        return view._replace(dims=tuple(view.dims[k] for k in kept), shape=shape)
    if kind is BROADCAST and len(eqn.invars) == 1:
        source = {new: old for old, new in enumerate(params["broadcast_dimensions"])}
        return view._replace(dims=tuple(view.dims[source[k]] if k in source else () for k in range(len(shape))), shape=shape)
    if kind is RESHAPE and params["dimensions"] is None and not view.repeats:
        dims = _regrouped(view, shape)
        return None if dims is None else view._replace(dims=dims, shape=shape)
    if kind is CONVERT:
        return view._replace(exact=view.exact and eqn.invars[0].aval.dtype == params["new_dtype"])
    return view if kind is COPY else None


def _regrouped(view: View, shape: tuple[int, ...]) -> tuple[Axes, ...] | None:
    axes = [axis for group in view.dims for axis in group]
    dims = []
    for size in shape:
        group: Axes = ()
        while axes and math.prod(view.sizes[a] for a in group) < size:
            group += (axes.pop(0),)
        if math.prod(view.sizes[a] for a in group) != size:
            return None
        dims.append(group)
    return tuple(dims)


def contraction(eqn: Any, place: int, view: View) -> Contraction | None:
    """A dot_general whose operand number `place` is the view, computed in single or double precision as JAX does by default."""
    if eqn.primitive is not PRODUCT or view.repeats or not _default_precision(eqn):
        return None
    result, other = eqn.outvars[0].aval, eqn.invars[1 - place].aval
    if result.dtype not in (jnp.float32, jnp.float64) or result.dtype != other.dtype or result.dtype != eqn.invars[place].aval.dtype:
        return None
    sums, batches = eqn.params["dimension_numbers"]
    summed = sorted(zip((view.dims[k] for k in sums[place]), sums[1 - place]))
    heads = sorted((view.dims[k], j, n) for n, (k, j) in enumerate(zip(batches[place], batches[1 - place])))
    free = [k for k in range(len(view.dims)) if k not in (*sums[place], *batches[place])]
    outer = [k for k in range(len(other.shape)) if k not in (*sums[1 - place], *batches[1 - place])]
    groups = [g for g, *_ in heads], [g for g, _ in summed], sorted(view.dims[k] for k in free)
    axes = _joined(groups[0]), _joined(groups[1]), _joined(groups[2])
    # dimensions of the result: those of batches, then those of the left and of the right operand
    first = len(heads)
    place_of = {k: first + i + (len(outer) if place else 0) for i, k in enumerate(free)}
    outer_of = [first + i + (0 if place else len(free)) for i in range(len(outer))]
    order = [*(n for *_, n in heads), *outer_of, *(place_of[k] for k in sorted(free, key=view.dims.__getitem__))]
    rows = math.prod(other.shape[k] for k in outer)
    return Contraction(
        axes,
        rows,
        (*(j for _, j, _ in heads), *outer, *(j for _, j in summed)),
        (math.prod(other.shape[j] for _, j, _ in heads), rows, math.prod(other.shape[j] for _, j in summed)),
        tuple(result.shape[k] for k in order),
        tuple(sorted(range(len(order)), key=order.__getitem__)),
        tuple(_labels(result.shape, heads, place_of, view)),
    )


def _default_precision(eqn: Any) -> bool:
    """Whether a product is as precise as JAX makes products now, as those of the memory are."""
    if getattr(jax.config, "jax_default_matmul_precision") is None:  # noqa: B009
        return eqn.params["precision"] in (None, (jax.lax.Precision.DEFAULT,) * 2)
    plain = jax.make_jaxpr(lambda a: jax.lax.dot_general(a, a, (((0,), (0,)), ((), ()))))(jnp.zeros(1))
    return eqn.params["precision"] == plain.eqns[0].params["precision"]


def _joined(groups: list[Axes]) -> Axes:
    return sum(groups, ())


def _labels(shape: tuple[int, ...], heads: list, place_of: dict[int, int], view: View) -> list[Axes]:
    labels: list[Axes] = [()] * len(shape)
    for group, _, n in heads:
        labels[n] = group
    for k, n in place_of.items():
        labels[n] = view.dims[k]
    return labels


def lookup(eqn: Any, place: int, view: View) -> Lookup | None:
    """A gather or dynamic_slice of whole rows of the view, along one of its dimensions."""
    kind, params = eqn.primitive, eqn.params
    if kind not in (GATHER, SLICE) or place != 0 or view.repeats:
        return None
    cut = [k for k, size in enumerate(params["slice_sizes"]) if size != view.shape[k]]
    if len(cut) != 1 or params["slice_sizes"][cut[0]] != 1:
        return None
    (k,), out = cut, eqn.outvars[0].aval.shape
    rest = [j for j in range(len(view.dims)) if j != k]
    if kind is GATHER:
        numbers = params["dimension_numbers"]
        if numbers.operand_batching_dims or numbers.collapsed_slice_dims != (k,) or numbers.start_index_map != (k,):
            return None
        batch = [j for j in range(len(out)) if j not in numbers.offset_dims]
        offsets, start, mode = dict(zip(rest, numbers.offset_dims)), -1, _mode(params)
    else:
        batch, offsets, start, mode = [k], {j: j for j in rest}, k, "clip"
    order = [*batch, *(offsets[j] for j in sorted(rest, key=view.dims.__getitem__))]
    axes = ((), view.dims[k], sum((view.dims[j] for j in sorted(rest, key=view.dims.__getitem__)), ()))
    rows, back = math.prod(out[j] for j in batch), tuple(sorted(range(len(order)), key=order.__getitem__))
    return Lookup(axes, rows, view.shape[k], start, tuple(out[j] for j in order), back, out, mode)


def _mode(params: dict) -> str | None:
    fills = params["fill_value"] is None or params["fill_value"] != params["fill_value"]
    known = {GatherScatterMode.FILL_OR_DROP: "fill" if fills else None, GatherScatterMode.CLIP: "clip"}
    return known.get(params["mode"])


def bias_axes(dot: Contraction, view: View) -> Axes | None:
    """The axes of a leaf that are H and n of a contraction's kernel, if its view is added to the result as a bias."""
    if len(view.dims) != len(dot.labels):
        return None
    beside = sorted((label, axes) for label, axes in zip(dot.labels, view.dims) if label)
    if any(axes and not label for label, axes in zip(dot.labels, view.dims)):
        return None
    order = {axis: place for place, axis in enumerate((*dot.axes[0], *dot.axes[2]))}
    found = sum((axes for _, axes in sorted(beside, key=lambda pair: order[pair[0][0]])), ())
    size = math.prod(view.sizes[a] for a in found)
    complete = all(axes for _, axes in beside) and size == math.prod(view.sizes)
    return found if complete else None
