"""The cost model: what is taken over, kept or folded, and how much of it at once.

Costs are counted in numbers read and written at a step of one sequence, which is what bounds a step: its products are matrix times
vector. Of a layer with kernel [m, n]:

  carried as an ordinary fast weight    6 m n                           read forward and backward, written, kept for the reverse sweep
  taps kept, in K chunks                (1 + 1 / K) T (m + n)           x and g of the T / 2 steps before, each read twice,
                                        + 2 m n / M                     and the initialization, read twice for M sequences at once
  taps of a chunk of C, then folded     2 m n + 3 m n / C + C (m + n)   weights read twice, and formed once a chunk

A layer that does not learn in the inner loop has no past to read: its taps are kept for its derivative only. A layer whose inputs are
foreseen reads g alone, and its weights for all steps of a chunk together: kept, they are the same for all sequences, and cost nothing;
folded, they are each sequence's own, and count 4 m n: in products of few columns, read and formed forward and in reverse.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rgen.batching import shards_of
from rgen.fast.capture import Layer
from rgen.hardware import Hardware

STEPS = 16
"""About how many steps a folded chunk has, and a part of the reverse sweep: fewer fold too often, more read too much in vain."""
KEPT = {True: (4, 32), False: (8, 16)}
"""On CPUs, when taps are kept, with and without a reverse sweep: at most so many chunks, of at least so many steps. Each chunk is compiled
by itself; K of them read 1 + 1/K times the taps that had to be read, in more and smaller products."""
LEAST = {True: 4, False: 32}
"""On CPUs, when taps are kept, with and without a reverse sweep: at least so many sequences at once, which share the reading of the
initialization."""


@dataclass(frozen=True)
class Costs:
    """The choices for sequences [batch, length] on some devices; `form` is the `Dual` that may have made some of them."""

    form: Any
    hardware: Hardware
    batch: int
    length: int
    gradient: bool

    def chunk(self, fold: bool) -> int:
        """Steps of a chunk."""
        pieces = math.ceil(self.length / self._pieces)
        return min(self.form.chunk or (even(self.length, STEPS) if fold else pieces), self.length)

    @property
    def _pieces(self) -> int:
        if self.hardware.platform != "cpu":
            return 1  # what is launched counts there, not what is read, and every chunk is a program of its own
        most, least = KEPT[self.gradient]
        return max(1, min(most, self.length // least))

    def of(self, layer: Layer, fold: bool) -> float:
        """What it costs to take over a layer."""
        read = 0 if layer.foreseen else 2 * layer.size
        if fold:
            chunk = self.chunk(True)
            own = 4 * layer.size if layer.foreseen else read + 3 * layer.size / chunk
            return own + chunk * layer.tap_size
        share = self.batch // shards_of(self.batch, self.hardware.devices)
        together = min(share, LEAST[self.gradient]) if self.hardware.platform == "cpu" else share
        return read / together + (1 + 1 / self._pieces) * self.length * layer.tap_size

    def worth(self, layers: dict[int, Layer], fold: bool) -> list[Layer]:
        """Those that cost less than carrying their weights."""
        everything = self.form.every_layer
        return [la for la in layers.values() if everything or la.foreseen or self.of(la, fold) < 6 * la.size]

    def folds(self, layers: dict[bool, dict[int, Layer]]) -> bool:
        """Whether to fold, from the layers that there are in either case: those that are worth it in one of them decide."""
        if self.form.fold is not None:
            return self.form.fold
        either = {layer.leaf for fold in layers for layer in self.worth(layers[fold], fold)}
        return min(layers, key=lambda fold: sum(self.of(layers[fold][leaf], fold) for leaf in either & layers[fold].keys()))

    def state(self, layers: Collection[Layer], fold: bool, own: frozenset[int]) -> int:
        """Numbers that are read again and again of a sequence, inputs of the layers `own` among them."""
        learning = [layer for layer in layers if layer.learns]
        state = sum(layer.size if fold else self.length * layer.tap_size for layer in learning)
        state += sum(self.length * layer.heads * layer.taps * layer.width for layer in learning if layer.leaf in own)
        if self.hardware.platform != "cpu":
            # written, and read once by the reverse sweep
            state += sum(self.length * layer.tap_size for layer in layers if not layer.learns)
        return state

    def micro_batch(self, state: int, fold: bool) -> int:
        """How many sequences are run at once if each has `state` numbers that are read again and again.

        The reverse sweep needs about four times the taps. On a CPU as many for each device as keep these near the cache (8 times the
        second level, of which each core has its own), but not too few. On accelerators as many as half the memory holds. Of the numbers
        near that one, one that divides the sequences of a device is taken.
        """
        if self.form.micro_batch is not None:
            return min(self.form.micro_batch, self.batch)
        devices, cpu = shards_of(self.batch, self.hardware.devices), self.hardware.platform == "cpu"
        share = self.batch // devices
        room = 8 * self.hardware.cache if cpu else self.hardware.memory / 2
        most = max(1, int(room / (4 * 4 * max(1, state))))  # four times the taps, of 4 bytes each
        if cpu:
            most = max(1 if fold else LEAST[self.gradient], most)
        if most >= share:
            return self.batch
        exact = [size for size in range(math.ceil(most / 2), 2 * most) if share % size == 0]
        return devices * (min(exact, key=lambda size: abs(size - most)) if exact else even(share, most))


def even(length: int, size: int) -> int:
    """About `size`, so that pieces of it fill the length as exactly as they can."""
    return math.ceil(length / math.ceil(length / size))
