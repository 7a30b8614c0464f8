"""How the dual form is run: which layers are taken over, in which chunks, how many sequences at once."""

import math
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from rgen.fast.taps import Layer, Path, find_layers
from rgen.likelihood import Likelihood


@dataclass(frozen=True)
class Engine:
    """The static side of the dual form.

    Attributes:
      layers: those taken over, by path.
      chunks: lengths of the chunks; all the same if they are folded.
      part: the reverse sweep cuts chunks into parts of this length.
      fold: whether the taps of finished chunks are summed up into weights for each sequence.
      micro_batch: how many sequences are run at once.
    """

    network: nn.Module
    likelihood: Likelihood
    layers: tuple[tuple[Path, Layer], ...]
    chunks: tuple[int, ...]
    part: int
    fold: bool
    micro_batch: int
    first_order: bool


@dataclass(frozen=True)
class Choice:
    """What is set by hand; None leaves it to the cost model."""

    chunk: int | None = None
    fold: bool | None = None
    micro_batch: int | None = None
    every_layer: bool = False
    """Take over every layer that can be, also where carrying its weights costs less."""


COST_MODEL = Choice()


def plan(network: nn.Module, likelihood: Likelihood, weights: Any, x: Any, choice: Choice, first_order: bool) -> Engine:
    """Chooses, from T, B and the widths, what costs least.

    Costs are counted in numbers read and written at a step of one sequence, which is what bounds a step: its products are matrix
    times vector. Of a layer with kernel [m, n]:

      carried as an ordinary fast weight    6 m n            read forward and backward, written, and kept for the reverse sweep
      taps of all steps                     T (m + n)        x and g of the T / 2 steps before, each read forward and backward
      taps of a chunk, the rest folded      2 m n + C (m + n)

    Args:
      x: [B, T, ...] inputs, or their shapes.
    """
    batch, length = x.shape[:2]
    found = find_layers(network, weights, jax.ShapeDtypeStruct(x.shape[2:], x.dtype))
    chunk = min(choice.chunk or default_chunk(length), length)
    taps = {path: min(length * _width(layer), _folded(layer, chunk)) for path, layer in found.items()}
    layers = {path: layer for path, layer in found.items() if choice.every_layer or taps[path] < 6 * layer.inputs * layer.outputs}
    grown = sum(length * _width(layer) for layer in layers.values())
    folded = sum(_folded(layer, chunk) for layer in layers.values())
    fold = folded < grown if choice.fold is None else choice.fold
    micro = choice.micro_batch or default_micro_batch(batch)
    chunks = equal_chunks(length, chunk) if fold else growing_chunks(length, chunk)
    return Engine(network, likelihood, tuple(sorted(layers.items())), chunks, chunks[0], fold, min(micro, batch), first_order)


def default_chunk(length: int) -> int:
    """About 16 steps, so that the chunks fill the length as exactly as they can."""
    return math.ceil(length / math.ceil(length / 16))


def default_micro_batch(batch: int) -> int:
    """At most 25 sequences, and few rows to fill up the last micro-batch with."""
    return math.ceil(batch / math.ceil(batch / 25))


def growing_chunks(length: int, first: int) -> tuple[int, ...]:
    """Chunks of 1, 1, 2, 4, ... times `first`: few to compile, and not much of the last one is read in vain."""
    parts = math.ceil(length / first)
    chunks: list[int] = []
    while (done := sum(chunks)) < parts:
        chunks.append(min(max(1, done), parts - done))
    return tuple(first * chunk for chunk in chunks)


def equal_chunks(length: int, size: int) -> tuple[int, ...]:
    """Chunks of one size; together they may be longer than `length`."""
    return (size,) * math.ceil(length / size)


def _width(layer: Layer) -> int:
    return layer.taps * math.prod(layer.heads) * (layer.width + layer.outputs)


def _folded(layer: Layer, chunk: int) -> int:
    return math.prod(layer.heads) * 2 * layer.inputs * layer.outputs + chunk * _width(layer)


def split_weights(weights: Any, layers: dict[Path, Layer]) -> tuple[dict[Path, dict[str, jax.Array]], Any]:
    """Parts the parameters: (path -> {"kernel", "bias"} of the layers taken over, the others)."""
    flat = traverse_util.flatten_dict(weights)
    base, small = {path: {} for path in layers}, {}
    for path, value in flat.items():
        if path[:-1] in layers:
            base[path[:-1]]["bias" if path[-1] == "bias" else "kernel"] = value
        else:
            small[path] = value
    return base, traverse_util.unflatten_dict(small)


def join_weights(base: dict[Path, dict[str, jax.Array]], small: Any, layers: dict[Path, Layer]) -> Any:
    """The way back from `split_weights`."""
    flat = traverse_util.flatten_dict(small)
    for path, layer in layers.items():
        name = "embedding" if layer.kind == "embed" else "kernel"
        flat |= {(*path, name if part == "kernel" else part): value for part, value in base[path].items()}
    return traverse_util.unflatten_dict(flat)
