"""Files that are complete after a kill at any moment, and results, which never replace a file of the user.

A result is a file that a command writes for the user. If the user named it, or a file next to it, an existing file is replaced only with
--overwrite. A file with a default name is replaced.
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
except ImportError:  # no fcntl on Windows: files are not locked there
    fcntl = None

NEW = ".new"  # suffix of a file that is being written


@contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` when all is written: `path` is never half written.

    Links are followed, and a file keeps its mode. A special file (see `is_special`) is written to directly.

    Args:
      overwrite: whether an existing file may be replaced.
    Raises:
      InputError: the file appeared in the meantime; both it and the result, under another name, are kept.
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
                raise InputError(f"'{path}' was written by another program in the meantime and is kept. The result is in '{new}'.")
            shutil.copymode(path, new)
        new.replace(path)


def replace(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Writes a file as `replacing` does."""
    with replacing(path, overwrite) as file:
        file.write(content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """While a file is written: an OSError without a file name, such as that of a full disk, gets this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder that is removed at the end, also after a signal."""
    with tempfile.TemporaryDirectory() as folder, leaving(lambda: shutil.rmtree(folder, ignore_errors=True)):
        yield Path(folder)


def is_special(path: Path) -> bool:
    """Whether the path is a device, a pipe, or the file that stdout or stderr goes to."""
    return path.exists() and (not path.is_file() or _stream(path) is not None)


# ---------------------------------------------------------------- results


def check_results(results: Iterable[tuple[str, Path | None]], replaces: Callable[[str], bool]) -> None:
    """Checks before the work that files can be written and that no file of the user would be lost.

    Args:
      results: (option, file or None); a file next to another one has the same option.
      replaces: whether an existing file may be replaced, by its option.
    Raises:
      InputError: a file cannot be written, or exists.
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
    """Raises InputError if a file cannot be written there, or is write-protected."""
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
    """An unused name in the same folder."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{NEW}")


def _stream(path: Path) -> int | None:
    """1 or 2 if stdout or stderr goes there, else None."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), path.stat()):
                return number
    return None


def _through(path: Path) -> Any:
    """Opens a special file. stdout and stderr are shared: opened again, they would overwrite each other."""
    number = _stream(path)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    file = path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")
    return Terminal(io.TextIOWrapper(file, "utf-8", "backslashreplace")) if file.isatty() else file


def lock(file: IO[Any], what: str) -> None:
    """Locks an open file until it is closed or this process ends.

    Raises:
      InputError: another process has locked it; `what` says what that is.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"Another process is at work on {what}. Wait until it has ended, or choose another place.") from None
