"""How sequences look: grids of symbols as pictures [H, W, 3] in RGB of 0 to 1."""

import numpy as np

from rgen.data import Dataset
from rgen.host import plots
from rgen.sequence import Given

UNKNOWN = (0.95, 0.83, 0.84)  # places that are not known, among levels and colours
LINE = 1.0  # between slices
NAMED = {10: "tab10", 20: "tab20"}  # Matplotlib's colours for so many symbols that have no order


def palette(data: Dataset) -> np.ndarray:
    """The colour of each symbol: [K, 3]."""
    if data.is_black_and_white:
        return np.array([[1.0, 1, 1], [0, 0, 0]])
    if data.kind == "image":
        return np.linspace(0, 1, data.symbols)[:, None].repeat(3, 1)
    from matplotlib import colormaps

    for count, name in NAMED.items():
        if data.symbols <= count:
            return colormaps[name](np.arange(data.symbols))[:, :3]
    return colormaps["viridis"](np.linspace(0, 1, data.symbols))[:, :3]


def flat(grids: np.ndarray, axes: int, line: float = LINE) -> np.ndarray:
    """Grids [..., *shape, C] with so many axes as pictures [..., H, W, C]: of one axis, a row; of more than two, slices side by side.

    `line` is the value of what is between them.
    """
    if axes == 1:
        return grids[..., None, :, :]
    if axes > 2:
        grids = _joined(np.moveaxis(grids, -4, 0), -2, line)
    if axes > 3:
        grids = _joined(np.moveaxis(grids, -4, 0), -3, line)
    return grids


def _joined(parts: np.ndarray, axis: int, line: float) -> np.ndarray:
    between = np.full_like(np.take(parts[0], [0], axis), line)
    return np.concatenate([piece for part in parts for piece in (between, part)][1:], axis)


def pictures(data: Dataset, values: np.ndarray) -> np.ndarray:
    """Grids of symbols [..., *shape] as pictures [..., H, W, 3]."""
    return values / (data.symbols - 1) if data.colour else flat(palette(data)[values], len(data.shape))


def partly_known(data: Dataset, given: Given, values: np.ndarray | None = None) -> np.ndarray:
    """Grids [..., *shape] of which a part is given as pictures [..., H, W, 3], the rest drawn as in `values` or not known.

    In black and white what is given is dark and what was drawn is red.
    """
    known = np.asarray(given.known)
    if not data.is_black_and_white:
        shown = pictures(data, np.where(known, given.y, 0 if values is None else values).astype(int))
        return shown if values is not None else np.where(_mask(data, known), shown, UNKNOWN)
    return paint(data, np.where(known, given.y, np.nan if values is None else values), known)


def paint(data: Dataset, ink: np.ndarray, known: np.ndarray, paper: str = "white") -> np.ndarray:
    """Grids in black and white as pictures, as `rgen.host.plots.paint`: ink and known [..., *shape] to [..., H, W, 3]."""
    return plots.paint(flat(ink[..., None].astype(float), len(data.shape), np.nan)[..., 0], _mask(data, known)[..., 0], paper)


def expected(data: Dataset, probs: np.ndarray) -> np.ndarray:
    """The mean colours [..., H, W, 3] under probabilities [..., *shape, K]; of symbols without order the likeliest, paler if less sure."""
    if data.colour:
        return probs @ np.linspace(0, 1, data.symbols)
    if data.kind == "array" and data.symbols > 2:
        return flat(1 - probs.max(-1)[..., None] * (1 - palette(data)[probs.argmax(-1)]), len(data.shape))
    return flat(probs @ palette(data), len(data.shape))


def spread(data: Dataset, probs: np.ndarray) -> np.ndarray:
    """How unsure probabilities [..., *shape, K] are, as pictures [..., H, W, 3], white if they are sure.

    Of levels, the standard deviation, red for half of the range; of other symbols, the entropy, red for that of equal probabilities.
    """
    if data.kind == "image":
        levels = np.linspace(0, 1, data.symbols)
        mean = probs @ levels
        unsure = 2 * np.sqrt(np.maximum(probs @ levels**2 - mean**2, 0))
        unsure = unsure.mean(-1) if data.colour else unsure
    else:
        unsure = flat(-(probs * np.log(np.maximum(probs, 1e-30))).sum(-1)[..., None], len(data.shape))[..., 0] / np.log(data.symbols)
    return plots.paint(unsure, np.zeros(unsure.shape, bool))


def _mask(data: Dataset, known: np.ndarray) -> np.ndarray:
    """Booleans [..., *shape] of places as those of pictures [..., H, W, 1 or 3]."""
    return known if data.colour else flat(known[..., None].astype(float), len(data.shape), 0) > 0
