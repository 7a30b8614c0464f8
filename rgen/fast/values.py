"""Whether inputs and outputs are in range, where that can be seen: in arrays that are not traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rgen.fast.capture import capture
from rgen.likelihood import Likelihood
from rgen.sequence import Sequence, paid


def concrete(*arrays: Any) -> bool:
    """Whether their values can be seen."""
    return not any(isinstance(a, Tracer) for a in arrays)


def check_inputs(apply: Callable, weights: Any, x: Any) -> None:
    """Raises ValueError if inputs x [B, T, ...] ask an embedding of theirs for a row that it does not have.

    Rows are looked at whose number depends on the input alone.
    """
    if not concrete(x):
        return
    program = capture(apply, weights, jax.ShapeDtypeStruct(x.shape[2:], jnp.result_type(x)))
    depends = program.depends()
    rows = [(var, count) for var, count in program.rows if depends(var) == {"x"}]
    if not rows:
        return
    inputs = np.unique(np.asarray(x).reshape(-1, *x.shape[2:]), axis=0)
    with jax.ensure_compile_time_eval():
        asked = jax.vmap(lambda x: program.evaluate({}, x, [var for var, _ in rows], {}))(jnp.asarray(inputs))
    for index, (_, count) in zip(map(np.asarray, asked), rows):
        wrong = ((index < 0) | (index >= count)).reshape(len(inputs), -1).any(1)
        if wrong.any():
            raise ValueError(
                f"An input is {inputs[wrong][0].tolist()}, which asks an embedding of {count} rows for row {index[wrong][0].item()}; "
                f"its rows are 0 to {count - 1}. Give inputs in that range, or a larger embedding."
            )


def check_outputs(likelihood: Likelihood, apply: Callable, weights: Any, seqs: Sequence) -> None:
    """Raises ValueError if an output y [B, T] whose weight is not 0 is none of the K that the likelihood has."""
    if not concrete(seqs.y, seqs.weight):
        return
    one = jax.ShapeDtypeStruct(seqs.x.shape[2:], jnp.result_type(seqs.x))
    try:
        count = jax.eval_shape(lambda weights, x: likelihood.log_probs(paid(apply(weights, x))), weights, one).shape[0]
    except NotImplementedError:  # a likelihood that cannot be drawn from has outputs of its own kind
        return
    y = np.asarray(seqs.y)
    wrong = ((y < 0) | (y >= count)) & (np.asarray(seqs.weight) != 0)
    if wrong.any():
        raise ValueError(f"An output is {y[wrong][0]}; there are {count}, 0 to {count - 1}. Give a network with more logits, or weight 0.")
