"""The original program's numbers: every array of every golden file, to 1e-9 relative in float64.

RGEN_GOLDEN names the folder of .npz files (default: tests/golden); a file's name chooses the network. `pytest -s` prints the errors.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from problems import jit

from rgen import meta, networks
from rgen.fast import Direct, Dual, InnerLoop, Params
from rgen.likelihood import Bernoulli, Categorical
from rgen.sequence import Sequence

FOLDER = Path(os.environ.get("RGEN_GOLDEN", Path(__file__).parent / "golden"))
FILES = sorted(FOLDER.glob("*.npz"))
GATES = ("forget_gate", "input_gate", "output_gate", "updater")


def test_there_are_golden_files():
    assert FILES, f"no .npz file in {FOLDER}"


# ---------------------------------------------------------------- names and layout of the original's parameters, by network


def _linear(torch: dict, name: str) -> dict:
    return {"kernel": np.swapaxes(torch[f"{name}.weight"], -1, -2), "bias": torch[f"{name}.bias"]}


def _norm(torch: dict, name: str) -> dict:
    return {"scale": torch[f"{name}.norm.weight"], "bias": torch[f"{name}.norm.bias"]}


def _table(torch: dict, name: str) -> dict:
    return {"embedding": torch[f"{name}.table"]}


def _text_mlp(torch: dict) -> dict:
    *hidden, logits = sorted({int(m[1]) for k in torch if (m := re.match(r"module_(\d+)\.linear", k))})
    layers = {f"hidden_{i}": _linear(torch, f"module_{k}.linear") for i, k in enumerate(hidden)}
    return {"position": _table(torch, "module_0.module_0"), **layers, "logits": _linear(torch, f"module_{logits}.linear")}


def _lstm_block(torch: dict) -> dict:
    last = max(int(k.split(".")[0][7:]) for k in torch)
    out = {"row": _table(torch, "module_0.module_0"), "column": _table(torch, "module_0.module_1")}
    out |= {"input": _linear(torch, "module_1.linear"), "norm": _norm(torch, f"module_{last - 1}")}
    for i, k in enumerate(range(3, last, 2)):
        gates = [_linear(torch, f"module_{k}.{gate}.linear") for gate in GATES]
        gates = {part: np.concatenate([gate[part] for gate in gates], -1) for part in ("kernel", "bias")}
        out |= {f"norm_{i}": _norm(torch, f"module_{k - 1}"), f"block_{i}": {"state": torch[f"module_{k}.hidden_vec"], "gates": gates}}
    return out | {"logits": _linear(torch, f"module_{last}.linear")}


def _siren(torch: dict) -> dict:
    *hidden, logits = sorted({int(k.split(".")[0][7:]) for k in torch})
    layers = {f"hidden_{i}": _linear(torch, f"module_{k}.linear") for i, k in enumerate(hidden)}
    return {**layers, "logits": _linear(torch, f"module_{logits}.linear")}


def _gated(torch: dict) -> dict:
    return {
        "row": _table(torch, "module_0.module_0"),
        "column": _table(torch, "module_0.module_1"),
        "input": _linear(torch, "module_1.linear"),
        "residual_0": _linear(torch, "module_3.module_0.linear"),
        "gated_0": _linear(torch, "module_4.module_0.linear"),
        "norm_0": _norm(torch, "module_4.module_1"),
        "gates_0": _linear(torch, "module_4.weights.linear"),
        "logits": _linear(torch, "module_5.linear"),
    }


def _options(name: str, ours: dict, x: np.ndarray) -> dict:
    """Sizes of the network, read off its parameters."""
    widths = tuple(layer["bias"].shape[-1] for key, layer in sorted(ours.items()) if key.startswith("hidden"))
    if name == "text-mlp":
        length, features = ours["position"]["embedding"].shape
        return {"shape": (length,), "features": features, "widths": widths}
    if name == "siren":
        return {"shape": (int(x.max()) + 1,) * 2, "widths": widths}
    shape = tuple(len(ours[axis]["embedding"]) for axis in ("row", "column"))
    depth = sum(key.startswith(("block_", "residual_")) for key in ours)
    return {"shape": shape, "features": ours["row"]["embedding"].shape[-1], "width": ours["logits"]["kernel"].shape[0], "depth": depth}


CONVERT: dict[str, Callable[[dict], dict]] = {"text_mlp": _text_mlp, "lstm_block": _lstm_block, "siren": _siren, "gated": _gated}


# ---------------------------------------------------------------- the check


def _group(data: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix + "/"): v for k, v in data.items() if k.startswith(prefix + "/")}


def _relative(ours, theirs) -> float:
    """Largest error relative to the largest element of the array."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _errors(prefix: str, ours: dict, theirs: dict) -> dict[str, float]:
    ours, theirs = traverse_util.flatten_dict(ours, sep="/"), traverse_util.flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    return {f"{prefix}/{name}": _relative(ours[name], theirs[name]) for name in theirs}


@pytest.mark.parametrize("form", ["direct", "dual"])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_array_of_the_original(file, form):
    data = dict(np.load(file))
    convert = CONVERT[file.stem]
    theirs = {group: convert(_group(data, group)) for group in ("param", "reptile", "maml", "final")}
    x, y = data["x"], data["y"]
    if file.stem == "text_mlp":
        x, likelihood, outputs = x[..., 0], Categorical(), data["logits0"].shape[-1]
    else:
        y, likelihood, outputs = y[..., 0], Bernoulli(), 1
    name = file.stem.replace("_", "-")
    network = networks.build(name, outputs=outputs, **_options(name, theirs["param"], x))

    loop = InnerLoop(network, likelihood, form=Dual(every_layer=True) if form == "dual" else Direct())
    params = Params(theirs["param"], {"fixed": data["inner_lr"]})
    seqs = Sequence(x, y.astype(np.int32), np.ones(y.shape))
    logits = jit(jax.vmap(jax.vmap(lambda x: network.apply({"params": params.init}, x))))(x)
    fast, nll = jit(InnerLoop.adapt, static_argnums=0)(loop, params, seqs)
    _, maml = jit(meta.maml, static_argnums=0)(loop, params, seqs)
    _, reptile = jit(meta.reptile, static_argnums=0)(loop, params, seqs)

    errors = {"logits0": _relative(logits, data["logits0"]), "losses": _relative(nll.mean(0), data["losses"])}
    errors |= _errors("final", fast, theirs["final"])
    errors |= _errors("maml", maml.init, theirs["maml"])
    errors |= _errors("reptile", reptile.init, theirs["reptile"])
    print(f"\n{file.stem}, {form} form: largest relative error {max(errors.values()):.1e} of {len(errors)} arrays")
    assert {k: v for k, v in errors.items() if not v < 1e-9} == {}
