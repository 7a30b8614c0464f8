"""Lines of text as sequences of bytes, each ended by a NUL."""

import dataclasses
import os
import stat
import sysconfig
import time
from typing import Any, ClassVar

import numpy as np

from rgen.data import DataError, Dataset, cut, sizes
from rgen.sequence import Sequence, until_end

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Dataset):
    """Lines [N, T] of bytes, padded with NUL; the input of a step is its position.

    Attributes:
      score_padding: the steps after a line's first NUL have weight 1 too, as in the original, and not 0.
    """

    kind: ClassVar[str] = "text"
    symbols: ClassVar[int] = 256

    score_padding: bool = False

    def decode(self, x: Any, y: Any) -> list[bytes]:
        """Lines of the outputs y [B, T], each up to its first NUL; the positions x are not needed."""
        return [row.tobytes().split(b"\0", 1)[0] for row in np.asarray(y).astype(np.uint8)]

    def _sequences(self, split: str, rows: np.ndarray, rng: np.random.Generator | None) -> Sequence:
        y = self.splits[split][rows].astype(np.int32)
        x = np.arange(self.length, dtype=np.int32)[None]
        weight = np.ones_like(y) if self.score_padding else until_end(y, end=0)
        return Sequence(x, y, weight.astype(np.float32))


def from_lines(lines: list[bytes], max_length: int, held_out: float, split_seed: int, score_padding: bool, origin: str) -> Text:
    """A data set of lines; says in its notes which of them were cut or dropped.

    Args:
      lines: one sequence each; what follows a NUL in a line is dropped, and so are empty lines.
      max_length: T; longer lines are cut to T - 1 bytes.
      origin: where the lines come from, for messages.
    Raises:
      DataError: fewer than three lines are not empty, or the splits cannot be cut.
    """
    whole = [line.split(b"\0", 1)[0] for line in lines]
    used = [line for line in whole if line]
    if len(used) < 3:
        few = f"too few lines that are not empty ({len(used)})" if used else "no line that is not empty"
        raise DataError(f"{origin} has {few}; at least 3 are needed, one each to train, validate and test on.")
    short = [line[: max_length - 1].ljust(max_length, b"\0") for line in used]
    array = np.frombuffer(b"".join(short), np.uint8).reshape(len(short), max_length)
    splits = {name: array[rows] for name, rows in cut(len(used), held_out, split_seed).items()}
    notes = [sizes(splits, f"lines of {origin}", f"split seed {split_seed}")]
    longer, with_nul = sum(len(line) >= max_length for line in used), sum(b"\0" in line for line in lines)
    if longer:
        notes.append(f"Lines cut to {max_length - 1} bytes, since they were longer: {longer:,} of {len(used):,}.")
    if with_nul:
        notes.append(f"Lines cut before a NUL byte, which ends a line here: {with_nul:,}.")
    if len(used) < len(lines):
        notes.append(f"Empty lines dropped: {len(lines) - len(used):,}.")
    return Text(splits, tuple(notes), split_seed, score_padding)


def from_file(path: str | os.PathLike[str], max_length: int, held_out: float, split_seed: int, score_padding: bool) -> Text:
    """A data set of the lines of a file, which end with \\n or \\r\\n.

    Raises:
      DataError: the file cannot be read, or its lines cannot be used.
    """
    shown = os.fspath(path)
    if os.path.isdir(path):
        raise DataError(f"{shown!r} is a folder; a text file with one sequence a line is expected.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{shown!r} is not a regular file; a text file with one sequence a line is expected.")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"The text file {shown!r} cannot be read: {error.strerror}.") from error
    if not content:
        raise DataError(f"The text file {shown!r} is empty; one sequence a line is expected.")
    lines = [line.removesuffix(b"\r") for line in content.removesuffix(b"\n").split(b"\n")]
    return from_lines(lines, max_length, held_out, split_seed, score_padding, repr(shown))


def listing(max_length: int, held_out: float, split_seed: int, score_padding: bool) -> Text:
    """A data set of a listing, in the style of `ls -l`, of the files of the running Python's standard library.

    Raises:
      DataError: they cannot be listed, or the splits cannot be cut.
    """
    folder = sysconfig.get_path("stdlib")
    try:
        lines = list_files(folder)
    except OSError as error:
        raise DataError(f"Python's own library {folder!r} cannot be listed: {error.strerror}. Give a text file instead.") from error
    return from_lines(lines, max_length, held_out, split_seed, score_padding, "the listing of Python's library")


def list_files(folder: str) -> list[bytes]:
    """One line for each file of the folder and of the folders in it, sorted by name; installed packages are left out."""
    inside = [entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.endswith(("-packages", "__pycache__"))]
    files = [entry for place in (folder, *sorted(inside)) for entry in os.scandir(place) if entry.is_file()]
    return [_list_file(entry.name, entry.stat()) for entry in sorted(files, key=lambda entry: (entry.name, entry.path))]


def _list_file(name: str, info: os.stat_result) -> bytes:
    day = time.gmtime(info.st_mtime)
    date = f"{MONTHS[day.tm_mon - 1]} {day.tm_mday:2}  {day.tm_year}"
    return os.fsencode(f"{stat.filemode(info.st_mode)} {info.st_nlink} root root {info.st_size:>11} {date} {name}")
