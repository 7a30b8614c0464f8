"""The baselines: networks of the usual kind, which are told the outputs so far. Their memory is not their weights.

One file for each, with a network, which is a Linen module, and a sequence model around it with the uses of `rgen.fast.InnerLoop`:

* `lstm`: an LSTM, which is told the previous output and keeps a state of fixed size;
* `transformer`: a decoder, which attends to all outputs so far.
"""

from collections.abc import Mapping
from typing import Any

from rgen.baselines.lstm import LSTM, Recurrent
from rgen.baselines.transformer import Attentive, Transformer
from rgen.choices import BASELINES
from rgen.likelihood import Likelihood
from rgen.networks import configure
from rgen.sequence import SequenceModel

__all__ = ["LSTM", "Attentive", "Recurrent", "Transformer", "build", "called"]

_MODELS: dict[str, tuple[Any, Any]] = {"lstm": (LSTM, Recurrent), "transformer": (Transformer, Attentive)}


def build(
    name: str,
    shape: tuple[int, ...],
    outputs: int,
    symbols: int,
    likelihood: Likelihood,
    end: int | None = None,
    options: Mapping[str, Any] = {},
) -> SequenceModel:
    """Builds a baseline by name, a key of `rgen.choices.BASELINES`; arguments and errors as in `rgen.networks.build`.

    Args:
      likelihood, end: as of the sequence models.
      options: of the network; None means its default.
    """
    network, model = _MODELS[name]
    return model(configure(network, name, options, shape=shape, symbols=symbols, outputs=outputs), likelihood, end)


def called(model: SequenceModel) -> str:
    """What a sentence calls a model that is no inner loop."""
    return next((BASELINES[name] for name, (_, kind) in _MODELS.items() if isinstance(model, kind)), "this model")
