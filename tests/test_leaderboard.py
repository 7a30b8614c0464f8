"""The leaderboard: its runs, and its table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from rgen import commands
from rgen.choices import BOARD_DATA, BOARD_ENTRIES
from rgen.config import LeaderboardConfig
from rgen.errors import InputError
from rgen.host.cores import shares
from rgen.leaderboard import cells, entries, table
from rgen.leaderboard.cells import Cell, Row
from runs import ROOT, contents, words

FILES = ["leaderboard.json", "leaderboard.md", "leaderboard.png"]


def row(data: str, entry: str, minutes: float, seed: int, score: float) -> Row:
    return Row(data, entry, minutes, seed, score, 0.1, 180, 40_400, 1000 * seed + 500, 500, 60 * minutes, "1 core of a machine", "")  # type: ignore


@pytest.mark.parametrize("data", BOARD_DATA)
@pytest.mark.parametrize("entry", BOARD_ENTRIES)
def test_every_entry_is_one_that_trains(data, entry, tmp_path):
    config = commands.parse("train", entries.recipe(data, entry, tmp_path))
    assert (config.network == "lstm") == (entry == "lstm") and (config.algorithm == "reptile") == (entry == "original-reptile")
    assert (config.context == 3) == (entry in ("context", "static"))
    option = entries.DATA[data].option
    assert config.data in BOARD_DATA if option != "names" and option != "listing" else config.data == str(tmp_path)
    assert (config.data_dir == tmp_path) == (option == "data_dir")


def test_data_that_is_missing_is_asked_for_before_anything_runs(tmp_path):
    config = LeaderboardConfig(data=("digits", "names"), out=tmp_path / "board")
    with pytest.raises(InputError, match="The leaderboard of names needs its data: give --names"):
        commands.import_module("rgen.commands.leaderboard").main(config)
    assert not config.out.exists()
    with pytest.raises(InputError, match=r"--names is '.*nowhere', which does not exist"):
        commands.import_module("rgen.commands.leaderboard").main(replace(config, names=tmp_path / "nowhere"))


def test_the_table_has_means_and_ranges_and_the_best_in_bold():
    rows = [row("digits", "heads", 1, seed, score) for seed, score in enumerate((16.5, 16.7))]
    rows += [row("digits", "lstm", 1, 0, 17), row("digits", "lstm", 5, 0, 16.25), row("names", "lstm", 0.5, 0, 2.0456)]
    failed = {Cell("names", "heads", 1, 0): "Out of memory"}
    lines = table.markdown(rows, failed).splitlines()
    assert lines[0] == "| data | network | parameters | 0.5 minutes | 1 minute | 5 minutes |"
    assert lines[2:5] == [
        "| digits, 8x8: nats per image | ours | 40 K |  | **16.60** (16.50–16.70) (1,000 steps) |  |",
        "|  | LSTM, told the last output | 40 K |  | 17.00 (500 steps) | 16.25 (500 steps) |",
        "| names: nats per symbol | LSTM, told the last output | 40 K | 2.046 (500 steps) |  |  |",
    ]
    assert "*1 core of a machine.*" in lines and lines[-1] == "names, heads, 1 minutes, seed 0: failed. Out of memory"
    assert table.picture(rows).startswith(b"\x89PNG")


def test_cores_are_shared_out():
    assert shares(1) == [None]
    with pytest.raises(InputError, match="--jobs is 1000, and rgen may use"):
        shares(1000)


def test_each_share_has_as_many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    found = [share for share in shares(3) if share]
    assert [len(share) for share in found] == [2, 2, 2] and len(set.union(*found)) == 6


@pytest.fixture
def small(monkeypatch):
    """Entries that take seconds."""
    siren = words("digits-maml --network siren --width None --heads None --keys None --fast None --inner-loss None --widths 6 4 --reduce 2")
    for entry, options in {"heads": [], "context": ["--fast", "nothing"]}.items():
        monkeypatch.setitem(entries._RECIPES, ("digits", entry), " ".join([*siren, *options]))


def board(folder, *arguments: str):
    config = commands.parse("leaderboard", ["--data", "digits", "--minutes", "0.01", "--out", str(folder), *arguments])
    commands.import_module("rgen.commands.leaderboard").main(config)


def test_runs_are_trained_once_and_what_fails_is_said(small, tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError, match="1 of 2 runs failed; why stands below the table"):
        board(tmp_path, "--entries", "heads", "context")
    said = capsys.readouterr()
    assert "digits, heads, 0.01 minutes, seed 0: " in said.err and " nats per image after " in said.err
    assert "context, 0.01 minutes, seed 0: failed. rgen train: --fast: 'nothing' is not in the network" in said.err
    assert "failed. rgen train: --fast: 'nothing' is not in the network" in said.out
    (found,) = json.loads((tmp_path / "leaderboard.json").read_text())
    assert found == asdict(cells.finished(tmp_path)[0]) and 0 < found["score"] < 20 and found["seconds"] >= 0.6
    weights, rates = (2 + 1) * 6 + (6 + 1) * 4 + 4 + 1, (2 + 6) + (6 + 4) + (4 + 1) + 3  # rank-one for kernels, one for each bias
    assert found["best_step"] <= found["steps"] and found["parameters"] == weights + rates
    folder = tmp_path / "digits" / "heads-0.01-minutes-seed-0"
    before = contents(folder)
    board(tmp_path, "--entries", "heads")
    assert "1 of 1 runs are finished" in capsys.readouterr().err
    assert contents(folder) == before

    monkeypatch.setitem(entries._RECIPES, ("digits", "heads"), "digits-maml --width 32")
    with pytest.raises(InputError, match=r"seed 0 was trained with '.*siren.*', and would be with 'digits-maml --width 32 .*' now. Move '"):
        board(tmp_path, "--entries", "heads")
    shutil.copytree(folder, tmp_path / "digits" / "put aside")
    assert len(cells.finished(tmp_path)) == 1
    folder.rename(renamed := folder.with_name("heads-0.01-minutes-seed-1"))  # is no run of seed 1
    with pytest.raises(InputError, match=r"No run of the leaderboard was finished. .* holds another configuration"):
        board(tmp_path, "--entries", "heads", "--seeds", "1")
    renamed.rename(folder)
    (folder / "row.json").write_text('{"data": "digits"')
    with pytest.raises(InputError, match=r"row.json' is no row of a leaderboard: .* Remove it, and the run is scored again"):
        board(tmp_path, "--entries", "lstm")


def test_the_table_is_there_after_each_run_and_the_users_changes_stay(small, tmp_path, monkeypatch):
    table_file, publish = tmp_path / "leaderboard.md", table.markdown
    seen = []

    def watch(rows, failed):
        seen.append(len(rows))
        if len(seen) == 2:
            table_file.write_text("a note of mine")
        return publish(rows, failed)

    monkeypatch.setattr(table, "markdown", watch)
    with pytest.raises(InputError, match="which is there already and is not as rgen wrote it"):
        board(tmp_path, "--entries", "heads", "--seeds", "0", "1")
    assert seen[:2] == [1, 2] and table_file.read_text() == "a note of mine"
    assert len(json.loads((tmp_path / "leaderboard.json").read_text())) == 2


def test_a_leaderboard_of_nothing_is_a_sentence(small, tmp_path):
    with pytest.raises(InputError, match="'nothing' is not in the network"):
        board(tmp_path, "--entries", "context")


def test_the_users_files_stay(small, tmp_path):
    (tmp_path / "leaderboard.md").write_text("mine")
    with pytest.raises(InputError, match="which is there already and is not as rgen wrote it"):
        board(tmp_path, "--entries", "heads")
    assert contents(tmp_path) == {"leaderboard.md": b"mine"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_goes_on_where_it_stopped(number, tmp_path):
    command = [sys.executable, ROOT / "bin" / "leaderboard.py", *words("--data digits --entries lstm --out"), tmp_path]
    child = subprocess.Popen([*command, "--minutes", "5"], stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "digits" / "lstm-5-minutes-seed-0"
    for _ in range(600):
        if (folder / "metrics.jsonl").exists() and '"step": 50,' in (folder / "metrics.jsonl").read_text():
            break
        time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == (128 + number if number != signal.SIGKILL else -signal.SIGKILL), said
    log = folder.with_name(folder.name + ".log")
    for _ in range(600):  # of a kill, the runs hear from the system
        if "Stopped after step" in log.read_text():
            break
        time.sleep(0.1)
    assert "Stopped after step" in log.read_text()
    assert not (folder / "row.json").exists() and any((folder / "checkpoints").iterdir())
