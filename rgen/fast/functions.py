"""The network as a pure function of its weights, and which of them learn."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rgen.sequence import PyTree, Reads


@dataclass(frozen=True)
class Function:
    """A network of any library as two pure functions; see docs/networks.md for Flax NNX, Equinox and Haiku.

    Attributes:
      init: `init(key, x) -> params`, a pytree of float arrays, for ONE input x [...].
      apply: `apply(params, x) -> logits` [K] (or a `rgen.sequence.Prediction`) for ONE input.
      last_outputs: which earlier outputs the network reads: k for the last k, the latest first; or steps between places, such as
        ((0, 1), (1, 0)) for the output to the left and the one above, where an input is a place. Its input is then
        `rgen.sequence.WithOutputs(x, outputs)`. A Linen module says it by an attribute of this name.
    """

    init: Callable[[jax.Array, Any], Any]
    apply: Callable[[Any, Any], Any]
    last_outputs: Reads = 0


def as_function(network: Any) -> Function:
    """A Linen module as a `Function`; a `Function` as it is.

    Raises:
      ValueError: it is neither, it cannot be hashed, or its last_outputs is none of these.
    """
    if not isinstance(network, (Function, nn.Module)):
        raise ValueError(
            f"The network is a {type(network).__name__}. Give a Flax Linen module, or rgen.Function(init, apply) for any other library."
        )
    try:
        hash(network)
    except TypeError as error:
        raise ValueError(
            f"The network cannot be hashed ({error}), so JAX could not tell when to compile again. Where one of its fields is a list, "
            "give a tuple: nn.Sequential((a, b)) instead of nn.Sequential([a, b])."
        ) from None
    function = network if isinstance(network, Function) else _linen(network)
    reads = function.last_outputs
    if isinstance(reads, tuple):
        fit = all(isinstance(step, tuple) and len(step) == len(reads[0]) and all(isinstance(n, int) for n in step) for step in reads)
    else:
        fit = isinstance(reads, int) and reads >= 0
    if not fit:
        raise ValueError(
            f"The network's last_outputs is {reads!r}. Give how many it reads: 0, 1, 2, ...; or a tuple of steps between places, all of "
            "the same length, such as ((0, 1), (1, 0)) for the output to the left and the one above."
        )
    return function


def _linen(module: nn.Module) -> Function:
    def init(key, x):
        variables = module.init(key, x)
        if others := sorted(set(variables) - {"params"}):
            raise ValueError(
                f"The network has variables besides its parameters ({', '.join(others)}), which the inner loop does not carry. Use layers "
                "without them."
            )
        return variables.get("params", {})

    return Function(init, lambda params, x: module.apply({"params": params}, x), getattr(module, "last_outputs", 0))


def names_of(weights: PyTree) -> list[str]:
    """The path of every leaf, such as "heads/memory/kernel", in the order of `jax.tree.leaves`."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(weights)]


def widest(tree: PyTree) -> Any:
    """The widest type of a tree's arrays, float32 at least."""
    types = [jnp.dtype(jnp.float32), *(jnp.dtype(jnp.result_type(a)) for a in jax.tree.leaves(tree))]
    return max(types, key=lambda dtype: dtype.itemsize)


def check_weights(weights: PyTree) -> None:
    """Raises ValueError unless the weights can learn: at least one, all of them float arrays."""
    if not jax.tree.leaves(weights):
        raise ValueError("The network has no parameters, so nothing can learn. Give one that has weights.")
    for name, leaf in zip(names_of(weights), jax.tree.leaves(weights)):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"The parameter '{name}' is {jnp.result_type(leaf)}; SGD needs floats. Keep others out of the parameters.")


def check_fast(fast: Hashable) -> None:
    """Raises ValueError unless `fast` is None or a tuple of paths."""
    if isinstance(fast, str):
        raise ValueError(f'What learns is given as the string "{fast}". Give a tuple of paths: ("{fast}",).')
    if fast is not None and not isinstance(fast, tuple):
        raise ValueError(f"What learns is given as a {type(fast).__name__}. Give a tuple of paths, or None for all.")


def learns(name: str, fast: tuple[str, ...] | None) -> bool:
    """Whether the weight of this path learns in the inner loop: it is one of `fast`, or below one."""
    return fast is None or any(name == path or name.startswith(path + "/") for path in fast)


def learning(weights: PyTree, fast: tuple[str, ...] | None) -> PyTree:
    """The weights that learn in the inner loop: those at or below the paths `fast`; None: all.

    Returns:
      The tree of the weights without the others: they are left out of dicts, and None in other containers.
    Raises:
      ValueError: a path is not there, or there is none.
    """
    if fast is None:
        return weights
    if not fast:
        raise ValueError("Nothing learns in the inner loop: its paths are empty. Name at least one; None means all.")
    names = names_of(weights)
    for path in fast:
        if not any(learns(name, (path,)) for name in names):
            parts = [name.split("/") for name in names]
            there = sorted({"/".join(name[:depth]) for name in parts for depth in range(1, len(name) + 1)})
            raise ValueError(f"'{path}' is not in the network and cannot learn; there are {', '.join(there)}.")
    leaves = [leaf if learns(name, fast) else None for name, leaf in zip(names, jax.tree.leaves(weights))]
    return _pruned(jax.tree.unflatten(jax.tree.structure(weights), leaves))


def _is_dict(node: Any) -> bool:
    return type(node) is dict


def _pruned(tree: PyTree) -> PyTree:
    """Dicts, wherever they are, without the entries in which nothing is left."""
    if not _is_dict(tree):
        return jax.tree.map(lambda node: _pruned(node) if _is_dict(node) else node, tree, is_leaf=_is_dict)
    pruned = {name: _pruned(child) for name, child in tree.items()}
    return {name: child for name, child in pruned.items() if jax.tree.leaves(child)}


def overlaid(weights: PyTree, fast: PyTree) -> PyTree:
    """All weights, with those of `fast` (as `learning` gives them) in their places."""
    new = {tuple(map(str, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(fast)}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(tuple(map(str, path)), leaf), weights)
