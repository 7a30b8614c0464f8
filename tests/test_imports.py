"""Imports run in one direction: what each module may know of the others."""

import ast
import re
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
    """The modules of rgen that a file names, also inside functions, each by the first part of its name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which this test does not follow"
            whole = node.module == "rgen"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [str(node.module)]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("rgen.")}
    return found


# The files of the inner loop, from the bottom up: each imports none behind it
FAST = ["taps", "rates", "plan", "affine", "forward", "reverse", "dual", "engine", "loop", "__init__"]


def test_imports_of_the_inner_loop_run_downward():
    assert {file.stem for file in (ROOT / "fast").glob("*.py")} == set(FAST)
    for place, name in enumerate(FAST):
        text = (ROOT / "fast" / f"{name}.py").read_text()
        assert [later for later in FAST[place:] if re.search(rf"from rgen\.fast\.{later} |from rgen\.fast import {later}\b", text)] == []


@pytest.mark.parametrize("module", MAY)
def test_imports_run_downward(module):
    files = sorted((ROOT / module).rglob("*.py")) or [ROOT / f"{module}.py"]
    assert {file.name: imported(file) - MAY[module] for file in files if imported(file) - MAY[module]} == {}


def test_imports_are_seen():
    """The test above can fail: it sees both ways to import, and those inside functions."""
    assert {"fast", "sequence"} <= imported(ROOT / "meta.py")
    assert {"meta", "models", "report"} <= imported(ROOT / "train.py")
    assert "data" in imported(ROOT / "data" / "__init__.py")
