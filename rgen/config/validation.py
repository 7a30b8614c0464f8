"""Checks of options: their types say what is allowed, and an InputError names the option as the command line does."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from rgen.choices import PREFIX, check_choice
from rgen.errors import InputError

MOST = 2**31 - 1  # the largest whole number on devices


class Range(NamedTuple):
    """What a number may be: least and most are allowed, except that `Range()` is every positive number."""

    least: float | None = None
    most: float = MOST


Positive = Annotated[float, Range()]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0)]
Size = Annotated[int, Range(1, 2**16)]  # width of a layer: a square one of the largest has 17 GB
Number = Annotated[int, Range(1, 2**10)]  # blocks that are compiled one by one, devices that are made of cores


class Checked:
    """A configuration whose values are checked when it is made."""

    def __post_init__(self) -> None:
        for option, parts in _types(type(self)).items():
            value = getattr(self, option)
            for one in value if isinstance(value, tuple) else (value,):
                for part in parts:
                    if get_origin(part) is Literal and one is not None:
                        check_choice(flag(option), one, get_args(part))
                    elif isinstance(part, Range) and one is not None:
                        _check_range(flag(option), one, part)


def _check_range(name: str, value: float, allowed: Range) -> None:
    if not math.isfinite(value) or (allowed.least is None and value <= 0):
        raise InputError(f"{name} is {value}; it must be a positive number.")
    if allowed.least is not None and value < allowed.least:
        raise InputError(f"{name} is {value}; it must be at least {allowed.least}.")
    if value > allowed.most:
        raise InputError(f"{name} is {value}; it must be at most {allowed.most}.")


@cache
def _types(options: type) -> dict[str, list[Any]]:
    """Option -> its type and all that is inside of it: int, None, a Literal, a Range."""
    return {option: list(_parts(hint)) for option, hint in get_type_hints(options, include_extras=True).items()}


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in () if get_origin(hint) is Literal else get_args(hint):
        yield from _parts(part)


def flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def require_folders(*paths: Path) -> None:
    """Raises InputError if one of them names weights that come with the package."""
    for path in paths:
        if str(path).startswith(PREFIX):
            raise InputError(f"--run is {path}, weights that come with rgen; this needs the folder of a run.")


def check_words(options: type, arguments: Sequence[str]) -> None:
    """Checks choices on a command line before it is parsed, so that the error names the nearest choice."""
    choices = {flag(option): get_args(part) for option, parts in _types(options).items() for part in parts if get_origin(part) is Literal}
    current = ""
    for word in arguments:
        if word.startswith("--"):
            current = word
        elif current in choices and word != "None":
            check_choice(current, word, choices[current])
