"""What is known of a sequence before the rest is drawn: the beginning of a line, a part of a grid, or a picture or an array of it."""

import os
from pathlib import Path

import numpy as np

from rgen.data import arrays, pictures
from rgen.data.dataset import DataError, Dataset
from rgen.errors import nearest
from rgen.sequence import Given

SIDES = ("top", "bottom", "left", "right")
GREY = (64, 192)  # black and white pixels between these are unknown
COLOURFUL = 32  # a difference of red, green and blue that is no accident of a format


def prompt(data: Dataset, text: str) -> Given:
    """The beginning of a line: y and known [T].

    Raises:
      DataError: the data are images, or the text does not fit into a line.
    """
    if data.kind != "text":
        raise DataError(f"--prompt begins a line, and this run was trained on {data.kind}s; give a part of one with --complete.")
    line = os.fsencode(text)
    if not line or b"\0" in line or len(line) >= data.length:
        nul = " and a NUL among them" if b"\0" in line else ""
        raise DataError(f"The prompt has {len(line)} bytes{nul}; this run's lines have 1 to {data.length - 1}, and no NUL.")
    y = np.frombuffer(line.ljust(data.length, b"\0"), np.uint8).astype(np.int32)
    return Given(y, np.arange(data.length) < len(line))


def part(data: Dataset, name: str, count: int, seed: int) -> np.ndarray:
    """Which places are known, [count, *shape]: one of SIDES, or for "random:0.3" three tenths of them, other ones in each sequence.

    Top and bottom are halves along the first axis, left and right along the second. The colours of a pixel are known together.

    Raises:
      DataError: the data are lines, or there is no such part.
    """
    _must_be_grids(data)
    kind, _, fraction = name.partition(":")
    if name in SIDES[: 2 * len(data.shape)]:
        axis, is_last = divmod(SIDES.index(name), 2)
        size, along = data.shape[axis], np.indices(data.shape)[axis]
        half = along >= size - size // 2 if is_last else along < size // 2
        return np.broadcast_to(half, (count, *data.shape))
    if kind != "random":
        choices = (*SIDES[: 2 * len(data.shape)], "random:0.3", "the path of a PNG" if data.kind == "image" else "the path of an NPY")
        raise DataError(f"There is no part '{name}' of an {data.kind}. {nearest(name, choices)}")
    try:
        share = float(fraction)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(f"--complete is '{name}'; behind 'random:' comes the known share of the places, from 0 to 1, as in random:0.3.")
    groups = data.length // data.together
    ranks = np.random.default_rng(seed).permuted(np.tile(np.arange(groups), (count, 1)), axis=1)
    return (ranks < round(share * groups)).repeat(data.together, axis=1).reshape(count, *data.shape)


def file(data: Dataset, path: Path) -> Given:
    """Reads what is known from a picture, or from an NPY file of symbols in which -1 is unknown. Returns y and known [*shape].

    Of pictures transparent pixels are unknown. In black and white black is 1, white is 0, and grey is unknown too.

    Raises:
      DataError: it cannot be read, has another shape, or what the run does not know, as colours.
    """
    _must_be_grids(data)
    if path.suffix.lower() == ".npy":
        return _array(data, path)
    if data.kind == "array":
        raise DataError(f"This run was trained on arrays, and --complete is {str(path)!r}; give an NPY file, in which -1 is unknown.")
    on_black, frames = pictures.read(path, 0, colour=True)
    if frames > 1:
        raise DataError(f"The picture {str(path)!r} has {frames} frames, pages or layers; save one of them as a picture of its own.")
    height, width = data.shape[:2]
    rows, columns = on_black.shape[:2]
    if (rows, columns) != (height, width):
        raise DataError(f"The picture {str(path)!r} has {columns} by {rows} pixels; this run's have {width} by {height}.")
    if not data.colour and np.ptp(on_black.astype(int), axis=-1).max() > COLOURFUL:
        raise DataError(f"The picture {str(path)!r} has colours, and this run's pictures have none; save it in grey.")
    if data.is_black_and_white:
        grey, (dark, light) = pictures.read(path, 128)[0], GREY
        return Given((grey < dark).astype(np.int32), (grey < dark) | (grey >= light))
    on_white = pictures.read(path, 255, colour=True)[0]
    opaque = on_white.astype(int) - on_black <= 2  # elsewhere the paper shows through, and values would not be what they seem
    values, known = (on_black, opaque) if data.colour else (pictures.read(path, 128)[0], opaque.all(-1))
    return Given((values * (data.symbols - 1.0) / 255 + 0.5).astype(np.int32), known)


def _array(data: Dataset, path: Path) -> Given:
    values = arrays.read(path).get("")
    if values is None:
        raise DataError(f"{str(path)!r} holds several arrays; save one with numpy.save: integers {data.shape}, -1 for unknown.")
    if values.shape != data.shape or values.dtype.kind not in "iu":
        raise DataError(
            f"{str(path)!r} has {values.dtype} of the shape {values.shape}; this run needs integers {data.shape}, -1 for unknown."
        )
    if values.min() < -1 or values.max() >= data.symbols:
        numbers = f"{values.min()} to {values.max()}"
        raise DataError(f"{str(path)!r} has numbers from {numbers}; this run's are 0 to {data.symbols - 1}, and -1 for unknown.")
    return Given(values.astype(np.int32), values >= 0)


def _must_be_grids(data: Dataset) -> None:
    if data.kind == "text":
        raise DataError(
            "--complete is for images and arrays, and this run was trained on text; give the beginning of a line with --prompt."
        )
