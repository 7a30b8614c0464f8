"""A sampler with its weights in one file that runs without this package, by `jax.export`."""

import jax
import jax.numpy as jnp
from jax import export as jax_export

from rgen.choices import Kind
from rgen.sampling import Sampler
from rgen.sequence import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")


def export(sampler: Sampler, params: PyTree, kind: Kind = "array") -> bytes:
    """Serializes (seed uint32 [], numbers int32 [B]) -> (outputs uint8 [B, *shape], nats float32 [B]) for any B.

    Sample number k is the one that `rgen sample` draws, up to the rounding of a device. The function is called draw_text, draw_image or
    draw_array, by the kind of data. `bin/run_exported.py` shows how it is used.
    """

    def draw(seed: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        # one sequence at a time, mapped: what is planned from the size of a batch needs a number
        values, nats = jax.vmap(lambda k: sampler.draw(params, seed, k[None]))(numbers)
        return values[:, 0], nats[:, 0]

    draw.__name__ = f"draw_{kind}"
    (batch,) = jax_export.symbolic_shape("B")
    shapes = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    return bytes(jax_export.export(jax.jit(draw), platforms=PLATFORMS)(*shapes).serialize())
