"""`rgen inside`: where the nats are lost, which layers learn and when, and what each head reads, in one picture."""

import math
import sys
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rgen import devices, scoring
from rgen.baselines import called
from rgen.config import InsideConfig
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop
from rgen.host import plots
from rgen.host.files import check_results, replace
from rgen.models import fitting_batch
from rgen.networks import keys_of
from rgen.runs.folder import Trained, load_run
from rgen.sampling import look
from rgen.sequence import Sequence

FEW = 64  # sequences whose inner gradients are measured
WIDTH = 9.0  # of the picture, inches


def main(config: InsideConfig) -> None:
    """`rgen inside`."""
    run = load_run(config.run, **config.source(), needs_data=True)
    if not isinstance(run.model, InnerLoop):
        raise InputError(f"The run in {config.run} is {called(run.model)}; it has no inner loop to look into.")
    path = config.out or run.place("inside.png")
    check_results([("out", path)], config.replaces)
    index = scoring.choose_exactly(run.data, config.split, config.count, seed=0)
    print(devices.sentence(), file=sys.stderr)
    nats = scoring.score_all(run.model, run.params, run.data, config.split, index, fitting_batch(run.model, run.data))
    seqs = run.data.sequences(config.split, index)
    replace(path, picture(run, seqs, by_place(seqs, nats, run.data.shape)), config.replaces("out"))
    print(f"{len(index)} {config.split} sequences, the gradients of {min(FEW, len(index))}: {path}")


def by_place(seqs: Sequence, nats: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Mean nats [*shape] at each position, from nats [N, T]; NaN where nothing was scored."""
    coordinates = np.broadcast_to(seqs.x, (*nats.shape, *seqs.x.shape[2:])).reshape(-1, len(shape)).T
    places = np.ravel_multi_index(tuple(coordinates), shape)
    total = np.bincount(places, nats.ravel(), math.prod(shape))
    count = np.bincount(places, (np.asarray(seqs.weight) > 0).ravel(), math.prod(shape))
    with np.errstate(invalid="ignore"):
        return (total / count).reshape(shape)


def learned(model: InnerLoop, params: Any, seqs: Sequence) -> dict[str, np.ndarray]:
    """Layer -> norm of its change in each inner step [T], root mean square over sequences; NaN where no sequence learns."""
    _, updates = jax.jit(InnerLoop.inner_norms, static_argnums=0)(model, params, seqs)
    weight = np.asarray(seqs.weight) > 0
    squares: dict[str, Any] = {}
    for name, norm in traverse_util.flatten_dict(updates, sep="/").items():
        layer = name.rpartition("/")[0] or name
        mean = np.ma.masked_array(np.asarray(norm) ** 2, ~weight).mean(0).filled(np.nan)
        squares[layer] = squares.get(layer, 0) + mean
    return {layer: np.sqrt(square) for layer, square in squares.items()}


def similarities(model: InnerLoop, params: Any, places: np.ndarray) -> np.ndarray | None:
    """How much of what is written at one position each head reads at another, relative to the same: [H, P, T] for P places, by their
    numbers in the raster; None without heads."""
    if "heads" not in params.init:
        return None
    rates = np.asarray(model.rates(params)["heads"]["memory"]["kernel"])  # [H, keys, values], or one for all
    network: Any = model.network
    keys = np.asarray(keys_of(network, params.init))
    written = keys * rates.mean(-1, keepdims=True).swapaxes(-1, -2) if rates.ndim else keys
    same = (written * keys).sum(-1).mean(-1)  # of each place with itself
    return written[:, places] @ keys.swapaxes(1, 2) / same[:, None, None]


def picture(run: Trained, seqs: Sequence, nats: np.ndarray) -> bytes:
    """The panels as a PNG, one above the other."""
    shape, model = run.data.shape, run.model
    assert isinstance(model, InnerLoop)
    middle = tuple(size // 2 for size in shape)
    places = np.arange(run.data.length) if len(shape) == 1 else np.array([np.ravel_multi_index(middle, shape)])
    heads = similarities(model, run.params, places)
    heights = [3.5, 3.5]  # inches
    if heads is not None:
        rows, columns = _grid(len(heads))
        heights.append(0.4 + WIDTH * rows / columns)
    figure = plots.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_nats(parts[0], nats, run.data)
    _draw_learned(parts[1], learned(model, run.params, Sequence(*(np.asarray(a)[:FEW] for a in seqs))))
    if heads is not None:
        _draw_heads(parts[2], heads, middle, run.data)
    return plots.png(figure, pad=None)


def _draw_nats(part: Any, nats: np.ndarray, data: Dataset) -> None:
    axis = part.subplots()
    nats = nats.sum(-1) if data.colour else nats
    most = "" if nats.ndim == 1 else f", 0 (dark) to {np.nanmax(nats):.2f} (bright)"
    part.suptitle(f"Nats {'of each pixel' if data.colour else 'at each position'}{most}", fontsize=11, color=plots.INK)
    if nats.ndim == 1:
        axis.bar(np.arange(len(nats)), nats, color=plots.ACCENT)
        axis.set_xlabel("position in the line")
        axis.spines[["top", "right"]].set_visible(False)
        return
    axis.imshow(look.flat(nats[..., None], nats.ndim, np.nan)[..., 0], cmap="magma", vmin=0, interpolation="nearest")
    axis.set_axis_off()


def _draw_learned(part: Any, learned: dict[str, np.ndarray]) -> None:
    part.suptitle("How far each step moves the fast weights", fontsize=11, color=plots.INK)
    from matplotlib import colormaps

    axis = part.subplots()
    for index, (layer, norms) in enumerate(learned.items()):
        axis.plot(np.arange(1, len(norms) + 1), norms, color=colormaps["viridis"](index / max(1, len(learned) - 1)), label=layer)
    norms = np.concatenate(list(learned.values()))
    wide = np.nanmax(norms) > 10 * np.nanmin(norms)  # ticks of a narrow logarithmic axis cannot be read
    axis.set(xlabel="output", ylabel="norm of the change", yscale="log" if wide else "linear")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many small pictures."""
    columns = min(count, 16)
    return math.ceil(count / columns), columns


def _draw_heads(part: Any, heads: np.ndarray, middle: tuple[int, ...], data: Dataset) -> None:
    """In a grid with one axis, all pairs of positions; else what the position in the middle (a dot, in pictures) reads of all others."""
    line, axes_count = len(data.shape) == 1, len(data.shape)
    part.suptitle(
        "What each head reads (across) at each position (down)" if line else "What each head reads at the position in the middle",
        fontsize=11,
        color=plots.INK,
    )
    axes = np.ravel(part.subplots(*_grid(len(heads)), squeeze=False))
    for axis in axes[len(heads) :]:
        axis.set_axis_off()
    for axis, head in zip(axes, heads):
        grid = head[0].reshape(data.shape)
        grid = np.moveaxis(grid, -1, 0) if data.colour else grid  # a slice for each colour
        shown = _before(head, data) if line else look.flat(grid[..., None], axes_count, np.nan)[..., 0]
        axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        if axes_count == 2:
            axis.plot(middle[1], middle[0], "o", color="black", ms=3)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color(plots.PALE)


def _before(head: np.ndarray, data: Dataset) -> np.ndarray:
    """What a head reads of places that come before, [T, T]; in random order any other may."""
    return np.tril(head, -1) if data.order == "raster" else head
