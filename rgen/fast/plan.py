"""How the dual form is run: which layers are taken over, in which chunks, how many sequences at once."""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import traverse_util

from rgen.fast.taps import Layer, Path, find_layers, foresee, learns
from rgen.likelihood import Likelihood
from rgen.sequence import shards_of


@dataclass(frozen=True)
class Engine:
    """The static side of the dual form.

    Attributes:
      layers: those taken over, by path.
      late: whether what is paid is computed after the inner loop, from the outputs of foreseen layers.
      outside: names of the weights that are used outside of the inner loop only: before it, for the inputs of foreseen layers, or late.
      chunk, chunks: steps of a chunk, and how many chunks there are; together they may be longer than the sequences.
      part: the reverse sweep cuts chunks into parts of this length, which divides theirs.
      fold: whether the taps of finished chunks are folded into weights for each sequence.
      micro_batch: how many sequences are run at once.
      precision: as in `InnerLoop`.
      shared: whether all sequences have the same inputs x.
    """

    network: nn.Module
    likelihood: Likelihood
    layers: tuple[tuple[Path, Layer], ...]
    late: bool
    outside: frozenset[Path]
    chunk: int
    chunks: int
    part: int
    fold: bool
    micro_batch: int
    first_order: bool
    precision: str = "float32"
    shared: bool = False

    @property
    def learning(self) -> dict[Path, Layer]:
        """The layers that change in the inner loop."""
        return {path: layer for path, layer in self.layers if layer.learns}

    @property
    def foreseen(self) -> dict[Path, Layer]:
        """Of these, those whose inputs are known before it begins."""
        return {path: layer for path, layer in self.layers if layer.foreseen}

    @property
    def length(self) -> int:
        return self.chunk * self.chunks


@dataclass(frozen=True)
class Choice:
    """What is set by hand; None leaves it to the cost model."""

    chunk: int | None = None
    fold: bool | None = None
    micro_batch: int | None = None
    every_layer: bool = False
    """Take over every layer that can be, also where carrying its weights costs less."""


COST_MODEL = Choice()
STEPS = 16
"""About how many steps a folded chunk has, and a part of the reverse sweep: fewer fold too often, more read too much in vain."""
KEPT = {True: (4, 32), False: (8, 16)}
"""When taps are kept, with and without a reverse sweep: at most so many chunks, of at least so many steps. Each chunk is compiled by
itself; K of them read 1 + 1/K times the taps that had to be read, in more and smaller products."""
LEAST = {True: 4, False: 32}
"""On CPUs, when taps are kept, with and without a reverse sweep: at least so many sequences at once, which share the reading of the
initialization."""


def plan(
    loop: Any, weights: Any, x: Any, gradient: bool = True, drawn: bool = False, adapted: bool = False, batch: int | None = None
) -> Engine:
    """Chooses, from T, B, the widths and the device, what costs least.

    Costs are counted in numbers read and written at a step of one sequence, which is what bounds a step: its products are matrix
    times vector. Of a layer with kernel [m, n]:

      carried as an ordinary fast weight    6 m n                           read forward and backward, written, kept for the reverse sweep
      taps kept, in K chunks                (1 + 1 / K) T (m + n)           x and g of the T / 2 steps before, each read twice,
                                            + 2 m n / M                     and the initialization, read twice for M sequences at once
      taps of a chunk of C, then folded     2 m n + 3 m n / C + C (m + n)   weights read twice, and formed once a chunk

    A layer that does not learn in the inner loop has no past to read: its taps are kept for its derivative only. A layer whose inputs are
    known before the loop begins reads g alone, and its weights once a chunk, for all steps of it together.

    Args:
      loop: an `InnerLoop`.
      x: [B, T, ...] inputs, or [1, T, ...] for all sequences; or their shapes.
      gradient: whether the score will be differentiated.
      drawn: whether outputs are drawn, so that a network's inputs are not known where it reads them.
      adapted: whether the weights after the last step are wanted, of each sequence: then no embedding is read as it was initialized.
      batch: how many sequences there are; None: as many as `x` has rows.
    """
    choice = loop.choice
    rows: int = x.shape[0]
    length = x.shape[1]
    batch = rows if batch is None else batch
    most, least = KEPT[gradient]
    pieces = max(1, min(most, length // least))
    share = batch // shards_of(batch)
    together = min(share, LEAST[gradient]) if jax.default_backend() == "cpu" else share
    folded_chunk = min(choice.chunk or even(length, STEPS), length)

    def cost(layer: Layer, fold: bool) -> float:
        read = 0 if layer.foreseen else 2 * layer.size
        if fold:
            return read + 3 * layer.size / folded_chunk + folded_chunk * layer.tap_size
        return read / together + (1 + 1 / pieces) * length * layer.tap_size

    one = jax.ShapeDtypeStruct(x.shape[2:], x.dtype)
    everywhere = find_layers(loop.network, weights, one)
    once = {path for path, layer in everywhere.items() if layer.fresh and loop.distinct and not adapted}
    sort = partial(sort_out, loop, weights, one, everywhere, gradient=gradient, drawn=drawn)
    # behind an embedding that is read once stands a layer as wide as any: foreseen and folded, the reverse sweep would need its weights of
    # every chunk, so that there the embedding learns as any other; for simplicity also where no reverse sweep follows
    kept = sort(once)
    roles = {False: kept, True: sort(set()) if once else kept}
    taken, costs = {}, {}
    for fold in (False, True) if choice.fold is None else (choice.fold,):
        costs[fold] = {path: cost(layer, fold) for path, layer in roles[fold].learning.items()}
        taken[fold] = worth(roles[fold].learning, costs[fold], choice)
    either = frozenset().union(*taken.values())
    fold = min(costs, key=lambda fold: sum(costs[fold][path] for path in either & costs[fold].keys()))
    layers, (_, static, late, outside) = taken[fold], roles[fold]
    inside = {path: layer for path, layer in static.items() if not any(name[:-1] == path for name in outside)}
    chunk = folded_chunk if fold else min(choice.chunk or math.ceil(length / pieces), length)
    part = even(chunk, STEPS)
    chunk = part * math.ceil(chunk / part)
    state = sum(la.size if fold else length * la.tap_size for la in layers.values())
    if rows == batch:  # each has inputs of its own
        state += sum(length * math.prod(la.heads) * la.taps * la.width for la in layers.values() if la.foreseen)
    if jax.default_backend() != "cpu":
        state += sum(length * la.tap_size for la in static.values())  # written, and read once by the reverse sweep
    micro = min(choice.micro_batch or default_micro_batch(batch, state, 1 if fold else LEAST[gradient]), batch)
    return Engine(
        loop.network,
        loop.likelihood,
        tuple(sorted((layers | inside).items())),
        late,
        frozenset(outside),
        chunk,
        math.ceil(length / chunk),
        part,
        fold,
        micro,
        loop.first_order,
        loop.precision,
        rows < batch,
    )


class Roles(NamedTuple):
    """What becomes of the layers that can be taken over: those that learn, and those that do not; the rest as in `Engine`."""

    learning: dict[Path, Layer]
    static: dict[Path, Layer]
    late: bool
    outside: set[Path]


def sort_out(loop: Any, weights: Any, x: Any, layers: dict[Path, Layer], once: set[Path], gradient: bool, drawn: bool) -> Roles:
    """The roles of a network's layers; `once`: embeddings of the network's input that are read as they were initialized."""
    names = set(traverse_util.flatten_dict(weights))
    learned = {name for name in names if learns(name, loop.fast) and name[:-1] not in once}
    parts: dict[Path, set[bool]] = {}
    for name in names:
        parts.setdefault(name[:-1], set()).add(name in learned)
    found = {path: layer for path, layer in layers.items() if parts[path] == {True}}
    static = {path: replace(layer, learns=False) for path, layer in layers.items() if parts[path] == {False}}
    if not static or (drawn and loop.context):
        return Roles(found, static, False, set())
    dense = {path: layer for path, layer in found.items() if layer.kind == "dense"}
    known, late, outside = foresee(loop.network, weights, x, dense, learned, scored=gradient and not drawn)
    return Roles(found | {path: replace(found[path], foreseen=True) for path in known}, static, late, outside)


def worth(layers: dict[Path, Layer], cost: dict[Path, float], choice: Choice) -> dict[Path, Layer]:
    """Those that cost less than carrying their weights."""
    return {path: la for path, la in layers.items() if choice.every_layer or la.foreseen or cost[path] < 6 * la.size}


def even(length: int, size: int) -> int:
    """About `size`, so that pieces of it fill the length as exactly as they can."""
    return math.ceil(length / math.ceil(length / size))


def default_micro_batch(batch: int, state: int, least: int) -> int:
    """How many sequences are run at once if each has `state` numbers that are read again and again.

    The reverse sweep needs about four times the taps. On a CPU as many for each device as keep these near the cache (8 times the second
    level, of which each core has its own), but not fewer than `least`. On accelerators as many as half the memory holds. Of the numbers
    near that one, one that divides the sequences of a device is taken.
    """
    devices = shards_of(batch)
    share = batch // devices
    most = max(1, int(_room() / (4 * 4 * max(1, state))))  # four times the taps, of 4 bytes each
    if jax.default_backend() == "cpu":
        most = max(least, most)
    if most >= share:
        return batch
    exact = [size for size in range(math.ceil(most / 2), 2 * most) if share % size == 0]
    return devices * (min(exact, key=lambda size: abs(size - most)) if exact else even(share, most))


def _room() -> float:
    """Bytes that what is read at every step may take on one device."""
    if jax.default_backend() == "cpu":
        try:
            return 8 * (os.sysconf("SC_LEVEL2_CACHE_SIZE") or 2**20)
        except (AttributeError, OSError, ValueError):  # not every system tells
            return 8 * 2**20
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 2**34) / 2


def split_weights(weights: Any, layers: dict[Path, Layer], outside: Collection[Path] = ()) -> tuple[dict[Path, dict[str, jax.Array]], Any]:
    """Parts the parameters: (path -> {"kernel", "bias"} of the layers taken over, the others but for those of `outside`)."""
    flat = traverse_util.flatten_dict(weights)
    base, small = {path: {} for path in layers}, {}
    for path, value in flat.items():
        if path[:-1] in layers:
            base[path[:-1]]["bias" if path[-1] == "bias" else "kernel"] = value
        elif path not in outside:
            small[path] = value
    return base, traverse_util.unflatten_dict(small)


def join_weights(base: dict[Path, dict[str, jax.Array]], small: Any, layers: dict[Path, Layer]) -> Any:
    """The way back from `split_weights`."""
    flat = traverse_util.flatten_dict(small)
    for path, layer in layers.items():
        name = "embedding" if layer.kind == "embed" else "kernel"
        flat |= {(*path, name if part == "kernel" else part): value for part, value in base[path].items()}
    return traverse_util.unflatten_dict(flat)
