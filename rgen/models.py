"""From a configuration to a sequence model, a network in the inner loop or a baseline; and whether it fits into memory."""

import math
from typing import Any

import jax
import numpy as np
import optax

from rgen import baselines, networks
from rgen.baselines import Attentive
from rgen.choices import BASELINES, GENERATOR, InnerOptimizer
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import Direct, Dual, InnerLoop
from rgen.hardware import hardware, require_memory, total_memory
from rgen.likelihood import Bernoulli, Categorical, Likelihood, Ordered
from rgen.sequence import PyTree, SequenceModel

REVERSE = 10  # an outer step needs about so many times the memory of its taps, measured on the presets; for what is recommended only
INNER_OPTIMIZERS: dict[InnerOptimizer, Any] = {
    "sgd": None,
    "momentum": optax.sgd(1.0, momentum=0.9),
    "nesterov": optax.sgd(1.0, momentum=0.9, nesterov=True),
    # eps_root: without it the derivative of the square root is infinite where a gradient is zero, and meta-gradients are not numbers
    "adam": optax.adam(1.0, eps_root=1e-8),
    "rmsprop": optax.chain(optax.scale_by_rms(eps=1e-8, initial_scale=1e-8), optax.scale(-1.0)),
}
"""Optimizers of the inner loop, whose updates the inner rates multiply."""


def configured(config: TrainConfig, shape: tuple[int, ...], symbols: int, end: int | None = None) -> SequenceModel:
    """Builds the model of a `TrainConfig` for sequences in which no place comes twice.

    Args:
      shape: sizes of the axes of the places.
      symbols: how many different outputs there are.
      end: the output that ends a sequence, if one does.
    Raises:
      InputError: as `networks.build`.
    """
    likelihood, outputs = _likelihood(config, symbols)
    name, sizes = config.network, {option: getattr(config, option) for option in networks.OPTIONS}
    if config.neighbours:
        if name != "heads":
            raise InputError(f"--neighbours is for heads, and the network is {name}; leave it out.")
        sizes["context"] = steps = networks.neighbours(config.neighbours, shape)
        ahead = [",".join(map(str, step)) for step in steps if step < (0,) * len(shape)]
        if config.order == "raster" and ahead:
            raise InputError(f"The neighbour '{ahead[0]}' comes later in raster order; leave it out, or give --order random.")
    if name in BASELINES:
        return baselines.build(name, shape, outputs, symbols, likelihood, end, sizes)
    network = networks.build(name, shape, outputs, symbols, **sizes)
    form = Direct() if config.form == "direct" else Dual(config.chunk, config.fold, config.micro_batch, distinct=True)
    inner = {option: getattr(config, option) for option in ("inner_batch", "inner_steps", "inner_clip", "inner_decay")}
    optimizer = INNER_OPTIMIZERS[config.inner_optimizer]
    rates = config.rates, config.inner_rate
    return InnerLoop(network, likelihood, *rates, config.fast, end, optimizer=optimizer, form=form, **inner)


def _likelihood(config: TrainConfig, symbols: int) -> tuple[Likelihood, int]:
    """How outputs are read, and how many logits that needs."""
    if config.likelihood != "ordered":
        return (Bernoulli(), 1) if symbols == 2 else (Categorical(), symbols)
    if symbols == 2:
        raise InputError("--likelihood ordered is for three levels or more, and the data have two; leave it out.")
    likelihood = Ordered(symbols)
    return likelihood, likelihood.outputs


def from_config(config: TrainConfig, data: Dataset) -> SequenceModel:
    """Builds the model of a `TrainConfig` for its data."""
    if config.likelihood == "ordered" and data.kind == "text":
        raise InputError("--likelihood ordered is for ordered levels, and the bytes of a text have no order; leave it out.")
    model = configured(config, data.shape, data.symbols, data.end)
    if config.fast is not None:
        try:
            parameter_shapes(model, data)
        except ValueError as error:
            raise InputError(f"--fast: {error}") from None
    return model


def init(model: SequenceModel, data: Dataset, seed: int) -> PyTree:
    """Parameters before training, as a function of the seed."""
    x = np.zeros(() if len(data.shape) == 1 else len(data.shape), np.int32)  # a place
    return model.init(jax.random.key(seed, impl=GENERATOR), x)


def parameter_shapes(model: SequenceModel, data: Dataset) -> PyTree:
    """The shapes and types of what `init` returns."""
    return jax.eval_shape(lambda: init(model, data, 0))


def fitting_batch(model: SequenceModel, data: Dataset, budget: float = 1e9, drawing: bool = False) -> int:
    """How many sequences to score, or to draw, at once: as many as `budget` bytes hold, but no more than help.

    Each takes its outputs, weights and nats, and in the direct form its fast weights, three times; so with a layer's attention of a
    transformer, or when drawing with all its keys and values.
    The dual form holds the taps of one micro-batch only. On a CPU batches of 128 to 1,024 are equally fast; accelerators launch each kernel
    once for a whole batch.
    """
    loop = model if isinstance(model, InnerLoop) else None
    most = 4096 if loop and isinstance(loop.form, Dual) and hardware().platform != "cpu" else 256
    in_turn = loop and loop.reads and loop.inner_batch > 1  # drawn by the direct form
    fast = numbers(parameter_shapes(model, data)) if loop and (in_turn or isinstance(loop.form, Direct)) else 0
    if isinstance(model, Attentive):
        network = model.network
        fast = 2 * network.depth * network.width * data.length if drawing else network.heads * data.length**2
    return max(1, min(most, int(budget / (3 * 4 * (data.length + fast)))))


def numbers(params: PyTree) -> int:
    """How many numbers a tree of arrays has, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def check_network_fits(shapes: Any, copies: int) -> None:
    """Raises InputError if so many copies of a network's parameters in float32 need more memory than there is."""
    size, remedy = numbers(shapes), "Give smaller sizes, as --width, or shorter sequences."
    require_memory(4 * copies * size, f"A network of {size:,} parameters", remedy, total_memory())


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths, as in params/init/logits/bias."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_training_fits(config: TrainConfig, model: SequenceModel, data: Dataset) -> None:
    """Raises InputError if an outer step needs more memory than there is, before it is allocated.

    Only what must be there at the same time is counted, so that nothing is refused that could work: the parameters with Adam's two moments
    and the gradient; outputs, weights and nats of the meta-batch; taps of a micro-batch and foreseen inputs; a transformer's attention.
    """
    there, shapes, length, batch = total_memory(), parameter_shapes(model, data), data.length, config.meta_batch
    check_network_fits(shapes, copies=4)
    heads = model.network.depth * model.network.heads if isinstance(model, Attentive) else 0  # that attend to all steps from each step
    taps, known, together = 0, 0, batch  # bytes of a step of each sequence, and of all; sequences whose taps are kept
    if isinstance(model, InnerLoop) and isinstance(model.form, Dual) and config.algorithm != "reptile":
        own = config.order == "random"
        x = (batch if own else 1, length) + ((len(data.shape),) if len(data.shape) > 1 else ())
        plan = model.form.plan(model, shapes.init, jax.ShapeDtypeStruct(x, np.int32), batch)
        together = plan.micro_batch
        outputs = min(model.inner_batch, length)  # of a step
        taps = 4 * sum(layer.tap_size for layer in plan.layers) // outputs
        known = 4 * sum(layer.heads * layer.taps * layer.width for layer in plan.layers if layer.foreseen) // outputs
        taps, known = (taps + known, 0) if own else (taps, known)

    def needed(batch: int, length: int, times: int = 1) -> int:
        kept = length * (min(batch, together) * taps + known) + 4 * batch * heads * length**2
        return 4 * 4 * numbers(shapes) + 3 * 4 * batch * length + times * kept

    def fits(batch: int, length: int) -> bool:
        return needed(batch, length, REVERSE) <= there

    halves = [batch >> k for k in range(1, batch.bit_length())]
    remedies = {"--meta-batch": next((size for size in halves if fits(size, length)), None)}
    if data.kind == "text":
        shorter, halves = "a smaller --max-length", [length >> k for k in range(1, length.bit_length())]
        remedies["--max-length"] = next((size for size in halves if fits(batch, size)), None)
    elif data.kind == "image":
        shorter, sides = "a larger --reduce", [side for side in range(2, min(data.shape[:2])) if not any(n % side for n in data.shape[:2])]
        remedies["--reduce"] = next((config.reduce * side for side in sides if fits(batch, length // side**2)), None)
    else:
        shorter = "shorter sequences"
    found = " or ".join(f"{option} {value}" for option, value in remedies.items() if value)
    remedy = f"With {found} it should fit." if found else f"Give a smaller --meta-batch and {shorter}."
    what = f"An outer step with --meta-batch {batch} on sequences of {length:,} steps"
    require_memory(needed(batch, length), what, remedy, there)
