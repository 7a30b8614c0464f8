"""A page to play on: one HTML file with the weights inside, whose network learns and draws in the browser."""

import base64
import html
import json
import re
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgen.baselines import called
from rgen.data import Dataset
from rgen.errors import InputError, command
from rgen.fast import InnerLoop, Params
from rgen.play.instructions import Arrays
from rgen.play.primitives import compile_program
from rgen.sampling import Sampler, look

HERE = Path(__file__).parent
MOST = 64e6  # bytes of a page; browsers load larger ones, but too slowly


def page(sampler: Sampler, params: Any, data: Dataset, title: str) -> str:
    """The page, as HTML.

    Args:
      sampler: of a network in an inner loop. If its orders are random, the page has the order of sample 0 of seed 0.
      params: its parameters; the page computes in float32.
      data: what it was trained on: text, images, or arrays with one or two axes.
      title: the page's headline.
    Raises:
      InputError: the model cannot be shown on a page.
    """
    axes = len(data.shape) - data.colour
    if axes > 2:
        raise InputError(
            f"--page shows lines, pictures, and arrays with one or two axes; this run has {data.kind}s of the shape {data.shape}, "
            f"which have {axes}. Draw with {command('sample')}, without --page."
        )
    kind = "text" if data.kind == "text" else "image"
    content = json.dumps(_content(sampler, params, data), separators=(",", ":")).replace("<", "\\u003c")
    if len(content) > MOST:
        raise InputError(f"The page would have {len(content) / 1e6:.0f} MB; at most {MOST / 1e6:.0f} can be used. Train a smaller network.")
    scripts = "\n".join((HERE / name).read_text() for name in ("engine.js", "learner.js", f"{kind}.js"))
    style, body = (HERE / "page.css").read_text(), (HERE / f"{kind}.html").read_text()
    parts = {"TITLE": html.escape(title), "STYLE": style, "BODY": body, "CONTENT": content, "SCRIPT": scripts}
    return re.sub("<!-- ([A-Z]+) -->", lambda found: parts[found[1]], (HERE / "page.html").read_text())


def _content(sampler: Sampler, params: Any, data: Dataset) -> dict[str, Any]:
    """What `learner.js` reads."""
    loop = sampler.model
    if not isinstance(loop, InnerLoop):
        raise InputError(f"--page shows how SGD learns what is drawn; {called(loop)} has no inner loop. Give another run.")
    if not loop.plain or loop.inner_steps > 1:
        raise InputError("--page takes single inner steps of plain SGD; the inner loop of this run has an optimizer, or several steps.")
    places = sampler.places(sampler.keys(np.uint32(0), np.zeros(1, np.uint32)))[0]
    inputs = np.asarray(sampler.inputs(np.arange(places.size)))
    coloured = data.kind != "text" and not data.is_black_and_white
    return {
        "kind": data.kind,
        "shape": sampler.shape,
        "symbols": data.symbols,
        "channels": data.together,
        "palette": (look.palette(data) * 255).round().astype(int).tolist() if coloured else None,
        "order": np.asarray(places).tolist(),
        "raster": not sampler.random_order,
        "inputs": inputs.reshape(places.size, -1).tolist(),
        "recent": loop.reads if isinstance(loop.reads, int) else 0,
        "nearby": None if isinstance(loop.reads, int) else _nearby(sampler.shape, loop.reads),
        "batch": min(loop.inner_batch, places.size),
        "end": loop.end,
        **programs(loop, params, inputs[0], min(loop.inner_batch, places.size)),
    }


def _nearby(shape: tuple[int, ...], steps: Any) -> list[list[int]]:
    """For each place the places at these steps before it, whose outputs are read once they are there; -1 beyond the border."""
    places = np.stack(np.unravel_index(np.arange(prod(shape)), shape), -1)[:, None] - np.array(steps)
    there = ((places >= 0) & (places < shape)).all(-1)
    return np.where(there, np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), shape, mode="clip"), -1).tolist()


def programs(loop: InnerLoop, params: Params, x: Any, batch: int) -> dict[str, Any]:
    """An inner loop as programs of the page, and the arrays that they need.

    Returns:
      learn: (fast weights, x, y, weight) -> (fast weights, nats), for the `batch` outputs of a step; ask: (fast weights, x) ->
      log-probabilities; fast: numbers of the arrays that are the fast weights at the beginning; arrays.
    Raises:
      InputError: the network has an operation that the page does not know.
    """
    held = Arrays()
    with jax.enable_x64(False):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
        x, fast = loop.one_input(jnp.asarray(x, jnp.int32)), loop.start(params)
        step = jax.tree.map(lambda a: jnp.broadcast_to(a, (batch, *jnp.shape(a))), (x, jnp.int32(0), jnp.float32(1)))
        learn = compile_program(loop.step, held, params, fast, *step)
        ask = compile_program(loop.predict, held, params, fast, x)
    start = [held.number(leaf) for leaf in jax.tree.leaves(fast)]
    return {"learn": learn, "ask": ask, "fast": start, "arrays": [encoded(array) for array in held.held]}


def encoded(array: np.ndarray) -> dict[str, str]:
    """An array in base64, in half precision if that is exact."""
    if array.dtype == np.float32:
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        array = half if np.array_equal(half, array) else array
    return {"type": array.dtype.name, "data": base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()}
