"""FLOPs of the matrix products and convolutions that a traced program asks for: loops by their lengths, recomputation too."""

import math
from collections.abc import Iterator
from typing import Any


def product_flops(jaxpr: Any) -> int:
    """Two a multiply-add, over all devices: what a shard_map's body computes on one device counts for each of its mesh.

    jaxpr: closed or not. Of a conditional's branches the costliest counts, of a while loop without a known length one turn.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, given["dimension_numbers"].rhs_spec[0]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[out]
        elif name == "cond":
            total += max(map(product_flops, given["branches"]), default=0)
        else:
            factor = given["length"] if name == "scan" else given["mesh"].size if name == "shard_map" else 1
            total += factor * sum(map(product_flops, _inner(given)))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Programs among an equation's parameters; of a function with its own gradient the forward alone, which is what runs."""
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun", "jvp_jaxpr_thunk"):
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
