"""What a machine can do, measured, and the least work that a meta-gradient needs: how far a time is from the limit."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgen.devices import place
from rgen.fast import Direct, Dual, InnerLoop
from rgen.fast.plan import Purpose
from rgen.sequence import Sequence, with_context


class Work(NamedTuple):
    """Floating point operations, and bytes read and written."""

    flops: float
    bytes: float


class Limits(NamedTuple):
    """Of all devices together: float32 operations a second in matrix products, and bytes a second read from memory."""

    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """The time that some work takes at least, if all its bytes come from memory."""
        return max(work.flops / self.flops, work.bytes / self.bytes)

    def __str__(self) -> str:
        return f"Limits measured: {self.flops / 1e9:.0f} GFLOP/s in matrix products, {self.bytes / 1e9:.1f} GB/s read from memory"


def measure(side: int = 2048, megabytes: int = 256) -> Limits:
    """Measures both, on every device at once: the best of a few runs of a few products each."""
    devices, rows = jax.device_count(), megabytes * 2**18 // 512 // jax.device_count()
    ones: Any = np.ones
    _, (squares, tall) = place((), (ones((devices, side, side), np.float32), ones((devices, rows, 512), np.float32)))

    def products(a):
        return jax.lax.fori_loop(0, 4, lambda _, b: b @ a / side, a)

    def reads(a):
        # each reading depends on the one before, so that none is left out
        return jax.lax.fori_loop(0, 4, lambda _, v: v + (a @ v)[:, :512] / side, jnp.ones((devices, 512, 1)))

    return Limits(4 * devices * 2 * side**3 / _best(products, squares), 4 * tall.nbytes / _best(reads, tall))


def timed(call: Callable[[], Any]) -> float:
    """Seconds until all that a call computes is there."""
    before = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - before


def _best(function: Callable, argument: jax.Array) -> float:
    call = jax.jit(function).lower(argument).compile()
    return min(timed(lambda: call(argument)) for _ in range(6))  # the first of them warms up


def least_work(loop: InnerLoop, algorithm: str, params: Any, seqs: Sequence) -> Work:
    """What a meta-gradient, or the drawing of samples, needs at least, counting Dense layers only: everything else is small beside them.

    For each step of a sequence and a layer with P = m n weights, R = m + n numbers in a tap, and T / 2 taps on average:

      direct           6 P operations, 3 P numbers: read forward, read backward, read and written by the update in one go
      dual, kept       4 P + 2 T R operations, T R + 2 P / B numbers: the initialization is read once for the whole batch
      dual, folded     4 P + 2 P operations, 2 P numbers: the update of a chunk is a product of its own
      dual, foreseen   4 P + T n operations, T n / 2 + 2 P / B numbers: only the cotangents of the steps before are read, and once; with
                       the chunk instead of T if it is folded, and 2 P / chunk more numbers
      carried          as direct
      does not learn   4 P operations, 2 P / B numbers; 2 P and P / B if it is only read before or after the inner loop

    MAML does it again in reverse, and adds up the gradient: 4 P operations. The direct form with rematerialization runs forward twice,
    and its reverse sweep is a tangent of the step beside the step itself: four times the work.
    """
    batch, length = seqs.y.shape
    seqs = seqs._replace(x=with_context(seqs.x, None if algorithm == "sample" else seqs.y, loop.context))
    reverse, direct = algorithm == "maml", isinstance(loop.form, Direct)
    gradient = algorithm in ("maml", "first-order-maml")
    dual = replace(loop, form=Dual(distinct=True)) if direct else loop
    plan = dual.form.plan(dual, params.init, seqs.x, batch, Purpose(gradient, algorithm == "sample"))
    planned = {layer.leaf: layer for layer in plan.layers}
    flops = numbers = 0.0
    for found in plan.program.layers():
        layer = planned.get(found.leaf, found)
        if layer.embed:
            continue
        weights, tap, window = layer.size, layer.tap_size, plan.chunk if plan.fold else length
        outside = layer.leaf not in (*planned, *plan.carried, *plan.fixed)
        if outside and not direct:
            flops, numbers = flops + (6 if gradient else 2) * weights, numbers + (3 if gradient else 1) * weights / batch
            continue
        own = direct or layer.leaf not in planned
        if outside or not layer.learns:
            computing, reading = 4 * weights, 2 * weights / batch
        elif own:
            computing, reading = 6 * weights, 3 * weights
        elif layer.foreseen:
            computing, reading = 4 * weights + window * tap, window * tap / 2 + 2 * weights / batch + plan.fold * 2 * weights / window
        elif plan.fold:
            computing, reading = 6 * weights, 2 * weights
        else:
            computing, reading = 4 * weights + 2 * length * tap, length * tap + 2 * weights / batch
        times = (4 if own else 2) if reverse else 1
        flops += times * computing + (4 * weights if reverse and not own else 0)
        numbers += times * reading
    return Work(batch * length * flops, 4 * batch * length * numbers)
