"""Times the meta-gradients on made-up data: all are compiled first, then run in turn."""

import dataclasses
import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
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
class Timing:
    """One line of the table, and one object of the JSON file.

    Attributes:
      seconds: median of the repeats.
      temp_bytes: temporaries of each device.
      over_reptile: the time relative to Reptile of the same network, form and size; None if that was not timed.
      times_direct: the speed relative to the direct form; None if that was not timed.
      operations: with --profile, where the time goes: (kind of XLA operation, seconds summed over threads, calls).
    """

    network: str
    algorithm: str
    form: str
    meta_batch: int
    length: int
    devices: int
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


def configuration(name: str) -> TrainConfig:
    """Of a network with its default sizes, or of a preset; "NAME K=2" has two outputs per inner step."""
    name, _, size = name.partition(" K=")
    data = "listing" if name.startswith("text") else "digits"
    config = TrainConfig(network=name, data=data) if name in NETWORKS else PRESETS[name][1]
    return dataclasses.replace(config, inner_batch=int(size)) if size else config


def made_up(kind: str, meta_batch: int, length: int) -> tuple[tuple[int, ...], int, Sequence]:
    """Random sequences, "text" or "image": (shape of the data, symbols, batch). Images are the smallest square with `length` pixels."""
    what, remedy = f"--meta-batch {meta_batch} with --length {length}", "Make one of them smaller."
    require_memory(3 * 4 * meta_batch * length, what, remedy)  # outputs, weights and nats
    text = kind == "text"
    side = math.ceil(math.sqrt(length))
    x = np.arange(length) if text else np.stack(np.divmod(np.arange(length), side), axis=-1)
    symbols = 256 if text else 2
    y = np.random.default_rng(0).integers(symbols, size=(meta_batch, length), dtype=np.int32)
    seqs = Sequence(x.astype(np.int32)[None], y, np.ones(y.shape, np.float32))
    return ((length,) if text else (side, side)), symbols, seqs


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


def model_and_data(name: str, form: str, meta_batch: int, length: int, there: Hardware | None = None) -> tuple[SequenceModel, Sequence]:
    """The model of a network or preset, planned for some devices, and made-up data for it."""
    config = dataclasses.replace(configuration(name), form=form)
    shape, symbols, seqs = made_up("image" if config.data in data.IMAGES else "text", meta_batch, length)
    model = models.configured(config, shape, symbols)
    if isinstance(model, InnerLoop) and isinstance(model.form, Dual):
        model = dataclasses.replace(model, form=dataclasses.replace(model.form, hardware=there))
    return model, seqs


def prepare(name: str, algorithm: str, form: str, meta_batch: int, length: int, devices: int | None = None) -> Compiled:
    """Compiles a meta-gradient or the sampler."""
    model, seqs = model_and_data(name, form, meta_batch, length, hardware()._replace(devices=devices or jax.device_count()))
    models.check_network_fits(jax.eval_shape(model.init, jax.random.key(0), seqs.x[0, 0]), 1)
    params, seqs = place(model.init(jax.random.key(0), seqs.x[0, 0]), seqs, devices)
    before = time.perf_counter()
    function = jax.jit(TIMED[algorithm], static_argnums=0).lower(model, params, seqs).compile()
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
      InputError: there are not as many devices as asked for.
    """
    groups = list(product(config.network, config.meta_batch, config.length))
    rows = []
    with Progress(len(groups), 0, "benchmark") as progress:
        for done, (network, meta_batch, length) in enumerate(groups):
            these = [
                (variant, *case, devices)
                for variant in config.variants(network)
                for case in cases(config, variant)
                for devices in device_counts(config, variant, case[0])
            ]
            programs = [prepare(name, algorithm, form, meta_batch, length, devices) for name, algorithm, form, devices in these]
            for program in programs:
                jax.block_until_ready(program.call())
            times = [[timed(program.call) for program in programs] for _ in range(config.repeats)]
            took = dict(zip(these, np.median(times, axis=0).tolist(), strict=True))
            for (name, algorithm, form, devices), program in zip(these, programs, strict=True):
                seconds = took[name, algorithm, form, devices]
                reptile, direct = took.get((name, "reptile", form, devices)), took.get((name, algorithm, "direct", devices))
                rows.append(
                    Timing(
                        *(name, algorithm, form, meta_batch, length, shards_of(meta_batch, devices)),
                        *(seconds, meta_batch * length / seconds, meta_batch / seconds, program.temp_bytes, program.compile_seconds),
                        over_reptile=reptile and seconds / reptile,
                        times_direct=direct and direct / seconds,
                        operations=profile(program.call) if config.profile else [],
                    )
                )
            progress.update(done + 1, network)
    return rows


def table(rows: list[Timing]) -> str:
    """The rows as text, and the profiles if there are any."""
    columns = {
        **{"network": "", "algorithm": "", "form": "", "meta_batch": "d", "length": "d", "devices": "d", "seconds": ".4f"},
        **{"outputs_per_second": ",.0f", "sequences_per_second": ".2f", "temp_bytes": ".1f", "compile_seconds": ".1f"},
        **{"over_reptile": ".2f", "times_direct": ".2f"},
    }
    tables = [text_table(columns, [vars(row) for row in rows])]
    for r in rows:
        if r.operations:
            title = f"{r.network} {r.algorithm} {r.form}, meta-batch {r.meta_batch}, length {r.length}, {r.devices} devices"
            operations = [{title: kind, "seconds": seconds, "calls": calls} for kind, seconds, calls in r.operations]
            tables.append(text_table({title: "", "seconds": ".3f", "calls": ",d"}, operations))
    return "\n\n".join(tables)


def draw(rows: list[Timing]) -> bytes:
    """A PNG: time and memory against the length or the meta-batch, whichever has more values."""
    over_length = len({row.length for row in rows}) >= len({row.meta_batch for row in rows})
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for r in rows:
        size, held = (r.length, f"B={r.meta_batch}") if over_length else (r.meta_batch, f"T={r.length}")
        name = f"{r.network} {r.algorithm} {r.form}, {held}, {r.devices} devices"
        lines.setdefault(name, []).append((size, r.seconds, r.temp_bytes / 1e6))
    return plots.growth(lines, "inner steps T" if over_length else "sequences B")
