"""docs/tutorial.py runs, and what it says to expect is so."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import rgen

TUTORIAL = Path(rgen.__file__).parents[1] / "docs" / "tutorial.py"


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):  # as users run it
        found = runpy.run_path(str(TUTORIAL))
    said = capfd.readouterr().out
    assert "The forms agree" in said and "Taken over: memory/bias, memory/kernel" in said
    assert 8.2 < found["paid"].sum(1).mean() < 8.5 and found["words"][1:].max() < 0.05
    assert found["believed"][4, range(5, 9), found["test"][0, 5:9]].min() > 0.99 and found["consistent"] > 0.95
    np.testing.assert_array_equal(found["completed"], found["test"][:5])
    assert "head head head head" in said
    made = {str(path.relative_to("tutorial")) for path in Path("tutorial").rglob("*") if path.is_file()}
    assert {"belief.png", "words.bin", "words.txt", "digits.png", "run/inside.png"} <= made
