"""What options are held to: each raises an InputError that names the option as the command line does."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rgen.choices import PREFIX, check_choice
from rgen.errors import InputError


def flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def at_least(config: Any, least: int, *options: str) -> None:
    for option in options:
        value = getattr(config, option)
        if value is not None and not (value >= least and math.isfinite(value)):
            raise InputError(f"{flag(option)} is {value}; it must be at least {least}.")


def seeds(config: Any, *options: str) -> None:
    for option in options:
        if not 0 <= getattr(config, option) < 2**31:
            raise InputError(f"{flag(option)} is {getattr(config, option)}; seeds lie between 0 and {2**31 - 1}.")


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


def choices(config: Any) -> None:
    """Raises InputError unless every option whose type is a Literal has one of its values."""
    for option, allowed in _literals(type(config)).items():
        values = getattr(config, option)
        for value in values if isinstance(values, tuple) else (values,) if values is not None else ():
            check_choice(flag(option), value, allowed)


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
