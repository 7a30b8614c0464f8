"""Files and folders that survive a kill at any moment, and two processes at once; and results, which replace nothing of the user's.

A result is a file that a command writes for the user. The rule for all of them: a file that the user names, or that stands beside one, is
replaced only with --overwrite if it exists; what rgen names itself is rgen's, and replaced.
"""

import io
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rgen.errors import InputError
from rgen.host.signals import leaving
from rgen.host.terminal import Terminal

try:
    import fcntl
except ImportError:  # not on Windows, where nobody is kept out
    fcntl = None

NEW = ".new"  # behind the name of a file that is being written


@contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when all is written: it is as it was or whole, never in between.

    A link stays, and what it points to is replaced; a file keeps its mode. What `is_special` is written to.

    Args:
      overwrite: whether a file that is there is replaced.
    Raises:
      InputError: there is one, and it stays; what was written stays too, under another name.
    """
    if is_special(path):
        with naming(path), _through(path) as file:
            yield file
        return
    path = _real(path)
    new = _beside(path)
    with naming(path), leaving(lambda: new.unlink(missing_ok=True)):
        try:
            with new.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        if path.exists():
            if not overwrite:
                raise InputError(f"'{path}' was written by another program in the meantime and stays as it is. The result is in '{new}'.")
            shutil.copymode(path, new)
        new.replace(path)


def replace(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Writes a file as `replacing` does."""
    with replacing(path, overwrite) as file:
        file.write(content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """While a file is written: an error of the system that names none, as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder that is removed at the end, whatever the end is."""
    with tempfile.TemporaryDirectory() as folder, leaving(lambda: shutil.rmtree(folder, ignore_errors=True)):
        yield Path(folder)


def is_special(path: Path) -> bool:
    """Whether there is something that is written through: a device, a pipe, or the file that stdout or stderr goes to."""
    return path.exists() and (not path.is_file() or _stream(path) is not None)


# ---------------------------------------------------------------- results


def check_results(results: Iterable[tuple[str, Path | None]], replaces: Callable[[str], bool]) -> None:
    """What is asked before the work: can these files be written, and would nothing of the user's be lost?

    Args:
      results: (the option that names it, or what it stands beside; the file, or None if there is none).
      replaces: whether a file that exists is replaced, by its option.
    Raises:
      InputError: not so.
    """
    options: dict[Path, str] = {}
    for name, path in results:
        option = f"--{name}"
        if path is None or (is_special(path) and not path.is_dir()):
            continue
        real = _real(path)
        if path.is_dir() or not real.parent.is_dir():
            raise InputError(f"{option} is '{path}', {'a folder' if path.is_dir() else 'in a folder that does not exist'}; give a file.")
        if real in options:
            both = f"{option} and {options[real]}" if option != options[real] else option
            raise InputError(f"{both} would write '{path}' twice; give two files.")
        options[real] = option
        _try(option, path, real)
        if real.exists() and not replaces(name):
            raise InputError(f"{option} would replace '{path}', which exists already. Give another file, or --overwrite to replace it.")


def _try(option: str, path: Path, real: Path) -> None:
    """Raises InputError if a file cannot be written there, or is protected."""
    if real.exists() and not (os.access(real, os.W_OK) and real.stat().st_mode & 0o222):  # the superuser may write anything
        raise InputError(f"{option} is '{path}', which is write-protected. Give another file, or make it writable.")
    new = _beside(real)
    try:
        with leaving(lambda: new.unlink(missing_ok=True)):
            new.touch(exist_ok=False)
            new.unlink()
    except OSError as error:
        raise InputError(f"{option} is '{path}', which cannot be written: {error.strerror}. Give another file.") from None


# ---------------------------------------------------------------- paths and processes


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises a RuntimeError for a link to itself


def _beside(path: Path) -> Path:
    """A new file in the same folder, under a name that nothing has."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{NEW}")


def _stream(path: Path) -> int | None:
    """The number of the stream that goes there: 1, 2 or None."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
    return None


def _through(path: Path) -> Any:
    """Opens a special file. A stream is shared, with its place in the file: opened anew, the two would write over each other."""
    number = _stream(path)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    file = path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")
    return Terminal(io.TextIOWrapper(file, "utf-8", "backslashreplace")) if file.isatty() else file


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
