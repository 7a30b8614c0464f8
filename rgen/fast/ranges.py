"""Whether inputs and outputs are in range, where that can be seen: in arrays that are not traced."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rgen.fast.capture import capture
from rgen.fast.functions import as_function
from rgen.likelihood import Likelihood
from rgen.sequence import PyTree, Sequence, WithOutputs, paid


def concrete(*arrays: Any) -> bool:
    """Whether their values can be seen, all of them, by this process."""
    return not any(isinstance(a, Tracer) or not getattr(a, "is_fully_addressable", True) for a in arrays)


def check_inputs(network: Any, weights: PyTree, x: PyTree) -> None:
    """Raises ValueError if inputs x [B, T, ...] ask an embedding of theirs for a row that it does not have."""
    if not concrete(*jax.tree.leaves(x)):
        return
    batch = max(map(len, jax.tree.leaves(x)))
    places = jax.tree.map(lambda a: np.broadcast_to(a, (batch, *a.shape[1:])).reshape(-1, *a.shape[2:]), x)
    count_of_places = batch * jax.tree.leaves(x)[0].shape[1]
    asked, counts, _ = _look(network, weights, x)
    with jax.ensure_compile_time_eval():  # also while something else is traced
        found = [np.asarray(index).reshape(count_of_places, -1) for index in asked(places)]
    for index, count in zip(found, counts):
        beyond = (index < 0) | (index >= count)
        if beyond.any():
            inputs = places.x if isinstance(places, WithOutputs) else places
            raise ValueError(
                f"An input is {inputs[beyond.any(1)][0].tolist()}, which asks an embedding of {count} rows for row {index[beyond][0]}; "
                f"its rows are 0 to {count - 1}. Give inputs in that range, or a larger embedding."
            )


def check_outputs(network: Any, likelihood: Likelihood, weights: PyTree, seqs: Sequence) -> None:
    """Raises ValueError if an output y [B, T] whose weight is not 0 is none of the K that the likelihood has."""
    if not concrete(seqs.y, seqs.weight):
        return
    _, _, out = _look(network, weights, seqs.x)
    try:
        count = jax.eval_shape(likelihood.log_probs, paid(out)).shape[0]
    except NotImplementedError:
        return  # a likelihood that cannot be drawn from does not say
    y = np.asarray(seqs.y)
    wrong = ((y < 0) | (y >= count)) & (np.asarray(seqs.weight) != 0)
    if wrong.any():
        raise ValueError(f"An output is {y[wrong][0]}; there are {count}, 0 to {count - 1}. Give a network with more logits, or weight 0.")


def check_distinct(x: PyTree, weight: Any) -> None:
    """Raises ValueError if a number stands twice among inputs x [B, T] or [1, T], at steps whose weight [B, T] is not 0."""
    if isinstance(x, WithOutputs) or x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer) or not concrete(x, weight):
        return
    others = -1 - np.arange(x.shape[1])  # no row of an embedding has a negative number
    ordered = np.sort(np.where(np.asarray(weight) != 0, x, others), axis=1)
    twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
    if twice.size:
        raise ValueError(
            f"Input {twice[0]} comes twice in a sequence, and the form of the loop was promised that none does. "
            "Give form=Dual(distinct=False)."
        )


def _look(network: Any, weights: PyTree, x: PyTree) -> tuple[Callable, list[int], Any]:
    leaves, tree = jax.tree.flatten(weights)
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves)
    inputs, of_inputs = jax.tree.flatten(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], jnp.result_type(a)), x))
    return _look_at(network, tree, shapes, of_inputs, tuple(inputs))


@lru_cache
def _look_at(network: Any, tree: PyTree, shapes: tuple, of_inputs: Any, inputs: tuple) -> tuple[Callable, list[int], Any]:
    """(function of inputs [N, ...]: the row numbers [N, ...] in every embedding that depend on them alone; how many rows each of these has;
    what the network returns, as shapes)."""
    x = jax.tree.unflatten(of_inputs, inputs)
    program = capture(as_function(network).apply, jax.tree.unflatten(tree, shapes), x)
    depends = program.depends()
    rows = [(var, count) for var, count in program.rows if depends(var) and depends(var) <= program.inputs]
    asked = jax.jit(jax.vmap(lambda x: program.evaluate({}, x, [var for var, _ in rows], {})))
    outs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in program.closed.out_avals]
    return asked, [count for _, count in rows], jax.tree.unflatten(program.tree, outs)
