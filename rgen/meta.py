"""Meta-gradients: how the initialization learns. Each returns (mean nats of a sequence, gradient shaped like the parameters).

All sum over the T steps and average over the B sequences, as the original program does.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rgen.batching import group_rows
from rgen.fast import Dual, InnerLoop, Params, dual
from rgen.fast.plan import Purpose
from rgen.sequence import PyTree, Sequence, SequenceModel

MetaGradient = Callable[..., tuple[jax.Array, Any]]


def maml(model: SequenceModel, params: PyTree, seqs: Sequence) -> tuple[jax.Array, Any]:
    """The exact gradient of the score, through all inner steps; for a baseline, ordinary backpropagation.

    Source: Finn et al. 2017, arXiv:1703.03400.
    """
    if isinstance(model, InnerLoop):
        model.checked(params, seqs)  # here values can be seen, and what is out of range be said
    return _maml(model, params, seqs)


@partial(jax.jit, static_argnums=0, inline=True)
def _maml(model: SequenceModel, params: PyTree, seqs: Sequence) -> tuple[jax.Array, Any]:
    batch = size = len(seqs.y)
    devices, score, times = 1, model.score, 1
    if isinstance(model, InnerLoop):
        x, times = seqs.x, model.inner_steps  # outputs are paid when a step comes first
        seqs, score = model.read(params, seqs), partial(model.form.score, model)
        if isinstance(model.form, Dual):
            plan = model.form.plan(model, params.init, x, batch)
            size, devices, score = plan.micro_batch, plan.devices, partial(dual.score, plan)
    sum_and_grad = jax.value_and_grad(lambda params, seqs: score(params, seqs)[:, ::times].sum())
    if batch <= size:
        total = sum_and_grad(params, seqs)
    else:
        # what the forward pass keeps for the backward pass is then kept for `size` sequences only
        parts = group_rows(seqs, size, devices)
        add = partial(jax.tree.map, jnp.add)
        # the default float, as logits may be wider than the parameters
        start = jnp.zeros((), float), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(lambda total, part: (add(total, sum_and_grad(params, part)), None), start, parts)
    return jax.tree.map(lambda a: a / batch, total)


def first_order_maml(loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[jax.Array, Params]:
    """MAML with the inner gradients taken as constants: the mean over sequences of the sum of all inner gradients.

    With one fixed inner rate this is Reptile's gradient divided by the rate, since every step is taken once and scored once.
    Unlike Reptile it has a gradient for learned rates.
    """
    return maml(replace(loop, first_order=True), params, seqs)


def reptile(loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[jax.Array, Params]:
    """The initialization minus the mean of the final fast weights. Rates get a gradient of zero: Reptile has none for them.

    What the inner loop does not descend is not trained: of a network that returns a `rgen.sequence.Prediction`, nothing learns to predict.

    Source: Nichol et al. 2018, arXiv:1803.02999.
    """
    if not loop.plain:
        raise ValueError("Reptile takes inner steps of plain SGD: leave out the optimizer, inner_clip and inner_decay, or use MAML.")
    if loop.fast is not None:
        raise ValueError(f"Only {', '.join(loop.fast)} learns in the inner loop; Reptile needs weights that all do.")
    loop.checked(params, seqs)  # as in `maml`
    return _reptile(loop, params, seqs)


@partial(jax.jit, static_argnums=0, inline=True)
def _reptile(loop: InnerLoop, params: Params, seqs: Sequence) -> tuple[jax.Array, Params]:
    if isinstance(loop.form, Dual):
        steps = loop.read(params, seqs)
        plan = loop.form.plan(loop, params.init, seqs.x, len(seqs.y), Purpose(gradient=False))
        init, nll = dual.drift(plan, params, steps)
        nll = loop.by_output(nll, seqs)
    else:
        fast, nll = loop.adapt(params, seqs)
        # the mean of differences, not the difference of means: in float32 it keeps more digits
        init = jax.tree.map(lambda init, fast: (init - fast).mean(0), params.init, fast)
    return nll.sum(1).mean(), Params(init, jax.tree.map(jnp.zeros_like, params.rates))


ALGORITHMS: dict[str, MetaGradient] = {"maml": maml, "first-order-maml": first_order_maml, "reptile": reptile}
