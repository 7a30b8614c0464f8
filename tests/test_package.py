"""The package as others get it: the names of `import rgen`, their example, and a wheel in a place of its own."""

import doctest
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rgen

ROOT = Path(rgen.__file__).parents[1]


def test_the_public_names_are_there_and_say_what_they_are():
    names = {name for name in dir(rgen) if not name.startswith("_")}
    assert {"InnerLoop", "Function", "Sequence", "maml", "reptile", "score", "sample", "complete", "belief", "load_run"} <= names
    assert all(getattr(rgen, name).__doc__ for name in names)
    with pytest.raises(AttributeError, match="no_such"):
        getattr(rgen, "no_such")  # noqa: B009


def test_every_dependency_has_a_lower_bound():
    """Or `make test-lowest` would install the first version that there ever was."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["tensorboard"], *project["optional-dependencies"]["test"]]
    assert [name for name in needed if ">=" not in name] == ["rgen[tensorboard]"]


def test_import_alone_brings_neither_jax_nor_data():
    code = "import sys, rgen, rgen.commands; print({'jax', 'flax', 'sklearn', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_the_example_runs():
    tried = doctest.testmod(rgen)
    assert tried.attempted > 10 and not tried.failed


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """A folder in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("rgen", "pyproject.toml", "README.md", "LICENSE"):  # setuptools leaves a build folder beside what it builds
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("rgen-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder


def run(elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess:
    site = elsewhere / "site"
    command = [sys.executable, str(site / "bin" / "rgen"), *arguments]
    return subprocess.run(command, cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)


def test_a_wheel_trains_and_evaluates_elsewhere(elsewhere):
    assert (elsewhere / "site" / "rgen" / "py.typed").exists() and (elsewhere / "site" / "rgen" / "__init__.pyi").exists()
    options = ["--steps", "5", "--meta-batch", "2", "--eval-count", "4", "--network", "siren", "--widths", "4", "4", "--run", "run"]
    options += ["--rates", "fixed", "--fast", "None", "--inner-loss", "None", "--width", "None", "--heads", "None", "--keys", "None"]
    trained = run(elsewhere, "train", "demo", *options)
    assert trained.returncode == 0, trained.stderr
    assert (elsewhere / "run" / "curves.png").exists()
    evaluated = run(elsewhere, "evaluate", "--run", "run", "--count", "4")
    assert evaluated.returncode == 0 and "this run, step 5" in evaluated.stdout, evaluated.stderr


def test_a_wheel_brings_weights(elsewhere):
    drawn = run(elsewhere, "sample", "--run", "pretrained:names", "--count", "3")
    assert drawn.returncode == 0 and len(drawn.stdout.splitlines()) == 3, drawn.stderr
    assert (elsewhere / "site" / "rgen" / "pretrained" / "mnist" / "card.md").exists()


def test_a_wheel_writes_a_page(elsewhere):
    written = run(elsewhere, "sample", "--run", "pretrained:digits", "--page", "play.html")
    assert written.returncode == 0 and "</html>" in (elsewhere / "play.html").read_text(), written.stderr


def test_the_program_names_its_commands_and_what_is_none(elsewhere):
    shown = run(elsewhere, "--help")
    assert shown.returncode == 0
    for command in ("train", "evaluate", "sample", "benchmark", "report", "inside", "check"):
        assert f"rgen {command} " in shown.stdout
    wrong = run(elsewhere, "trian")
    assert wrong.returncode == 2 and "Perhaps you meant train" in wrong.stderr and "Traceback" not in wrong.stderr
