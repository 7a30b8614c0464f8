"""Meta-training: the outer step, and the loop around it."""

from rgen.training.loop import train
from rgen.training.step import State, init_state, make_optimizer, make_step

__all__ = ["State", "init_state", "make_optimizer", "make_step", "train"]
