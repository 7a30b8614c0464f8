"""A page to play on: one HTML file with the weights inside, whose network learns and draws in the browser."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgen.errors import InputError
from rgen.fast import InnerLoop, Params
from rgen.play.instructions import Arrays
from rgen.play.primitives import compile_program
from rgen.sampling import Sampler

HERE = Path(__file__).parent
MOST = 64e6  # bytes of a page; browsers load larger ones, but too slowly


def page(sampler: Sampler, params: Any, title: str) -> str:
    """The page, as HTML.

    Args:
      sampler: of a network in an inner loop, for images of 0 and 1 or lines of bytes. If its orders are random, the page has the order of
        sample 0 of seed 0.
      params: its parameters; the page computes in float32.
      title: the page's headline.
    Raises:
      InputError: the model cannot be shown on a page.
    """
    kind = "image" if len(sampler.shape) > 1 else "text"
    content = json.dumps(_content(sampler, params), separators=(",", ":")).replace("<", "\\u003c")
    if len(content) > MOST:
        raise InputError(f"The page would have {len(content) / 1e6:.0f} MB; at most {MOST / 1e6:.0f} can be used. Train a smaller network.")
    scripts = "\n".join((HERE / name).read_text() for name in ("engine.js", "learner.js", f"{kind}.js"))
    style, body = (HERE / "page.css").read_text(), (HERE / f"{kind}.html").read_text()
    parts = {"TITLE": html.escape(title), "STYLE": style, "BODY": body, "CONTENT": content, "SCRIPT": scripts}
    return re.sub("<!-- ([A-Z]+) -->", lambda found: parts[found[1]], (HERE / "page.html").read_text())


def _content(sampler: Sampler, params: Any) -> dict[str, Any]:
    """What `learner.js` reads."""
    loop = sampler.model
    if not isinstance(loop, InnerLoop):
        raise InputError("--page shows how SGD learns what is drawn; the recurrent baseline has no inner loop. Give another run.")
    if loop.context and len(sampler.shape) > 1:
        raise InputError("--page asks about pixels out of turn; this network reads the last outputs too, which only the next one has.")
    places = sampler.places(sampler.keys(np.uint32(0), np.zeros(1, np.uint32)))[0]
    inputs = np.asarray(sampler.inputs(np.arange(places.size)))
    return {
        "shape": sampler.shape,
        "order": np.asarray(places).tolist(),
        "raster": not sampler.random_order,
        "inputs": inputs.reshape(places.size, -1).tolist(),
        "context": loop.context,
        "end": loop.end,
        **programs(loop, params, inputs[0]),
    }


def programs(loop: InnerLoop, params: Params, x: Any) -> dict[str, Any]:
    """An inner loop as programs for the page, and the arrays that they need.

    Returns:
      learn: (fast weights, x, y) -> (fast weights, nats); ask: (fast weights, x) -> log-probabilities; fast: which of the arrays are the
      initial fast weights; arrays.
    Raises:
      InputError: the network has an operation that the page does not know.
    """
    held = Arrays()
    with jax.enable_x64(False):
        params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params), jnp.asarray(x, jnp.int32)
        x = jnp.concatenate([x.reshape(-1), jnp.zeros(loop.context, x.dtype)]) if loop.context else x
        fast = loop.start(params)
        learn = compile_program(lambda params, fast, x, y: loop.step(params, fast, x, y), held, params, fast, x, jnp.int32(0))
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
