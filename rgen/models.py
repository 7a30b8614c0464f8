"""From a configuration to a sequence model, a network in the inner loop or the recurrent baseline; and whether it fits into memory."""

import math
from typing import Any

import jax
import numpy as np

from rgen import networks
from rgen.choices import GENERATOR
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import Direct, Dual, InnerLoop
from rgen.hardware import hardware, require_memory, total_memory
from rgen.likelihood import Bernoulli, Categorical
from rgen.recurrent import LSTM, Recurrent
from rgen.sequence import SequenceModel


def configured(config: TrainConfig, shape: tuple[int, ...], symbols: int, end: int | None = None) -> SequenceModel:
    """Builds the model of a `TrainConfig` for sequences in which no place comes twice, as in lines and pictures.

    Args:
      shape: (T,) for lines, (rows, columns) for images.
      symbols: how many different outputs there are; 2 are predicted as a bit.
      end: the output that ends a sequence, if one does.
    Raises:
      InputError: as `networks.build`.
    """
    likelihood, outputs = (Bernoulli(), 1) if symbols == 2 else (Categorical(), symbols)
    name, sizes = config.network, {option: getattr(config, option) for option in networks.OPTIONS}
    if name == "lstm":
        return Recurrent(networks.configure(LSTM, name, sizes, shape=shape, symbols=symbols, outputs=outputs), likelihood, end)
    network = networks.build(name, shape, outputs, **sizes)
    form = Direct() if config.form == "direct" else Dual(config.chunk, config.fold, config.micro_batch, distinct=True)
    return InnerLoop(network, likelihood, config.rates, config.inner_rate, config.fast, end, form=form)


def from_config(config: TrainConfig, data: Dataset) -> SequenceModel:
    """Builds the model of a `TrainConfig` for its data; lines end with a NUL unless the padding is scored."""
    end = 0 if data.kind == "text" and not config.score_padding else None
    model = configured(config, data.shape, data.symbols, end)
    if config.fast is not None:
        try:
            parameter_shapes(model, data)
        except ValueError as error:
            raise InputError(f"--fast: {error}") from None
    return model


def init(model: SequenceModel, data: Dataset, seed: int) -> Any:
    """Parameters before training, as a function of the seed."""
    x = np.zeros(2 if data.kind == "image" else (), np.int32)  # a pixel's row and column, or a place in a line
    return model.init(jax.random.key(seed, impl=GENERATOR), x)


def parameter_shapes(model: SequenceModel, data: Dataset) -> Any:
    """The shapes and types of what `init` returns."""
    return jax.eval_shape(lambda: init(model, data, 0))


def fitting_batch(model: SequenceModel, data: Dataset, budget: float = 1e9) -> int:
    """How many sequences to score or sample at once: as many as `budget` bytes hold, but no more than help.

    Each takes its outputs, weights and nats, and in the direct form its fast weights, three times. The dual form holds the taps of one
    micro-batch only. On a CPU batches of 128 to 1,024 are equally fast; accelerators launch each kernel once for a whole batch.
    """
    loop = model if isinstance(model, InnerLoop) else None
    most = 4096 if loop and isinstance(loop.form, Dual) and hardware().platform != "cpu" else 256
    fast = numbers(parameter_shapes(model, data)) if loop and isinstance(loop.form, Direct) else 0
    return max(1, min(most, int(budget / (3 * 4 * (data.length + fast)))))


def numbers(params: Any) -> int:
    """How many numbers a tree of arrays has, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def check_network_fits(shapes: Any, copies: int) -> None:
    """Raises InputError if so many copies of a network's parameters in float32 need more memory than there is."""
    size, remedy = numbers(shapes), "Give smaller sizes, as --width, or shorter sequences."
    require_memory(4 * copies * size, f"A network of {size:,} parameters", remedy, total_memory())


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, as in params/init/logits/bias."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_training_fits(config: TrainConfig, model: SequenceModel, data: Dataset) -> None:
    """Raises InputError if an outer step needs more memory than there is, before it is allocated.

    Only what must be there at the same time is counted, so that nothing is refused that could work: the parameters with Adam's two moments
    and the gradient; outputs, weights and nats of the meta-batch; the taps of a micro-batch and the foreseen inputs.
    """
    there, shapes, length, batch = total_memory(), parameter_shapes(model, data), data.length, config.meta_batch
    check_network_fits(shapes, copies=4)
    needed = 4 * 4 * numbers(shapes) + 3 * 4 * batch * length
    if isinstance(model, InnerLoop) and isinstance(model.form, Dual) and config.algorithm != "reptile":
        axes, own_inputs = len(data.shape) + model.context, config.order == "random" or model.context > 0
        x = (batch if own_inputs else 1, length) + ((axes,) if axes > 1 else ())
        plan = model.form.plan(model, shapes.init, jax.ShapeDtypeStruct(x, np.int32), batch)
        taps = sum(layer.tap_size for layer in plan.layers)
        foreseen = sum(layer.heads * layer.taps * layer.width for layer in plan.layers if layer.foreseen)
        needed += 4 * length * (plan.micro_batch * taps + (plan.micro_batch if own_inputs else 1) * foreseen)
    shorter = "shorter sequences by --max-length" if data.kind == "text" else "smaller images by --reduce"
    what = f"An outer step with --meta-batch {batch} on sequences of {length:,} steps"
    require_memory(needed, what, f"Give a smaller --meta-batch, or {shorter}.", there)
