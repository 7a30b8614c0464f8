"""SGD as a sequence model: the inner loop."""

from rgen.fast.loop import InnerLoop, Params

__all__ = ["InnerLoop", "Params"]
