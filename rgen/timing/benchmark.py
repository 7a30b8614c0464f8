"""Times the meta-gradients on made-up data: all are compiled first, then run in turn."""

import dataclasses
import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Many
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgen import data, meta, models, scoring
from rgen.batching import shards_of
from rgen.choices import BASELINES, NETWORKS, ONE_CPU_DEVICE
from rgen.config import PRESETS, BenchmarkConfig, TrainConfig
from rgen.devices import place
from rgen.errors import InputError
from rgen.fast import Dual, InnerLoop
from rgen.hardware import Hardware, hardware, require_memory
from rgen.host import plots
from rgen.host.files import temporary
from rgen.host.progress import Progress
from rgen.host.table import table as text_table
from rgen.sequence import Sequence, SequenceModel


@dataclasses.dataclass(frozen=True)
class Combination:
    """What is timed, or compiled for a target.

    Attributes:
      network: a network, with its default sizes, or a preset.
      algorithm: a name in TIMED.
      length: T, inner steps per sequence, at the first places of `shape`.
      shape, symbols: sizes of the axes of the made-up sequences, and how many symbols they have.
      inner_batch: K, outputs per inner step.
      devices: how many the sequences are spread over.
    """

    network: str
    algorithm: str
    form: str
    meta_batch: int
    length: int
    shape: tuple[int, ...]
    symbols: int
    inner_batch: int
    devices: int

    @property
    def name(self) -> str:
        """In a sentence, without the sizes of the sequences."""
        return f"{self.network} {self.algorithm} {self.form}" + f" K={self.inner_batch}" * (self.inner_batch > 1)


@dataclasses.dataclass(frozen=True)
class Timing(Combination):
    """One line of the table, and one object of the JSON file.

    Attributes:
      seconds: median of the repeats.
      temp_bytes: temporaries of each device.
      over_reptile: the time relative to Reptile of the same network, form and size; None if that was not timed.
      times_direct: the speed relative to the direct form; None if that was not timed.
      operations: with --profile, where the time goes: (kind of XLA operation, seconds summed over threads, calls).
    """

    seconds: float
    outputs_per_second: float
    sequences_per_second: float
    temp_bytes: int
    compile_seconds: float
    over_reptile: float | None
    times_direct: float | None
    operations: list[tuple[str, float, int]]


class Compiled(NamedTuple):
    """A compiled program: a call that runs it, seconds to compile, bytes of temporaries."""

    call: Callable[[], Any]
    compile_seconds: float
    temp_bytes: int


def configuration(name: str, axes: int = 0) -> TrainConfig:
    """Of a preset, or of a network with its default sizes: for text by its name or if places have one axis, else for images."""
    text = name.startswith("text") or axes == 1
    return TrainConfig(network=name, data="listing" if text else "digits") if name in NETWORKS else PRESETS[name][1]


def made_up(what: Combination) -> Sequence:
    """Random sequences."""
    size = (what.meta_batch, what.length)
    about = f"--meta-batch {what.meta_batch} with sequences of {what.length:,} steps"
    require_memory(3 * 4 * math.prod(size), about, "Make one of them smaller.")  # outputs, weights and nats
    places = np.arange(what.length, dtype=np.int32)
    x = places if len(what.shape) == 1 else np.stack(np.unravel_index(places, what.shape), axis=-1).astype(np.int32)
    y = np.random.default_rng(0).integers(what.symbols, size=size, dtype=np.int32)
    return Sequence(x[None], y, np.ones(size, np.float32))


def draw_samples(model: SequenceModel, params: Any, seqs: Sequence) -> Any:
    """Draws as many sequences instead of learning from these."""
    # the keys are computed from the outputs, so that they lie on the same devices
    numbers = seqs.y @ jnp.arange(1, seqs.y.shape[1] + 1)
    return model.sample(params, seqs.x, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers))


TIMED = {**meta.ALGORITHMS, "score": scoring.score, "sample": draw_samples}


def cases(config: BenchmarkConfig, network: str) -> list[tuple[str, str]]:
    """(algorithm, form) of all combinations; a baseline, which has no inner loop, has one form, and one gradient."""
    if configuration(network).network not in BASELINES:
        return list(product(config.algorithm, config.form))
    gradients = [algorithm for algorithm in config.algorithm if algorithm in meta.ALGORITHMS]
    others = [algorithm for algorithm in config.algorithm if algorithm not in meta.ALGORITHMS]
    return [(algorithm, "direct") for algorithm in [*(["maml"] if gradients else []), *others]]


def device_counts(config: BenchmarkConfig, network: str, algorithm: str) -> tuple[int, ...]:
    """Over how many devices the sequences are spread: as asked, or as the commands do. Raises InputError if there are not so many."""
    there = hardware()
    if max(config.devices, default=1) > there.devices:
        raise InputError(f"--devices is {max(config.devices)}, and there are {there.devices}.")
    alone = there.platform == "cpu" and configuration(network).network in ONE_CPU_DEVICE and algorithm in meta.ALGORITHMS
    return config.devices or (1 if alone else there.devices,)


def combinations(config: BenchmarkConfig) -> list[list[Combination]]:
    """All combinations, those of one network, size and length together.

    Raises:
      InputError: a network is not for such sequences or inner steps, or there are not as many devices as asked for.
    """
    found = []
    for network, meta_batch, length in product(config.network, config.meta_batch, config.lengths):
        of, side = configuration(network, len(config.shape)), math.ceil(math.sqrt(length))
        text = of.data not in data.IMAGES
        shape = config.shape or ((length,) if text else (side, side))
        symbols = config.symbols or (256 if text else 2)
        these = [
            Combination(network, algorithm, form, meta_batch, length, shape, symbols, inner_batch, devices)
            for inner_batch in config.inner_batch or (of.inner_batch,)
            for algorithm, form in cases(config, network)
            for devices in dict.fromkeys(shards_of(meta_batch, count) for count in device_counts(config, network, algorithm))
        ]
        for what in these:
            model_of(what)  # what cannot be is said before anything is compiled
        found.append(these)
    return found


def model_of(what: Combination, there: Hardware | None = None) -> SequenceModel:
    """The model, planned for some devices. Raises InputError as `rgen.models.configured`."""
    config = dataclasses.replace(configuration(what.network), form=what.form, inner_batch=what.inner_batch)
    model = models.configured(config, what.shape, what.symbols)
    if isinstance(model, InnerLoop) and isinstance(model.form, Dual):
        model = dataclasses.replace(model, form=dataclasses.replace(model.form, hardware=there))
    return model


def prepare(what: Combination) -> Compiled:
    """Compiles a meta-gradient, scoring or the sampler."""
    model, seqs = model_of(what, hardware()._replace(devices=what.devices)), made_up(what)
    models.check_network_fits(jax.eval_shape(model.init, jax.random.key(0), seqs.x[0, 0]), 1)
    params, seqs = place(model.init(jax.random.key(0), seqs.x[0, 0]), seqs, what.devices)
    before = time.perf_counter()
    function = jax.jit(TIMED[what.algorithm], static_argnums=0).lower(model, params, seqs).compile()
    seconds = time.perf_counter() - before
    memory: Any = function.memory_analysis()
    return Compiled(lambda: function(params, seqs), seconds, int(memory.temp_size_in_bytes))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call that follows another of its own, as in training: after a larger program its memory has to be found anew."""
    jax.block_until_ready(call())
    before = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - before


def profile(call: Callable[[], Any], most: int = 8) -> list[tuple[str, float, int]]:
    """Runs a call under JAX's profiler: (kind of operation, seconds summed over threads, calls), the longest first."""
    with temporary() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (file,) = folder.rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    seconds, calls = Counter(), Counter()
    for event in events:
        if "dur" in event and (operation := event.get("args", {}).get("hlo_op")):
            kind = re.sub(r"[.\d]+$", "", operation)
            seconds[kind] += event["dur"] / 1e6
            calls[kind] += 1
    return [(kind, took, calls[kind]) for kind, took in seconds.most_common(most)]


def measure(config: BenchmarkConfig) -> list[Timing]:
    """Times all combinations. Those of one network, size and length run in turn, so that a busy machine is busy for all of them.

    Raises:
      InputError: as `combinations`.
    """
    groups = combinations(config)
    rows = []
    with Progress(len(groups), 0, "benchmark") as progress:
        for done, group in enumerate(groups):
            programs = [prepare(what) for what in group]
            for program in programs:
                jax.block_until_ready(program.call())
            times = [[timed(program.call) for program in programs] for _ in range(config.repeats)]
            took = dict(zip(group, np.median(times, axis=0).tolist(), strict=True))
            for (what, seconds), program in zip(took.items(), programs, strict=True):
                reptile = took.get(dataclasses.replace(what, algorithm="reptile"))
                direct = took.get(dataclasses.replace(what, form="direct"))
                rows.append(
                    Timing(
                        **vars(what),
                        seconds=seconds,
                        outputs_per_second=what.meta_batch * what.length / seconds,
                        sequences_per_second=what.meta_batch / seconds,
                        temp_bytes=program.temp_bytes,
                        compile_seconds=program.compile_seconds,
                        over_reptile=reptile and seconds / reptile,
                        times_direct=direct and direct / seconds,
                        operations=profile(program.call) if config.profile else [],
                    )
                )
            progress.update(done + 1, group[0].network)
    return rows


def columns(config: BenchmarkConfig, rows: Many[Combination]) -> dict[str, str]:
    """Columns of a table that say what was timed: some only where they were asked for, or where not all rows have the same."""
    always = {"network": "", "algorithm": "", "form": "", "meta_batch": "d", "length": "d"}
    seldom = {"shape": "", "symbols": "d", "inner_batch": "d"}
    shown = {key: spec for key, spec in seldom.items() if getattr(config, key) or len({getattr(row, key) for row in rows}) > 1}
    return {**always, **shown, "devices": "d"}


def table(config: BenchmarkConfig, rows: list[Timing]) -> str:
    """The rows as text, and the profiles if there are any."""
    numbers = {
        **{"seconds": ".4f", "outputs_per_second": ",.0f", "sequences_per_second": ".2f", "temp_bytes": ".1f"},
        **{"compile_seconds": ".1f", "over_reptile": ".2f", "times_direct": ".2f"},
    }
    tables = [text_table(columns(config, rows) | numbers, [vars(row) for row in rows])]
    for r in rows:
        if r.operations:
            title = f"{r.name}, meta-batch {r.meta_batch}, length {r.length}, {r.devices} devices"
            operations = [{title: kind, "seconds": seconds, "calls": calls} for kind, seconds, calls in r.operations]
            tables.append(text_table({title: "", "seconds": ".3f", "calls": ",d"}, operations))
    return "\n\n".join(tables)


def draw(rows: list[Timing]) -> bytes:
    """A PNG: time and memory against the length or the meta-batch, whichever has more values."""
    over_length = len({row.length for row in rows}) >= len({row.meta_batch for row in rows})
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for r in rows:
        size, held = (r.length, f"B={r.meta_batch}") if over_length else (r.meta_batch, f"T={r.length}")
        lines.setdefault(f"{r.name}, {held}, {r.devices} devices", []).append((size, r.seconds, r.temp_bytes / 1e6))
    return plots.growth(lines, "inner steps T" if over_length else "sequences B")
