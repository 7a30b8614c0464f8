"""Weights as a jaxpr rearranges them, and the ways to use them that are understood, each as rows that meet a kernel [H, m, n].

Axes of size 1 carry nothing and are left out everywhere.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import GatherScatterMode

Axes = tuple[int, ...]


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


class Convolution(NamedTuple):
    """How a convolution is rows [1, r, m] times a kernel: a row is the patch of the input that one place of the output sees.

    Attributes:
      axes, rows, labels: as of a `Contraction`.
      params: of the equation; filters: sizes of the kernel's spatial dimensions; out: shape of the result.
    """

    axes: tuple[Axes, Axes, Axes]
    rows: int
    labels: tuple[Axes, ...]
    params: Any
    filters: tuple[int, ...]
    out: tuple[int, ...]

    def into_rows(self, value: jax.Array) -> jax.Array:
        p, image = self.params, jnp.transpose(value, self.params["dimension_numbers"].lhs_spec)
        patches = jax.lax.conv_general_dilated_patches(
            image, self.filters, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"]
        )
        return jnp.moveaxis(patches, 1, -1).reshape(1, self.rows, -1)

    def from_rows(self, rows: jax.Array) -> jax.Array:
        batch, feature, *places = self.params["dimension_numbers"].out_spec
        order = [batch, *places, feature]
        back = sorted(range(len(order)), key=order.__getitem__)
        return jnp.transpose(rows.reshape([self.out[k] for k in order]), back)


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
    name, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    if name == "transpose":
        return view._replace(dims=tuple(view.dims[k] for k in params["permutation"]), shape=shape)
    if name == "squeeze":
        kept = [k for k in range(len(view.dims)) if k not in params["dimensions"]]
        return view._replace(dims=tuple(view.dims[k] for k in kept), shape=shape)
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        source = {new: old for old, new in enumerate(params["broadcast_dimensions"])}
        return view._replace(dims=tuple(view.dims[source[k]] if k in source else () for k in range(len(shape))), shape=shape)
    if name == "reshape" and params["dimensions"] is None and not view.repeats:
        dims = _regrouped(view, shape)
        return None if dims is None else view._replace(dims=dims, shape=shape)
    if name == "convert_element_type":
        return view._replace(exact=view.exact and eqn.invars[0].aval.dtype == params["new_dtype"])
    return view if name == "copy" else None


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
    if eqn.primitive.name != "dot_general" or view.repeats or not _default_precision(eqn):
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


def convolution(eqn: Any, place: int, view: View) -> Convolution | None:
    """A convolution without groups whose filters are the view."""
    if eqn.primitive.name != "conv_general_dilated" or place != 1 or view.repeats or not _default_precision(eqn):
        return None
    params, result = eqn.params, eqn.outvars[0].aval
    one_group = params["feature_group_count"] == params["batch_group_count"] == 1
    if not one_group or result.dtype not in (jnp.float32, jnp.float64) or any(v.aval.dtype != result.dtype for v in eqn.invars):
        return None
    outs, ins, *places = params["dimension_numbers"].rhs_spec
    labels: list[Axes] = [()] * len(result.shape)
    labels[params["dimension_numbers"].out_spec[1]] = view.dims[outs]
    axes = ((), sum((view.dims[k] for k in (ins, *places)), ()), view.dims[outs])
    rows = math.prod(result.shape) // view.shape[outs]
    params = _Hashed({**params, "padding": tuple(params["padding"])})
    return Convolution(axes, rows, tuple(labels), params, tuple(view.shape[k] for k in places), result.shape)


class _Hashed(dict):
    """Parameters of an equation as part of something that is hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def lookup(eqn: Any, place: int, view: View) -> Lookup | None:
    """A gather or dynamic_slice of whole rows of the view, along one of its dimensions."""
    name, params = eqn.primitive.name, eqn.params
    if name not in ("gather", "dynamic_slice") or place != 0 or view.repeats:
        return None
    cut = [k for k, size in enumerate(params["slice_sizes"]) if size != view.shape[k]]
    if len(cut) != 1 or params["slice_sizes"][cut[0]] != 1:
        return None
    (k,), out = cut, eqn.outvars[0].aval.shape
    rest = [j for j in range(len(view.dims)) if j != k]
    if name == "gather":
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


def bias_axes(dot: Contraction | Convolution, view: View) -> Axes | None:
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
