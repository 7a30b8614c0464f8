"""Which weights of a network can be taken over, read from its jaxpr; and the network evaluated without them.

A weight is taken over only if it is a factor of products, a table whose rows are looked up, or the bias behind a product, and nothing
else. All others are left as they are: what is not understood costs time, never a wrong number.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from rgen.fast.functions import names_of
from rgen.fast.views import SLICE, TRANSPOSE, Axes, Contraction, Lookup, View, bias_axes, contraction, lookup, primitive, view_of
from rgen.sequence import PyTree

# Calls whose body is looked into, and where it stands
INLINED = {primitive("jit"): "jaxpr", primitive("closed_call"): "call_jaxpr", primitive("remat"): "jaxpr"}
ADD = primitive("add"), primitive("add_jaxvals")
Answers = dict["Use", Callable]


class Use(NamedTuple):
    """One place where a layer's weight is used.

    Attributes:
      operand: the variable that meets the weight; result: the variable of what comes out, the bias included.
      form: how the two are arranged as rows.
      transposed: whether it is p W^T instead of q W.
      first: the first of its rows among all the rows of the layer's taps.
    """

    operand: Any
    result: Any
    form: Contraction | Lookup
    transposed: bool
    first: int

    @property
    def lookup(self) -> bool:
        return isinstance(self.form, Lookup)


@dataclass(frozen=True)
class Layer:
    """A weight that can be taken over, as kernel [H, m, n]; its bias is the row of a further input, which is 1.

    Attributes:
      leaf, bias: their numbers among the leaves of the parameters; bias is None if there is none.
      axes, bias_axes: the axes of the arrays that are H, m and n of the kernel; and H and n of the bias, in one.
      heads, inputs, outputs: H, m (without the bias) and n. Rows of heads never meet other heads.
      embed: whether it is only looked up: its inputs are then row numbers.
      learns: whether it changes in the inner loop, and the change is read.
      foreseen: whether its inputs are known before the inner loop begins, as nothing that learns can change them.
    """

    leaf: int
    axes: tuple[Axes, Axes, Axes]
    heads: int
    inputs: int
    outputs: int
    uses: tuple[Use, ...]
    bias: int | None = None
    bias_axes: Axes = ()
    embed: bool = False
    learns: bool = True
    foreseen: bool = False

    @property
    def leaves(self) -> tuple[int, ...]:
        return (self.leaf,) if self.bias is None else (self.leaf, self.bias)

    @property
    def taps(self) -> int:
        """Taps that a step leaves in each head."""
        return sum(use.form.rows for use in self.uses)

    @property
    def width(self) -> int:
        """Numbers of a tap's input: of a row that is looked up, its number alone."""
        return 1 if self.embed else self.inputs + (self.bias is not None)

    @property
    def size(self) -> int:
        """Numbers of the kernel."""
        return self.heads * self.inputs * self.outputs

    @property
    def tap_size(self) -> int:
        """Numbers that are read of all taps of one step, but for the constant input of the bias."""
        inputs = 0 if self.foreseen else 1 if self.embed else self.inputs
        return self.heads * self.taps * (inputs + self.outputs)

    @property
    def varies(self) -> bool:
        """Whether its inputs change, continuously, with what is learned."""
        return not self.embed and not self.foreseen

    def kernel(self, weight: jax.Array, *bias: jax.Array) -> tuple[jax.Array, ...]:
        """[H, M, N] from the arrays of its `leaves`, in blocks of rows: the weight, and perhaps the bias."""
        kernel_HxMxN = _ordered(weight, sum(self.axes, ())).reshape(self.heads, self.inputs, self.outputs)
        rows_Hx1xN = [_ordered(b, self.bias_axes).reshape(self.heads, 1, self.outputs) for b in bias]
        return kernel_HxMxN, *rows_Hx1xN

    def blocks(self, kernel_HxMxN: jax.Array) -> tuple[jax.Array, ...]:
        """One array in such blocks."""
        return (kernel_HxMxN[:, : self.inputs], kernel_HxMxN[:, self.inputs :])[: len(self.leaves)]


@dataclass(frozen=True)
class Program:
    """A network's flat jaxpr, and the uses of its weights that are understood.

    Attributes:
      names, avals: of the leaves of the parameters.
      uses: leaf -> [operand, result, form] of all its uses, of weights that may be taken over.
      biases: leaf -> (result of a use, the same with the bias, the leaf's axes that are H and n), of those that are only added so.
      rows: variables of indices into weights, and how many rows there are; where the network does not say what is beyond them.
      tree: structure of what the network returns.
    """

    closed: ClosedJaxpr
    names: tuple[str, ...]
    avals: tuple[Any, ...]
    uses: dict[int, list]
    biases: dict[int, list]
    rows: list[tuple[Any, int]]
    tree: Any = field(compare=False)

    def layers(self, roles: Any = None) -> tuple[Layer, ...]:
        """The layers that can be taken over; `roles` of the leaves: a bias with another one than its kernel is left to the network."""
        found = (self._layer(leaf, roles or [None] * len(self.names)) for leaf in self.uses)
        return tuple(layer for layer in found if layer is not None)

    def _layer(self, leaf: int, roles: Any) -> Layer | None:
        uses = self.uses[leaf]
        forms = [form for *_, form in uses]
        lookups = [form for form in forms if isinstance(form, Lookup)]
        heads, inputs, outputs = axes = (lookups or forms)[0].axes
        if any(form.axes != axes for form in lookups) or any(form.axes not in (axes, (heads, outputs, inputs)) for form in forms):
            return None
        bias, of_bias, after = None, (), {}
        for other, adds in self.biases.items():
            befores, afters, places = zip(*adds)
            alone = {*befores} == {result for _, result, _ in uses} and len({*places}) == 1
            if alone and roles[other] == roles[leaf] and all(form.axes == axes for form in forms):
                bias, of_bias, after = other, places[0], dict(zip(befores, afters))
        shape = self.avals[leaf].shape
        h, m, n = (math.prod(shape[axis] for axis in group) for group in axes)
        first = [sum(form.rows for form in forms[:i]) for i in range(len(forms))]
        placed = (Use(operand, after.get(out, out), form, form.axes != axes, row) for (operand, out, form), row in zip(uses, first))
        return Layer(leaf, axes, h, m, n, tuple(placed), bias, of_bias, embed=lookups == forms)

    def evaluate(self, leaves: dict[int, Any], x: PyTree, wanted: Iterable[Any], answers: Answers, given: Any = ()) -> list:
        """Evaluates variables of the jaxpr, or literals, and all else that can be: XLA leaves out what they do not need.

        Args:
          leaves: number -> array, of the leaves that are needed.
          answers: use of a layer -> function that gives its result from the operand's value.
          given: variable -> value, of those that are known.
        """
        jaxpr = self.closed.jaxpr
        env = dict(zip(jaxpr.constvars, self.closed.consts))
        env |= {jaxpr.invars[i]: leaf for i, leaf in leaves.items()} | dict(given)
        env |= dict(zip(jaxpr.invars[len(self.avals) :], jax.tree.leaves(x)))
        uses = {use.result: use for use in answers}
        for eqn in jaxpr.eqns:
            use = uses.get(eqn.outvars[0])
            needs = eqn.invars if use is None else [use.operand]
            if eqn.outvars[0] in env or not all(isinstance(var, Literal) or var in env for var in needs):
                continue
            values = [_value(env, var) for var in needs]
            env |= _outcome(eqn, values) if use is None else {use.result: answers[use](*values)}
        return [_value(env, var) for var in wanted]

    @property
    def inputs(self) -> frozenset[int]:
        """The numbers of the inputs, which follow those of the leaves."""
        return frozenset(range(len(self.avals), len(self.closed.jaxpr.invars)))

    def arrays(self, layer: Layer, kernel_HxMxN: jax.Array) -> dict[int, jax.Array]:
        """The way back from `Layer.kernel`: number of a leaf -> array. What only rearranges is undone by its transpose."""
        back = jax.linear_transpose(layer.kernel, *(self.avals[leaf] for leaf in layer.leaves))
        return dict(zip(layer.leaves, back(layer.blocks(kernel_HxMxN))))

    def depends(self, cut: Collection[Any] = ()) -> Callable[[Any], frozenset]:
        """What a variable depends on: numbers of leaves, then of inputs; and results of uses, beyond which is not looked if they are in
        `cut`."""
        jaxpr = self.closed.jaxpr
        found = {var: frozenset([i]) for i, var in enumerate(jaxpr.invars)}

        def on(var: Any) -> frozenset:
            return frozenset() if isinstance(var, Literal) else found.get(var, frozenset())

        for eqn in jaxpr.eqns:
            of_inputs = frozenset().union(*map(on, eqn.invars))
            found |= {var: frozenset([var]) if var in cut else of_inputs for var in eqn.outvars}
        return on


def capture(apply: Callable, params: PyTree, x: PyTree) -> Program:
    """Reads a network `apply(params, x)`; `params` and `x`, trees of arrays, may be shapes."""
    leaves, tree = jax.tree.flatten(params)
    inputs, of_inputs = jax.tree.flatten(x)
    avals = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves]

    def flat(*args):
        return apply(jax.tree.unflatten(tree, args[: len(avals)]), jax.tree.unflatten(of_inputs, args[len(avals) :]))

    traced, shape = jax.make_jaxpr(flat, return_shape=True)(*avals, *inputs)
    closed = jax.make_jaxpr(lambda *args: _inlined(traced.jaxpr, traced.consts, args))(*avals, *inputs)
    walk = _Walk(closed.jaxpr, avals)
    return Program(closed, tuple(names_of(params)), tuple(avals), *walk.found(), walk.rows, jax.tree.structure(shape))


class _Walk:
    """Follows every leaf of the parameters through a flat jaxpr.

    Attributes:
      views: variable -> the leaf that it is, perhaps rearranged.
      refused: leaves with a use that is not understood.
      uses, biases, rows: as of a `Program`, of all leaves.
      products: result of a product -> (leaf, place among its uses).
      reads: how often a variable is read.
    """

    def __init__(self, jaxpr: Any, avals: list) -> None:
        self.jaxpr, self.avals = jaxpr, avals
        self.views = {var: View.of(leaf, aval.shape) for leaf, (var, aval) in enumerate(zip(jaxpr.invars, avals))}
        self.refused = {leaf for leaf, aval in enumerate(avals) if aval.dtype not in (jnp.float32, jnp.float64)}
        self.uses: dict[int, list] = {leaf: [] for leaf in range(len(avals))}
        self.biases: dict[int, list] = {leaf: [] for leaf in range(len(avals))}
        self.rows: list[tuple[Any, int]] = []
        self.products: dict[Any, tuple[int, int]] = {}
        read = [*(var for eqn in jaxpr.eqns for var in eqn.invars), *jaxpr.outvars]
        self.reads = Counter(var for var in read if not isinstance(var, Literal))

    def found(self) -> tuple[dict[int, list], dict[int, list]]:
        """(uses, biases) of the leaves that are used in one of these ways alone."""
        for eqn in self.jaxpr.eqns:
            places = [k for k, var in enumerate(eqn.invars) if self._is_view(var)]
            if not places:
                self._follow_transpose(eqn)
            elif len(places) > 1 or not self._understood(eqn, places[0]):
                self.refused |= {self.views[eqn.invars[k]].leaf for k in places}
        self.refused |= {self.views[var].leaf for var in self.jaxpr.outvars if self._is_view(var)}

        def only(of: dict[int, list], no: dict[int, list]) -> dict[int, list]:
            return {leaf: found for leaf, found in of.items() if found and not no[leaf] and leaf not in self.refused}

        return only(self.uses, self.biases), only(self.biases, self.uses)

    def _is_view(self, var: Any) -> bool:
        return not isinstance(var, Literal) and var in self.views

    def _understood(self, eqn: Any, place: int) -> bool:
        view, result = self.views[eqn.invars[place]], eqn.outvars[0]
        if (moved := view_of(eqn, view)) is not None:
            self.views[result] = moved
            return result.aval.dtype == self.avals[view.leaf].dtype  # in another, what SGD adds up would be rounded otherwise
        uses = self.uses[view.leaf]
        if (product := contraction(eqn, place, view)) is not None:
            self.products[result] = view.leaf, len(uses)
            uses.append((eqn.invars[1 - place], result, product))
            return True
        if place == 0 and (row := lookup(eqn, view)) is not None:
            uses.append((eqn.invars[1], result, row))
            if eqn.primitive is SLICE or not row.clips:  # `table[i]`, a dynamic_slice, clips without having been asked to
                self.rows.append((eqn.invars[1], row.table))
            return True
        return eqn.primitive in ADD and self._is_bias(eqn.invars[1 - place], result, view)

    def _is_product(self, var: Any) -> bool:
        """Whether a variable is a product, which is read once."""
        return not isinstance(var, Literal) and var in self.products and self.reads[var] == 1

    def _follow_transpose(self, eqn: Any) -> None:
        """A product that is only read transposed, as `jax.vmap` may leave it: its bias is added behind."""
        if eqn.primitive is not TRANSPOSE or not self._is_product(eqn.invars[0]):
            return
        leaf, place = self.products[eqn.outvars[0]] = self.products[eqn.invars[0]]
        operand, _, form = self.uses[leaf][place]
        self.uses[leaf][place] = operand, eqn.outvars[0], form.transposed(eqn.params["permutation"])

    def _is_bias(self, other: Any, result: Any, view: View) -> bool:
        if not self._is_product(other) or other.aval.shape != result.aval.shape:
            return False
        leaf, place = self.products[other]
        axes = bias_axes(self.uses[leaf][place][2], view)
        if axes is not None:
            self.biases[view.leaf].append((other, result, axes))
        return axes is not None


def _inlined(jaxpr: Jaxpr, consts: Any, args: Any) -> list:
    """Evaluates a jaxpr with the bodies of its calls in their places."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    for eqn in jaxpr.eqns:
        values = [_value(env, v) for v in eqn.invars]
        body = eqn.params.get(INLINED.get(eqn.primitive, ""))
        if body is None:
            env |= _outcome(eqn, values)
        else:
            inner, consts = (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())
            env |= dict(zip(eqn.outvars, _inlined(inner, consts, values)))
    return [_value(env, v) for v in jaxpr.outvars]


def _outcome(eqn: Any, values: list) -> dict:
    """Evaluates one equation."""
    params: Any = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # newer JAX gives the parameters alone
    out = eqn.primitive.bind(*functions, *values, **params)
    return dict(zip(eqn.outvars, out if eqn.primitive.multiple_results else [out]))


def _value(env: dict, var: Any) -> PyTree:
    return var.val if isinstance(var, Literal) else env[var]


def _ordered(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The array with these axes in this order; those left out have one element."""
    return jnp.transpose(array, (*axes, *(a for a in range(array.ndim) if a not in axes)))
