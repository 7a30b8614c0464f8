#!/usr/bin/env python
"""Draw from what `rgen sample --export FILE` wrote, with jax and flatbuffers, without rgen: bin/run_exported.py FILE COUNT SEED."""

import argparse
import os
import sys
from pathlib import Path

import jax.export
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="the exported sampler")
    parser.add_argument("count", type=int, help="how many samples, from number 0 on")
    parser.add_argument("seed", type=int, help="seed of the draws, from 0 to 2147483647")
    given = parser.parse_args()
    name = repr(str(given.file))  # a terminal is to show it, and nothing else
    if given.count < 1 or not 0 <= given.seed < 2**31 or not given.file.is_file():
        parser.error(f"{name} must be a file, {given.count} at least 1, and {given.seed} a seed from 0 to {2**31 - 1}.")
    try:
        sampler = jax.export.deserialize(bytearray(given.file.read_bytes()))
    except Exception as error:
        parser.error(f"{name} is not what rgen sample --export writes, or it is damaged ({type(error).__name__}).")
    values, nats = sampler.call(np.uint32(given.seed), np.arange(given.count, dtype=np.int32))
    for sample, cost in zip(np.asarray(values), np.asarray(nats)):
        print(f"{cost:.2f} nats")
        if sampler.fun_name == "draw_text" or (sampler.fun_name == "draw" and sample.ndim == 1):  # "draw": of earlier versions
            print(sample.tobytes().split(b"\0", 1)[0])  # bytes of a line, which a NUL ends
        elif sample.ndim == 2 and sample.max() < 2:
            print("\n".join("".join(" #"[pixel] * 2 for pixel in row) for row in sample))
        else:
            print(np.array2string(sample, threshold=sample.size + 1))


if __name__ == "__main__":
    code = 0
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except OSError as error:  # nobody reads on, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left goes nowhere when Python ends
        code = 1 if isinstance(error, BrokenPipeError) else f"run_exported.py: stdout: {error.strerror}."
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
