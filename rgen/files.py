"""Files and folders that survive a kill at any moment, and two processes at once."""

import os
from pathlib import Path

from rgen.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows, where nobody is kept out
    fcntl = None


def replace(path: Path, content: bytes) -> None:
    """Writes a file that is either as it was or whole, never in between."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class Lock:
    """Keeps other processes out of a folder until it is released, or this process ends in any way.

    Raises:
      InputError: another process holds it.
    """

    def __init__(self, folder: Path):
        self._handle = os.open(folder, os.O_RDONLY)
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise InputError(f"Another process is at work in {folder}. Wait until it has ended, or choose another folder.") from None

    def release(self) -> None:
        os.close(self._handle)
