"""Pictures of what a network predicts at all places while it learns a sequence."""

import io
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from PIL import Image

from rgen.baselines import called
from rgen.data import Dataset
from rgen.errors import InputError
from rgen.fast import InnerLoop
from rgen.host import plots
from rgen.sampling import Sampler, batches, belief, look, reorder
from rgen.sequence import Given, PyTree, Sequence, until_end

STRIP = 9  # moments of a filmstrip of grids
LINES = 5  # moments of a filmstrip of lines
KNOWN = "#dde5f1"  # known pixels that are 0
FRAMES = 64  # of an animation, at most
BYTES = 5e8  # of the probabilities of all frames
MILLISECONDS, HOLD = 90, 1500  # of a frame of the animation, and of the last one


def show(
    sampler: Sampler, params: PyTree, data: Dataset, seed: int, count: int, given: Callable[[np.ndarray], Given] | None
) -> tuple[bytes, bytes]:
    """Draws samples 0 to `count` - 1 of a seed (of grids with one axis, only the first), and shows what the network predicts everywhere on
    the way.

    Args:
      data: what the network was trained on.
      given: as for `rgen.sampling.batches`.
    Returns:
      A filmstrip as PNG, and all moments as GIF.
    Raises:
      InputError: the model is no network in an inner loop.
    """
    loop, shape = sampler.model, sampler.shape
    numbers = np.arange(count if len(shape) > 1 else 1)
    if not isinstance(loop, InnerLoop):
        raise InputError(f"--belief asks a network about all positions; {called(loop)} knows only of the next one.")
    if loop.reads:
        raise InputError("--belief asks about places out of turn; this network reads earlier outputs too, which only the next place has.")
    known = given(numbers).known if given else None
    values = next(batches(sampler, params, seed, range(len(numbers)), len(numbers), given))[0]
    places = sampler.places(sampler.keys(np.uint32(seed), numbers), known)
    places = jnp.broadcast_to(places, (len(numbers), places.shape[1]))
    y = reorder(values.reshape(len(numbers), -1), places).astype(np.int32)
    weight = np.ones(y.shape) if loop.end is None else until_end(y, loop.end)
    seqs = Sequence(sampler.inputs(places), y, weight.astype(np.float32))
    size = min(loop.inner_batch, y.shape[1])
    frames = min(FRAMES, max(STRIP, int(BYTES / (4 * y.size * data.symbols))))
    every = math.ceil(y.shape[1] / size / frames)  # inner steps
    probs = np.exp(belief(loop, params, seqs, sampler.inputs(np.arange(y.shape[1])), every))
    steps = np.minimum(np.arange(probs.shape[1]) * every * size, y.shape[1])
    when = np.argsort(places, axis=1).reshape(len(numbers), 1, *shape)
    seen = when < steps.reshape(-1, *[1] * len(shape))
    if len(shape) == 1:
        length = values[0].tolist().index(0) + 1 if data.kind == "text" and 0 in values[0] else len(values[0])
        return lines(probs[0, :, :length], values[0, :length], seen[0, :, :length], _byte if data.kind == "text" else str)
    return grids(data, probs.reshape(*probs.shape[:2], *shape, data.symbols), values, seen, steps)


def grids(data: Dataset, probs: np.ndarray, truth: np.ndarray, seen: np.ndarray, steps: np.ndarray) -> tuple[bytes, bytes]:
    """A filmstrip as PNG and all moments as GIF.

    In black and white, known pixels are dark or pale blue, and the probability of the others is red. Else what is not known is shown as
    expected, and how unsure that is below; see `rgen.sampling.look`.

    Args:
      probs: [N, F, *shape, K].
      truth: [N, *shape] the outputs.
      seen: [N, F, *shape] booleans: whether the output has been learned.
      steps: [F] how many outputs have been learned.
    """
    if data.is_black_and_white:
        rows = look.paint(data, np.where(seen, truth[:, None], probs[..., 1]), seen, KNOWN)
    else:
        rows = []
        for moments, values, known in zip(probs, truth, seen):  # one after the other, as there may be many levels
            certain = np.where(known[..., None], np.eye(data.symbols, dtype=probs.dtype)[values], moments)
            rows += [look.expected(data, certain), look.spread(data, certain)]
        rows = np.stack(rows)
    chosen = np.unique(np.linspace(0, len(steps) - 1, STRIP).round().astype(int))
    captions = [f"{step} known" if i == 0 else str(step) for i, step in enumerate(steps[chosen])]
    strip = plots.strip([[sequence[i] for i in chosen] for sequence in rows], captions)
    return strip, _animate([plots.tile(rows[:, i], len(rows)) for i in range(len(steps))], 200)


def lines(probs: np.ndarray, line: np.ndarray, seen: np.ndarray, name: Callable[[int], str]) -> tuple[bytes, bytes]:
    """The same for a grid with one axis: heat maps of position and symbol.

    Args:
      probs: [F, T, K].
      line: [T] its symbols, up to the one that ends it; other places are not shown.
      seen: [F, T] booleans: whether the symbol has been learned.
      name: of a symbol, for the axes.
    """
    last = int(np.argmax(seen.sum(1) == seen.sum(1).max()))  # nothing is learned after the end
    probs, seen = probs[: last + 1], seen[: last + 1]
    symbols = sorted({*line.tolist(), *np.flatnonzero((probs > 0.05).any((0, 1))).tolist()})
    chosen = np.unique(np.linspace(0, last, LINES).round().astype(int))
    width, height = 1.6 + 0.17 * min(max(len(line), 20), 400), 0.8 + 0.13 * len(symbols)
    figure, axes = plots.subplots(len(chosen), 1, figsize=(width, height * len(chosen)), sharex=True, squeeze=False)
    for axis, i in zip(axes[:, 0], chosen):
        _heat(axis, probs[i], line, seen[i], symbols, name)
    strip = plots.png(figure)
    frames = []
    for moment, known in zip(probs, seen):
        figure, axis = plots.subplots(figsize=(width, height))
        _heat(axis, moment, line, known, symbols, name)
        frames.append(plots.pixels(figure))
    return strip, _animate(frames, 1)


def _heat(axis, probs: np.ndarray, line: np.ndarray, seen: np.ndarray, symbols: list[int], name: Callable[[int], str]) -> None:
    """Probability by position and symbol; those known so far are marked."""
    axis.imshow(probs[:, symbols].T, cmap="Reds", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    at = np.flatnonzero(seen)
    axis.scatter(at, [symbols.index(symbol) for symbol in line[at]], marker="s", s=16, facecolors="none", edgecolors=plots.INK)
    axis.set_yticks(range(len(symbols)), [name(symbol) for symbol in symbols], fontsize=6, family="monospace")
    labels = [name(symbol) if known else "" for symbol, known in zip(line.tolist(), seen)]
    axis.set_xticks(range(len(line)), labels, fontsize=6, family="monospace")
    axis.set_title(f"after {len(at)} of {len(line)}", fontsize=8, color=plots.INK, loc="left")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _byte(byte: int) -> str:
    return "end" if byte == 0 else chr(byte) if 32 < byte < 127 else "␣" if byte == 32 else f"x{byte:02x}"


def _animate(frames: list[np.ndarray], side: int) -> bytes:
    """RGB frames [H, W, 3] of 0 to 1 as a GIF, each pixel enlarged until a frame is at least `side` high."""
    scale = -(-side // frames[0].shape[0])
    pictures = [Image.fromarray((frame * 255).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)) for frame in frames]
    times = [MILLISECONDS] * (len(pictures) - 1) + [HOLD]
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    return content.getvalue()
