"""Files and folders that survive a kill at any moment, and two processes at once."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rgen.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows, where nobody is kept out
    fcntl = None

NEW = ".new"  # behind the name of a file that is being written


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when all is written: it is as it was or whole, never in between.

    A link stays, and what it points to is replaced; a file keeps its mode. What is no regular file, as /dev/null or a pipe, is written to.
    """
    path = Path(os.path.realpath(path))  # Path.resolve raises a RuntimeError for a link to itself
    if is_special(path):
        with path.open("wb") as file:
            yield file
        return
    new = path.with_name(path.name + NEW)
    with new.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, new)
    new.replace(path)


def is_special(path: Path) -> bool:
    """Whether there is something that is not a regular file: a device, a pipe."""
    return path.exists() and not path.is_file()


def replace(path: Path, content: bytes) -> None:
    """Writes a file as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def lock(file: IO[Any], what: str) -> None:
    """Keeps other processes from an open file until it is closed, or this process ends in any way.

    Raises:
      InputError: another process is at it; `what` says at what.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"Another process is at work on {what}. Wait until it has ended, or choose another place.") from None
