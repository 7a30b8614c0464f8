"""bin/leaderboard.py: its recipes, its table, and that it goes on where it stopped."""

import importlib.util
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rgen import commands
from rgen.choices import BASELINES
from rgen.errors import InputError
from runs import ROOT, contents

SCRIPT = ROOT / "bin" / "leaderboard.py"
spec = importlib.util.spec_from_file_location("leaderboard", SCRIPT)
assert spec and spec.loader
board = importlib.util.module_from_spec(spec)
sys.modules["leaderboard"] = board  # where its dataclass looks for names
spec.loader.exec_module(board)


def test_every_recipe_trains_what_its_row_says():
    assert set(board.RECIPES) == {(data, entry) for data in board.DATA for entry in board.ENTRIES}
    for (_, entry), options in board.RECIPES.items():
        config = commands.parse("train", options.split())
        assert (config.network if config.network in BASELINES else entry) == entry
        assert (config.algorithm == "reptile") == (entry == "original-reptile")
        assert (config.context == 3) == (entry in ("context", "static")) and (config.inner_rate < 1e-11) == (entry == "static")


def test_long_runs_on_small_sets_have_noise_on_the_weights_and_all_networks_the_same():
    def noise(data, entry, minutes):
        return commands.parse("train", board.recipe_of(data, entry, minutes)).weight_noise

    assert {noise("digits", entry, 5) for entry in ("heads", "lstm", "transformer")} == {0.2}
    assert noise("digits", "heads", 1) == noise("mnist", "heads", 5) == noise("digits", "original-maml", 5) == 0


def row(data: str, entry: str, minutes: float, seed: int, score: float) -> dict:
    return {
        **{"data": data, "entry": entry, "minutes": minutes, "seed": seed, "score": score},
        **{"parameters": 40_400, "steps": 1000 * seed + 500, "machine": "1 core of a machine"},
    }


def test_the_table_has_means_and_ranges_and_the_best_in_bold():
    rows = [row("digits", "heads", 1, seed, score) for seed, score in enumerate((16.5, 16.7))]
    rows += [row("digits", "lstm", 1, 0, 17), row("digits", "lstm", 5, 0, 16.25), row("names", "lstm", 0.5, 0, 2.0456)]
    assert board.markdown(rows).splitlines() == [
        "| data | network | parameters | 0.5 min | 1 min | 5 min |",
        "|---|---|---|---|---|---|",
        "| digits, 8x8: nats per image | ours | 40 K | | **16.60** (16.50 to 16.70), 1,000 steps | |",
        "| digits, 8x8: nats per image | LSTM, told the last output | 40 K | | 17.00, 500 steps | **16.25**, 500 steps |",
        "| names: nats per symbol | LSTM, told the last output | 40 K | **2.046**, 500 steps | | |",
        "",
        "*1 core of a machine.*",
    ]
    assert board.picture(rows).startswith(b"\x89PNG")


def test_leads_are_paired_sequence_by_sequence(tmp_path):
    mean = np.random.default_rng(0).normal(90, 20, 50)
    paid = {("heads", 0): mean, ("heads", 1): mean + 2, ("lstm", 0): mean + 3 + np.tile([-0.5, 0.5], 25)}
    paid["original-maml", 0] = mean[7:19] + 9
    rows = [row("names", entry, 5, seed, nats.mean() / 6) for (entry, seed), nats in paid.items()]
    for each, nats in zip(rows, paid.values(), strict=True):
        place = board.folder_of(tmp_path, each)
        place.mkdir(parents=True)
        lines = [f"{i + 50 - len(nats) - 31 * (len(nats) < 50)},{value},6" for i, value in enumerate(nats)]
        (place / "test.csv").write_text("\n".join(["sequence,nats,symbols", *lines]))
    assert board.leads(tmp_path, rows[:2]) == ""
    assert board.leads(tmp_path, rows).splitlines() == [
        "| more than ours, ± standard error over test sequences | network | 5 min |",
        "|---|---|---|",
        "| names: nats per symbol | the original's network, MAML | +1.500 ± 0.000 |",
        f"| names: nats per symbol | LSTM, told the last output | +0.500 ± {0.5 / 6 / 49**0.5:.3f} |",
    ]


def test_leads_per_symbol_are_ratios(tmp_path):
    """Differences in proportion to the length have no error, as their ratio is the same for all sequences."""
    rows = [row("names", entry, 5, 0, 2.0) for entry in ("heads", "lstm")]
    for each, factor in zip(rows, (2.0, 2.5), strict=True):
        place = board.folder_of(tmp_path, each)
        place.mkdir(parents=True)
        (place / "test.csv").write_text("\n".join(["sequence,nats,symbols", *(f"{i},{factor * (i + 2)},{i + 2}" for i in range(9))]))
    assert board.leads(tmp_path, rows).splitlines()[2:] == ["| names: nats per symbol | LSTM, told the last output | +0.500 ± 0.000 |"]


def test_shorter_runs_and_the_originals_have_one_seed(tmp_path, monkeypatch):
    run = []

    def train_and_score(options, data, entry, minutes, seed, job, stop):
        run.append((data, entry, minutes, seed))
        return row(data, entry, minutes, seed, 1.0)

    monkeypatch.setattr(board, "train_and_score", train_and_score)
    monkeypatch.setattr(board, "picture", lambda rows: b"")
    board.main(board.Options(entries=("lstm", "original-maml"), seeds=(3, 4), out=tmp_path))
    ran = [("digits", "lstm", 1, 3), ("digits", "original-maml", 1, 3), ("digits", "lstm", 5, 3), ("digits", "original-maml", 5, 3)]
    assert run == [*ran, ("digits", "lstm", 5, 4)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": ("digits", "names")}, "names needs its data; give the place of it with --names"),
        ({"data": ("mnist",), "data_dir": ROOT / "nowhere"}, "mnist needs its data; .* with --data-dir, not .*nowhere"),
        ({"jobs": 100_000}, "--jobs is 100000; give a number from 1 to"),
        ({"minutes": (0.0,)}, "--minutes are"),
        ({"seeds": ()}, "--seeds is \\(\\); give one or more, each once"),
        ({"seeds": (0, 0)}, "--seeds is \\(0, 0\\); give one or more, each once"),
    ],
)
def test_what_cannot_be_run_is_said_before_the_work(options, said):
    with pytest.raises(InputError, match=said):
        board.Options(**options)


def test_runs_are_trained_once_and_what_fails_is_said(tmp_path, monkeypatch, capsys):
    siren = "digits-maml --network siren --width None --heads None --keys None --fast None --inner-loss None --widths 6 4 --reduce 2"
    monkeypatch.setitem(board.RECIPES, ("digits", "heads"), siren)
    monkeypatch.setitem(board.RECIPES, ("digits", "lstm"), f"{siren} --fast nothing")
    options = board.Options(minutes=(0.01,), out=tmp_path)
    with pytest.raises(InputError, match="1 of 2 runs failed"):
        board.main(options)
    said = capsys.readouterr()
    assert "lstm, 0.01 minutes, seed 0: failed; " in said.err and "'nothing' is not in the network" in said.err
    (found,) = json.loads((tmp_path / "leaderboard.json").read_text())
    assert 0 < found["score"] < 20 and found["seconds"] >= 0.6 and found["options"].startswith(siren)
    assert found["best_step"] <= found["steps"]
    assert (tmp_path / "leaderboard.md").read_text() in said.out
    folder = tmp_path / "digits" / "heads-0.01-minutes-seed-0"
    before = contents(folder)
    board.main(board.Options(entries=("heads",), minutes=(0.01,), out=tmp_path))
    assert contents(folder) == before
    monkeypatch.setitem(board.RECIPES, ("digits", "heads"), "digits-maml --width 32")
    with pytest.raises(InputError):
        board.main(board.Options(entries=("heads",), minutes=(0.01,), out=tmp_path))
    assert "it was trained with 'digits-maml --network siren" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_its_runs_stop_with_a_checkpoint(number, tmp_path):
    command = [sys.executable, SCRIPT, "--entries", "lstm", "--minutes", "5", "--out", tmp_path]
    child = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "digits" / "lstm-5-minutes-seed-0"
    metrics, log = folder / "metrics.jsonl", folder.with_name(folder.name + ".log")
    for _ in range(600):
        if metrics.exists() and '"step": 50,' in metrics.read_text():
            break
        time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    for _ in range(600):  # after a kill, the run hears of it by the end of its input
        if "Stopped after step" in log.read_text():
            break
        time.sleep(0.1)
    assert "Stopped after step" in log.read_text() and any((folder / "checkpoints").iterdir())
    assert not (folder / "row.json").exists()
