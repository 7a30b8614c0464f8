"""What of a network can be taken over, read from its jaxpr; and the network evaluated with those weights left out.

A weight is taken over only if every use of it is understood: it is contracted with something, one of its rows is looked up, or it is the
bias behind a contraction. Then the inner gradient by it is a sum of outer products, the *taps*. A weight with any other use, or inside
a loop, a branch or a custom derivative, is left as it is. So what is not understood costs time, never a wrong number.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from rgen.fast.network import names_of
from rgen.fast.views import PRODUCT, Contraction, Lookup, View, bias_axes, contraction, lookup, primitive, view_of

# Calls whose body is looked into, and where it stands
INLINED = {primitive("jit"): "jaxpr", primitive("closed_call"): "call_jaxpr", primitive("remat"): "jaxpr"}
ADD = primitive("add"), primitive("add_jaxvals")
Answers = dict["Use", Callable]


class Use(NamedTuple):
    """One place where a layer's weight is used.

    Attributes:
      way: "forward" (q W), "transposed" (p W^T) or "row" (a row looked up).
      operand: the variable that meets the weight; result: the variable of what comes out, the bias included.
      form: how the two are arranged as rows.
      first: the first of its rows among all the rows of the layer's taps.
    """

    way: str
    operand: Any
    result: Any
    form: Contraction | Lookup
    first: int


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
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    heads: int
    inputs: int
    outputs: int
    uses: tuple[Use, ...]
    bias: int | None = None
    bias_axes: tuple[int, ...] = ()
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
    """A network's flat jaxpr, and the layers that can be taken over.

    Attributes:
      names, avals: of the leaves of the parameters.
      rows: variables of indices into weights, and how many rows there are; where the network does not say what is beyond them.
      tree: structure of what the network returns.
    """

    closed: ClosedJaxpr
    names: tuple[str, ...]
    avals: tuple[Any, ...]
    layers: tuple[Layer, ...]
    rows: tuple[tuple[Any, int], ...]
    tree: Any = field(compare=False)

    def evaluate(self, leaves: dict[int, Any], x: Any, wanted: Iterable[Any], answers: Answers, blind: Collection = ()) -> list:
        """Evaluates variables of the jaxpr, and nothing that they do not need.

        Args:
          leaves: number -> array, of the leaves that are needed; x: all inputs.
          wanted: variables, or literals.
          answers: use of a layer -> function that gives its result from the operand's value.
          blind: of these, uses that do not look at the operand: their functions get None.
        """
        jaxpr, wanted = self.closed.jaxpr, list(wanted)
        env = dict(zip(jaxpr.constvars, self.closed.consts))
        env |= {jaxpr.invars[i]: leaf for i, leaf in leaves.items()}
        env |= dict(zip(jaxpr.invars[len(self.avals) :], jax.tree.leaves(x)))
        uses = {use.result: use for use in answers}
        operands = {use.result: None if use in blind else use.operand for use in answers}
        for eqn in _live(jaxpr, wanted, operands):
            use = uses.get(eqn.outvars[0])
            if use is None:
                env |= _outcome(eqn, [_value(env, v) for v in eqn.invars])
            else:
                env[use.result] = answers[use](None if use in blind else _value(env, use.operand))
        return [_value(env, v) for v in wanted]

    @property
    def inputs(self) -> frozenset[int]:
        """The numbers of the inputs, behind those of the leaves."""
        return frozenset(range(len(self.avals), len(self.closed.jaxpr.invars)))

    def arrays(self, layer: Layer, kernel_HxMxN: jax.Array) -> dict[int, jax.Array]:
        """The way back from `Layer.kernel`: number of a leaf -> array. What only rearranges is undone by its transpose."""
        back = jax.linear_transpose(layer.kernel, *(self.avals[leaf] for leaf in layer.leaves))
        return dict(zip(layer.leaves, back(layer.blocks(kernel_HxMxN))))

    def outputs(self, values: list) -> Any:
        """What the network returns, from the values of its output variables."""
        return jax.tree.unflatten(self.tree, values)

    def depends(self, cut: Collection[Any] = ()) -> Callable[[Any], frozenset]:
        """What a variable depends on: numbers of leaves, then of inputs, and results of uses, beyond which is not looked if they are in
        `cut`."""
        jaxpr = self.closed.jaxpr
        found = {var: frozenset([i]) for i, var in enumerate(jaxpr.invars)}

        def on(var: Any) -> frozenset:
            return frozenset() if isinstance(var, Literal) else found.get(var, frozenset())

        for eqn in jaxpr.eqns:
            of_inputs = frozenset().union(*map(on, eqn.invars))
            found |= {var: frozenset([var]) if var in cut else of_inputs for var in eqn.outvars}
        return on


def capture(apply: Callable, params: Any, x: Any) -> Program:
    """Reads a network `apply(params, x)`; `params` and `x` (ONE input) may be shapes."""
    leaves, tree = jax.tree.flatten(params)
    avals = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in leaves]

    inputs, of_inputs = jax.tree.flatten(x)

    def flat(*args):
        return apply(jax.tree.unflatten(tree, args[: len(avals)]), jax.tree.unflatten(of_inputs, args[len(avals) :]))

    traced, shape = jax.make_jaxpr(flat, return_shape=True)(*avals, *inputs)
    closed = jax.make_jaxpr(lambda *args: _inlined(traced.jaxpr, traced.consts, args))(*avals, *inputs)
    layers, rows = _Walk(closed.jaxpr, len(avals)).found()
    return Program(closed, tuple(names_of(params)), tuple(avals), layers, rows, jax.tree.structure(shape))


class _Walk:
    """Follows every leaf of the parameters through a flat jaxpr.

    Attributes:
      views: variable -> the leaf that it is, perhaps rearranged.
      refused: leaves with a use that is not understood.
      uses: leaf -> (operand, result, form) of the others; biases: leaf -> (result of the use before it, its own, its axes).
      dots: result -> form, of the uses that are products.
    """

    def __init__(self, jaxpr: Any, count: int) -> None:
        self.jaxpr = jaxpr
        self.views = {var: View.of(i, var.aval) for i, var in enumerate(jaxpr.invars[:count])}
        self.refused: set[int] = {i for i, var in enumerate(jaxpr.invars[:count]) if var.aval.dtype not in (jnp.float32, jnp.float64)}
        self.uses: dict[int, list] = {i: [] for i in range(count)}
        self.biases: dict[int, list] = {i: [] for i in range(count)}
        self.dots: dict[Any, Contraction] = {}
        self.rows: list[tuple[Any, int]] = []
        self.counts = Counter(v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal))
        self.counts.update(v for v in jaxpr.outvars if not isinstance(v, Literal))

    def found(self) -> tuple[tuple[Layer, ...], tuple]:
        """(the layers that can be taken over, the rows that are looked up)."""
        for eqn in self.jaxpr.eqns:
            places = [k for k, var in enumerate(eqn.invars) if self._is_view(var)]
            if len(places) > 1 or (places and not self._understood(eqn, places[0])):
                self.refused |= {self.views[eqn.invars[k]].leaf for k in places}
        self.refused |= {self.views[var].leaf for var in self.jaxpr.outvars if self._is_view(var)}
        leaves = [leaf for leaf, uses in self.uses.items() if uses and leaf not in self.refused and not self.biases[leaf]]
        layers = map(self._layer, leaves)
        return tuple(layer for layer in layers if layer is not None), tuple(self.rows)

    def _is_view(self, var: Any) -> bool:
        return not isinstance(var, Literal) and var in self.views

    def _understood(self, eqn: Any, place: int) -> bool:
        view, result = self.views[eqn.invars[place]], eqn.outvars[0]
        if (moved := view_of(eqn, view)) is not None:
            self.views[result] = moved
            return moved.exact
        if (dot := contraction(eqn, place, view)) is not None:
            self.uses[view.leaf].append((eqn.invars[1 - place], result, dot))
            self.dots[result] = dot
            return True
        if (row := lookup(eqn, place, view)) is not None:
            operand = eqn.invars[1 + max(row.start, 0)]
            if row.unasked:
                self.rows.append((operand, row.table))
            self.uses[view.leaf].append((operand, result, row))
            return row.mode is not None
        return self._is_bias(eqn, place, view)

    def _is_bias(self, eqn: Any, place: int, view: View) -> bool:
        """Whether it is added to a contraction that nothing else reads."""
        if eqn.primitive not in ADD:
            return False
        added: list[Any] = eqn.invars
        other, result = added[1 - place], eqn.outvars[0]
        alone = not isinstance(other, Literal) and other in self.dots and self.counts[other] == 1
        if not alone or other.aval.shape != result.aval.shape:  # type: ignore[reportAttributeAccessIssue]
            return False
        axes = bias_axes(self.dots[other], view)
        if axes is not None:
            self.biases[view.leaf].append((other, result, axes))
        return axes is not None

    def _layer(self, leaf: int) -> Layer | None:
        uses = self.uses[leaf]
        forms = [form for *_, form in uses]
        lookups = [form for form in forms if isinstance(form, Lookup)]
        heads, inputs, outputs = axes = (lookups or forms)[0].axes
        ways = {(heads, outputs, inputs): "transposed", axes: "forward"}
        if any(form.axes not in ways for form in forms) or any(form.axes != axes for form in lookups):
            return None
        bias, bias_form, after = self._bias_of([result for _, result, _ in uses])
        placed, row = [], 0
        for operand, result, form in uses:
            way = "row" if isinstance(form, Lookup) else ways[form.axes]
            placed.append(Use(way, operand, after.get(result, result), form, row))
            row += form.rows
        if bias is not None and any(use.way != "forward" for use in placed):
            self.refused.add(bias)
            return self._layer(leaf)
        shape = self.jaxpr.invars[leaf].aval.shape
        h, m, n = (math.prod(shape[axis] for axis in group) for group in axes)
        return Layer(leaf, axes, h, m, n, tuple(placed), bias, bias_form, embed=lookups == forms)

    def _bias_of(self, results: list) -> tuple[int | None, tuple[int, ...], dict]:
        """The leaf that is added to all these results, and only to them: (it, its axes, result -> result with it)."""
        for leaf, adds in self.biases.items():
            only = adds and leaf not in self.refused and not self.uses[leaf] and {before for before, *_ in adds} == set(results)
            if only and len({axes for *_, axes in adds}) == 1:
                return leaf, adds[0][2], {before: after for before, after, _ in adds}
        return None, (), {}


def without_bias(program: Program, layer: Layer) -> Layer:
    """The same layer, whose bias is added by the network itself."""
    ends = {eqn.outvars[0]: eqn for eqn in program.closed.jaxpr.eqns}
    dots = {eqn.outvars[0] for eqn in ends.values() if eqn.primitive is PRODUCT}
    uses = tuple(use._replace(result=next(v for v in ends[use.result].invars if v in dots)) for use in layer.uses)
    return Layer(layer.leaf, layer.axes, layer.heads, layer.inputs, layer.outputs, uses)


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


def _value(env: dict, var: Any) -> Any:
    return var.val if isinstance(var, Literal) else env[var]


def _live(jaxpr: Jaxpr, wanted: list, operands: dict) -> list:
    """The equations that are needed for some variables, in order."""
    needed, live = {v for v in wanted if not isinstance(v, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(eqn.outvars):
            continue
        live.append(eqn)
        reads = [operands[eqn.outvars[0]]] if eqn.outvars[0] in operands else eqn.invars
        needed |= {v for v in reads if v is not None and not isinstance(v, Literal)}
    return live[::-1]


def _ordered(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The array with these axes in this order; those left out have one element."""
    return jnp.transpose(array, (*axes, *(a for a in range(array.ndim) if a not in axes)))
