"""Pictures, as the bytes of a PNG: images in groups, and curves."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 130  # per inch
WIDEST = 20  # inches of a group of pictures
INK, PALE, ACCENT = "#1b2a49", "#9fb3d1", "#d1495b"


def figure(**options: Any) -> "Figure":
    """A figure of Matplotlib, which is imported only here, and without pyplot, whose backend is the user's."""
    from matplotlib.figure import Figure

    return Figure(**options)


def subplots(rows: int = 1, columns: int = 1, figsize: tuple[float, float] | None = None, **options: Any) -> tuple["Figure", Any]:
    """A figure and its axes."""
    whole = figure(figsize=figsize)
    return whole, whole.subplots(rows, columns, **options)


def sheet(groups: dict[str, np.ndarray], columns: Sequence[int] = (8, 8, 8), inches: float = 0.55) -> bytes:
    """Images side by side in captioned groups.

    Args:
      groups: caption -> images [N, H, W] of 0 (white) to 1 (black), or RGB [N, H, W, 3] of 0 to 1.
      columns: images per row in each group.
      inches: width of an image, or more if it has many pixels, and then fewer columns.
    """
    width = next(iter(groups.values())).shape[2]
    inches = max(inches, width * 2 / DOTS)  # at least two dots for a pixel
    columns = [fitting(count, width) for count in columns]
    tiles = [tile(images, columns) for images, columns in zip(groups.values(), columns)]
    widths = [t.shape[1] for t in tiles]
    scale = inches / (width + 1)
    size = (sum(widths) * scale + 1.2, max(t.shape[0] for t in tiles) * scale + 0.5)
    figure, axes = subplots(1, len(tiles), figsize=size, width_ratios=widths, squeeze=False)
    for axis, image, caption in zip(axes[0], tiles, groups, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(caption, fontsize=10, color=INK)
        axis.set_axis_off()
        axis.set_anchor("N")
    return png(figure)


def fitting(columns: int, width: int) -> int:
    """How many columns of a group of a sheet, of so many pixels each, are not too wide; at least one."""
    return max(1, min(columns, int(WIDEST * DOTS / (2 * width))))


def strip(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> bytes:
    """A filmstrip: RGB images [H, W, 3] in columns under a caption each, a row for each sequence."""
    columns = {caption: np.stack([row[i] for row in rows]) for i, caption in enumerate(captions)}
    return sheet(columns, [1] * len(captions), inches=1.15)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Images as for `sheet` in rows of `columns`, with a pale line between them: RGB [rows * (H + 1) + 1, columns * (W + 1) + 1, 3]."""
    if images.ndim == 3:
        images = 1 - np.repeat(images[..., None], 3, axis=-1)
    n, height, width = images.shape[:3]
    columns = min(columns, n)
    rows = -(-n // columns)
    out = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 0.75)
    for k, image in enumerate(images):
        i, j = divmod(k, columns)
        out[i * (height + 1) + 1 : (i + 1) * (height + 1), j * (width + 1) + 1 : (j + 1) * (width + 1)] = image
    return out


def paint(ink: np.ndarray, known: np.ndarray, paper: str = "white") -> np.ndarray:
    """Pixels in colour: known ones dark on `paper`, the others red on white, missing ones (NaN) grey.

    Args:
      ink: [..., H, W] of 0 to 1, or NaN.
      known: [..., H, W] booleans.
      paper: the colour of known pixels that are 0.
    Returns:
      RGB [..., H, W, 3] of 0 to 1.
    """
    from matplotlib.colors import to_rgb

    empty = np.where(known[..., None], to_rgb(paper), 1.0)
    colour = np.where(known[..., None], to_rgb(INK), to_rgb(ACCENT))
    mixed = empty + np.nan_to_num(ink)[..., None] * (colour - empty)
    return np.where(np.isnan(ink)[..., None], 0.85, mixed)


def curves(metrics: Sequence[dict]) -> bytes:
    """Training and validation nats per sequence against outer steps; the norms of the meta-gradient and of the inner gradients below."""
    from matplotlib.ticker import LogLocator

    training = [row for row in metrics if "nats" in row]
    validation = [row for row in metrics if "valid_nats" in row]
    figure, (top, bottom) = subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1])
    top.plot([r["step"] for r in training], [r["nats"] for r in training], color=PALE, label="training")
    top.plot([r["step"] for r in validation], [r["valid_nats"] for r in validation], "o-", color=ACCENT, ms=4, label="validation")
    top.set_ylabel("nats per sequence")
    top.legend(frameon=False)
    bottom.plot([r["step"] for r in training], [r["gradient_norm"] for r in training], color=PALE, label="meta-gradient")
    inner = [(r["step"], r["inner_gradient_norm"]) for r in validation if "inner_gradient_norm" in r]
    if inner:
        bottom.plot(*zip(*inner), "o-", color=ACCENT, ms=4, label="inner gradients")
    bottom.set_ylabel("norms")
    bottom.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95))
    bottom.set_yscale("log")
    low, high = bottom.get_ylim()
    bottom.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=5))  # the panel has room for five
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.yaxis.set_minor_formatter("")
    bottom.set_xlabel("outer steps")
    return finish(figure)


def growth(points: dict[str, list[tuple[float, float, float]]], unit: str) -> bytes:
    """How seconds and megabytes grow: a line for each name through its points (size, seconds, MB), all scales logarithmic."""
    figure, panels = subplots(1, 2, figsize=(11, 4))
    for name, mine in points.items():
        for axis, value in zip(panels, (1, 2)):
            axis.plot([point[0] for point in mine], [point[value] for point in mine], "o-", ms=4, label=name)
    for axis, label in zip(panels, ("seconds", "MB of temporaries")):
        axis.set(xscale="log", yscale="log", xlabel=unit, ylabel=label)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_formatter("")
        sizes = sorted({point[0] for mine in points.values() for point in mine})
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    panels[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return finish(figure)


def finish(figure: "Figure") -> bytes:
    """Of diagrams: without frames, with a pale grid."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return png(figure)


def png(figure: "Figure", pad: float | None = 1.08) -> bytes:
    """A figure with `pad` letters' widths around its parts, or with the layout it has."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters in names that no font has
        if pad is not None:
            figure.tight_layout(pad=pad)
        figure.savefig(content, dpi=DOTS)
    return content.getvalue()


def pixels(figure: "Figure") -> np.ndarray:
    """A figure as an RGB picture [H, W, 3] of 0 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.tight_layout()
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255
