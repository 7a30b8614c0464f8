"""Lines of text as sequences of bytes, each ended by a NUL."""

import bz2
import codecs
import gzip
import lzma
import os
import re
import stat
import sysconfig
import time
import zlib

import numpy as np

from rgen.data import duplicates
from rgen.data.dataset import DataError, Dataset, check_regular, cut, sizes
from rgen.data.kinds import HTML, binary, kind_of
from rgen.hardware import require_memory

PACKED = (  # how compressed files begin
    (rb"\x1f\x8b", "gzip", gzip.decompress),
    (rb"\xfd7zXZ\0", "xz", lzma.decompress),
    (rb"BZh[1-9]1AY&SY", "bzip2", bz2.decompress),
)
MARKS = {  # those of UTF-32 before those of UTF-16, with which they begin
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def load(
    path: str | os.PathLike[str] | None, max_length: int, held_out: float, split_seed: int, deduplicate: bool, score_padding: bool
) -> Dataset:
    """A data set of the lines of a file, or of `listing` without one; its notes say which lines were cut or dropped.

    Lines end with \\n, \\r\\n, or \\r if there is no \\n at all. What follows a NUL in a line is dropped, and so are empty lines.

    Args:
      max_length: T; longer lines are cut to T - 1 bytes, or before a character of UTF-8 that would be cut in two.
      deduplicate: drop lines that came before.
      held_out, split_seed: as in `rgen.data.cut`.
    Raises:
      DataError: the file is no text, fewer than three lines are not empty, or the splits cannot be cut.
    """
    if path is None:
        content, notes, origin = listing(), [], "the listing of Python's library"
    else:
        content, notes = read(path)
        origin = repr(os.fspath(path))
    found = lines_of(content)
    ended = sum(b"\0" in line for line in found)
    whole = [line for line in (line.partition(b"\0")[0] for line in found) if line]
    if len(whole) < 3:
        few = f"too few lines that are not empty ({len(whole)})" if whole else "no line that is not empty"
        raise DataError(f"{origin} has {few}; at least 3 are needed, one each to train, validate and test on.")
    lines = [shortened(line, max_length - 1) for line in whole]
    if deduplicate:
        lines = list(dict.fromkeys(lines))
    width = max(map(len, lines)) + 1  # most files have short lines, and memory for those is enough
    require_memory(len(lines) * width, f"A table of {len(lines):,} lines of {width:,} bytes", "Give a smaller --max-length.")
    table = np.array(lines, f"S{width}").view(np.uint8).reshape(-1, width)
    splits = {name: table[rows] for name, rows in cut(len(lines), held_out, split_seed).items()}
    notes.append(sizes(splits, f"lines of {origin}", f"split seed {split_seed}"))
    if longer := sum(len(line) >= max_length for line in whole):
        notes.append(f"Lines cut to {max_length - 1} bytes, since they were longer: {longer:,} of {len(whole):,}.")
    if ended:
        notes.append(f"Lines cut before a NUL byte, which ends a line here: {ended:,}.")
    if len(whole) < len(found):
        notes.append(f"Empty lines dropped: {len(found) - len(whole):,}.")
    if len(lines) < len(whole):
        notes.append(f"Lines dropped, since they are repeated: {len(whole) - len(lines):,}.")
    notes += duplicates.also_in_train(splits, "lines")
    return Dataset("text", splits, 256, notes=tuple(notes), split_seed=split_seed, max_length=max_length, score_padding=score_padding)


def lines_of(content: bytes) -> list[bytes]:
    """The lines of a text, without their ends."""
    if b"\n" not in content:
        return content.removesuffix(b"\r").split(b"\r")
    return [line.removesuffix(b"\r") for line in content.removesuffix(b"\n").split(b"\n")]


def shortened(line: bytes, most: int) -> bytes:
    """A line cut to `most` bytes, or up to three fewer where a character of UTF-8 would be cut in two."""
    for end in range(most, max(most - 4, 0), -1):
        if end >= len(line) or line[end] & 0xC0 != 0x80:  # a character begins here
            return line[:end]
    return line[:most]


def read(path: str | os.PathLike[str]) -> tuple[bytes, list[str]]:
    """The text of a file in UTF-8: decompressed, and decoded if it begins with a mark of UTF-16 or UTF-32; and notes on what was done.

    Raises:
      DataError: it cannot be read, is damaged, or is no text.
    """
    shown, notes = os.fspath(path), []
    check_regular(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"The text file {shown!r} cannot be read: {error.strerror}.") from error
    if not content:
        raise DataError(f"The text file {shown!r} is empty; one sequence per line is expected.")
    for begins, what, decompress in PACKED:
        if re.match(begins, content):
            try:
                content = decompress(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"{shown!r} is compressed by {what} and damaged: {error}. Unpack it by hand, or get it anew.") from error
            notes.append(f"{shown!r} was decompressed ({what}).")
            break
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if encoding:
        try:
            content = content.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{shown!r} looks like {encoding} and is not: {error.reason} at byte {error.start}. Save it as UTF-8."
            ) from error
        if encoding != "utf-8-sig":
            notes.append(f"{shown!r} is in {encoding}; it is read as UTF-8.")
    kind = kind_of(content) or binary(content)
    if kind == HTML:
        notes.append(f"{shown!r} begins as {HTML}. If that is not what it should be, get the file anew.")
    elif kind:
        raise DataError(f"{shown!r} is {kind}; a text file in UTF-8 with one sequence per line is expected.")
    return content, notes


def listing() -> bytes:
    """A listing, in the style of `ls -l`, of the files of the running Python's standard library.

    Raises:
      DataError: they cannot be listed.
    """
    folder = sysconfig.get_path("stdlib")
    try:
        return b"\n".join(list_files(folder))
    except OSError as error:
        raise DataError(f"Python's own library {folder!r} cannot be listed: {error.strerror}. Give a text file instead.") from error


def list_files(folder: str) -> list[bytes]:
    """One line for each file of the folder and of the folders in it, sorted by name; installed packages are left out."""
    inside = [entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.endswith(("-packages", "__pycache__"))]
    files = [entry for place in (folder, *sorted(inside)) for entry in os.scandir(place) if entry.is_file()]
    return [_list_file(entry.name, entry.stat()) for entry in sorted(files, key=lambda entry: (entry.name, entry.path))]


def _list_file(name: str, info: os.stat_result) -> bytes:
    _, month, day, _, year = time.asctime(time.gmtime(info.st_mtime)).split()
    return os.fsencode(f"{stat.filemode(info.st_mode)} {info.st_nlink} root root {info.st_size:>11} {month} {day:>2}  {year} {name}")
