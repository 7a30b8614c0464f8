"""What options are held to: each raises an InputError that names the option as the command line does."""

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rgen.choices import check_choice
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


def choices(config: Any) -> None:
    """Raises InputError unless every option whose type is a Literal has one of its values."""
    for option, hint in get_type_hints(type(config)).items():
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        values = getattr(config, option)
        for literal in literals:
            for value in values if isinstance(values, tuple) else (values,) if values is not None else ():
                check_choice(flag(option), value, get_args(literal))
