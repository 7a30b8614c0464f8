"""Meta-training: the outer step, and the loop around it."""

from rgen.training.outer_loop import train
from rgen.training.outer_step import State, init_state, make_optimizer, make_step

__all__ = ["State", "init_state", "make_optimizer", "make_step", "train"]
