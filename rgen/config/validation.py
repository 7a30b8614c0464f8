"""What options are held to: each raises an InputError that names the option as the command line does."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rgen.choices import PREFIX, check_choice
from rgen.errors import InputError

MOST = 2**31 - 1  # the largest whole number on devices
WIDEST = 2**16  # of a layer: a square one has 17 GB
DEEPEST = 2**10  # blocks that are compiled one by one, outputs that are read at a time, devices that are made of cores


def flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def at_least(config: Any, least: int, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise InputError(f"{flag(option)} is {value}; it must be at least {least}.")


def at_most(config: Any, most: int, *options: str) -> None:
    for option in options:
        for value in _several(getattr(config, option)):
            if value > most:
                raise InputError(f"{flag(option)} is {value}; it must be at most {most}.")


def seeds(config: Any, *options: str) -> None:
    for option in options:
        for value in _several(getattr(config, option)):
            if not 0 <= value <= MOST:
                raise InputError(f"{flag(option)} is {value}; seeds lie between 0 and {MOST}.")


def positive(config: Any, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"{flag(option)} is {value}; it must be a positive number.")


def folders(option: str, *paths: Path) -> None:
    """Raises InputError if one of them names weights that come with the package."""
    for path in paths:
        if str(path).startswith(PREFIX):
            raise InputError(f"{flag(option)} is {path}, weights without the folder of a run, which is needed here; give a folder.")


def types(config: Any) -> None:
    """Raises InputError unless every option whose type is a Literal has one of its values, and whole numbers have 32 bits."""
    for option, allowed in _literals(type(config)).items():
        for value in _several(getattr(config, option)):
            check_choice(flag(option), value, allowed)
    for option, value in vars(config).items():
        if any(isinstance(number, int) and abs(number) > MOST for number in _several(value)):
            raise InputError(f"{flag(option)} is {value}; whole numbers lie between {-MOST} and {MOST}.")


def _several(value: Any) -> tuple:
    """The values of an option that may have several, one or none."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def words(options: type, arguments: Sequence[str]) -> None:
    """The same for the words of a command line, before they are parsed: so that the sentence names the nearest choice."""
    allowed, current = {flag(option): values for option, values in _literals(options).items()}, ""
    for word in arguments:
        if word.startswith("--"):
            current = word
        elif current in allowed and word != "None":
            check_choice(current, word, allowed[current])


def _literals(options: type) -> dict[str, tuple[str, ...]]:
    """Option -> its values, of those whose type is a Literal, or has one in it."""
    parts = {option: (hint, *get_args(hint)) for option, hint in get_type_hints(options).items()}
    return {option: get_args(part) for option, of in parts.items() for part in of if get_origin(part) is Literal}
