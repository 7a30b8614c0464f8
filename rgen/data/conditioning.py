"""What is known of a sequence before the rest is drawn: the beginning of a line, a part of an image, or a picture."""

import os
from pathlib import Path

import numpy as np

from rgen.data import pictures
from rgen.data.dataset import DataError, Dataset
from rgen.errors import nearest
from rgen.sequence import Given

SIDES = ("top", "bottom", "left", "right")
GREY = (64, 192)  # pixels between these are unknown


def prompt(data: Dataset, text: str) -> Given:
    """The beginning of a line: y and known [T].

    Raises:
      DataError: the data are images, or the text does not fit into a line.
    """
    if data.kind != "text":
        raise DataError("--prompt begins a line, and this run was trained on images; give a part of an image with --complete.")
    line = os.fsencode(text)
    if not line or b"\0" in line or len(line) >= data.length:
        nul = " and a NUL among them" if b"\0" in line else ""
        raise DataError(f"The prompt has {len(line)} bytes{nul}; this run's lines have 1 to {data.length - 1}, and no NUL.")
    y = np.frombuffer(line.ljust(data.length, b"\0"), np.uint8).astype(np.int32)
    return Given(y, np.arange(data.length) < len(line))


def part(data: Dataset, name: str, count: int, seed: int) -> np.ndarray:
    """Which pixels are known, [count, H, W]: one of SIDES, or for "random:0.3" three tenths of them, other ones in each image.

    Raises:
      DataError: the data are lines, or there is no such part.
    """
    _must_be_images(data)
    height, width = data.shape
    row, column = np.indices(data.shape)
    halves = {"top": row < height // 2, "bottom": row >= height - height // 2}
    halves |= {"left": column < width // 2, "right": column >= width - width // 2}
    if name in halves:
        return np.broadcast_to(halves[name], (count, *data.shape))
    kind, _, fraction = name.partition(":")
    if kind != "random":
        raise DataError(f"There is no part '{name}' of an image. {nearest(name, (*SIDES, 'random:0.3', 'the path of a PNG'))}")
    try:
        share = float(fraction)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(f"--complete is '{name}'; behind 'random:' comes the known share of the pixels, from 0 to 1, as in random:0.3.")
    ranks = np.random.default_rng(seed).permuted(np.tile(np.arange(data.length), (count, 1)), axis=1)
    return (ranks < round(share * data.length)).reshape(count, *data.shape)


def picture(data: Dataset, path: Path) -> Given:
    """Reads a picture of the data's size: black is 1, white is 0, grey is unknown. Returns y and known [H, W].

    Raises:
      DataError: it cannot be read, or has another size.
    """
    _must_be_images(data)
    grey, frames = pictures.read(path, paper=128)  # transparent pixels are unknown too
    if frames > 1:
        raise DataError(f"The picture {str(path)!r} has {frames} frames, pages or layers; save one of them as a picture of its own.")
    if grey.shape != data.shape:
        height, width = data.shape
        raise DataError(f"The picture {str(path)!r} has {grey.shape[1]} by {grey.shape[0]} pixels; this run's have {width} by {height}.")
    dark, light = GREY
    return Given((grey < dark).astype(np.int32), (grey < dark) | (grey >= light))


def _must_be_images(data: Dataset) -> None:
    if data.kind != "image":
        raise DataError("--complete is for images, and this run was trained on text; give the beginning of a line with --prompt.")
