"""Any configuration either trains or ends in a sentence."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgen import train
from rgen.config import ALGORITHMS, FORMS, NETWORKS, PRECISIONS, RATE_KINDS, SCHEDULES, TrainConfig
from rgen.errors import InputError
from rgen.run import load

small = st.sampled_from([None, 0, 1, 2, 3, 8, -1])
number = st.sampled_from([1e-3, 0.1, 1.0, 0.0, -1.0, 1e30, float("nan"), float("inf")])
OPTIONS = {
    "data": st.sampled_from(["digits", "digits", "lines", "no such thing", ""]),
    "order": st.sampled_from(["raster", "random", "spiral"]),
    "reduce": st.sampled_from([2, 2, 4, 1, 3, 8, 0]),
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
    "fast": st.sampled_from([None, (), ("heads/memory",), ("hidden_0", "logits/bias"), ("nowhere",), ("",)]),
    "rates": st.sampled_from([*RATE_KINDS, "other"]),
    "inner_rate": number,
    "form": st.sampled_from(FORMS),
    "precision": st.sampled_from([*PRECISIONS, "other"]),
    "chunk": small,
    "fold": st.sampled_from([None, True, False]),
    "micro_batch": small,
    "algorithm": st.sampled_from([*ALGORITHMS, "other"]),
    "meta_batch": st.sampled_from([1, 2, 3, 0]),
    "outer_rate": number,
    "warmup": st.sampled_from([0, 1, 9, -1]),
    "schedule": st.sampled_from([*SCHEDULES, "other"]),
    "beta2": st.sampled_from([0.9, 0.999, 0.0, 1.0]),
    "clip": st.sampled_from([None, 1.0, 0.0, float("nan")]),
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
            train.train(config)
        except InputError as error:
            assert str(error).strip().endswith((".", "?")) and len(str(error)) > 20
            return
        assert load(run).step == 1
