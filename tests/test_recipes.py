"""runs/*.sh: what they train with is what the program takes, and what docs/results.md has a row of."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rgen
from rgen import commands

ROOT = Path(rgen.__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "runs").glob("*.sh"))
RECORD = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >> calls\necho >> calls\n'
WITHOUT = {"digits-maml"}  # needs no data


def calls(recipe: str, folder: Path, *further: str) -> list[list[str]]:
    """The commands that a script gives, without running them."""
    (folder / "rgen").write_text(RECORD)
    (folder / "rgen").chmod(0o755)
    given = [] if recipe in WITHOUT else ["given"]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run([str(ROOT / "runs" / f"{recipe}.sh"), *given, *further], cwd=folder, env=environment, check=True)
    return [call.splitlines() for call in (folder / "calls").read_text().split("\n\n") if call]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_evaluates_and_draws_in_one_folder(recipe, tmp_path):
    found: dict[str, Any] = {name: commands.parse(name, words) for name, *words in calls(recipe, tmp_path, "--seed", "3")}
    assert list(found) == ["train", "evaluate", "sample"] and found["train"].seed == 3 and found["train"].resume
    assert {config.run for config in found.values()} == {Path("runs") / recipe}
    assert recipe in WITHOUT or "given" in (found["train"].data, str(found["train"].data_dir))


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_number_stands_in_the_results(recipe):
    first = (ROOT / "runs" / f"{recipe}.sh").read_text().splitlines()[1]
    number = re.findall(r"\d+\.\d+", first)[0]
    pages = (ROOT / "docs" / "results.md").read_text() + (ROOT / "results" / "gpu-2026-11-26.txt").read_text()
    assert number in pages


def test_data_that_is_missing_is_asked_for(tmp_path):
    tried = subprocess.run([str(ROOT / "runs" / "names-heads.sh")], cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode != 0 and "give a text file, one sequence per line" in tried.stderr
