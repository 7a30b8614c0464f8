"""Compiles for accelerators that are not there: memory, compile time, and kernel launches per inner step.

JAX compiles for a described topology. TPUs need libtpu; GPUs need CUDA's plugin and compiler, but no driver.
"""

import os
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
from jax.experimental import topologies

from rgen.batching import shards_of
from rgen.config import BenchmarkConfig
from rgen.devices import shardings_over
from rgen.errors import InputError, nearest
from rgen.hardware import Hardware, main_memory, second_level_cache
from rgen.host.progress import Progress
from rgen.host.table import table as text_table
from rgen.sequence import Sequence
from rgen.timing import benchmark
from rgen.timing.compiled import loops

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True)
class Target:
    """An accelerator: its platform, bytes of memory, and how JAX describes it: a TPU by its name and the chips of a host, or a GPU."""

    platform: str
    memory: float
    topology: str = ""
    gpu: str = ""


TARGETS = {
    "tpu-v5e": Target("tpu", 16 * 2**30, "v5e:{0}x{0}"),
    "tpu-v5p": Target("tpu", 95 * 2**30, "v5p:{0}x{0}x1"),
    "tpu-v6e": Target("tpu", 32 * 2**30, "v6e:{0}x{0}"),
    "h100": Target("gpu", 84929347584, gpu=H100),
    "cpu": Target("cpu", main_memory()),  # this machine, to compare with
}
PACKAGES = {
    "tpu": 'pip install "libtpu==0.0.42.*" (the version that jax[tpu] names)',
    "gpu": "pip install jax-cuda13-plugin jax-cuda13-pjrt (of jax's own version) nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt "
    "nvidia-cuda-runtime",
}
MOST = 2**20  # sequences per device that are tried at most


@dataclass(frozen=True)
class Compilation(benchmark.Combination):
    """One line of the table, and one object of the JSON file.

    Attributes:
      compile_seconds: seconds, on this machine.
      argument_bytes, temp_bytes, program_bytes: of each device; None if the compiler does not say.
      fits: whether arguments, results, temporaries and program fit into the device's memory.
      forward_kernels, backward_kernels: launched by the loops for each output of the whole meta-batch.
      collectives, collective_bytes: how often the devices exchange something in one call, and the bytes each gives.
    """

    target: str
    compile_seconds: float
    argument_bytes: int | None = None
    temp_bytes: int | None = None
    program_bytes: int | None = None
    fits: bool = False
    forward_kernels: float | None = None
    backward_kernels: float | None = None
    collectives: float = 0
    collective_bytes: float = 0


def parse(name: str) -> tuple[Target, int]:
    """A target and how many devices, of "h100" or "tpu-v5e:4". Raises InputError if there is none of that name."""
    kind, _, count = name.partition(":")
    if kind not in TARGETS:
        raise InputError(f"There is no target '{kind}'. {nearest(kind, TARGETS)}")
    if count and (not count.isdigit() or int(count) < 1):
        raise InputError(f"--target is '{name}'; after the colon comes the number of devices, as in {kind}:4.")
    return TARGETS[kind], int(count or 1)


@cache
def described(name: str) -> tuple[Any, ...]:
    """A target's devices. Raises InputError if what compiles for them is not installed, or there are not so many in one host."""
    target, count = parse(name)
    if target.platform == "cpu":
        if count > jax.device_count():
            raise InputError(f"--target is '{name}', and this machine's cores make {jax.device_count()} devices.")
        return tuple(jax.devices()[:count])
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # or libtpu asks for minutes where it is
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is opened, so that other processes may compile too
    side = 2
    while side * side < count:
        side *= 2
    try:
        if target.platform == "tpu":
            found = topologies.get_topology_desc(topology_name=target.topology.format(side), platform="tpu")
        else:
            found = topologies.get_topology_desc(platform="cuda", target_config=target.gpu, topology=f"1x1x{count}")
    except Exception as error:  # each plugin has kinds of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"Nothing here compiles for {name} ({reason}). It needs: {PACKAGES[target.platform]}.") from error
    return tuple(found.devices[:count])


def compile_row(name: str, what: benchmark.Combination) -> Compilation:
    """Compiles one meta-gradient, scoring or the sampler for a target; sequences are spread as `rgen.devices.shardings` does."""
    target, count = parse(name)
    there = Hardware(target.platform, count, target.memory, second_level_cache())
    what = replace(what, devices=shards_of(what.meta_batch, count))
    everywhere, spread = shardings_over(described(name)[: what.devices])
    model, one = benchmark.model_of(what, there), benchmark.made_up(replace(what, meta_batch=1))
    shape = jax.ShapeDtypeStruct
    rows = ((a.dtype, (what.meta_batch, what.length)) for a in (one.y, one.weight))
    seqs = Sequence(shape(one.x.shape, one.x.dtype, sharding=everywhere), *(shape(s, d, sharding=spread) for d, s in rows))
    params = jax.eval_shape(model.init, jax.random.key(0), one.x[0, 0])
    params = jax.tree.map(lambda a: shape(a.shape, a.dtype, sharding=everywhere), params)
    began = time.perf_counter()
    try:
        compiled = jax.jit(benchmark.TIMED[what.algorithm], static_argnums=0).lower(model, params, seqs).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compilation(**vars(what), target=name, compile_seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.generated_code_size_in_bytes)
    found = loops(compiled.as_text() or "")
    return Compilation(
        **vars(what),
        target=name,
        compile_seconds=seconds,
        argument_bytes=sizes[0],
        temp_bytes=sizes[1],
        program_bytes=sizes[2] or None,
        fits=sum(sizes) + memory.output_size_in_bytes <= target.memory,
        forward_kernels=round(found.forward / what.length, 1),
        backward_kernels=round(found.backward / what.length, 1),
        collectives=found.collectives,
        collective_bytes=found.bytes,
    )


def largest(name: str, what: benchmark.Combination, progress: Progress) -> Compilation:
    """The row of the largest meta-batch that fits, a multiple of the devices: four times as many while they fit, then by bisection, to a
    sixteenth.

    Raises:
      InputError: not even the smallest fits.
    """
    _, count = parse(name)
    best, fitting, failing = None, 0, None  # the numbers are sequences of each device
    while failing is None or failing - fitting > max(1, fitting // 16):
        size = (fitting + failing) // 2 if failing else 4 * fitting or 1
        if size > MOST:
            progress.say(f"{what.name}: more than {count * fitting} sequences are not tried.")
            break
        row = compile_row(name, replace(what, meta_batch=count * size))
        progress.say(f"{what.name}: {count * size} sequences {'fit' if row.fits else 'do not fit'} {name}.")
        best, fitting, failing = (row, size, failing) if row.fits else (best, fitting, size)
    if best is None:
        raise InputError(f"{what.name} does not fit {name} with {count} sequences of {what.length} steps.")
    return best


def measure(config: BenchmarkConfig) -> list[Compilation]:
    """Compiles all combinations, for each target."""
    rows = []
    groups = benchmark.combinations(replace(config, meta_batch=(1,)) if config.fit else config)
    cases = [(target, what) for target in config.target for group in groups for what in group]
    with Progress(len(cases), 0, "compile") as progress:
        for done, (target, what) in enumerate(cases):
            rows.append(largest(target, what, progress) if config.fit else compile_row(target, what))
            progress.update(done + 1, what.network)
    return rows


def table(config: BenchmarkConfig, rows: list[Compilation]) -> str:
    """The rows as text."""
    numbers = {
        **{"target": "", "fits": "", "compile_seconds": ".1f", "argument_bytes": ",.1f", "temp_bytes": ",.1f", "program_bytes": ",.1f"},
        **{"forward_kernels": "g", "backward_kernels": "g", "collectives": "g", "collective_bytes": ".2f"},
    }
    return text_table(benchmark.columns(config, rows) | numbers, [vars(row) for row in rows])
