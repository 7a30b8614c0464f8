"""SGD as a sequence model: the inner loop."""

from rgen.fast.check import Check, check
from rgen.fast.dual import Dual
from rgen.fast.functions import Function
from rgen.fast.loop import FORMS, Direct, Form, InnerLoop, Params

FORMS["dual"] = Dual()

__all__ = ["Check", "Direct", "Dual", "Form", "Function", "InnerLoop", "Params", "check"]
