"""Inner rates: one number, or learned with the initialization (Meta-SGD, Li et al. 2017, arXiv:1707.09835).

Learned rates are stored as logarithms, so they are positive whatever the outer optimizer does. Three kinds:

  fixed      one number for everything, as in the original program; never learned
  per-array  one learned rate for each parameter array
  rank-one   for a Dense layer, rate[i, o] = row[i] * column[o], where the bias has a row of its own; one rate for each other array
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rgen.choices import RATE_KINDS
from rgen.fast.functions import widest
from rgen.sequence import PyTree


class Factors(NamedTuple):
    """Rates of a layer's kernel [H, M, N]: row [H, M] times column [H, N]. If rows are looked up, only the column counts."""

    row: jax.Array
    column: jax.Array


def rate_matrix(factors: Factors) -> jax.Array:
    """[H, M, N]."""
    return factors.row[:, :, None] * factors.column[:, None]


def init_rates(kind: str, weights: PyTree, rate: float) -> PyTree:
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

    def of(node: Any) -> PyTree:
        if kind == "per-array" or not is_dense(node):
            return jax.tree.map(lambda _: log, node)
        *heads, inputs, outputs = node["kernel"].shape
        factors = {"row": jnp.full((*heads, inputs), log), "column": jnp.zeros((*heads, outputs), dtype)}
        return factors | ({"constant": jnp.full(tuple(heads), log)} if "bias" in node else {})

    return jax.tree.map(of, weights, is_leaf=is_dense)


def expand_rates(kind: str, rates: PyTree, weights: PyTree) -> PyTree:
    """The rate of every weight: a tree like `weights`, whose leaves broadcast against its arrays."""

    def product(row: jax.Array, column: jax.Array) -> jax.Array:
        if not column.ndim:
            return row
        return row[..., None] * (column[..., None, :] if row.ndim == column.ndim else column)

    products = [product(*parts) for parts in split_rates(kind, rates, weights)]
    return jax.tree.unflatten(jax.tree.structure(weights), products)


def split_rates(kind: str, rates: PyTree, weights: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """The rate of every leaf of `weights` as (row, column), whose product it is.

    Of a Dense layer whose rates are rank-one: rows [..., m] of the kernel or [...] of the bias, and columns [..., n]. Of all others: one
    number, and 1.
    """
    if kind == "fixed":
        fixed = jax.lax.stop_gradient(rates["fixed"])
        return [(fixed, jnp.ones_like(fixed)) for _ in jax.tree.leaves(weights)]
    found: list[tuple[jax.Array, jax.Array]] = []

    def split(node: Any, logs: Any) -> None:
        if kind == "rank-one" and is_dense(node):
            rows = {"kernel": logs["row"], "bias": logs.get("constant")}
            found.extend((jnp.exp(rows[name]), jnp.exp(logs["column"])) for name in sorted(node))
        else:
            found.extend((jnp.exp(log), jnp.ones_like(log)) for log in jax.tree.leaves(logs))

    jax.tree.map(split, weights, rates, is_leaf=is_dense)
    return found


def dense_layers(kind: str, weights: PyTree) -> dict[int, int]:
    """Where rates are rank-one: number of a leaf of `weights` -> number of the Dense layer that it belongs to."""
    if kind != "rank-one":
        return {}
    nodes = jax.tree.leaves(weights, is_leaf=is_dense)
    owners = [number if is_dense(node) else None for number, node in enumerate(nodes) for _ in jax.tree.leaves(node)]
    return {leaf: number for leaf, number in enumerate(owners) if number is not None}


def is_dense(node: Any) -> bool:
    """Whether a node of a parameter tree is a Dense layer, or several side by side: kernel [..., m, n], perhaps bias [..., n]."""
    if not isinstance(node, dict) or "kernel" not in node or not node.keys() <= {"kernel", "bias"}:
        return False
    kernel, bias = node["kernel"], node.get("bias")
    if not all(leaf is None or (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) for leaf in (kernel, bias)):
        return False  # arrays in boxes
    return kernel.ndim >= 2 and (bias is None or bias.shape == kernel.shape[:-2] + kernel.shape[-1:])
