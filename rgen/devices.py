"""Where arrays are: the rows of a batch are spread over the devices of all processes, parameters are on each of them."""

from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from rgen.batching import shards_of
from rgen.errors import InputError
from rgen.sequence import PyTree

HEARTBEAT = 30  # seconds of silence after which a process counts as lost


def join(how: str) -> None:
    """Makes this process one of several that compute together. Call it before anything else of JAX.

    Args:
      how: "auto", as `jax.distributed.initialize` finds it in the cluster's environment (SLURM, Open MPI, TPU pods); or
        "HOST:PORT,PROCESSES,NUMBER": the address of process 0, how many there are, and which one this is.
    Raises:
      InputError: it is neither, or the others cannot be reached.
    """
    coordinator, processes, number = None, None, None
    if how != "auto":
        try:
            coordinator, processes, number = how.split(",")
            processes, number = int(processes), int(number)
        except ValueError:
            wanted = "auto, or HOST:PORT,PROCESSES,NUMBER as in 10.0.0.1:1234,2,0"
            raise InputError(f"--distributed is '{how}'; it must be {wanted}.") from None
    try:
        jax.distributed.initialize(coordinator, processes, number, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"The processes of --distributed {how} did not come together: {str(error).splitlines()[0]}") from error


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def sentence() -> str:
    """What a command computes on, printed at its start."""
    count, kind = jax.local_device_count(), jax.local_devices()[0].device_kind
    each = f" in each of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    if jax.default_backend() != "cpu":
        return f"Computing on {count} x {kind}{each}."
    many = "1 CPU device, which uses all cores" if count == 1 else f"{count} CPU devices"
    return f"Computing on {many}{each}; --devices sets how many."


def wait_for_all(what: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def largest(number: float) -> float:
    """The largest of the processes' numbers, to float32."""
    return number if jax.process_count() == 1 else float(multihost_utils.process_allgather(np.float32(number)).max())


def shardings(batch: int, count: int | None = None) -> tuple[NamedSharding, NamedSharding]:
    """Where parameters and a batch of so many rows go: the rows are spread over as many of `count` devices (None: all) as divide them."""
    devices = tuple(jax.devices()[: shards_of(batch, count)])
    if len({device.process_index for device in devices}) < jax.process_count():
        raise InputError(
            f"{batch} sequences do not spread over the {jax.device_count()} devices of {jax.process_count()} processes; "
            f"a multiple of {jax.device_count()} does."
        )
    return shardings_over(devices)


@cache
def shardings_over(devices: tuple[Any, ...]) -> tuple[NamedSharding, NamedSharding]:
    """Whole arrays on each of these devices, and rows spread over them."""
    # with JAX's default, explicit axes, the gathers of an embedding raise
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def even_batch(batch: int, total: int) -> int:
    """The batch size for `total` rows: at most `batch`, rounded up so that all devices get the same number."""
    devices, batch = jax.device_count(), min(batch, total)
    return -(-batch // devices) * devices if batch >= devices or jax.process_count() > 1 else batch


def put(tree: PyTree, where: Sharding) -> PyTree:
    """Puts arrays, the same ones in every process, as a sharding says; each process loads its own part only."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)

    def one(a):
        if isinstance(a, jax.Array) and a.sharding == where:
            return a
        host = np.asarray(a)
        return jax.make_array_from_callback(host.shape, where, lambda part: host[part])

    return jax.tree.map(one, tree)


def place(params: PyTree, rows: Any, count: int | None = None) -> tuple[PyTree, Any]:
    """Puts parameters and a batch, arrays [B, ...], as `shardings` says; nothing is moved that is there already."""
    return put(params, shardings(_rows(rows), count)[0]), place_rows(rows, count)


def place_rows(rows: Any, count: int | None = None) -> PyTree:
    """Puts a batch as `shardings` says; a single row that all share goes to every device."""
    batch = _rows(rows)
    everywhere, spread = shardings(batch, count)
    return jax.tree.map(lambda a: put(a, spread if len(a) == batch else everywhere), rows)


def _rows(rows: Any) -> int:
    return max(map(len, jax.tree.leaves(rows)))


def fetch(array: jax.Array) -> np.ndarray:
    """A whole array, wherever its parts are."""
    whole = array.is_fully_addressable or array.is_fully_replicated
    return np.asarray(array if whole else multihost_utils.process_allgather(array, tiled=True))
