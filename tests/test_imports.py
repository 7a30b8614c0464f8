"""Imports run in one direction: what each module may know of the others."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import rgen

ROOT = Path(rgen.__file__).parent

# All modules and packages right below rgen, from the bottom up: each may import those before it, and a package its own modules
LAYERS = [
    *("errors", "choices", "hardware", "likelihood", "sequence", "batching", "devices", "unroll", "networks", "fast", "baselines", "meta"),
    *("host", "config", "data", "models", "sampling", "play", "scoring", "pretrained", "runs", "training", "timing"),
    "commands",
]
# Rooms that know nothing of what lies before them but this
ONLY = {"host": {"errors", "host"}, "config": {"errors", "choices", "config"}}


def imported(path: Path) -> set[str]:
    """What a file names of rgen, also inside functions, by its whole name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which this test does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name for name in names if name.startswith("rgen.")}
    return found


def modules(path: Path) -> set[str]:
    """The modules and packages right below rgen that a file names."""
    return {name.split(".")[1] for name in imported(path)}


# The files of the inner loop, from the bottom up: each imports none behind it
FAST = [
    *("functions", "rates", "views", "capture", "ranges", "loop", "costs", "plan", "memory", "step", "past", "forward", "sweep"),
    *("derivative", "dual", "check", "__init__"),
]


@pytest.mark.parametrize("place", range(len(FAST)))
def test_imports_of_the_inner_loop_run_downward(place):
    assert {file.stem for file in (ROOT / "fast").glob("*.py")} == set(FAST)
    below = {f"rgen.fast.{name}" for name in FAST[:place]}
    names = {name for name in imported(ROOT / "fast" / f"{FAST[place]}.py") if name.startswith("rgen.fast")}
    assert {name for name in names if not any(name == known or name.startswith(known + ".") for known in below)} == set()


def test_every_module_has_its_layer():
    assert {path.stem for path in ROOT.iterdir() if path.stem not in ("__init__", "__pycache__", "py")} == set(LAYERS)


@pytest.mark.parametrize("module", LAYERS)
def test_imports_run_downward(module):
    may = ONLY.get(module, {*LAYERS[: LAYERS.index(module)], *({module} if (ROOT / module).is_dir() else ()), "__version__"})
    files = sorted((ROOT / module).rglob("*.py")) or [ROOT / f"{module}.py"]
    assert {file.name: modules(file) - may for file in files if modules(file) - may} == {}


def alike(names: list[str]) -> set[str]:
    """Names that differ by their case, an s at the end, or not at all."""
    counts = Counter(name.lower().removesuffix("s") for name in names)
    return {name for name in names if counts[name.lower().removesuffix("s")] > 1}


def test_no_two_modules_have_one_name():
    """Nor names that differ by an s; only a command is named as what it is about."""
    files = [path for path in ROOT.rglob("*.py") if path.parent.name != "commands"]
    names = [path.parent.name if path.stem == "__init__" else path.stem for path in files if path != ROOT / "__init__.py"]
    assert alike(names) == set()


def test_no_two_classes_have_one_name():
    names = [node.name for path in ROOT.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert alike([name for name in names if not name.startswith("_")]) == set()
    assert alike(["Batch", "batches", "Run", "Runs", "run", "Given"]) == {"Run", "Runs", "run"}


def test_imports_are_seen():
    """The tests above can fail: they see both ways to import, and those inside functions."""
    assert {"fast", "sequence"} <= modules(ROOT / "meta.py")
    assert {"host", "models", "runs"} <= modules(ROOT / "training" / "outer_loop.py")
    assert "data" in modules(ROOT / "data" / "__init__.py")
    assert {"rgen.fast.ranges", "rgen.fast.rates.expand_rates"} <= imported(ROOT / "fast" / "loop.py")
