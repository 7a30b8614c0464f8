"""runs/*.sh give commands that the program takes, and docs/results.md has their scores; links in the pages lead somewhere."""

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
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results" / "README.md"]
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


def test_each_script_has_a_row_with_its_score():
    table = (ROOT / "docs" / "results.md").read_text().splitlines()
    assert RECIPES
    for recipe in RECIPES:
        header = (ROOT / "runs" / f"{recipe}.sh").read_text().splitlines()[1]
        score = re.findall(r"\d+\.\d+", header)[0]
        assert [row for row in table if f"`{recipe}.sh`" in row and score in row], f"{recipe}.sh has no row with {score}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page."""
    titles = [line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page} links to {link}"
            assert not anchor or anchor in headings(target), f"{page} links to {link}"


def test_data_that_is_missing_is_asked_for(tmp_path):
    tried = subprocess.run([str(ROOT / "runs" / "names-heads.sh")], cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode != 0 and "give a text file, one sequence per line" in tried.stderr
