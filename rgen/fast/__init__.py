"""SGD as a sequence model: the inner loop."""

from rgen.fast.loop import InnerLoop, Params
from rgen.fast.plan import COST_MODEL, Choice

__all__ = ["COST_MODEL", "Choice", "InnerLoop", "Params"]
