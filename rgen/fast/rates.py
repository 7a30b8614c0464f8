"""Inner rates: one number, or learned with the initialization (Meta-SGD, Li et al. 2017, arXiv:1707.09835).

Learned rates are stored as logarithms, so they are positive whatever the outer optimizer does. Three kinds:

  fixed      one number for everything, as in the original program; never learned.
  per-array  one learned rate for each parameter array.
  rank-one   for a Dense layer, a dict of a kernel [..., m, n] and perhaps a bias [..., n]: rate[i, o] = row[i] * column[o]; its bias is the
             weight of a constant input and has a row of its own. All other arrays have one rate each.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.choices import RATE_KINDS
from rgen.fast.functions import widest


class Factors(NamedTuple):
    """Rates of a layer's kernel [H, M, N]: row [H, M] times column [H, N]. If rows are looked up, only the column counts."""

    row: jax.Array
    column: jax.Array


def rate_matrix(factors: Factors) -> jax.Array:
    """[H, M, N]."""
    return factors.row[:, :, None] * factors.column[:, None]


def init_rates(kind: str, weights: Any, rate: float) -> Any:
    """Rates that start at `rate` everywhere.

    Args:
      kind: one of RATE_KINDS.
      weights: the network's parameters, a pytree of arrays.
      rate: the inner rate to begin with, positive.
    Raises:
      ValueError: an unknown kind, or a rate that is not a positive finite number.
    """
    if kind not in RATE_KINDS:
        raise ValueError(f"Unknown kind of inner rates '{kind}'; choose one of {', '.join(RATE_KINDS)}.")
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"The inner rate is {rate}; it must be a positive number.")
    dtype = widest(jax.tree.leaves(weights)[0])
    log = jnp.log(jnp.asarray(rate, dtype))
    if kind == "fixed":
        return {"fixed": jnp.asarray(rate, dtype)}
    if kind == "per-array":
        return jax.tree.map(lambda _: log, weights)

    def layer(dense: dict) -> dict:
        *heads, inputs, outputs = dense["kernel"].shape
        factors = {"row": jnp.full((*heads, inputs), log), "column": jnp.zeros((*heads, outputs), dtype)}
        return factors | ({"constant": jnp.full(tuple(heads), log)} if "bias" in dense else {})

    return _map_layers(layer, lambda _: log, weights)


def expand_rates(kind: str, rates: Any, weights: Any) -> Any:
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


def dense_layers(kind: str, weights: Any) -> dict[int, int]:
    """Where rates are rank-one: number of a leaf of `weights` -> number of the Dense layer that it belongs to."""
    found, leaf = {}, 0
    for number, node in enumerate(jax.tree.leaves(weights, is_leaf=is_dense) if kind == "rank-one" else []):
        count = len(jax.tree.leaves(node))
        found |= {leaf + i: number for i in range(count)} if is_dense(node) else {}
        leaf += count
    return found


def split_rates(kind: str, rates: Any, weights: Any) -> list[tuple[jax.Array, jax.Array]]:
    """The rate of every leaf of `weights` as (row, column), whose product it is.

    Of a Dense layer whose rates are rank-one: rows [..., m] of the kernel or [...] of the bias, and columns [..., n]. Of all others: one
    number, and 1.
    """
    if kind != "rank-one":
        return [(rate, jnp.ones_like(rate)) for rate in jax.tree.leaves(expand_rates(kind, rates, weights))]
    found: list[tuple[jax.Array, jax.Array]] = []

    def layer(dense: dict, factors: dict) -> None:
        rows = {"kernel": factors["row"], "bias": factors.get("constant")}
        found.extend((jnp.exp(rows[name]), jnp.exp(factors["column"])) for name in sorted(dense))

    _map_layers(layer, lambda _, log: found.append((jnp.exp(log), jnp.ones_like(log))), weights, rates)
    return found


def is_dense(node: Any) -> bool:
    """Whether a node of a parameter tree is a Dense layer, or several side by side: kernel [..., m, n], perhaps bias [..., n]."""
    if not isinstance(node, dict) or "kernel" not in node or not node.keys() <= {"kernel", "bias"}:
        return False
    kernel, bias = node["kernel"], node.get("bias")
    if not all(leaf is None or (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) for leaf in (kernel, bias)):
        return False  # arrays in boxes
    return kernel.ndim >= 2 and (bias is None or bias.shape == kernel.shape[:-2] + kernel.shape[-1:])


def _map_layers(layer: Callable, leaf: Callable, weights: Any, *rest: Any) -> Any:
    """tree.map, except that a Dense layer is one node."""

    def one(node, *more):
        return layer(node, *more) if is_dense(node) else leaf(node, *more)

    return jax.tree.map(one, weights, *rest, is_leaf=is_dense)
