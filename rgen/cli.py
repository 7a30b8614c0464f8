"""What the scripts in bin/ share: parse, call one function, and turn what a user can mend into a sentence and exit code 2."""

import sys
from collections.abc import Callable
from typing import Any

from rgen.errors import InputError


def main(parse: Callable[[], Any], module: str, function: str) -> None:
    """Parses the command line, then imports `module` (and with it JAX) and calls its `function` with the configuration."""
    try:
        config = parse()
        import importlib

        getattr(importlib.import_module(module), function)(config)
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(sentence: str) -> None:
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {sentence}", file=sys.stderr)
    sys.exit(2)
