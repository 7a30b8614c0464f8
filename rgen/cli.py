"""What the scripts in bin/ share: parse, call one function, and turn what a user can mend into a sentence and exit code 2."""

import os
import sys
from collections.abc import Callable
from typing import Any

from rgen.errors import InputError


def main(parse: Callable[[], Any], module: str, function: str) -> None:
    """Parses the command line, then imports `module` (and with it JAX) and calls its `function` with the configuration."""
    try:
        config = parse()
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache_folder())
        # XLA runs small products on one core: with a device for each core, every core has sequences of its own
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))
        sys.unraisablehook = _unraisable
        import importlib

        getattr(importlib.import_module(module), function)(config)
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit(130)


def cache_folder() -> str:
    """Where JAX keeps what it compiled, so that the next start is quick."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rgen", "jax")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unraisable(unraisable: Any) -> None:
    """Leaves out what Orbax's threads still report after a checkpoint could not be written, of which a sentence tells."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _fail(sentence: str) -> None:
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {sentence}", file=sys.stderr)
    sys.exit(2)
