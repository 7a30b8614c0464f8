"""Samples on their way to disk: records of one size, appended to a file, so that a stopped command can go on."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from rgen.host.files import lock, naming
from rgen.sequence import Array, PyTree


class Records:
    """Outputs and nats of samples 0, 1, 2, ... in a file.

    The file's name ends with a digest of the options, so that it is only continued with the same options. A record that a crash cut off
    is dropped.

    Attributes:
      path: the file: `beside` with the digest and ".part" appended.
    """

    def __init__(self, beside: Path, about: dict[str, Any], shape: tuple[int, ...]):
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.path = beside.with_name(f"{beside.name}.{digest}.part")
        self._type = np.dtype([("values", np.uint8, shape), ("nats", np.float64)])
        self._file = self.path.open("ab")
        lock(self._file, f"{self.path}, which holds the same samples")
        self._count = self._file.tell() // self._type.itemsize
        self._file.truncate(self._count * self._type.itemsize)

    def __len__(self) -> int:
        return self._count

    def append(self, values: np.ndarray, nats: np.ndarray) -> None:
        """Appends outputs [n, *shape] and nats [n], and flushes the file."""
        rows = np.empty(len(values), self._type)
        rows["values"], rows["nats"] = values, nats
        with naming(self.path):
            self._file.write(rows.tobytes())
            self._file.flush()
        self._count += len(rows)

    def nats(self, count: int) -> np.ndarray:
        """The nats [count] of the first records."""
        return np.array(self._all()["nats"][:count])

    def read(self, order: np.ndarray, size: int = 4096) -> Iterator[np.ndarray]:
        """The records of these numbers [N], `size` at a time: arrays with the fields "values" and "nats"."""
        rows = self._all()
        for first in range(0, len(order), size):
            yield rows[order[first : first + size]]

    def save_npz(self, out: IO[bytes], order: np.ndarray, values: str) -> None:
        """Writes the records of these numbers as a compressed NPZ: the outputs by the name `values`, "nats", and their "number"."""
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for name, field in ((values, "values"), ("nats", "nats")):
                base, shape = self._type[field].base, (len(order), *self._type[field].shape)
                _write_npy(file, name, base, shape, (rows[field] for rows in self.read(order)))
            _write_npy(file, "number", order.dtype, order.shape, [order])

    def save_npy(self, out: IO[bytes], order: np.ndarray) -> None:
        """Writes the outputs of the records of these numbers as an NPY."""
        field = self._type["values"]
        for part in _npy(field.base, (len(order), *field.shape), (rows["values"] for rows in self.read(order))):
            out.write(part)

    def close(self, delete: bool = False) -> None:
        self._file.close()
        if delete:
            self.path.unlink()

    def _all(self) -> PyTree:
        return np.memmap(self.path, self._type, "r", shape=(self._count,))


def as_npy(array: np.ndarray) -> bytes:
    """An array as the content of an NPY file."""
    return b"".join(_npy(array.dtype, array.shape, [array]))


def as_text(lines: Sequence[bytes], nats: np.ndarray | None = None) -> bytes:
    """One line each, behind its nats and a tab if there are any; a line break that was drawn is written as a question mark."""
    front = [b""] * len(lines) if nats is None else [b"%.3f\t" % value for value in nats]
    return b"".join(start + line.replace(b"\n", b"?").replace(b"\r", b"?") + b"\n" for start, line in zip(front, lines))


def _write_npy(file: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """One array of an NPZ, part by part: `np.savez` would need it whole, and memory must not grow with the number of samples."""
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        for part in _npy(dtype, shape, parts):
            member.write(part)


def _npy(dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> Iterator[bytes]:
    """An NPY file, part by part."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    yield header.getvalue()
    yield from (np.ascontiguousarray(part).tobytes() for part in parts)


def digest(arrays: Iterable[Array]) -> str:
    """A digest of the contents of arrays."""
    of_all = hashlib.sha256()
    for array in arrays:
        of_all.update(np.asarray(array).tobytes())
    return of_all.hexdigest()
