"""A sampler with its weights in one file that runs without this package, by `jax.export`."""

import jax
import jax.numpy as jnp
from jax import export as jax_export

from rgen.sampling import Sampler
from rgen.sequence import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")


def export(sampler: Sampler, params: PyTree) -> bytes:
    """Serializes (seed uint32 [], numbers int32 [B]) -> (outputs uint8 [B, *shape], nats float32 [B]) for any B.

    Sample number k is the one that `rgen sample` draws, up to the rounding of a device. `bin/run_exported.py` shows how it is used.
    """

    def draw(seed: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        # one sequence at a time, mapped: what is planned from the size of a batch needs a number
        values, nats = jax.vmap(lambda k: sampler.draw(params, seed, k[None]))(numbers)
        return values[:, 0], nats[:, 0]

    (batch,) = jax_export.symbolic_shape("B")
    shapes = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    return bytes(jax_export.export(jax.jit(draw), platforms=PLATFORMS)(*shapes).serialize())
