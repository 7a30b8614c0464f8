"""`rgen sample`: draws, completes, shows predictions on the way, exports the sampler, or writes a page to play on."""

import json
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from rgen import devices, play
from rgen.choices import Kind
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
from rgen.sampling import Sampler, batches, export, film, look, make_sampler
from rgen.sampling.records import Records, as_text, digest
from rgen.scoring import choose, score_all
from rgen.sequence import Given

SHOWN = 64  # sequences on a contact sheet
COLUMNS, ROWS = 8, 16  # of a sheet of completions, at most
SECONDS = 30  # between lines about progress
LINES = 16  # lines of the split shown after the samples


@dataclass(frozen=True)
class Task:
    """What is drawn: samples 0, 1, 2, ...; if something is given, `each` of them in turn complete the next row of it.

    Attributes:
      given: y and known [N, *shape], or None.
      index: [N] the sequences of the split that are completed, if they are of one.
      each: samples that complete one row.
    """

    given: Given | None = None
    index: np.ndarray | None = None
    each: int = 1

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Which row each sample completes; 0 if nothing is given."""
        return numbers // self.each if self.given is not None else np.zeros_like(numbers)

    def known(self, numbers: np.ndarray) -> Given:
        """What is given for each sample."""
        assert self.given is not None
        return Given(*(np.asarray(a)[self.rows(numbers)] for a in self.given))


def make_task(config: SampleConfig, data: Dataset) -> Task:
    """What is given by --prompt or --complete. Raises InputError if it does not fit the data."""
    if config.prompt is not None:
        return Task(Given(*(a[None] for a in conditioning.prompt(data, config.prompt))), each=sys.maxsize)
    if config.complete is None:
        return Task()
    if not config.completes_split:
        return Task(Given(*(a[None] for a in conditioning.file(data, Path(config.complete)))), each=sys.maxsize)
    each = 1 if config.belief else config.each or 4
    count, size = math.ceil((config.belief or config.count) / each), len(data.splits[config.split])
    known = conditioning.part(data, config.complete, count, config.seed)
    if count > size:
        raise InputError(
            f"--count {config.count} with --each {each} completes {count} {data.kind}s, and {config.split} has {size}. "
            "Give a larger --each or a smaller --count."
        )
    index = choose(data, config.split, count, config.seed)
    return Task(Given(data.splits[config.split][index].astype(np.int32), known), index, each)


def main(config: SampleConfig) -> None:
    """`rgen sample`."""
    decoding = Decoding(config.temperature, config.top_k, config.top_p, config.min_p)
    trained = load_run(config.run, **config.source(), needs_data=config.completes_split)
    data, step = trained.data, trained.step
    kind = "image" if config.belief else data.kind
    suffix = {"image": ".png", "array": ".npy"}.get(kind)
    if suffix and config.out and config.out.suffix.lower() != suffix:
        what = "a picture" if kind == "image" else "an array"
        raise InputError(f"--out is '{config.out}'; {what} must end with {suffix}, and what else there is comes beside it.")
    if config.nats and data.kind != "text":
        raise InputError(f"--nats writes nats in front of lines, and this run was trained on {data.kind}s, with nats in a file.")
    out = config.out
    if out is None and suffix:
        out = trained.place(f"belief{suffix}" if config.belief else f"samples{suffix}")
    beside = _beside(out, kind, bool(config.belief))
    if config.export or config.page:
        check_results([("export", config.export), ("page", config.page)], config.replaces)
    else:
        check_results([("out", out), *(("out", file) for file in beside), ("json", config.json)], config.replaces)
    sampler = make_sampler(trained.model, data, decoding)
    task = make_task(config, data)
    if task.given is not None and not sampler.random_order and not _is_prefix(task.given.known):
        print("This network was trained in raster order; what is given is fed first, out of that order.", file=sys.stderr)
    if task.given is not None and np.all(task.given.known):
        print("All of what is given is known, so nothing is drawn; make what is not known transparent, or -1 in an array.", file=sys.stderr)
    if config.export:
        exported = export.export(sampler, trained.params, data.kind)
        replace(config.export, exported, config.overwrite)
        print(f"The sampler of step {step}: {config.export}, {len(exported) / 1e6:.1f} MB")
        return
    if config.page:
        page = play.page(sampler, trained.params, data, trained.name).encode()
        replace(config.page, page, config.overwrite)
        print(f"A page to play on, of step {step}: {config.page}, {len(page) / 1e3:.0f} kB; open it in a browser.")
        return
    print(devices.sentence(), file=sys.stderr)
    if config.belief:
        assert out
        strip, animation = film.show(sampler, trained.params, data, config.seed, config.belief, task.known if task.given else None)
        for path, content in zip((out, *beside), (strip, animation)):
            replace(path, content, config.replaces("out"))
        print(f"Predictions of the network of step {step}: {out} and {beside[0]}")
        return
    with temporary() as folder:  # what is printed leaves nothing behind
        keep = out is not None and not is_special(out)
        records = _draw(config, trained, sampler, task, out if out and keep else folder / "lines", keep)
        _write(records, config, trained, task, out, beside)
        records.close(delete=len(records) <= config.count)  # an earlier call may have drawn more


def _beside(out: Path | None, kind: Kind, belief: bool) -> list[Path]:
    """Further files: the animation of beliefs; all images; or the nats of lines and arrays, and a picture of these. Devices have none."""
    if out is None or (is_special(out) and kind != "image"):
        return []
    if kind == "image":
        return [out.with_suffix(".gif" if belief else ".npz")]
    nats = Path(f"{out}.nats")  # a folder has no name to change
    return [nats, out.with_suffix(".png")] if kind == "array" else [nats]


def _is_prefix(known: np.ndarray) -> bool:
    flat = known.reshape(len(known), -1)
    return bool((flat[:, :-1] >= flat[:, 1:]).all())


def _draw(config: SampleConfig, trained: Trained, sampler: Sampler, task: Task, beside: Path, keep: bool) -> Records:
    """Draws until there are `--count` records. With `keep`, continues what an earlier call with the same options left."""
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
    batch = config.batch or fitting_batch(trained.model, trained.data, drawing=True)
    numbers, began, said = range(len(records), config.count), time.monotonic(), time.monotonic()

    def stopped() -> None:
        if keep:
            print(f"Stopped; {len(records):,} samples are kept in {records.path}. The same command goes on from there.", file=sys.stderr)

    with leaving(stopped), Progress(config.count, len(records), "sample") as progress:
        for values, nats in batches(sampler, trained.params, config.seed, numbers, batch, task.known if given else None):
            records.append(values, nats)
            now = time.monotonic()
            rate = f"{(len(records) - numbers.start) / (now - began):,.0f} per second"
            progress.update(len(records), f"{nats.mean():.2f} nats, {rate}")
            if now - said > SECONDS:
                said = now
                progress.say(f"{len(records):,} of {config.count:,} samples, {rate}")
    return records


def _write(records: Records, config: SampleConfig, trained: Trained, task: Task, out: Path | None, beside: list[Path]) -> None:
    """Writes the samples and the summary, and says what was drawn."""
    data = trained.data
    nats, numbers = records.nats(config.count), np.arange(config.count)
    order = np.lexsort((nats, task.rows(numbers))) if config.sort else numbers
    summary: dict[str, Any] = {"count": config.count, "seed": config.seed, "step": trained.step, "nats_per_sequence": float(nats.mean())}
    said = f"{config.count:,} samples of step {trained.step}, {nats.mean():.2f} nats each"
    if task.given is not None:
        said += " given what is known"
        if task.index is not None:
            batch = config.batch or fitting_batch(trained.model, data)
            truth = score_all(trained.model, trained.params, data, config.split, task.index, batch, known=task.given.known).sum(1)
            summary |= {"truth_nats_per_sequence": float(truth.mean()), "completed": len(truth)}
            said += f"; the truth: {truth.mean():.2f}"
    with ExitStack() as files:  # which take their places at the end, all at once: until then the same command goes on

        def write_to(path: Path, option: str) -> IO[bytes]:
            return files.enter_context(replacing(path, config.replaces(option)))

        stream, further = sys.stdout, [write_to(path, "out") for path in beside]
        if data.kind == "text":
            lines = write_to(out, "out") if out else sys.stdout.buffer
            counts = _write_lines(records, order, lines, further[0] if further else None, data, config.nats)
            summary |= counts
            said, stream = f"{said}{_compared(counts, data, config)}.", sys.stderr
        else:
            assert out
            sheet = _sheet(records, order, task, data, config)
            if data.kind == "image":
                records.save_npz(further[0], order, "images")
                write_to(out, "out").write(sheet)
            else:
                records.save_npy(write_to(out, "out"), order)
                for file, content in zip(further, (_nats(nats[order]), sheet)):
                    file.write(content)
            said += f": {out} {' '.join(map(str, beside))}"
        if config.json:
            write_to(config.json, "json").write((json.dumps(summary, indent=2) + "\n").encode())
    print(said, file=stream)


def _write_lines(records: Records, order: np.ndarray, lines: Any, beside: IO[bytes] | None, data: Dataset, nats: bool) -> dict[str, int]:
    """Writes lines, and the nats of each into a file beside them; counts in which split they occur, if the data is there."""
    places = {line: split for split in ("valid", "test", "train") for line in data.decode(None, data.splits[split])}
    counts: dict[str, int] = dict.fromkeys(("in_train", "in_valid", "in_test", "new"), 0)
    for rows in records.read(order):
        drawn = data.decode(None, rows["values"])
        for line in drawn:
            counts[f"in_{places[line]}" if line in places else "new"] += 1
        lines.write(as_text(drawn, rows["nats"] if nats else None))
        if beside:
            beside.write(_nats(rows["nats"]))
    lines.flush()
    return counts if places else {}


def _nats(nats: np.ndarray) -> bytes:
    """One number per line."""
    return b"".join(b"%.4f\n" % value for value in nats)


def _compared(counts: dict[str, int], data: Dataset, config: SampleConfig) -> str:
    """Shows lines of a split, and says how many of those drawn occur in the data; nothing without data."""
    if not counts:
        return ""
    real = data.splits[config.split][choose(data, config.split, min(config.count, LINES), config.seed)]
    print(f"\n{len(real)} lines of {config.split}, to compare:", file=sys.stderr)
    for line in data.decode(None, real):
        print("  " + line.decode("utf-8", "replace"), file=sys.stderr)
    return ": " + ", ".join(f"{counts[key]} {key.replace('_', ' ')}" for key in ("new", "in_train", "in_valid", "in_test"))


def _sheet(records: Records, order: np.ndarray, task: Task, data: Dataset, config: SampleConfig) -> bytes:
    """The picture of the first images beside real ones; or of completions, a row for each image."""
    if task.given is None:
        shown = next(records.read(order, SHOWN))["values"]
        groups = {f"{len(shown)} samples": shown}
        real = data.splits[config.split][choose(data, config.split, len(shown), config.seed)]
        groups |= {f"{len(real)} {config.split} {data.kind}s": real} if len(real) else {}
        return plots.sheet({caption: look.pictures(data, values) for caption, values in groups.items()})
    width = look.pictures(data, np.zeros((1, *data.shape), int)).shape[2]
    columns = plots.fitting(min(task.each, COLUMNS, len(order)), width)
    same_row = np.split(order, np.flatnonzero(np.diff(task.rows(order))) + 1)
    rows = [part[i : i + columns] for part in same_row for i in range(0, len(part), columns)]
    given, drawn, truth = [], [], []
    for numbers in rows[:ROWS]:
        of_row, values = task.known(numbers), next(records.read(numbers))["values"]
        first = Given(*(a[0] for a in of_row))
        given.append(look.partly_known(data, first))
        drawn += [*look.partly_known(data, of_row, values)]
        drawn += [np.ones_like(given[0])] * (columns - len(values))
        truth.append(look.partly_known(data, first._replace(known=np.ones_like(first.known))))
    groups = {"given": np.stack(given), f"{columns} completions" if columns > 1 else "completion": np.stack(drawn)}
    if task.index is not None:
        groups["truth"] = np.stack(truth)
    return plots.sheet(groups, (1, columns, 1))
