"""The cost model: what is taken over, kept or folded, and how much of it at once.

Costs are counted in numbers read and written per step of one sequence, which is what bounds a step. Of a layer with kernel [m, n]:

  carried as an ordinary fast weight    6 m n                           read forward and backward, written, kept for the reverse sweep
  taps kept, in K chunks                (1 + 1 / K) T (m + n)           x and g of the T / 2 steps before, each read twice,
                                        + 2 m n / M                     and the initialization, read twice for M sequences at once
  taps of a chunk of C, then folded     2 m n + 3 m n / C + C (m + n)   weights read twice, and formed once a chunk

A foreseen layer reads g alone, and its weights once a chunk: kept, all sequences share them, at no cost; folded, they count 4 m n.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rgen.batching import shards_of
from rgen.fast.capture import Layer
from rgen.hardware import Hardware

STEPS = 16
"""About how many steps a folded chunk has, and a part of the reverse sweep: fewer fold too often, more read masked taps."""
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

    @property
    def cpu(self) -> bool:
        return self.hardware.platform == "cpu"

    @property
    def pieces(self) -> int:
        """Chunks of taps that are kept."""
        if not self.cpu:
            return 1  # what is launched counts there, not what is read, and every chunk is a program of its own
        most, least = KEPT[self.gradient]
        return max(1, min(most, self.length // least))

    def chunk(self, fold: bool) -> int:
        """Steps of a chunk."""
        chosen = even(self.length, STEPS) if fold else math.ceil(self.length / self.pieces)
        return min(self.form.chunk or chosen, self.length)

    def of(self, layer: Layer, fold: bool) -> float:
        """What it costs to take over a layer."""
        read = 0 if layer.foreseen else 2 * layer.size
        if fold:
            chunk = self.chunk(True)
            return (4 * layer.size if layer.foreseen else read + 3 * layer.size / chunk) + chunk * layer.tap_size
        share = self.batch // shards_of(self.batch, self.hardware.devices)
        together = min(share, LEAST[self.gradient]) if self.cpu else share
        return read / together + (1 + 1 / self.pieces) * self.length * layer.tap_size

    def worth(self, layers: Iterable[Layer], fold: bool) -> list[Layer]:
        """Of the layers that learn, those that cost less than carrying their weights."""
        everything = self.form.every_layer
        return [la for la in layers if la.learns and (everything or la.foreseen or self.of(la, fold) < 6 * la.size)]

    def folds(self, layers: dict[bool, list[Layer]]) -> bool:
        """Whether to fold, from the layers that there are in either case: those that are worth it in one of them decide."""
        if self.form.fold is not None:
            return self.form.fold
        either = {layer.leaf for fold in layers for layer in self.worth(layers[fold], fold)}
        costs = {fold: sum(self.of(la, fold) for la in layers[fold] if la.learns and la.leaf in either) for fold in layers}
        return costs[True] < costs[False]

    def micro_batch(self, layers: Iterable[Layer], fold: bool, unshared: Collection[int]) -> int:
        """How many sequences are run at once; `unshared`: foreseen layers whose inputs are not the same for all sequences.

        The reverse sweep needs about four times the numbers that are read again and again: taps, folded weights, foreseen inputs. On CPUs
        as many per device as fit into 8 times the second-level cache, but not too few; on accelerators, into half the memory. If a number
        near that one divides the sequences of a device, it is taken.
        """
        if self.form.micro_batch is not None:
            return min(self.form.micro_batch, self.batch)
        state = 1
        for layer in layers:
            if layer.learns:
                state += layer.size if fold else self.length * layer.tap_size
            elif not self.cpu:  # written, and read once by the reverse sweep
                state += self.length * layer.tap_size
            if layer.leaf in unshared:
                state += self.length * layer.heads * layer.taps * layer.width
        devices = shards_of(self.batch, self.hardware.devices)
        share = self.batch // devices
        room = 8 * self.hardware.cache if self.cpu else self.hardware.memory / 2
        least = LEAST[self.gradient] if self.cpu and not fold else 1
        most = max(least, int(room / (4 * 4 * state)))  # four times, of 4 bytes each
        if most >= share:
            return self.batch
        exact = [size for size in range(math.ceil(most / 2), 2 * most) if share % size == 0]
        return devices * (min(exact, key=lambda size: abs(size - most)) if exact else even(share, most))


def even(length: int, size: int) -> int:
    """About `size`, so that pieces of it fill the length as exactly as they can."""
    return math.ceil(length / math.ceil(length / size))
