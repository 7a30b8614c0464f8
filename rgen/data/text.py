"""Lines of text as sequences of bytes, each ended by a NUL."""

import bz2
import codecs
import dataclasses
import gzip
import lzma
import os
import stat
import sysconfig
import time
import zlib
from typing import Any, ClassVar

import numpy as np

from rgen.data import DataError, Dataset, check_regular, cut, duplicates, sizes
from rgen.data.kinds import HTML, binary, kind_of
from rgen.hardware import require_memory
from rgen.sequence import Sequence, until_end

BLOCK = 8192  # lines
PACKED = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"\xfd7zXZ\0": ("xz", lzma.decompress),
    **{b"BZh%d1AY&SY" % level: ("bzip2", bz2.decompress) for level in range(1, 10)},
}
"""How compressed files begin."""
MARKS = {  # those of UTF-32 before those of UTF-16, with which they begin
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
UNMARKED: dict[tuple[bool, ...], str] = {  # which bytes of four are NUL
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}

WIDTHS = np.repeat([0, 2, 3, 4, 0], [0xC2, 0x1E, 0x10, 0x05, 0x0B])
"""How many bytes a character of UTF-8 has that begins with a byte; 0 where none does."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Dataset):
    """Lines of bytes, padded with NUL; the input of a step is its position.

    The splits hold [N, W], W at most T: the columns in which some line has more than padding.

    Attributes:
      max_length: T; 0 for W.
      score_padding: the steps after a line's first NUL have weight 1 too, as in the original, and not 0.
    """

    kind: ClassVar[str] = "text"
    symbols: ClassVar[int] = 256

    score_padding: bool = False
    max_length: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.max_length or super().shape[0],)

    def rows(self, split: str, index: slice | np.ndarray) -> np.ndarray:
        lines = self.splits[split][index]
        return np.pad(lines, ((0, 0), (0, self.length - lines.shape[1])))

    def decode(self, x: Any, y: Any) -> list[bytes]:
        """Lines of the outputs y [B, T], each up to its first NUL; the positions x are not needed."""
        return [row.tobytes().split(b"\0", 1)[0] for row in np.asarray(y).astype(np.uint8)]

    def _sequences(self, split: str, rows: np.ndarray, rng: np.random.Generator | None) -> Sequence:
        y = self.rows(split, rows).astype(np.int32)
        x = np.arange(self.length, dtype=np.int32)[None]
        weight = np.ones_like(y) if self.score_padding else until_end(y, end=0)
        return Sequence(x, y, weight.astype(np.float32))


def from_content(
    content: bytes, max_length: int, held_out: float, split_seed: int, score_padding: bool, deduplicate: bool, origin: str, *notes: str
) -> Text:
    """A data set of the lines of some text; says in its notes which of them were cut or dropped.

    Lines end with \\n, \\r\\n, or \\r if there is no \\n at all. What follows a NUL in a line is dropped, and so are empty lines.

    Args:
      max_length: T; longer lines are cut to T - 1 bytes, or before a character of UTF-8 that would be cut in two.
      deduplicate: drop lines that came before.
      origin: where the text comes from, for messages.
      *notes: further ones.
    Raises:
      DataError: fewer than three lines are not empty, or the splits cannot be cut.
    """
    symbols = np.frombuffer(content, np.uint8)
    starts, lengths, with_nul = find_lines(symbols)
    used = np.flatnonzero(lengths).astype(np.int32)
    if len(used) < 3:
        few = f"too few lines that are not empty ({len(used)})" if len(used) else "no line that is not empty"
        raise DataError(f"{origin} has {few}; at least 3 are needed, one each to train, validate and test on.")
    shorter = shorten(symbols, starts, lengths, max_length - 1)
    width = int(shorter.max()) + 1  # most files have short lines, and memory for those is enough
    require_memory(len(used) * width, f"A table of {len(used):,} lines of {width:,} bytes", "Give a smaller --max-length.")
    filled = len(used)
    if deduplicate:
        used = used[duplicates.first_of_each({"": table(symbols, starts[used], shorter[used], width)})[""]]
    splits = {
        name: table(symbols, starts[used[rows]], shorter[used[rows]], width) for name, rows in cut(len(used), held_out, split_seed).items()
    }
    said = [*notes, sizes(splits, f"lines of {origin}", f"split seed {split_seed}")]
    if longer := int((lengths[used] >= max_length).sum()):
        said.append(f"Lines cut to {max_length - 1} bytes, since they were longer: {longer:,} of {len(used):,}.")
    if with_nul:
        said.append(f"Lines cut before a NUL byte, which ends a line here: {with_nul:,}.")
    if filled < len(lengths):
        said.append(f"Empty lines dropped: {len(lengths) - filled:,}.")
    if len(used) < filled:
        said.append(f"Lines dropped, since they came twice: {filled - len(used):,}.")
    said += duplicates.also_in_train(splits, "lines")
    return Text(splits, tuple(said), split_seed, score_padding, max_length)


def find_lines(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Of text as bytes [S]: where each line starts, how many bytes it has before its end or first NUL, and how many lines have a NUL."""
    newlines, back, nul = np.flatnonzero(symbols == ord("\n")), symbols == ord("\r"), np.flatnonzero(symbols == 0)
    ends = newlines if len(newlines) else np.flatnonzero(back)
    starts = np.concatenate([[0], ends + 1])
    ends = np.append(ends, len(symbols))
    if starts[-1] == ends[-1]:  # nothing behind the last end
        starts, ends = starts[:-1], ends[:-1]
    if len(newlines):
        ends = ends - ((ends > starts) & back[np.maximum(ends, 1) - 1])
    first = np.append(nul, len(symbols))[np.searchsorted(nul, starts)]
    return starts, np.minimum(ends, first) - starts, int((first < ends).sum())


def shorten(symbols: np.ndarray, starts: np.ndarray, lengths: np.ndarray, most: int) -> np.ndarray:
    """The lengths of lines cut to `most` bytes, or up to three fewer where a character of UTF-8 would be cut in two."""
    shorter, long = np.minimum(lengths, most), np.flatnonzero(lengths > most)
    for at in range(0, len(long), BLOCK):
        rows = long[at : at + BLOCK]
        around = starts[rows, None] + most + np.arange(-3, 3)
        inside = (around >= starts[rows, None]) & (around < (starts + lengths)[rows, None])
        near = np.where(inside, symbols[np.clip(around, 0, len(symbols) - 1)], 0)
        needs = WIDTHS[near]  # bytes of the character that would begin here
        follows = near & 0xC0 == 0x80
        for back in range(1, min(4, most)):  # never to nothing
            here = 3 - back
            for width in range(back + 1, 5):
                whole = (needs[:, here] == width) & follows[:, here + 1 : here + width].all(1)
                shorter[rows[whole]] = most - back
    return shorter


def table(symbols: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Lines as rows [N, width], cut, and padded with NULs; block by block, so that what is needed on the way is small."""
    rows = np.zeros((len(starts), width), np.uint8)
    place = np.arange(width - 1)
    for at in range(0, len(starts), BLOCK):
        block = slice(at, at + BLOCK)
        index = np.minimum(starts[block, None] + place, len(symbols) - 1)
        rows[block, :-1] = np.where(place < lengths[block, None], symbols[index], 0)
    return rows


def from_file(
    path: str | os.PathLike[str], max_length: int, held_out: float, split_seed: int, score_padding: bool, deduplicate: bool
) -> Text:
    """A data set of the lines of a file; see `from_content` and `unpacked`.

    Raises:
      DataError: the file cannot be read, or its lines cannot be used.
    """
    shown = os.fspath(path)
    check_regular(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"The text file {shown!r} cannot be read: {error.strerror}.") from error
    if not content:
        raise DataError(f"The text file {shown!r} is empty; one sequence per line is expected.")
    content, notes = unpacked(content, shown)
    return from_content(content, max_length, held_out, split_seed, score_padding, deduplicate, repr(shown), *notes)


def unpacked(content: bytes, shown: str) -> tuple[bytes, list[str]]:
    """The bytes of a file as they are if it is plain text; decompressed, or in UTF-8 if it is in UTF-16 or UTF-32: with a note of what was
    done.

    Raises:
      DataError: it is damaged, or of a kind that is no text.
    """
    notes = []
    for start, (what, decompress) in PACKED.items():
        if content.startswith(start):
            try:
                content = decompress(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"{shown!r} is compressed by {what} and damaged: {error}. Unpack it by hand, or get it anew.") from error
            notes.append(f"{shown!r} was decompressed ({what}).")
            break
    kind = kind_of(content)
    if kind == HTML:
        notes.append(f"{shown!r} begins as {HTML}. If that is not what it should be, get the file anew.")
    elif kind:
        raise _no_text(shown, kind)
    if (encoding := encoding_of(content)) is not None:
        try:
            content = content.decode(encoding).encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{shown!r} looks like {encoding} and is not: {error.reason} at byte {error.start}. Save it as UTF-8."
            ) from error
        if encoding != "utf-8-sig":
            notes.append(f"{shown!r} is in {encoding}; it is read as UTF-8.")
    if what := binary(content):
        raise _no_text(shown, what)
    return content, notes


def _no_text(shown: str, kind: str) -> DataError:
    return DataError(f"{shown!r} is {kind}; a text file with one sequence per line is expected.")


def encoding_of(content: bytes) -> str | None:
    """The name of the encoding if it is UTF-8 with a byte order mark, UTF-16 or UTF-32; None if the bytes are to be taken as they are.

    Without a mark, UTF-16 and UTF-32 are known by their NULs: of letters of Latin script, all bytes but one.
    """
    for mark, name in MARKS.items():
        if content.startswith(mark):
            return name
    head = np.frombuffer(content[: min(len(content), 4096) // 4 * 4], np.uint8).reshape(-1, 4) == 0
    if len(head) < 2:
        return None
    nuls = tuple(bool(share > 0.8) for share in head.mean(0))
    return UNMARKED.get(nuls)


def listing(max_length: int, held_out: float, split_seed: int, score_padding: bool, deduplicate: bool) -> Text:
    """A data set of a listing, in the style of `ls -l`, of the files of the running Python's standard library.

    Raises:
      DataError: they cannot be listed, or the splits cannot be cut.
    """
    folder = sysconfig.get_path("stdlib")
    try:
        lines = list_files(folder)
    except OSError as error:
        raise DataError(f"Python's own library {folder!r} cannot be listed: {error.strerror}. Give a text file instead.") from error
    content, origin = b"\n".join(lines), "the listing of Python's library"
    return from_content(content, max_length, held_out, split_seed, score_padding, deduplicate, origin)


def list_files(folder: str) -> list[bytes]:
    """One line for each file of the folder and of the folders in it, sorted by name; installed packages are left out."""
    inside = [entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.endswith(("-packages", "__pycache__"))]
    files = [entry for place in (folder, *sorted(inside)) for entry in os.scandir(place) if entry.is_file()]
    return [_list_file(entry.name, entry.stat()) for entry in sorted(files, key=lambda entry: (entry.name, entry.path))]


def _list_file(name: str, info: os.stat_result) -> bytes:
    day = time.gmtime(info.st_mtime)
    date = f"{MONTHS[day.tm_mon - 1]} {day.tm_mday:2}  {day.tm_year}"
    return os.fsencode(f"{stat.filemode(info.st_mode)} {info.st_nlink} root root {info.st_size:>11} {date} {name}")
