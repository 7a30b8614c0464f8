"""Inner rates: one number, or learned with the initialization (Meta-SGD, Li et al. 2017, arXiv:1707.09835).

Learned rates are stored as logarithms, so they are positive whatever the outer optimizer does. Three kinds:

  fixed      one number for everything, as in the original program; never learned.
  per-array  one learned rate for each parameter array.
  rank-one   for a Dense layer, rate[i, o] = row[i] * column[o]; its bias is the weight of a constant input and has a row of its own.
             All other arrays have one rate each.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.fast.taps import Layer, Path

KINDS = ("fixed", "per-array", "rank-one")


class Factors(NamedTuple):
    """Rates of a layer: row [m] times column [n]; constant [] times column for the bias. For an Embed only the column counts."""

    row: jax.Array
    constant: jax.Array
    column: jax.Array


def init_rates(kind: str, weights: dict, rate: float) -> dict:
    """Rates that start at `rate` everywhere.

    Args:
      kind: one of KINDS.
      weights: the network's parameters, nested dicts of arrays.
      rate: the inner rate to begin with, positive.
    Raises:
      ValueError: an unknown kind, or a rate that is not a positive finite number.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of inner rates '{kind}'; choose one of {', '.join(KINDS)}.")
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"The inner rate is {rate}; it must be a positive number.")
    dtype = jax.tree.leaves(weights)[0].dtype
    log = jnp.log(jnp.asarray(rate, dtype))
    if kind == "fixed":
        return {"fixed": jnp.asarray(rate, dtype)}
    if kind == "per-array":
        return jax.tree.map(lambda _: log, weights)

    def layer(dense: dict) -> dict:
        rows, columns = _factor_shapes(dense["kernel"])
        factors = {"row": jnp.full(rows, log), "column": jnp.zeros(columns, dtype)}
        return factors | ({"constant": jnp.full(columns[:-1], log)} if "bias" in dense else {})

    return _map_layers(layer, lambda _: log, weights)


def expand_rates(kind: str, rates: dict, weights: dict) -> dict:
    """The rate of every weight: a tree like `weights`, whose leaves broadcast against its arrays."""
    if kind == "fixed":
        fixed = jax.lax.stop_gradient(rates["fixed"])
        return jax.tree.map(lambda _: fixed, weights)
    if kind == "per-array":
        return jax.tree.map(jnp.exp, rates)

    def layer(dense: dict, factors: dict) -> dict:
        row, column = jnp.exp(factors["row"]), jnp.exp(factors["column"])
        kernel = {"kernel": row[..., :, None] * column[..., None, :]}
        return kernel | ({"bias": jnp.exp(factors["constant"])[..., None] * column} if "bias" in dense else {})

    return _map_layers(layer, lambda _, log: jnp.exp(log), weights, rates)


def factor_rates(kind: str, rates: dict, path: Path, layer: Layer) -> Factors:
    """The rates of one layer as row times column (and constant times column for its bias), whatever their kind.

    An Embed has the same rate for all rows: its column is that rate.
    """
    if kind == "fixed":
        row = constant = jax.lax.stop_gradient(rates["fixed"])
        column = jnp.ones_like(row)
    else:
        for name in path:
            rates = rates[name]
        if "row" in rates:
            row, column = jnp.exp(rates["row"]), jnp.exp(rates["column"])
            constant = jnp.exp(rates["constant"]) if "constant" in rates else jnp.zeros((), row.dtype)
        else:
            row = jnp.exp(rates["embedding" if layer.kind == "embed" else "kernel"])
            column, constant = jnp.ones_like(row), jnp.exp(rates["bias"]) if "bias" in rates else jnp.zeros_like(row)
    if layer.kind == "embed":
        row, column = column, row
    if not layer.bias:  # the constant is the bias' rate
        constant = jnp.zeros_like(constant)
    shapes = (*layer.heads, layer.width), layer.heads, (*layer.heads, layer.outputs)
    return Factors(*(jnp.broadcast_to(factor, shape) for factor, shape in zip((row, constant, column), shapes)))


def is_dense(node: Any) -> bool:
    """Whether a node of a parameter tree is a Dense layer, or several side by side: kernel [..., m, n], perhaps bias [..., n]."""
    if not isinstance(node, dict) or "kernel" not in node or not node.keys() <= {"kernel", "bias"}:
        return False
    kernel, bias = node["kernel"], node.get("bias")
    return kernel.ndim >= 2 and (bias is None or bias.shape == kernel.shape[:-2] + kernel.shape[-1:])


def _factor_shapes(kernel: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    *heads, inputs, outputs = kernel.shape
    return (*heads, inputs), (*heads, outputs)


def _map_layers(layer: Callable, leaf: Callable, weights: Any, *rest: Any) -> Any:
    """tree.map, except that a Dense layer is one node."""
    if is_dense(weights):
        return layer(weights, *rest)
    if isinstance(weights, dict):
        return {name: _map_layers(layer, leaf, child, *(r[name] for r in rest)) for name, child in weights.items()}
    return leaf(weights, *rest)
