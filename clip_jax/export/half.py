"""What float16 does to a graph: numbers kept within its range, and each operation's result rounded to it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Function = Callable[..., tuple[jax.Array, ...]]
_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"}  # of a program, once
LIMIT = 2.0**15  # float16 ends at 65,504; what is added to a number of this size still fits


def within_half(function: Function) -> Function:
    """The same function, with constants beyond what float16 holds drawn in to +-LIMIT, and without NaN for what is looked up
    beyond an array's end.

    Attention masks its logits with numbers like -2e38, and their softmax is 0 either way; in float16 they are infinite, and
    a converter that multiplies by them where there is nothing to mask makes NaN of all, which is how text towers collapsed.
    """

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        traced = jax.make_jaxpr(function)(*arrays)
        return tuple(_evaluated(traced, arrays, constant=_drawn_in, result=lambda x: x))

    return run


def in_half(function: Function) -> Function:
    """The same function as a device computes it that keeps every number in float16: results of all operations are rounded to
    it, products accumulate in float32. Constants, inputs and outputs are rounded, too."""

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        traced = jax.make_jaxpr(function)(*arrays)
        return tuple(_evaluated(traced, [_rounded(x) for x in arrays], constant=_rounded, result=_rounded))

    return run


def _drawn_in(x: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    array = np.asarray(x)
    within = np.isnan(array) | (np.abs(array) <= LIMIT)
    return x if within.all() else np.where(within, array, np.clip(array, -LIMIT, LIMIT)).astype(array.dtype)


def _rounded(x: Any) -> Any:
    if jnp.result_type(x) != jnp.float32:
        return x
    return jnp.asarray(x).astype(jnp.float16).astype(jnp.float32)


def _evaluated(
    closed: ClosedJaxpr, arrays: Sequence[Any], *, constant: Callable[[Any], Any], result: Callable[[Any], Any]
) -> list[Any]:
    """The program's results, its calls unfolded; constant and result are applied to what they are called."""
    program: Jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(program.constvars, map(constant, closed.consts), strict=True))
    values |= dict(zip(program.invars, arrays, strict=True))

    def value(atom: Any) -> Any:
        return constant(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation in program.eqns:
        given = [value(atom) for atom in equation.invars]
        if equation.primitive.name in _CALLS:
            inner = equation.params["call_jaxpr" if "call_jaxpr" in equation.params else "jaxpr"]
            found = _evaluated(inner, given, constant=constant, result=result)
        else:
            params = equation.primitive.get_bind_params(equation.params)
            if equation.primitive.name == "gather":
                params = params | {"mode": jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS}
            bound = equation.primitive.bind(*given, **params)
            found = [result(x) for x in (bound if equation.primitive.multiple_results else [bound])]
        values |= dict(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in program.outvars]
