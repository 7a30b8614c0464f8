"""`rgen sample`: draws, completes, shows what the network believes on the way, exports the sampler, or writes a page to play on."""

import json
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rgen import devices, play
from rgen.config import SampleConfig
from rgen.data import Dataset, conditioning
from rgen.errors import InputError
from rgen.host import plots
from rgen.host.files import check_results, is_special, replace, replacing, temporary
from rgen.host.progress import Progress
from rgen.host.signals import leaving
from rgen.likelihood import Decoding
from rgen.models import fitting_batch
from rgen.runs.folder import Trained, load_run
from rgen.sampling import Sampler, batches, export, film, make_sampler
from rgen.sampling.records import Records, as_text, digest
from rgen.scoring import choose, score_all
from rgen.sequence import Given

SHOWN = 64  # images on a contact sheet
COLUMNS, ROWS = 8, 16  # of a sheet of completions, at most
EVERY = 30  # seconds between lines on how far it is
LINES = 16  # of the split, beside the samples


@dataclass(frozen=True)
class Task:
    """What is drawn: samples 0, 1, 2, ...; `each` of them in turn complete the next row of what is given, if anything is.

    Attributes:
      given: y and known [N, *shape], or None.
      index: [N] the sequences of the split that are completed, if they are of one.
      each: samples that complete one row.
    """

    given: Given | None = None
    index: np.ndarray | None = None
    each: int = 1

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Which row each sample completes; without any, all are 0."""
        return numbers // self.each if self.given is not None else np.zeros_like(numbers)

    def known(self, numbers: np.ndarray) -> Given:
        assert self.given is not None
        return Given(*(np.asarray(a)[self.rows(numbers)] for a in self.given))


def make_task(config: SampleConfig, data: Dataset) -> Task:
    """What is given by --prompt or --complete. Raises InputError if it does not fit the data."""
    if config.prompt is not None:
        return Task(Given(*(a[None] for a in conditioning.prompt(data, config.prompt))), each=sys.maxsize)
    if config.complete is None:
        return Task()
    if config.complete.lower().endswith(".png"):
        return Task(Given(*(a[None] for a in conditioning.picture(data, Path(config.complete)))), each=sys.maxsize)
    each = 1 if config.belief else config.each or 4
    count, size = math.ceil((config.belief or config.count) / each), len(data.splits[config.split])
    mask = conditioning.part(data, config.complete, count, config.seed)
    if count > size:
        raise InputError(
            f"--count {config.count} with --each {each} completes {count} images, and {config.split} has {size}. "
            "Give a larger --each or a smaller --count."
        )
    index = choose(data, config.split, count, config.seed)
    return Task(Given(data.splits[config.split][index].astype(np.int32), mask), index, each)


def main(config: SampleConfig) -> None:
    """`rgen sample`."""
    decoding = Decoding(config.temperature, config.top_k, config.top_p, config.min_p)
    of_split = config.complete is not None and not config.complete.lower().endswith(".png")
    trained = load_run(config.run, **config.source(), needs_data=of_split)
    data, model = trained.data, trained.model
    if (data.kind == "image" or config.belief) and config.out and config.out.suffix.lower() != ".png":
        raise InputError(f"--out is '{config.out}'; a picture must end with .png, and what else there is comes beside it.")
    if config.nats and data.kind == "image":
        raise InputError("--nats writes nats in front of lines, and this run was trained on images; those of images are in the NPZ.")
    out = _out(config, trained)
    check_results(_results(config, data, out), config.replaces)
    sampler = make_sampler(model, data, decoding)
    task = make_task(config, data)
    if task.given is not None and not sampler.random_order and not _is_prefix(task.given.known):
        print("This network was trained in raster order; what is known is fed first, out of that order.", file=sys.stderr)
    if not config.export and not config.page:
        print(devices.sentence(), file=sys.stderr)
    if config.export:
        exported = export.export(sampler, trained.params)
        replace(config.export, exported, config.overwrite)
        print(f"The sampler of step {trained.step}: {config.export}, {len(exported) / 1e6:.1f} MB")
    elif config.page:
        page = play.page(sampler, trained.params, trained.name).encode()
        replace(config.page, page, config.overwrite)
        print(f"A page to play on, of step {trained.step}: {config.page}, {len(page) / 1e3:.0f} kB; open it in a browser.")
    elif config.belief:
        assert out
        strip, animation = film.show(sampler, trained.params, config.seed, config.belief, task.known if task.given else None)
        replace(out, strip, config.replaces("out"))
        replace(out.with_suffix(".gif"), animation, config.replaces("out"))
        print(f"What the network of step {trained.step} believes: {out} and {out.with_suffix('.gif')}")
    else:
        _sample(config, trained, sampler, task, out)


def _out(config: SampleConfig, trained: Trained) -> Path | None:
    """Where the picture or the lines go; None: lines to stdout."""
    if config.belief:
        return config.out or trained.place("belief.png")
    return config.out or (trained.place("samples.png") if trained.data.kind == "image" else None)


def _results(config: SampleConfig, data: Dataset, out: Path | None) -> list[tuple[str, Path | None]]:
    """All files that are written, with the option that names them."""
    if config.export or config.page:
        return [("export", config.export), ("page", config.page)]
    if out is None:
        return [("json", config.json)]
    beside = out.with_suffix(".gif") if config.belief else out.with_suffix(".npz") if data.kind == "image" else _nats_beside(out)
    return [("out", out), ("out", beside), ("json", config.json)]


def _nats_beside(out: Path) -> Path | None:
    """Where the nats of lines go; None: nothing stands beside a device."""
    return None if is_special(out) else Path(f"{out}.nats")  # a folder has no name to change


def _is_prefix(known: np.ndarray) -> bool:
    flat = known.reshape(len(known), -1)
    return bool((flat[:, :-1] >= flat[:, 1:]).all())


# ---------------------------------------------------------------- samples


def _sample(config: SampleConfig, trained: Trained, sampler: Sampler, task: Task, out: Path | None) -> None:
    with temporary() as folder:  # what is printed leaves nothing behind
        kept = out is not None and not is_special(out)
        records = _draw(config, trained, sampler, task, out if out and kept else folder / "lines", kept)
        _write(records, config, trained, task, out)
        records.close(delete=len(records) <= config.count)  # an earlier call may have drawn more


def _write(records: Records, config: SampleConfig, trained: Trained, task: Task, out: Path | None) -> None:
    data = trained.data
    nats = records.nats(config.count)
    numbers = np.arange(config.count)
    order = np.lexsort((nats, task.rows(numbers))) if config.sort else numbers
    summary: dict[str, Any] = {"count": config.count, "seed": config.seed, "step": trained.step, "nats_per_sequence": float(nats.mean())}
    if task.index is not None and task.given is not None:
        batch = config.batch or fitting_batch(trained.model, data)
        truth = score_all(trained.model, trained.params, data, config.split, task.index, batch, known=task.given.known).sum(1)
        summary |= {"truth_nats_per_sequence": float(truth.mean()), "completed": len(truth)}
    with ExitStack() as files:  # which take their places at the end, all at once: until then the same command goes on
        if data.kind == "image":
            assert out
            written = _write_images(records, order, out, task, data, config, files)
            said, stream = f"{_sentence(summary, config)}: {' '.join(map(str, written))}", sys.stdout
        else:
            summary |= _write_lines(records, order, out, data, config, files)
            said, stream = f"{_sentence(summary, config)}{_compared(summary, data, config)}.", sys.stderr
        if config.json:
            files.enter_context(replacing(config.json, config.overwrite)).write((json.dumps(summary, indent=2) + "\n").encode())
    print(said, file=stream)


def _draw(config: SampleConfig, trained: Trained, sampler: Sampler, task: Task, beside: Path, kept: bool) -> Records:
    """Draws until there are `--count` records, going on where an earlier call with the same options was stopped if they were `kept`."""
    given = None if task.given is None else digest(task.given)
    about = {
        "parameters": digest(jax.tree.leaves(trained.params)),
        "seed": config.seed,
        "decoding": sampler.decoding,
        "given": given,
        "each": given and task.each,
    }
    records = Records(beside, about, sampler.shape)
    if len(records):
        print(f"Going on: {min(len(records), config.count):,} samples are there already.", file=sys.stderr)
    batch = config.batch or fitting_batch(trained.model, trained.data)
    numbers, began, said = range(len(records), config.count), time.monotonic(), time.monotonic()

    def stopped() -> None:
        if kept:
            print(f"Stopped; {len(records):,} samples are kept in {records.path}. The same command goes on from there.", file=sys.stderr)

    with leaving(stopped), Progress(config.count, len(records), "sample") as progress:
        for values, nats in batches(sampler, trained.params, config.seed, numbers, batch, task.known if given else None):
            records.append(values, nats)
            now = time.monotonic()
            rate = f"{(len(records) - numbers.start) / (now - began):,.0f} a second"
            progress.update(len(records), f"{nats.mean():.2f} nats, {rate}")
            if now - said > EVERY:
                said = now
                progress.say(f"{len(records):,} of {config.count:,} samples, {rate}")
    return records


def _sentence(summary: dict[str, Any], config: SampleConfig) -> str:
    start = f"{summary['count']:,} samples of step {summary['step']}, {summary['nats_per_sequence']:.2f} nats each"
    if config.prompt is None and config.complete is None:
        return start
    truth = f"; the truth: {summary['truth_nats_per_sequence']:.2f}" if "completed" in summary else ""
    return f"{start} given what is known{truth}"


def _compared(summary: dict[str, Any], data: Dataset, config: SampleConfig) -> str:
    """Shows lines of a split, and says how many of those drawn stand in the data; nothing without data."""
    if "new" not in summary:
        return ""
    counted = ", ".join(f"{summary[key]} {key.replace('_', ' ')}" for key in ("new", "in_train", "in_valid", "in_test"))
    real = data.splits[config.split][choose(data, config.split, min(config.count, LINES), config.seed)]
    print(f"\n{len(real)} lines of {config.split}, to compare:", file=sys.stderr)
    for line in data.decode(None, real):
        print("  " + line.decode("utf-8", "replace"), file=sys.stderr)
    return f": {counted}"


# ---------------------------------------------------------------- files


def _write_lines(
    records: Records, order: np.ndarray, out: Path | None, data: Dataset, config: SampleConfig, files: ExitStack
) -> dict[str, int]:
    """Writes lines, to stdout or to a file with the nats of each in a file beside it; counts where they stand, if the data is there."""
    places = {line: split for split in ("valid", "test", "train") for line in data.decode(None, data.splits[split])}
    counts: dict[str, int] = dict.fromkeys(("in_train", "in_valid", "in_test", "new"), 0)
    lines = files.enter_context(replacing(out, config.overwrite)) if out else sys.stdout.buffer
    beside = _nats_beside(out) if out else None
    nats = files.enter_context(replacing(beside, config.overwrite)) if beside else None
    for rows in records.read(order):
        drawn = data.decode(None, rows["values"])
        for line in drawn:
            counts[f"in_{places[line]}" if line in places else "new"] += 1
        lines.write(as_text(drawn, rows["nats"] if config.nats else None))
        if nats:
            nats.write(b"".join(b"%.4f\n" % value for value in rows["nats"]))
    lines.flush()
    return counts if places else {}


def _write_images(
    records: Records, order: np.ndarray, out: Path, task: Task, data: Dataset, config: SampleConfig, files: ExitStack
) -> list[Path]:
    """Writes a sheet of the first images, and all of them with their nats as a compressed NPZ beside it."""
    everything, overwrite = out.with_suffix(".npz"), config.replaces("out")
    records.save_npz(files.enter_context(replacing(everything, overwrite)), order, "images")
    files.enter_context(replacing(out, overwrite)).write(_sheet(records, order, task, data, config))
    return [out, everything]


def _sheet(records: Records, order: np.ndarray, task: Task, data: Dataset, config: SampleConfig) -> bytes:
    """The picture of the first images, or of completions in rows."""
    if task.given is None:
        shown = next(records.read(order, SHOWN))["values"]
        real = data.splits[config.split][choose(data, config.split, len(shown), config.seed)]
        beside = {f"{len(real)} images of {config.split}": real} if len(real) else {}
        return plots.sheet({f"{len(shown)} samples": shown} | beside)
    columns = min(task.each, COLUMNS, len(order))
    rows = []
    for numbers in _in_rows(order, task, columns)[:ROWS]:
        y, known = (a[0] for a in task.known(numbers[:1]))
        drawn = next(records.read(numbers))["values"]
        truth = None if task.index is None else plots.paint(y, np.ones_like(known))
        rows.append((plots.paint(np.where(known, y, np.nan), known), plots.paint(drawn, np.broadcast_to(known, drawn.shape)), truth))
    return plots.completions(rows, columns)


def _in_rows(order: np.ndarray, task: Task, columns: int) -> list[np.ndarray]:
    """The numbers in rows of `columns` that complete the same image."""
    parts = np.split(order, np.flatnonzero(np.diff(task.rows(order))) + 1)
    return [part[i : i + columns] for part in parts for i in range(0, len(part), columns)]
