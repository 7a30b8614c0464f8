"""rgen: SGD itself as the sequence model.

A feed-forward network becomes an autoregressive generative model when training is its memory: predict y_t from x_t, pay the nats,
take one SGD step on (x_t, y_t), go on. The initialization is meta-learned through all those steps.

Start at `rgen.fast` (the inner loop), `rgen.networks`, `rgen.meta` and `rgen.train`. The names below are loaded when they are asked for,
so that a command line can answer `--help` before JAX is.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "rgen.fast": ("Direct", "Dual", "Function", "InnerLoop", "Params", "check"),
    "rgen.meta": ("first_order_maml", "maml", "reptile"),
    "rgen.sequence": ("Sequence",),
}
_FROM: dict[str, str] = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module 'rgen' has no attribute '{name}'; it has {', '.join(_FROM)}")
    return getattr(import_module(_FROM[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_FROM]
