"""Where arrays live: the rows of a batch spread over the devices, parameters on each of them."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rgen.sequence import shards_of


def place(params: Any, rows: Any) -> tuple[Any, Any]:
    """Puts a batch, arrays [B, ...], on as many devices as divide B, and parameters on all of these. What is there already stays."""
    devices = jax.devices()[: shards_of(len(jax.tree.leaves(rows)[0]))]
    # with JAX's default, explicit axes, the gathers of an embedding raise
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec())), jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
