"""Imports run in one direction: what each module may know of the others."""

import ast
from pathlib import Path

import pytest

import rgen

ROOT = Path(rgen.__file__).parent

# A module, or a package, and the only modules of rgen that it may import: the layers, from the bottom up
MAY = {
    "errors": set(),
    "likelihood": {"errors"},
    "sequence": {"likelihood"},
    "devices": {"errors", "sequence"},
    "profile": set(),
    "limits": {"devices", "fast", "sequence"},
    "networks": {"errors", "sequence"},
    "progress": set(),
    "report": {"sequence"},
    "checkpoint": {"errors"},
    "files": {"errors"},
    "config": {"errors"},
    "cli": {"errors"},
    "unroll": {"likelihood", "sequence"},
    "fast": {"fast", "unroll", "likelihood", "sequence"},
    "meta": {"fast", "sequence"},
    "recurrent": {"unroll", "likelihood", "networks", "sequence"},
    "data": {"data", "errors", "files", "sequence"},
    "counts": {"data", "sequence"},
    "records": {"files", "sequence"},
    "generate": {"data", "devices", "fast", "likelihood", "sequence"},
    "export": {"generate"},
    "belief": {"errors", "fast", "generate", "report", "sequence"},
}


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
    *("network", "views", "capture", "values", "rates", "loop", "costs", "plan", "memory", "step", "kept", "folded", "forward", "sweep"),
    *("batches", "dual", "check", "__init__"),
]


@pytest.mark.parametrize("place", range(len(FAST)))
def test_imports_of_the_inner_loop_run_downward(place):
    assert {file.stem for file in (ROOT / "fast").glob("*.py")} == set(FAST)
    below = {f"rgen.fast.{name}" for name in FAST[:place]}
    names = {name for name in imported(ROOT / "fast" / f"{FAST[place]}.py") if name.startswith("rgen.fast")}
    assert {name for name in names if not any(name == known or name.startswith(known + ".") for known in below)} == set()


@pytest.mark.parametrize("module", MAY)
def test_imports_run_downward(module):
    files = sorted((ROOT / module).rglob("*.py")) or [ROOT / f"{module}.py"]
    assert {file.name: modules(file) - MAY[module] for file in files if modules(file) - MAY[module]} == {}


def test_imports_are_seen():
    """The test above can fail: it sees both ways to import, and those inside functions."""
    assert {"fast", "sequence"} <= modules(ROOT / "meta.py")
    assert {"meta", "models", "report"} <= modules(ROOT / "train.py")
    assert "data" in modules(ROOT / "data" / "__init__.py")
    assert {"rgen.fast.values", "rgen.fast.rates.expand_rates"} <= imported(ROOT / "fast" / "loop.py")
