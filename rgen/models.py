"""From names and sizes to a sequence model: a network in the inner loop, or the recurrent baseline."""

from typing import Any

import jax
import numpy as np

from rgen import networks
from rgen.choices import RateKind
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import Direct, Dual, Form, InnerLoop
from rgen.hardware import hardware
from rgen.likelihood import Bernoulli, Categorical
from rgen.recurrent import LSTM, Recurrent
from rgen.sequence import SequenceModel

DISTINCT = Dual(distinct=True)


def build(
    name: str,
    shape: tuple[int, ...],
    symbols: int,
    end: int | None = None,
    rates: RateKind = "fixed",
    rate: float = 1e-3,
    fast: tuple[str, ...] | None = None,
    form: Form = DISTINCT,
    **sizes: Any,
) -> SequenceModel:
    """Builds a sequence model for sequences in which no place comes twice, as in lines and pictures.

    Args:
      name: a network's name, or "lstm".
      shape: (T,) for lines, (rows, columns) for images.
      symbols: how many different outputs there are; 2 are predicted as a bit.
      end: the output that ends a sequence, if one does.
      rates, rate: kind of the inner rates, and where they start; the recurrent baseline has none.
      fast: what learns in the inner loop, as in `rgen.fast.InnerLoop`.
      form: how the inner loop is computed.
      **sizes: options of the network; None means its default.
    Raises:
      InputError: as `networks.build`.
    """
    likelihood, outputs = (Bernoulli(), 1) if symbols == 2 else (Categorical(), symbols)
    if name == "lstm":
        return Recurrent(networks.configure(LSTM, name, sizes, shape=shape, symbols=symbols, outputs=outputs), likelihood, end)
    network = networks.build(name, shape, outputs, **sizes)
    return InnerLoop(network, likelihood, rates, rate, fast, end, form=form)


def configured(config: TrainConfig, shape: tuple[int, ...], symbols: int, end: int | None = None) -> SequenceModel:
    """Builds the model of a `TrainConfig` for data of this shape; see `build`."""
    sizes = {option: getattr(config, option) for option in networks.OPTIONS}
    dual = Dual(config.chunk, config.fold, config.micro_batch, distinct=True)
    form = Direct() if config.form == "direct" else dual
    return build(config.network, shape, symbols, end, config.rates, config.inner_rate, config.fast, form, **sizes)


def from_config(config: TrainConfig, data: Dataset) -> SequenceModel:
    """Builds the model of a `TrainConfig` for its data; lines end with a NUL unless the padding is scored."""
    end = 0 if data.kind == "text" and not config.score_padding else None
    model = configured(config, data.shape, data.symbols, end)
    if config.fast is not None:
        try:
            template(model, data)
        except ValueError as error:
            raise InputError(f"--fast: {error}") from None
    return model


def template(model: SequenceModel, data: Dataset) -> Any:
    """Shapes of the model's parameters."""
    x = np.zeros(2 if data.kind == "image" else (), np.int32)  # a pixel's row and column, or a place in a line
    return jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))


def fitting_batch(model: SequenceModel, data: Dataset, budget: float = 1e9) -> int:
    """How many sequences to score or sample at once.

    The dual form holds the taps of a micro-batch only, so as many as keep the devices busy; otherwise three copies of each one's fast
    weights in `budget` bytes, and at most 256.
    """
    if isinstance(model, InnerLoop) and model.form == "dual":
        return 512 if hardware().platform == "cpu" else 4096
    size = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(template(model, data)))
    return int(np.clip(budget // (3 * 4 * size), 1, 256))
