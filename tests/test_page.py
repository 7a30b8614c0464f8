"""The page that compares runs."""

import dataclasses
import json
import re

import pytest

from rgen import training
from rgen.commands import report
from rgen.config import ReportConfig
from rgen.errors import InputError
from rgen.runs.folder import Run
from runs import TINY


def test_a_page_of_two_runs(trained, tmp_path):
    changes = {"inner_rate": 0.02, "form": "direct", "fast": ("hidden_0", "logits")}
    other = training.train(dataclasses.replace(TINY, run=tmp_path / "<other>", **changes)).folder
    (other / "test.json").write_text(json.dumps({"nats_per_sequence": 12.345}))
    report.main(ReportConfig((trained, other), tmp_path / "page.html"))
    written = (tmp_path / "page.html").read_text()
    best = [min(row["valid_nats"] for row in Run(folder).metrics() if "valid_nats" in row) for folder in (trained, other)]
    for nats in best:
        assert f"{nats:,.2f}" in written
    assert re.search(r"class='n best'>" + re.escape(f"{min(best):,.2f}"), written) and "12.3" in written
    assert re.search(r"--inner-rate<td>0.05<td>0.02", written) and re.search(r"--form<td>dual<td>direct", written)
    assert "--fast<td>None<td>hidden_0 logits" in written  # as it is typed
    assert "--seed" not in written  # it is the same in both
    assert written.count("<img") == 3 and "&lt;other&gt;" in written and "<other>" not in written
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", written)  # all of it is inside; base64 may spell anything


def test_names_tell_folders_apart(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    names = report._names(folders)
    assert len(set(names)) == 3 and names[:2] == ["a/run", "b/run"]


def test_what_cannot_be_compared_is_named(trained, tmp_path):
    with pytest.raises(InputError, match=r"There is no run in .*nowhere"):
        report.main(ReportConfig((trained, tmp_path / "nowhere"), tmp_path / "page.html"))
    with pytest.raises(InputError, match="--run needs the folder"):
        ReportConfig(())
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(InputError, match="has logged nothing yet"):
        report.main(ReportConfig((tmp_path,), tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
