"""Any configuration either trains or ends in a sentence; so does any damage to the files of a run."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rgen import models, training
from rgen.choices import ALGORITHMS, FORMS, NETWORKS, OPTIMIZERS, RATE_KINDS, SCHEDULES
from rgen.config import TrainConfig, from_json, to_json
from rgen.errors import InputError
from rgen.runs.folder import Run, Trained, load_run
from runs import TINY

small = st.sampled_from([None, 0, 1, 2, 3, 8, -1])
number = st.sampled_from([1e-3, 0.1, 1.0, 0.0, -1.0, 1e30, float("nan"), float("inf")])
OPTIONS = {
    "data": st.sampled_from(["digits", "digits", "lines", "no such thing", ""]),
    "order": st.sampled_from(["raster", "random", "spiral"]),
    "reduce": st.sampled_from([2, 2, 4, 1, 3, 8, 0]),
    "binarize": st.sampled_from(["threshold", "static", "dynamic", "other"]),
    "max_length": st.sampled_from([6, 9, 2, 1]),
    "held_out": st.sampled_from([0.1, 0.3, 0.9, 0.0]),
    "score_padding": st.booleans(),
    "network": st.sampled_from([*NETWORKS, "other"]),
    "width": small,
    "widths": st.sampled_from([None, (4,), (3, 5), (), (0,)]),
    "depth": small,
    "features": small,
    "heads": small,
    "keys": small,
    "context": small,
    "inner_loss": st.sampled_from([None, "nats", "memory", "other"]),
    "fast": st.sampled_from([None, (), ("heads/memory",), ("hidden_0", "logits/bias"), ("nowhere",), ("",)]),
    "rates": st.sampled_from([*RATE_KINDS, "other"]),
    "inner_rate": number,
    "form": st.sampled_from(FORMS),
    "chunk": small,
    "fold": st.sampled_from([None, True, False]),
    "micro_batch": small,
    "algorithm": st.sampled_from([*ALGORITHMS, "other"]),
    "meta_batch": st.sampled_from([1, 2, 3, 0]),
    "outer_rate": number,
    "optimizer": st.sampled_from([*OPTIMIZERS, "other"]),
    "muon_rms": number,
    "warmup": st.sampled_from([0, 1, 9, -1]),
    "schedule": st.sampled_from([*SCHEDULES, "other"]),
    "beta2": st.sampled_from([0.9, 0.999, 0.0, 1.0]),
    "clip": st.sampled_from([None, 1.0, 0.0, float("nan")]),
    "weight_noise": st.sampled_from([0.0, 0.1, -1.0, float("nan")]),
    "weight_decay": st.sampled_from([0.0, 0.1, -1.0, float("inf")]),
    "seed": st.sampled_from([0, 7, -1, 2**31]),
    "eval_count": st.sampled_from([0, 1, 5, -1]),
}
# few of the options differ from what works, else nothing would ever run
CONFIGURATIONS = st.lists(st.sampled_from(sorted(OPTIONS)), max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: OPTIONS[name] for name in names})
)
WORKS = TrainConfig(network="siren", widths=(4,), reduce=2, steps=1, meta_batch=2, eval_count=2)


@pytest.mark.slow
@settings(max_examples=60, derandomize=True)
@given(changed=CONFIGURATIONS)
def test_every_configuration_trains_or_ends_in_a_sentence(changed):
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.txt"
        lines.write_bytes(b"".join(b"%d+%d\n" % (i, i) for i in range(30)))
        changed = changed | ({"data": str(lines)} if changed.get("data") == "lines" else {})
        if "network" in changed and "widths" not in changed and changed["network"] not in ("siren", "text-mlp"):
            changed["widths"] = None
        run = Path(folder) / "run"
        try:
            config = dataclasses.replace(WORKS, **changed, run=run)
            training.train(config)
        except InputError as error:
            assert str(error).strip().endswith((".", "?")) and len(str(error)) > 20
            return
        assert load_run(run).step == 1


def damaged(content: bytes, kind: str, where: float, by: bytes) -> bytes:
    """A file's bytes after an accident at a place, counted from 0 to 1."""
    at = int(where * max(0, len(content) - 1))
    return {
        "flipped": content[:at] + bytes(b ^ 0xFF for b in content[at : at + len(by)]) + content[at + len(by) :],
        "cut": content[:at],
        "overwritten": content[:at] + by + content[at + len(by) :],
        "grown": content[:at] + by + content[at:],
        "replaced": by,
    }[kind]


DAMAGE = ["flipped", "cut", "overwritten", "grown", "replaced", "removed"]


def equal(ours, theirs) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))


@pytest.mark.slow
@settings(max_examples=80, derandomize=True, phases=[Phase.explicit, Phase.generate])  # shrinking would take minutes
@given(
    deep=st.booleans(),
    which=st.floats(0, 0.999),
    kind=st.sampled_from(DAMAGE),
    where=st.floats(0, 1),
    by=st.binary(min_size=1, max_size=20),
)
def test_any_damage_to_a_run_is_a_sentence_or_harmless(deep, which, kind, where, by, trained):
    """At any place of any file, half the time of those beside the checkpoints: what loads is a network that was saved, never another."""
    whole = load_run(trained)
    best, like = Run(trained).best(), models.parameter_shapes(whole.model, whole.data)
    saved = [best.load(step, like) for step in best.steps()]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(trained, Path(folder) / "run"))
        files = sorted(path for path in (run.rglob if deep else run.glob)("*") if path.is_file())
        path = files[int(which * len(files))]
        if kind == "removed":
            path.unlink()
        else:
            path.write_bytes(damaged(path.read_bytes(), kind, where, by))
        for use in (lambda: load_run(run), lambda: training.train(dataclasses.replace(TINY, run=run, resume=True)), lambda: load_run(run)):
            try:
                found = use()
            except InputError as error:
                assert str(error).strip().endswith((".", "?")) and len(str(error)) > 20
            else:
                assert not isinstance(found, Trained) or any(equal(found.params, params) for params in saved), path.name


def test_a_configuration_that_names_a_precision_is_read():
    """Older versions wrote one; of bfloat16, what to do is said."""
    old = json.loads(to_json(WORKS)) | {"precision": "float32"}
    assert from_json(json.dumps(old), Path("config.json")) == WORKS
    with pytest.raises(InputError, match=r'trained in bfloat16.*with "precision": "float32"'):
        from_json(json.dumps(old | {"precision": "bfloat16"}), Path("config.json"))


def test_an_empty_option_is_read_as_it_was_written():
    """So that the same command goes on."""
    config = TrainConfig(neighbours=())
    assert from_json(to_json(config), Path("config.json")) == config
