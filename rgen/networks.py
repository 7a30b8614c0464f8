"""Networks by name: Linen modules that map ONE input (a position, or coordinates) to logits. No batch axis, no memory.

`text-mlp`, `lstm-block`, `siren` and `gated` are those of the original program, unixpickle/reptile-gen, with its sizes and PyTorch's
initializations. `heads` is ours, for places of any number of axes.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rgen.choices import INNER_LOSSES, RENAMED, check_choice
from rgen.errors import InputError
from rgen.sequence import Prediction, Reads

# ---------------------------------------------------------------- layers


def uniform(bound: float) -> Callable:
    """An initializer: uniform within +-bound."""
    return lambda key, shape, dtype=jnp.float_: jax.random.uniform(key, shape, dtype, -bound, bound)


def dense(x: jax.Array, features: int, name: str | None = None) -> jax.Array:
    """A Dense layer with PyTorch's default for Linear: weights and biases uniform within 1/sqrt(inputs)."""
    init = uniform(1 / math.sqrt(x.shape[-1]))
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(x)


def embed(index: jax.Array, count: int, features: int, name: str | None = None) -> jax.Array:
    """An embedding [features] of an index [] with PyTorch's default: standard normal."""
    # with an axis, since Flax cannot look up one of one row without
    return nn.Embed(count, features, embedding_init=nn.initializers.normal(1.0), name=name)(index[None])[0]


def layer_norm(x: jax.Array, name: str | None = None, **options) -> jax.Array:
    """LayerNorm with PyTorch's epsilon and the variance computed in two passes, which float32 needs."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name, **options)(x)


def gate(x: jax.Array) -> jax.Array:
    """First half times the sigmoid of the second half: a closed gate also keeps SGD from the weights behind it."""
    value, gates = jnp.split(x, 2, axis=-1)
    return value * nn.sigmoid(gates)


def gated(x: jax.Array, width: int, name: str) -> jax.Array:
    """A gated layer of the LayerNorm of its input."""
    return gate(dense(layer_norm(x, name=f"norm_{name}"), 2 * width, name=f"gate_{name}"))


class LSTMBlock(nn.Module):
    """An LSTM cell without recurrence: its state is a parameter, which SGD changes. One Dense layer for all four gates."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        state = self.param("state", nn.initializers.normal(1.0), (width,))
        forget, take, give, update = jnp.split(dense(jnp.concatenate([state, x]), 4 * width, name="gates"), 4)
        return nn.sigmoid(give) * (nn.sigmoid(take) * jnp.tanh(update) + nn.sigmoid(forget) * state)


def places_before(shape: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """Steps to the `count` nearest places before a place in the order of reading: 1, 2, ... in a line; left, above, ... in a picture.

    Steps that are longer than the grid come last, where it is too small for so many.
    """
    within = (math.prod(2 * size - 1 for size in shape) - 1) // 2  # as many steps lead from place to place of the grid, half of them back
    longest = [size - 1 if within >= count else count for size in shape]
    steps, far = [], 0
    while len(steps) < count:
        far += 1
        reach = [min(far, most) for most in longest]
        box = itertools.product(range(reach[0] + 1), *[range(-most, most + 1) for most in reach[1:]])
        steps = [step for step in box if step > (0,) * len(shape) and math.hypot(*step) <= far]
    return sorted(steps, key=lambda step: (sum(n * n for n in step), step))[:count]


NEIGHBOURS = {"left": (0, 1), "above": (1, 0), "above-left": (1, 1), "above-right": (1, -1)}


def neighbours(names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Steps back between places, by their names in NEIGHBOURS, as "ROWS,COLUMNS" (those left out are 0), or as "nearest-12" for many.

    Raises:
      InputError: one is none of these, or has more axes than `shape`.
    """
    found = []
    for name in names:
        if many := re.fullmatch(r"nearest-([1-9]\d{0,2})", name):
            # nearest first, and mirrored ones in the order of NEIGHBOURS: that to the left first
            nearest = places_before(shape, int(many[1]))
            found += sorted(nearest, key=lambda step: (sum(n * n for n in step), *map(abs, step), *(-n for n in step)))
            continue
        if name not in NEIGHBOURS and not re.fullmatch(r"-?\d{1,4}(,-?\d{1,4})*", name):
            known = f"{', '.join(NEIGHBOURS)}, nor nearest-1 to nearest-999"
            raise InputError(f"The neighbour '{name}' is none of {known}, nor steps along each axis such as 0,2.")
        step = NEIGHBOURS.get(name) or tuple(map(int, name.split(",")))
        if len(step) > len(shape):
            raise InputError(f"The neighbour '{name}' is a step along {len(step)} axes, and the sequences have {len(shape)}.")
        if not any(step):
            raise InputError(f"The neighbour '{name}' is the place itself, which is not known yet; leave it out.")
        found.append((*step, *[0] * (len(shape) - len(step))))
    return tuple(found)


class FourierKeys(nn.Module):
    """Learned Fourier features of a place, as keys of a memory: [heads, keys], each of length sqrt(keys).

    The dot product of two keys of a head, the sum over its frequencies w of a_w^2 cos(w . (p - q)), depends on the step from one place to
    the other alone. So a head needs few numbers for places however many, and what it learns of one place it knows of all.

    A head begins by seeing one of the nearest places before, at a step s: a_w = |cos(w . s / 2)|. This is the amplitude of
    cos(w . p) + cos(w . (p - s)), a place and the one before it at once; their keys share a half, those of all others little.

    Source: random Fourier features (Rahimi and Recht 2007), here with learned frequencies and amplitudes.

    Attributes:
      shape: sizes of the axes of the places, as (T,) or (rows, columns).
      heads, keys: H, and twice the number of frequencies.
    """

    shape: tuple[int, ...]
    heads: int
    keys: int

    @nn.compact
    def __call__(self, place):
        def at_a_step(_, frequency):
            steps = jnp.array(places_before(self.shape, self.heads), frequency.dtype)
            return jnp.abs(jnp.cos(jnp.einsum("hfn,hn->hf", frequency, steps) / 2))

        frequency = self.param("frequency", uniform(math.pi), (self.heads, self.keys // 2, len(self.shape)), jnp.float32)
        amplitude = self.param("amplitude", at_a_step, frequency)
        amplitude = amplitude * jnp.sqrt(self.keys / (amplitude**2).sum(-1, keepdims=True))
        angle = frequency @ place.astype(frequency.dtype)
        return jnp.concatenate([amplitude * jnp.cos(angle), amplitude * jnp.sin(angle)], -1)


def keys_of(network: "HeadsNetwork", init: Any) -> jax.Array:
    """The keys of all places, in the order of reading, of a network with the parameters `init`: [heads, places, keys]."""
    keys = FourierKeys(network.shape, network.heads, network.keys)
    places = jnp.argwhere(jnp.ones(network.shape))
    return jax.vmap(lambda place: jnp.asarray(keys.apply({"params": init["heads"]["keys"]}, place)), out_axes=1)(places)


class Heads(nn.Module):
    """A memory: several narrow Dense layers side by side, each fed with features of the place that are its own, its keys.

    What SGD writes into a head at one place is read at another in proportion to the dot product of their keys. So every head is a memory
    with its own similarity between places: one reads the previous symbol, another the one above. They begin empty: what is read is
    what has been written, and a constant, which keeps the LayerNorm behind it from dividing by nearly nothing.

    Attributes:
      shape: sizes of the axes of the places, as (T,) or (rows, columns).
      heads, keys, values: H, features of a place for each head, outputs of each head.
    """

    shape: tuple[int, ...]
    heads: int
    keys: int
    values: int

    @nn.compact
    def __call__(self, place):
        x = FourierKeys(self.shape, self.heads, self.keys, name="keys")(place)
        batched = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})
        constant = uniform(1 / math.sqrt(self.keys))
        return batched(self.values, kernel_init=nn.initializers.zeros, bias_init=constant, name="memory")(x).reshape(-1)


# ---------------------------------------------------------------- networks


class TextMLP(nn.Module):
    """The original's text model: an embedding of the position, hidden layers with relu, logits of bytes."""

    shape: tuple[int] = (128,)
    features: int = 512
    widths: tuple[int, ...] = (512,) * 6
    outputs: int = 256

    @nn.compact
    def __call__(self, x):
        h = embed(x, self.shape[0], self.features, name="position")
        for i, width in enumerate(self.widths):
            h = nn.relu(dense(h, width, name=f"hidden_{i}"))
        return dense(h, self.outputs, name="logits")


def _embed_pixel(x: jax.Array, shape: tuple[int, int], features: int) -> jax.Array:
    """Row and column embeddings side by side: x [2] to [2 * features]."""
    return jnp.concatenate([embed(x[0], shape[0], features, name="row"), embed(x[1], shape[1], features, name="column")])


class LSTMBlockNetwork(nn.Module):
    """The original's MNIST model: `depth` LSTM blocks between LayerNorms."""

    shape: tuple[int, int] = (28, 28)
    features: int = 128
    width: int = 256
    depth: int = 2
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        h = dense(_embed_pixel(x, self.shape, self.features), self.width, name="input")
        for i in range(self.depth):
            h = LSTMBlock(name=f"block_{i}")(layer_norm(h, name=f"norm_{i}"))
        return dense(layer_norm(h, name="norm"), self.outputs, name="logits")


class Siren(nn.Module):
    """The original's SIREN: sines of Dense layers of the coordinates.

    Source: Sitzmann et al. 2020, arXiv:2006.09661; initialization as in the original program.
    """

    shape: tuple[int, int] = (28, 28)
    widths: tuple[int, ...] = (256, 512, 512, 256)
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        h = x / (jnp.array(self.shape) / 2) - 1
        for i, width in enumerate(self.widths):
            init = uniform(math.sqrt(6 / h.shape[-1]))
            h = jnp.sin(nn.Dense(width, kernel_init=init, name=f"hidden_{i}")(h))
        return dense(h, self.outputs, name="logits")


class Gated(nn.Module):
    """The original's gated and residual blocks: a gated layer, then `depth` times a residual and a layer with gates of its own."""

    shape: tuple[int, int] = (28, 28)
    features: int = 128
    width: int = 256
    depth: int = 1
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        h = gate(dense(_embed_pixel(x, self.shape, self.features), 2 * self.width, name="input"))
        for i in range(self.depth):
            h = h + gate(dense(h, 2 * self.width, name=f"residual_{i}"))
            gates = nn.sigmoid(dense(h, self.width, name=f"gates_{i}"))
            h = gates * layer_norm(dense(h, self.width, name=f"gated_{i}"), name=f"norm_{i}")
        return dense(h, self.outputs, name="logits")


class HeadsNetwork(nn.Module):
    """Ours: a memory of heads, and `depth` gated residual blocks that make something of what is read there.

    It is enough that the memory learns in the inner loop: `InnerLoop(fast=("heads/memory",))`.

    Attributes:
      shape: sizes of the axes of the places: (T,) for lines, inputs []; (rows, columns) for images, inputs [2]; and so on.
      width: of the residual stream, divisible by `heads`.
      heads: each has width / heads outputs.
      keys: features of a place for each head, an even number.
      outputs: how many logits; see `rgen.likelihood`.
      symbols: how many different outputs there are, where earlier ones are read; None: as many as logits, or 2 if that is one.
      context: which earlier outputs are read beside the input: k for the last k, or steps between places; see `rgen.Function`.
      features: width of their embedding.
      inner_loss: what SGD descends: "nats", those that are paid; or "memory", those of a readout of the memory by a gated layer of its
        own. With the second one, what is written at a place says what was seen there, however sure the network was of it; and by the
        gate, which is in its gradient, what was read there.
    """

    shape: tuple[int, ...]
    width: int = 96
    depth: int = 2
    heads: int = 8
    keys: int = 24
    outputs: int = 256
    symbols: int | None = None
    context: Reads = 0
    features: int = 24
    inner_loss: str = "nats"

    def __post_init__(self):
        check_choice("The network's inner_loss", self.inner_loss, INNER_LOSSES)
        if self.keys % 2:
            raise InputError(f"The network's keys are {self.keys}; they are pairs of a cosine and a sine. Give an even number.")
        if self.heads < 1 or self.width % self.heads:
            raise InputError(f"The network's width is {self.width}, which is not divisible by its {self.heads} heads.")
        super().__post_init__()

    @property
    def last_outputs(self) -> Reads:
        return self.context

    @nn.compact
    def __call__(self, x):
        x, recent = x if self.context else (x, None)
        place = jnp.atleast_1d(x)
        h = read = Heads(self.shape, self.heads, self.keys, self.width // self.heads, name="heads")(place)
        # the keys know the steps between places, not where they are
        beside = [embed(place[i], size, self.width, name=f"place_{i}") for i, size in enumerate(self.shape)]
        if recent is not None:
            nothing = self.symbols or max(self.outputs, 2)  # where there is no output yet
            embedded = embed(jnp.where(recent < 0, nothing, recent), nothing + 1, self.features, name="recent")
            beside.append(dense(embedded.reshape(-1), self.width, name="context"))
        for part in beside:
            h = h + 0.1 * part  # begins small, so that it does not drown what is read
        for i in range(self.depth):
            h = h + dense(gated(h, self.width, f"{i}"), self.width, name=f"residual_{i}")
        logits = dense(layer_norm(h, name="norm"), self.outputs, name="logits")
        if self.inner_loss == "nats":
            return logits
        return Prediction(logits, dense(read + gated(read, self.width, "write"), self.outputs, name="write"))


# ---------------------------------------------------------------- by name

NETWORKS: dict[str, tuple[int | None, Any]] = {
    "heads": (None, HeadsNetwork),
    "text-mlp": (1, TextMLP),
    "lstm-block": (2, LSTMBlockNetwork),
    "siren": (2, Siren),
    "gated": (2, Gated),
}
"""Name -> number of axes of the places, None for any; and class."""
SIZES = ("width", "widths", "depth", "features", "heads", "keys")
OPTIONS = (*SIZES, "context", "inner_loss")


def build(
    name: str, shape: tuple[int, ...], outputs: int, symbols: int | None = None, **options: int | tuple[int, ...] | str | None
) -> nn.Module:
    """Builds a network by name.

    Args:
      name: a key of NETWORKS, or a former name.
      shape: sizes of the axes of the places: (T,) for lines, inputs []; (rows, columns) for images, inputs [2]; and so on.
      outputs: how many logits: as many as symbols, 1 for a bit, or what the likelihood needs.
      symbols: how many different outputs there are, which heads must know to read earlier ones; None: as many as logits, or 2.
      **options: those of OPTIONS that the network has; None means its default.
    Raises:
      InputError: an unknown name, the wrong kind of data, an option the network does not have, a size that cannot be.
    """
    name = RENAMED.get(name, name)
    check_choice("The network", name, tuple(NETWORKS))
    axes, cls = NETWORKS[name]
    if axes not in (None, len(shape)):
        what = "lines" if axes == 1 else "pictures without colours"
        raise InputError(f"The network '{name}' is for {what}, and the sequences have the shape {shape}. Choose heads, or other data.")
    known = {"symbols": symbols} if cls is HeadsNetwork else {}
    return configure(cls, name, options, shape=shape, outputs=outputs, **known)


def configure(cls: Any, name: str, options: Mapping[str, Any], **fixed: Any) -> Any:
    """Makes a network of class `cls` with those `options` that are not None; errors as in `build`."""
    options = {option: value for option, value in options.items() if value is not None}
    has = [field.name for field in dataclasses.fields(cls) if field.name in OPTIONS]
    for option, value in options.items():
        if option not in has:
            raise InputError(
                f"The network '{name}' has no option '{option}'; it has {', '.join(has)}. Give --{option.replace('_', '-')} None."
            )
        if option in SIZES and (not value or min(value if isinstance(value, tuple) else (value,)) < 1):
            raise InputError(f"The network's {option} is {value}; sizes must be at least 1.")
    return cls(**fixed, **options)
