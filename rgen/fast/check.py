"""Does the dual form give the direct form's numbers for a network of one's own?"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgen.fast.dual import Dual
from rgen.fast.loop import Direct, InnerLoop, Params
from rgen.sequence import Array, PyTree, Sequence


class Check(NamedTuple):
    """How far the two forms differ, relative to the largest number of each array; and what the dual form did.

    Attributes:
      nats, gradient: the largest relative difference of the nats, and of MAML's gradient.
      limit: what rounding explains.
      taken, carried: paths of the weights that learn and are taken over, and that are carried as ordinary fast weights.
    """

    nats: float
    gradient: float
    limit: float
    taken: tuple[str, ...]
    carried: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether rounding explains the difference."""
        return max(self.nats, self.gradient) <= self.limit

    def __str__(self) -> str:
        verdict = "agree" if self.same else "DIFFER: use form='direct' and report the network"
        return (
            f"The forms {verdict}: nats by {self.nats:.1e}, gradients by {self.gradient:.1e} (rounding explains {self.limit:.0e}). "
            f"Taken over: {', '.join(self.taken) or 'nothing'}. Carried: {', '.join(self.carried) or 'nothing'}."
        )


def check(loop: InnerLoop, x: Array, steps: int = 8, seed: int = 0) -> Check:
    """Compares both forms on the first steps of a network, with random outputs, from a random initialization.

    All that can be is taken over, in two chunks, to test whatever the dual form may do with the network.

    Args:
      loop: of any form.
      x: [T, ...] inputs of one sequence.
      steps: how many of them are used.
      seed: of the initialization and the outputs.
    Raises:
      ValueError: as `InnerLoop.init` and `InnerLoop.score`; or the loop has more than plain SGD, which only the direct form computes.
    """
    if not loop.plain:
        raise ValueError("The inner loop has an optimizer, inner_clip or inner_decay: only the direct form computes it.")
    x = jnp.asarray(x)[:steps]
    form = loop.form if isinstance(loop.form, Dual) else Dual()
    dual = replace(loop, form=replace(form, chunk=(len(x) + 1) // 2, fold=False, every_layer=True))
    direct = replace(loop, form=Direct())
    params = loop.init(jax.random.key(seed), x[0])
    y = direct.sample(params, x[None], jax.random.split(jax.random.key(seed + 1), 1)).y
    seqs = Sequence(x[None], y, jnp.ones(y.shape))

    @partial(jax.jit, static_argnums=0)
    def nats_and_gradient(loop: InnerLoop, params: Params) -> tuple[PyTree, Any]:
        nats, pull = jax.vjp(lambda params: loop.score(params, seqs), params)
        return nats, pull(jnp.ones_like(nats))

    (a, by_a), (b, by_b) = (nats_and_gradient(loop, params) for loop in (dual, direct))
    planned = dual.form.plan(dual, params.init, seqs.x)
    names = planned.program.names
    taken = sorted(names[leaf] for layer in planned.learning.values() for leaf in layer.leaves)
    carried = tuple(names[leaf] for leaf in planned.carried)
    limit = 1e4 * max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
    return Check(_apart(a, b), _apart(by_a, by_b), limit, tuple(taken), carried)


def _apart(ours: Any, theirs: Any) -> float:
    """The largest difference of two trees, relative to the largest number of each array; infinite where one is not a number."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        difference, size = np.abs(np.asarray(a, float) - b).max(initial=0), np.abs(b).max(initial=0)
        worst = max(worst, np.inf if np.isnan(difference) else float(difference / (size or 1)))
    return worst
