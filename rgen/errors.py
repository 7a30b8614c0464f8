"""What a user can mend."""

import difflib
import os
import sys
from collections.abc import Iterable


class InputError(ValueError):
    """Something given cannot be used. The message is a sentence or two: what was given, what is expected, what to do."""


def command(name: str) -> str:
    """A command in the way in which the user called this one: "rgen train", or "bin/train.py" of a checkout."""
    folder, file = os.path.split(sys.argv[0])
    scripts = os.path.realpath(os.path.join(__file__, "..", "..", "bin"))
    ours = file.endswith(".py") and os.path.realpath(folder) == scripts
    return os.path.join(folder, f"{name}.py") if ours else f"rgen {name}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The names most like `name`, for a message: "Perhaps you meant a or b; all: a, b, c."."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return (f"Perhaps you meant {' or '.join(near)}; all: " if near else "Choose one of ") + ", ".join(names) + "."
