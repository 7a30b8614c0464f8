"""Where arrays live: the rows of a batch spread over the devices, parameters on each of them."""

from functools import cache
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rgen.sequence import shards_of


@cache
def shardings(batch: int) -> tuple[NamedSharding, NamedSharding]:
    """Where parameters lie, and where a batch, for `batch` rows: they are spread over as many devices as divide them."""
    devices = jax.devices()[: shards_of(batch)]
    # with JAX's default, explicit axes, the gathers of an embedding raise
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def even_batch(batch: int, total: int) -> int:
    """The size of the batches in which `total` rows are run, `batch` at most, but rounded up so that all devices have as many."""
    devices, batch = jax.device_count(), min(batch, total)
    return -(-batch // devices) * devices if batch >= devices else batch


def place(params: Any, rows: Any) -> tuple[Any, Any]:
    """Puts parameters and a batch, arrays [B, ...], where `shardings` says. What is there already stays."""
    everywhere, spread = shardings(len(jax.tree.leaves(rows)[0]))
    return jax.device_put(params, everywhere), jax.device_put(rows, spread)
