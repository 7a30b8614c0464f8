"""Checkpoints: Orbax writes them, a checksum of our own vouches for them."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rgen.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what we say ourselves


class Checkpoints:
    """The newest `keep` checkpoints of one folder, numbered by outer step."""

    def __init__(self, folder: Path, keep: int = 2):
        newest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._folder = folder
        self._checkpointer = ocp.training.Checkpointer(str(folder.absolute()), preservation_policy=newest)

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays, and returns when it is on disk."""
        metadata: Any = {"arrays": _describe(state)}
        self._checkpointer.save(step, state, custom_metadata=metadata, overwrite=True)

    def latest(self) -> int | None:
        """The newest step, or None."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def forget_after(self, step: int) -> None:
        """Removes checkpoints of later steps than `step`."""
        for later in [c.step for c in self._checkpointer.checkpoints if c.step > step]:
            self._checkpointer.delete(later)

    def load(self, step: int, like: Any) -> Any:
        """Loads a checkpoint shaped `like` a pytree of arrays or shapes.

        Raises:
          InputError: it is damaged, or is the checkpoint of another network.
        """
        where = f"The checkpoint of step {step} in {self._folder}"
        try:
            metadata: Any = self._checkpointer.metadata(step).custom_metadata
            saved: dict[str, dict] = metadata["arrays"]
        except Exception as error:  # Orbax raises many kinds
            raise InputError(f"{where} cannot be read ({type(error).__name__}). Remove it to go on from an older one.") from error
        for name, wanted in _leaves(like).items():
            shape = [*map(int, wanted.shape)]
            if name not in saved or saved[name]["shape"] != shape:
                found = f"shape {saved[name]['shape']}" if name in saved else "nothing"
                raise InputError(f"{where} does not fit the network: {name} needs shape {shape}, and there is {found}.")
        try:
            state = self._checkpointer.load(step, _with_sharding(like))
        except Exception as error:
            raise InputError(f"{where} is damaged ({type(error).__name__}). Remove it to go on from an older one.") from error
        found = _describe(state)
        for name in found:
            if found[name]["sha256"] != saved[name]["sha256"]:
                raise InputError(f"{where} is damaged: {name} is not what was saved. Remove it to go on from an older one.")
        return state


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _describe(tree: Any) -> dict[str, dict]:
    """Shape and checksum of every array, by its path."""
    arrays = {name: np.asarray(leaf) for name, leaf in _leaves(tree).items()}
    return {name: {"shape": list(a.shape), "sha256": hashlib.sha256(a.tobytes()).hexdigest()} for name, a in arrays.items()}


def _with_sharding(tree: Any) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), tree)
