"""From names and sizes to a sequence model: a network in the inner loop, or the recurrent baseline."""

from typing import Any

from rgen import networks
from rgen.config import TrainConfig
from rgen.data import Dataset
from rgen.fast import COST_MODEL, Choice, InnerLoop
from rgen.likelihood import Bernoulli, Categorical
from rgen.recurrent import LSTM, Recurrent
from rgen.sequence import SequenceModel


def build(
    name: str,
    shape: tuple[int, ...],
    symbols: int,
    end: int | None = None,
    rates: str = "fixed",
    rate: float = 1e-3,
    form: str = "dual",
    choice: Choice = COST_MODEL,
    **sizes: Any,
) -> SequenceModel:
    """Builds a sequence model.

    Args:
      name: a network's name, or "lstm".
      shape: (T,) for lines, (rows, columns) for images.
      symbols: how many different outputs there are; 2 are predicted as a bit.
      end: the output that ends a sequence, if one does.
      rates, rate: kind of the inner rates, and where they start; the recurrent baseline has none.
      form, choice: form of the inner loop, and what is not left to the dual form's cost model.
      **sizes: options of the network; None means its default.
    Raises:
      InputError: as `networks.build`.
    """
    likelihood, outputs = (Bernoulli(), 1) if symbols == 2 else (Categorical(), symbols)
    if name == "lstm":
        return Recurrent(networks.configure(LSTM, name, sizes, shape=shape, symbols=symbols, outputs=outputs), likelihood, end)
    return InnerLoop(networks.build(name, shape, outputs, **sizes), likelihood, rates, rate, end, form=form, choice=choice)


def from_config(config: TrainConfig, data: Dataset) -> SequenceModel:
    """Builds the model of a `TrainConfig` for its data; lines end with a NUL unless the padding is scored."""
    end = 0 if data.kind == "text" and not config.score_padding else None
    sizes = {option: getattr(config, option) for option in networks.OPTIONS}
    choice = Choice(config.chunk, config.fold, config.micro_batch)
    return build(config.network, data.shape, data.symbols, end, config.rates, config.inner_rate, config.form, choice, **sizes)
