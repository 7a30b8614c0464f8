"""Checkpoints: Orbax writes them, a checksum of our own vouches for them."""

import hashlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

import rgen
from rgen.errors import InputError

for name in ("absl", "asyncio"):  # Orbax and its tasks log what we say ourselves
    logging.getLogger(name).setLevel(logging.CRITICAL)


class Damaged(InputError):
    """A checkpoint is not, or not any more, what was saved."""


class Checkpoints:
    """The newest `keep` checkpoints of one folder, numbered by outer step, and besides every `every`-th step's.

    They are written while training goes on; a kill at any moment leaves those that were whole before. What it left half written is
    removed with `clean`, which only the process that writes may ask for.

    Raises:
      Damaged: one of them says of itself what no checkpoint says.
    """

    def __init__(self, folder: Path, keep: int = 2, every: int | None = None, clean: bool = False):
        policies = ocp.training.preservation_policies
        kept: Any = policies.LatestN(keep)
        if every is not None:
            kept = policies.AnyPreservationPolicy([kept, policies.EveryNSteps(every)])
        self._folder = folder
        try:
            self._checkpointer = ocp.training.Checkpointer(str(folder.absolute()), preservation_policy=kept, cleanup_tmp_directories=clean)
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # by what it finds in their _CHECKPOINT_METADATA
            raise Damaged(f"A checkpoint in {folder} cannot be read ({_short(error)}). Move it away, and the others are used.") from error
        self._writing: Any = None

    def save(self, step: int, state: Any) -> None:
        """Begins to save a pytree of arrays, which may change as soon as this returns.

        Raises:
          InputError: it cannot be written, or the one before could not.
        """
        self.wait()
        copy = jax.tree.map(lambda a: np.array(a), state)  # not a view: training goes on in the same memory
        metadata: Any = {"arrays": _describe(copy), "versions": versions()}
        begun = self._try(step, lambda: self._checkpointer.save_async(step, copy, custom_metadata=metadata, overwrite=True))
        self._writing = None if begun is None else (step, begun)

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises as `save`."""
        if self._writing is not None:
            step, response = self._writing
            self._writing = None
            self._try(step, response.result)

    def _try(self, step: int, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except jax.errors.JaxRuntimeError:  # processes wait for each other here: one of them is lost, and the disk is well
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds
            raise InputError(
                f"The checkpoint of step {step} cannot be written to {self._folder} ({_short(error)}). "
                "Those before it are whole; make room, or make the folder writable, and go on with --resume."
            ) from error

    def steps(self) -> list[int]:
        """The steps there are, the newest first."""
        self.wait()
        return sorted((c.step for c in self._checkpointer.checkpoints), reverse=True)

    def forget_after(self, step: int) -> None:
        """Removes checkpoints of later steps than `step`."""
        for later in [s for s in self.steps() if s > step]:
            self._checkpointer.delete(later)

    def newest(self, like: Any, say: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest whole checkpoint, (step, state), shaped `like` a pytree; None if there is none at all.

        Args:
          say: is told of each that is damaged.
        Raises:
          Damaged: all of them are.
          InputError: it is of another network.
        """
        steps = self.steps()
        for step in steps:
            try:
                return step, self.load(step, like)
            except Damaged as error:
                if step == steps[-1]:
                    raise Damaged(f"{error} No whole one is left there; train anew in another folder.") from error
                say(f"{error} The one before is used.")
        return None

    def load(self, step: int, like: Any) -> Any:
        """Loads a checkpoint shaped `like` a pytree of arrays or shapes.

        Raises:
          Damaged: it is not what was saved.
          InputError: it is the checkpoint of another network.
        """
        where = f"The checkpoint of step {step} in {self._folder}"
        try:
            metadata: Any = self._checkpointer.metadata(step).custom_metadata
            saved: dict[str, dict] = metadata["arrays"]
        except Exception as error:  # Orbax raises many kinds
            raise Damaged(f"{where} cannot be read ({type(error).__name__}).") from error
        for name, wanted in _leaves(like).items():
            shape = [*map(int, wanted.shape)]
            if name not in saved or saved[name]["shape"] != shape:
                found = f"shape {saved[name]['shape']}" if name in saved else "nothing"
                changed = _changes(metadata.get("versions", {}))
                raise InputError(f"{where} does not fit the network: {name} needs shape {shape}, and there is {found}.{changed}")
        try:
            state = self._checkpointer.load(step, _as_saved(like, saved))
        except Exception as error:
            raise Damaged(f"{where} is damaged ({type(error).__name__}).") from error
        found = _describe(state)
        for name in found:
            if found[name]["sha256"] != saved[name]["sha256"]:
                raise Damaged(f"{where} is damaged: {name} is not what was saved.")
        return jax.tree.map(lambda a, wanted: jnp.asarray(a.astype(wanted.dtype)), state, like)


def versions() -> dict[str, str]:
    """Of what a checkpoint's meaning depends on."""
    others = {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
    return {"rgen": rgen.__version__, **others}  # which may run without being installed


def _changes(before: dict[str, str]) -> str:
    now = versions()
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if name in before and before[name] != now[name]]
    return f" It was saved with {'; '.join(changed)}." if changed else ""


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _describe(tree: Any) -> dict[str, dict]:
    """Shape, type and checksum of every array, by its path."""

    def describe(a: np.ndarray) -> dict:
        return {"shape": list(a.shape), "dtype": str(a.dtype), "sha256": hashlib.sha256(a.tobytes()).hexdigest()}

    return {name: describe(np.asarray(leaf)) for name, leaf in _leaves(tree).items()}


def _as_saved(tree: Any, saved: dict[str, dict]) -> Any:
    """Arrays of NumPy with the tree's shapes and the types that were saved: JAX would round float64 before the checksums are compared."""
    leaves, structure = jax.tree.flatten(tree)
    types = [saved[name].get("dtype", a.dtype) for name, a in _leaves(tree).items()]
    return jax.tree.unflatten(structure, [np.empty(a.shape, t) for a, t in zip(leaves, types)])
