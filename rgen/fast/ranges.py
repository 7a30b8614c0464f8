"""Whether inputs and outputs are such as a loop can use, where that can be seen: in arrays that are not traced."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rgen.fast.capture import capture
from rgen.fast.functions import as_function
from rgen.likelihood import Likelihood
from rgen.sequence import Sequence, paid


def concrete(*arrays: Any) -> bool:
    """Whether their values can be seen, all of them, by this process."""
    return not any(isinstance(a, Tracer) or not getattr(a, "is_fully_addressable", True) for a in arrays)


def check_inputs(network: Any, weights: Any, x: Any) -> None:
    """Raises ValueError if inputs x [B, T, ...] ask an embedding of theirs for a row that it does not have."""
    if not concrete(x):
        return
    shapes, tree = _shapes(weights)
    with jax.ensure_compile_time_eval():  # also while something else is traced
        found = _rows_asked(network, tree, shapes, jnp.asarray(x))
    for index, count in jax.tree.map(np.asarray, found):
        wrong = ((index < 0) | (index >= count)).reshape(len(index), -1).any(1)
        if wrong.any():
            value = np.asarray(x).reshape(-1, *x.shape[2:])[wrong][0].tolist()
            raise ValueError(
                f"An input is {value}, which asks an embedding of {count} rows for row {index[wrong].ravel()[0]}; "
                f"its rows are 0 to {count - 1}. Give inputs in that range, or a larger embedding."
            )


def check_outputs(network: Any, likelihood: Likelihood, weights: Any, seqs: Sequence) -> None:
    """Raises ValueError if an output y [B, T] whose weight is not 0 is none of the K that the likelihood has."""
    if not concrete(seqs.y, seqs.weight):
        return
    shapes, tree = _shapes(weights)
    with jax.ensure_compile_time_eval():
        count = int(_outputs(network, likelihood, tree, shapes, jax.ShapeDtypeStruct(seqs.x.shape[2:], jnp.result_type(seqs.x))))
    y = np.asarray(seqs.y)
    wrong = ((y < 0) | (y >= count)) & (np.asarray(seqs.weight) != 0)
    if count and wrong.any():
        raise ValueError(f"An output is {y[wrong][0]}; there are {count}, 0 to {count - 1}. Give a network with more logits, or weight 0.")


def check_distinct(x: Any, weight: Any) -> None:
    """Raises ValueError if a number stands twice among inputs x [B, T] or [1, T], at steps whose weight [B, T] is not 0."""
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer) or not concrete(x, weight):
        return
    others = -1 - np.arange(x.shape[1])  # no row of an embedding has a negative number
    ordered = np.sort(np.where(np.asarray(weight) != 0, x, others), axis=1)
    twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
    if twice.size:
        raise ValueError(
            f"Input {twice[0]} comes twice in a sequence, and the form of the loop was promised that none does. "
            "Give form=Dual(distinct=False)."
        )


def _shapes(weights: Any) -> tuple[tuple, Any]:
    leaves, tree = jax.tree.flatten(weights)
    return tuple(jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves), tree


@partial(jax.jit, static_argnums=(0, 1, 2))
def _rows_asked(network: Any, tree: Any, shapes: tuple, x: jax.Array) -> list[tuple[jax.Array, int]]:
    """Of every embedding whose row number depends on the input alone: (row numbers [B T, ...], how many rows it has)."""
    weights = jax.tree.unflatten(tree, shapes)
    program = capture(as_function(network).apply, weights, jax.ShapeDtypeStruct(x.shape[2:], x.dtype))
    depends = program.depends()
    rows = [(var, count) for var, count in program.rows if depends(var) == {"x"}]
    asked = jax.vmap(lambda x: program.evaluate({}, x, [var for var, _ in rows], {}))(x.reshape(-1, *x.shape[2:]))
    return [(index, count) for index, (_, count) in zip(asked, rows)]


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _outputs(network: Any, likelihood: Likelihood, tree: Any, shapes: tuple, x: Any) -> int:
    """How many outputs there are; 0 if the likelihood, which cannot be drawn from, does not say."""
    weights = jax.tree.unflatten(tree, shapes)
    try:
        return jax.eval_shape(lambda weights, x: likelihood.log_probs(paid(as_function(network).apply(weights, x))), weights, x).shape[0]
    except NotImplementedError:
        return 0
