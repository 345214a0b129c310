"""What the matrix products and convolutions of a traced program cost: loops by their lengths, recomputation too."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """flops: two a multiply-add. bytes: of operands and results. Over all devices; a weight that each of them reads counts
    once."""

    flops: int
    bytes: int

    def times(self, factor: int) -> "Cost":
        """Of so many runs."""
        return Cost(self.flops * factor, self.bytes * factor)


def product_cost(jaxpr: Any) -> Cost:
    """What a shard_map's body computes on one device counts for each of its mesh; of a conditional's branches the costliest
    counts, of a while loop without a known length one turn. jaxpr: closed or not.
    """
    costs = []
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, given = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            costs.append(Cost(2 * _multiply_adds(equation), _bytes(equation)))
        elif name == "cond":
            costs.append(max(map(product_cost, given["branches"]), default=Cost(0, 0)))
        else:
            factor = given["length"] if name == "scan" else given["mesh"].size if name == "shard_map" else 1
            costs += [product_cost(inner).times(factor) for inner in _inner(given)]
    return Cost(sum(cost.flops for cost in costs), sum(cost.bytes for cost in costs))


def _multiply_adds(equation: Any) -> int:
    results = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return results * math.prod(left[axis] for axis in contracted)
    kernel, out = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec[0]
    return results * math.prod(kernel) // kernel[out]


def _bytes(equation: Any) -> int:
    arrays = [one.aval for one in (*equation.invars, *equation.outvars)]
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Programs among an equation's parameters; of a function with its own gradient the forward alone, which is what runs."""
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun", "jvp_jaxpr_thunk"):
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
