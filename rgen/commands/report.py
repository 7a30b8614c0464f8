"""One HTML page, with all its pictures inside, that compares runs."""

import base64
import dataclasses
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from rgen.config import ReportConfig
from rgen.config.validation import flag
from rgen.errors import InputError, command
from rgen.host import plots
from rgen.host.files import check_results, replace
from rgen.runs.folder import MAY_CHANGE, Run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2a49; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.5rem }
table { border-collapse: collapse } th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #dde5f1 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } td.best { font-weight: 600 }
img { max-width: 100% } .runs { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 } figcaption { font-size: .9rem }
pre { background: #f4f6fa; padding: .6rem; font-size: .8rem; max-width: 30rem; overflow: auto }
"""
DATA = ("data", "data_dir", "max_length", "held_out", "split_seed", "deduplicate", "order", "reduce", "binarize", "levels", "colour")
DATA += ("symbols", "score_padding", "eval_count")
COLOURS = (plots.ACCENT, plots.INK, "#e9a15b", "#4f9d69", "#7d5ba6", "#5aa9c9")


def main(config: ReportConfig) -> None:
    """`rgen report`."""
    out = config.out or Path("report.html")
    check_results([("out", out)], config.replaces)
    runs = [Run(folder) for folder in config.run]
    for run in runs:
        if not run.exists():
            raise InputError(f"There is no run in {run.folder}; make one with {command('train')} PRESET --run {run.folder}.")
        if not run.metrics():
            raise InputError(f"The run in {run.folder} has logged nothing yet; wait for its first --log-every steps.")
    replace(out, page(runs).encode(), config.replaces("out"))
    print(f"{len(runs)} runs: {out}")


def page(runs: list[Run]) -> str:
    """The page as HTML."""
    names = _names([run.folder for run in runs])
    parts = [
        f"<h1>{' and '.join(map(html.escape, names)) if len(names) < 4 else f'{len(names)} runs'}</h1>",
        _table(runs, names),
        "<h2>Nats per sequence</h2>" + _image(_curves(runs, names)),
        "<h2>What differs in the configurations</h2>" + _differences(runs, names),
        "<h2>Samples</h2><div class=runs>" + "".join(_samples(run, name) for run, name in zip(runs, names)) + "</div>",
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>rgen: {html.escape(', '.join(names))}</title><style>{STYLE}</style>"
    return head + "".join(f"<section>{part}</section>" for part in parts) + "</html>\n"


def _names(folders: list[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths))):
        names = ["/".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def _table(runs: list[Run], names: list[str]) -> str:
    rows = []
    for run, name in zip(runs, names):
        config, metrics = run.config(), run.metrics()
        valid = {row["step"]: row["valid_nats"] for row in metrics if np.isfinite(row.get("valid_nats", np.nan))}
        best = min(valid, key=lambda step: valid[step]) if valid else None
        rates = [row["steps_per_second"] for row in metrics if row.get("steps_per_second")]
        rows.append(
            {
                "run": name,
                "data": config.data,
                "network": config.network,
                "algorithm": config.algorithm,
                "steps": max(row["step"] for row in metrics),
                "validation nats": None if best is None else valid[best],
                "at step": best,
                "test nats": _test(run.folder),
                "steps/s": float(np.median(rates)) if rates else None,
            }
        )
    least = {key: min((row[key] for row in rows if row[key] is not None), default=None) for key in ("validation nats", "test nats")}
    configs = [run.config() for run in runs]
    comparable = len({tuple(str(getattr(config, name)) for name in DATA) for config in configs}) == 1 < len(rows)

    def cell(key: str, value: Any) -> str:
        if not isinstance(value, (int, float)):
            return f"<td{' class=n' if value is None else ''}>{'–' if value is None else html.escape(str(value))}"
        kind = "n best" if comparable and key in least and value == least[key] else "n"
        return f"<td class='{kind}'>{value:,.2f}" if isinstance(value, float) else f"<td class=n>{value:,}"

    head = "".join(f"<th{' class=n' if not isinstance(value, str) else ''}>{key}" for key, value in rows[0].items())
    return f"<table><tr>{head}" + "".join("<tr>" + "".join(cell(*item) for item in row.items()) for row in rows) + "</table>"


def _test(folder: Path) -> float | None:
    """What `rgen evaluate --json RUN/test.json` wrote, if there is such a file."""
    try:
        return float(json.loads((folder / "test.json").read_text())["nats_per_sequence"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _curves(runs: list[Run], names: list[str]) -> bytes:
    """Validation (dots) and training (pale) nats against outer steps, and against seconds of training."""
    figure, axes = plots.subplots(1, 2, figsize=(11, 4), sharey=True)
    lowest, highest = np.inf, -np.inf
    for index, (run, name) in enumerate(zip(runs, names)):
        colour, metrics = COLOURS[index % len(COLOURS)], run.metrics()
        training = [row for row in metrics if "nats" in row]
        valid = [row for row in metrics if "valid_nats" in row]
        steps = np.array([0, *(row["step"] for row in training)])
        rates = np.array([row.get("steps_per_second") or np.nan for row in training])
        seconds = np.concatenate([[0], np.nancumsum(np.diff(steps) / rates)])
        for axis, scale in zip(axes, (steps, seconds)):
            axis.plot(scale[1:], [row["nats"] for row in training], color=colour, alpha=0.3)
            at = np.interp([row["step"] for row in valid], steps, scale)
            axis.plot(at, [row["valid_nats"] for row in valid], "o-", ms=3, color=colour, label=" " + name.replace("$", r"\$"))
        values = [row["valid_nats"] for row in valid] + [row["nats"] for row in training[len(training) // 4 :]]
        lowest, highest = min([lowest, *values]), max([highest, *values])
    if np.isfinite(lowest) and highest > lowest:  # the first rows would hide the rest
        axes[0].set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest))
    for axis, unit in zip(axes, ("outer steps", "seconds of training")):
        axis.set_xlabel(unit)
    axes[0].set_ylabel("nats per sequence")
    axes[1].legend(frameon=False)
    return plots.finish(figure)


def _differences(runs: list[Run], names: list[str]) -> str:
    configs = [dataclasses.asdict(run.config()) for run in runs]
    ignored = MAY_CHANGE - {"steps", "form"}
    differ = [key for key in configs[0] if key not in ignored and len({str(config[key]) for config in configs}) > 1]
    if not differ:
        return "<p>Nothing.</p>"
    rows = ["<tr><th>option" + "".join(f"<th>{html.escape(name)}" for name in names)]
    for key in differ:
        values = [" ".join(map(str, c[key])) if isinstance(c[key], tuple) else str(c[key]) for c in configs]
        rows.append(f"<tr><td>{flag(key)}" + "".join(f"<td>{html.escape(value)}" for value in values))
    return f"<table>{''.join(rows)}</table>"


def _samples(run: Run, name: str) -> str:
    if (image := run.folder / "samples.png").exists():
        shown = _image(image.read_bytes())
    elif (text := run.folder / "samples.txt").exists():
        shown = f"<pre>{html.escape(text.read_bytes()[:2000].decode('utf-8', 'replace'))}</pre>"
    else:
        return ""
    return f"<figure>{shown}<figcaption>{html.escape(name)}</figcaption></figure>"


def _image(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
