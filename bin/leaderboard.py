#!/usr/bin/env python
"""Compare networks after equal minutes of training: bin/leaderboard.py --data digits names --names names.txt --minutes 1 5.

A script over `rgen train` and `rgen evaluate`. Each run is in OUT/DATA/ENTRY-MINUTES-minutes-seed-SEED; the table shows all finished
runs in OUT. If stopped, the same command continues; finished runs are not repeated.
To tune an entry, change its line below and give another --out.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import Any, Literal

import numpy as np
import tyro

from rgen import scoring
from rgen.commands import guarded
from rgen.errors import InputError
from rgen.host import plots, signals
from rgen.host.cores import cores
from rgen.host.files import replace
from rgen.timing.machine import caches, processor

# Title, unit of the score, and its name in the file of `rgen evaluate --json`
DATA = {
    "digits": ("digits, 8x8", "nats per image", "nats_per_sequence"),
    "small-mnist": ("MNIST, 14x14", "nats per image", "nats_per_sequence"),
    "mnist": ("MNIST, 28x28", "nats per image", "nats_per_sequence"),
    "names": ("names", "nats per symbol", "nats_per_symbol"),
    "listing": ("file listing", "bits per byte", "bits_per_symbol"),
}
ENTRIES = {
    "original-reptile": "the original's network, Reptile",
    "original-maml": "the original's network, MAML",
    "heads": "ours",
    "context": "ours, told the last 3 outputs",
    "static": "its static twin, which learns nothing while it predicts",
    "lstm": "LSTM, told the last output",
    "transformer": "transformer, told all outputs before",
}
COLOURS = dict(zip(ENTRIES, (plots.PALE, "#5aa9c9", plots.ACCENT, "#e9a15b", "#4f9d69", plots.INK, "#7d5ba6")))

# The options of `rgen train`, without data and minutes. A meta-batch of 8: in few minutes, many steps of few sequences are better.
FEW, MUON = "--meta-batch 8 --eval-every 1000", "--optimizer muon"
TEXT = "--meta-batch 32 --eval-every 125 --eval-count 0"
TWIN = "--context 3 --inner-loss nats --rates fixed --inner-rate 1e-12"
DIGITS = "--data digits --meta-batch 32 --eval-count 0 --eval-every 50"
NAMES = f"--eval-every 2500 {MUON}"
LSTM = "--width 104 --depth 1 --features 64 --outer-rate 5e-3 --warmup 50 --schedule cosine --beta2 0.99 --clip 1 --weight-decay 0.5"
RECIPES = {
    ("digits", "original-reptile"): f"mnist-reptile {DIGITS}",
    ("digits", "original-maml"): f"mnist-maml {DIGITS}",
    ("digits", "heads"): "digits-maml --eval-every 500",
    ("digits", "lstm"): "digits-lstm --eval-every 500",
    ("digits", "transformer"): "digits-transformer --outer-rate 1e-3",
    ("small-mnist", "original-reptile"): "mnist-reptile --reduce 2 --meta-batch 32 --eval-every 250",
    ("small-mnist", "original-maml"): "mnist-maml --reduce 2 --meta-batch 32 --eval-every 250",
    ("small-mnist", "heads"): f"small-mnist-heads {FEW} {MUON} --width 64",
    ("small-mnist", "lstm"): f"small-mnist-lstm {FEW}",
    ("small-mnist", "transformer"): f"small-mnist-transformer --meta-batch 4 --eval-every 1000 {MUON}",
    ("mnist", "original-reptile"): "mnist-reptile --eval-every 250",
    ("mnist", "original-maml"): "mnist-maml --eval-every 250",
    ("mnist", "heads"): f"mnist-heads {FEW} {MUON} --neighbours nearest-12",
    ("mnist", "context"): f"mnist-heads {FEW} {MUON} --context 3",
    ("mnist", "lstm"): f"small-mnist-lstm --reduce 1 {FEW}",
    ("mnist", "transformer"): f"mnist-transformer --depth 2 --meta-batch 2 --eval-every 1000 {MUON}",
    ("names", "original-reptile"): "names-reptile --eval-every 250",
    ("names", "original-maml"): "names-maml --eval-every 250",
    ("names", "heads"): f"names-heads {NAMES} --weight-decay 0.3",
    ("names", "context"): f"names-context {NAMES} --weight-decay 0.3",
    ("names", "lstm"): f"names-lstm {NAMES} --outer-rate 1e-2 --weight-decay 0.1",
    ("names", "transformer"): f"names-transformer {NAMES} --weight-decay 0.3",
    ("listing", "original-reptile"): f"text-reptile {TEXT}",
    ("listing", "original-maml"): f"text-maml {TEXT}",
    ("listing", "heads"): f"text-heads {FEW} --eval-count 0 --outer-rate 1e-2",
    ("listing", "lstm"): f"text-lstm {FEW} --eval-count 0 {MUON} {LSTM}",
    ("listing", "transformer"): "text-transformer --eval-every 1000 --eval-count 0 --outer-rate 4e-3",
}
for data in DATA:
    RECIPES.setdefault((data, "context"), f"{RECIPES[data, 'heads']} --context 3")
    RECIPES[data, "static"] = f"{RECIPES[data, 'context']} {TWIN}"
# Noise on the weights, by data and from how many minutes on: small sets, which most networks overfit in this time
NOISE, NOISE_FROM = {"digits": 0.2, "names": 0.1, "listing": 0.2}, 5
SCORED = 1000  # images of MNIST on which the original's networks are scored; they take seconds for 50

# A command of rgen on some cores. Its input ends when it is to stop, or when this script is gone in any way.
COMMAND = """
import os, signal, threading
if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[{job} :: {jobs}][: len(cores) // {jobs}])
threading.Thread(target=lambda: os.read(0, 1) or os.kill(os.getpid(), signal.SIGTERM), daemon=True).start()
from rgen.commands import main
main()
"""


@dataclass(frozen=True)
class Options:
    """Compare networks after equal minutes of training: each combination of --data, --entries and --minutes, with one or more --seeds."""

    data: tuple[Literal["digits", "small-mnist", "mnist", "names", "listing"], ...] = ("digits",)
    """small-mnist (14x14 pixels) and mnist need --data-dir, names needs --names, listing needs --listing."""
    entries: tuple[Literal["original-reptile", "original-maml", "heads", "context", "static", "lstm", "transformer"], ...] = (
        "heads",
        "lstm",
    )
    """heads: ours; context: ours, given the last 3 outputs; static: the same with an inner rate of 1e-12."""
    minutes: tuple[float, ...] = (1, 5)
    """Minutes of training, without compiling, validation and scoring. From 5 on, digits, names and listing have noise on the weights."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the longest runs. Shorter runs, and the original's networks, have only the first."""
    data_dir: Path | None = None
    """Folder with MNIST's two files of images, or Keras' mnist.npz."""
    names: Path | None = None
    """names.txt of makemore, or another file with one short line per sequence."""
    listing: Path | None = None
    """dir_listing.txt of the original program, or another text file."""
    jobs: int = 1
    """Number of runs at a time, each on its share of the cores."""
    out: Path = Path("runs/leaderboard")
    """Folder of the runs, and of leaderboard.md, .json and .png."""

    def __post_init__(self):
        for name in ("data", "entries", "minutes", "seeds"):
            given = getattr(self, name)
            if len(set(given)) < max(len(given), 1):
                raise InputError(f"--{name} is {given}; give one or more, each once.")
        if not all(0 < minutes < float("inf") for minutes in self.minutes):
            raise InputError(f"--minutes are {self.minutes}; give positive numbers.")
        if not 1 <= self.jobs <= cores():
            raise InputError(f"--jobs is {self.jobs}; give a number from 1 to {cores()}, as many as there are cores.")
        for data in self.data:
            flag, place = self.source(data)
            if flag and (place is None or not place.exists()):
                raise InputError(f"{data} needs its data; give the place of it with {flag}{f', not {place}' if place else ''}.")

    def source(self, data: str) -> tuple[str | None, Path | None]:
        """The option that says where a data set is, and its value."""
        options = {"names": ("--names", self.names), "listing": ("--listing", self.listing), "digits": (None, None)}
        return options.get(data, ("--data-dir", self.data_dir))


def folder_of(out: Path, row: dict[str, Any]) -> Path:
    """Where a run is."""
    return out / row["data"] / f"{row['entry']}-{row['minutes']:g}-minutes-seed-{row['seed']}"


def recipe_of(data: str, entry: str, minutes: float) -> list[str]:
    """The options of `rgen train` for a run, without its data, minutes and seed."""
    noisy = minutes >= NOISE_FROM and data in NOISE and not entry.startswith("original")
    return shlex.split(RECIPES[data, entry]) + (["--weight-noise", f"{NOISE[data]:g}"] if noisy else [])


def train_and_score(options: Options, data: str, entry: str, minutes: float, seed: int, job: int, stop: int) -> dict[str, Any]:
    """Trains and scores one run on the cores of a job, from where it was stopped. The commands stop when the pipe `stop` is closed.

    Returns its row of leaderboard.json. Raises InputError if a command fails.
    """
    cell = {"data": data, "entry": entry, "minutes": minutes, "seed": seed}
    folder = folder_of(options.out, cell)
    flag, place = options.source(data)
    where = [] if flag is None else [flag if flag == "--data-dir" else "--data", str(place)]
    recipe = [*recipe_of(data, entry, minutes), *where, "--minutes", f"{minutes:g}", "--seed", str(seed)]
    row_file, score_file, log = folder / "row.json", folder / "test.json", folder.with_name(folder.name + ".log")
    if row_file.exists():
        row = json.loads(row_file.read_text())
        if row["options"] != shlex.join(recipe):
            raise InputError(f"it was trained with '{row['options']}'; move '{folder}' away, or give another --out.")
        return row
    count = ["--count", str(SCORED)] if entry.startswith("original") and "mnist" in data else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    results = ["--json", score_file, "--out", folder / "test.csv", "--overwrite", *count]
    for words in (["train", *recipe, "--run", folder, "--resume"], ["evaluate", "--run", folder, *results]):
        program = [sys.executable, "-c", COMMAND.format(job=job, jobs=options.jobs), *map(str, words)]
        with log.open("ab") as file:  # in a session of its own, so that Ctrl-C reaches this script alone
            before = file.tell()
            code = subprocess.run(program, stdin=stop, stdout=file, stderr=file, start_new_session=True).returncode
        if code < 0:
            raise InputError(f"{words[0]} was killed by {signal.Signals(-code).name} ({log})")
        if code:
            said = log.read_bytes()[before:].decode(errors="replace").splitlines() or ["It said nothing."]
            raise InputError(f"{said[-1]} ({log})")
    score, unit = json.loads(score_file.read_text()), DATA[data][2]
    logged = [row for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "seconds" in row]
    row = {
        **cell,
        "score": score[unit],
        "standard_error": score["standard_error"] * score[unit] / score["nats_per_sequence"],
        "scored": score["sequences"],
        "parameters": score["parameters"],
        "best_step": score["step"],
        "steps": logged[-1]["step"],
        "seconds": logged[-1]["seconds"],
        "machine": ", ".join([f"{cores() // options.jobs} cores of {processor()}", *caches()]),
        "options": shlex.join(recipe),
    }
    replace(row_file, json.dumps(row, indent=2).encode())
    return row


def summarize(rows: list[dict]) -> dict[tuple[str, str, float], tuple[float, float, float, float]]:
    """(data, entry, minutes) -> mean, least and largest score of the seeds, and mean number of outer steps."""
    cells: dict[tuple[str, str, float], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["data"], row["entry"], row["minutes"]), []).append(row)
    scores = {cell: [row["score"] for row in seeds] for cell, seeds in cells.items()}
    return {cell: (mean(s), min(s), max(s), mean(row["steps"] for row in cells[cell])) for cell, s in scores.items()}


def markdown(rows: list[dict]) -> str:
    """The table: mean test score of the seeds, their range, and outer steps. Bold: the best of its data and minutes."""
    cells, minutes = summarize(rows), sorted({row["minutes"] for row in rows})
    lines = ["| data | network | parameters |" + "".join(f" {number:g} min |" for number in minutes), "|---" * (3 + len(minutes)) + "|"]
    for (data, (title, unit, key)), (entry, network) in product(DATA.items(), ENTRIES.items()):
        sizes = [row["parameters"] for row in rows if (row["data"], row["entry"]) == (data, entry)]
        if not sizes:
            continue
        line = f"| {title}: {unit} | {network} | {sizes[0] / 1000:,.0f} K |"
        digits = 2 if key == "nats_per_sequence" else 3
        for number in minutes:
            if (data, entry, number) in cells:
                score, least, most, steps = cells[data, entry, number]
                best = min(value[0] for (d, _, m), value in cells.items() if (d, m) == (data, number))
                shown = f"**{score:.{digits}f}**" if score == best else f"{score:.{digits}f}"
                spread = f" ({least:.{digits}f} to {most:.{digits}f})" if least < most else ""
                line += f" {shown}{spread}, {steps:,.0f} steps"
            line += " |"
        lines.append(line)
    return "\n".join([*lines, "", *(f"*{machine}.*" for machine in sorted({row["machine"] for row in rows}))]) + "\n"


def leads(out: Path, rows: list[dict[str, Any]]) -> str:
    """A table of how much more each network pays than ours, in the units of the scores; "" if there is nothing to compare.

    Differences are taken per sequence, between means over the seeds that both have; the standard errors are of their mean. A score per
    symbol is a ratio, the sum of nats divided by the number of symbols: its standard error is that of the residuals, a sequence's
    difference minus its number of symbols times the mean difference per symbol.
    """
    paid: dict[tuple[str, str, float], dict[int, np.ndarray]] = {}
    for row in rows:
        if (each := folder_of(out, row) / "test.csv").exists():  # older versions wrote none
            paid.setdefault((row["data"], row["entry"], row["minutes"]), {})[row["seed"]] = np.loadtxt(
                each, delimiter=",", skiprows=1, ndmin=2
            )
    minutes = sorted({row["minutes"] for row in rows})
    lines = []
    for (data, (title, unit, key)), (entry, network) in product(DATA.items(), ENTRIES.items()):
        digits, cells = 2 if key == "nats_per_sequence" else 3, []
        for number in minutes:
            ours, theirs = paid.get((data, "heads", number), {}), paid.get((data, entry, number), {})
            seeds = sorted(ours.keys() & theirs.keys())
            if entry == "heads" or not seeds:
                cells.append("")
                continue
            index, _, symbols = ours[seeds[0]].T
            _, here, there = np.intersect1d(index, theirs[seeds[0]][:, 0], return_indices=True)
            more = np.mean([theirs[seed][there, 1] - ours[seed][here, 1] for seed in seeds], 0)
            weight = symbols[here] if key.endswith("symbol") else np.ones_like(more)
            size = weight.mean() * (np.log(2) if key.startswith("bits") else 1)
            rest = more - more.mean() * weight / weight.mean()
            error = scoring.summarize(rest, weight)["standard_error"]
            cells.append(f"{more.mean() / size:+.{digits}f} ± {error / size:.{digits}f}")
        if any(cells):
            lines.append(f"| {title}: {unit} | {network} | " + " | ".join(cells) + " |")
    if not lines:
        return ""
    heads = ["| more than ours, ± standard error over test sequences | network |" + "".join(f" {number:g} min |" for number in minutes)]
    return "\n".join([*heads, "|---" * (2 + len(minutes)) + "|", *lines]) + "\n"


def finished(out: Path) -> list[dict[str, Any]]:
    """The rows of all runs that are finished in a folder, in the order of the table."""
    rows = [json.loads(file.read_text()) for file in out.glob("*/*/row.json")]
    return sorted(rows, key=lambda row: (row["minutes"], row["seed"], [*DATA].index(row["data"]), [*ENTRIES].index(row["entry"])))


def tables(out: Path, rows: list[dict[str, Any]]) -> str:
    """What leaderboard.md has."""
    return "\n".join(filter(None, [markdown(rows), leads(out, rows)])) if rows else "No run was finished."


def picture(rows: list[dict]) -> bytes:
    """Test score against minutes as PNG: a panel for each data set, a line for each network.

    Without the original's networks if there are others, as these would be hard to tell apart.
    """
    rows = [row for row in rows if not row["entry"].startswith("original")] or rows
    cells, shown = summarize(rows), [data for data in DATA if data in {row["data"] for row in rows}]
    minutes, entries = sorted({row["minutes"] for row in rows}), {row["entry"] for row in rows}
    figure, panels = plots.subplots(1, len(shown), figsize=(3.2 * len(shown) + 2.6, 3.6), squeeze=False)
    for panel, data in zip(panels[0], shown):
        for entry in filter(entries.__contains__, ENTRIES):
            points = sorted((number, *scores[:3]) for (d, e, number), scores in cells.items() if (d, e) == (data, entry))
            at, score, least, most = np.reshape(points, (-1, 4)).T
            panel.errorbar(at, score, (score - least, most - score), fmt="o-", ms=4, color=COLOURS[entry], label=ENTRIES[entry])
        panel.set(xscale="log", title=DATA[data][0], xlabel="minutes of training", ylabel=DATA[data][1])
        panel.set_xticks(minutes, [f"{number:g}" for number in minutes])
        panel.minorticks_off()
    panels[0][-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
    return plots.finish(figure)


def main(options: Options) -> None:
    """Trains and scores what is not finished; the table is written after each run."""
    every = product(sorted(options.minutes), options.seeds, options.data, options.entries)
    longest, first = max(options.minutes), options.seeds[0]
    cells = [(d, e, m, s) for m, s, d, e in every if s == first or (m == longest and not e.startswith("original"))]
    free: SimpleQueue[int] = SimpleQueue()
    for job in range(options.jobs):
        free.put(job)
    stop, running = os.pipe()

    def run(data: str, entry: str, minutes: float, seed: int) -> dict[str, Any]:
        job = free.get()
        try:
            return train_and_score(options, data, entry, minutes, seed, job, stop)
        finally:
            free.put(job)

    done, failed = 0, 0
    pool = ThreadPoolExecutor(options.jobs)
    futures = {pool.submit(run, *cell): cell for cell in cells}
    try:
        for future in as_completed(futures):
            name = "{}, {}, {:g} minutes, seed {}".format(*futures[future])
            try:
                row = future.result()
            except InputError as error:
                failed += 1
                print(f"{name}: failed; {error}", file=sys.stderr)
                continue
            done += 1
            print(f"{name}: {row['score']:.3f} ({done} of {len(cells)} runs)", file=sys.stderr)
            rows = finished(options.out)
            content = {"md": tables(options.out, rows).encode(), "json": json.dumps(rows, indent=2).encode() + b"\n", "png": picture(rows)}
            for kind, whole in content.items():
                replace(options.out / f"leaderboard.{kind}", whole)
    except BaseException:
        signals.take_time()
        os.close(running)  # the commands save a checkpoint and end
        pool.shutdown(cancel_futures=True)
        print("Stopped; the same command goes on.", file=sys.stderr)
        raise
    os.close(running)
    os.close(stop)
    print(tables(options.out, finished(options.out)))
    if failed:
        raise InputError(f"{failed} of {len(cells)} runs failed; why is said above.")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)), "leaderboard.py")
