#!/usr/bin/env python
"""Draw from what `bin/sample.py --export FILE` wrote, with jax and flatbuffers, without rgen: bin/run_exported.py FILE COUNT SEED."""

import sys
from pathlib import Path

import jax.export
import numpy as np

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: run_exported.py FILE COUNT SEED")
    path, count, seed = sys.argv[1:]
    if not (count.isdigit() and seed.isdigit() and int(count)):
        sys.exit(f"COUNT and SEED are {count} and {seed}; they must be whole numbers, of at least 1 and 0")
    sampler = jax.export.deserialize(bytearray(Path(path).read_bytes()))
    values, nats = sampler.call(np.uint32(seed), np.arange(int(count), dtype=np.int32))
    for sample, cost in zip(np.asarray(values), np.asarray(nats)):
        print(f"{cost:.2f} nats")
        if sample.ndim == 1:  # bytes of a line, which a NUL ends
            print(sample.tobytes().split(b"\0", 1)[0])
        else:
            print("\n".join("".join(" #"[pixel] * 2 for pixel in row) for row in sample))
