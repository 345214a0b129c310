"""Weights in fewer bits: float16, or int8 with a scale for each output."""

import dataclasses
from typing import Literal

import numpy as np

from clip_jax.interop.rules import State

Precision = Literal["f32", "f16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("f32", "f16", "int8")
SCALE = "_scale"  # behind the name of an int8 array, that of its scales


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """values: int8, symmetric, in [-127, 127]. scale: f32, of the same rank, of size 1 along axes that share it; values * scale
    is what they stand for."""

    values: np.ndarray
    scale: np.ndarray


def quantized(array: np.ndarray, *, rows: bool = False) -> Quantized:
    """The nearest of 255 levels, symmetric about 0, with a scale for each output, which is the last axis of a kernel (and the
    first, of stacked layers), or with `rows` for each row of a table."""
    axes = array.ndim - 1 if rows else tuple(range(1 if array.ndim == 3 else 0, array.ndim - 1))
    scale = np.abs(array).max(axis=axes, keepdims=True).astype(np.float32) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    return Quantized(np.rint(array / scale).astype(np.int8), scale)


def packed(path: str, array: np.ndarray, precision: Precision) -> np.ndarray | Quantized:
    """A parameter as `precision` stores it. f16: all of it. int8: kernels and embedding tables, which are nearly all of a
    model; vectors, norms and temperatures stay f32."""
    if precision == "f16":
        return array.astype(np.float16) if array.ndim else array
    if precision == "int8" and is_matrix(path, array.shape):
        return quantized(array, rows=is_table(path))
    return array


def is_table(path: str) -> bool:
    """Whether rows of the parameter are looked up by ids."""
    return path.endswith("token_embedding")


def is_matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Whether int8 stores the parameter in eight bits: kernels of linears and convolutions, tables of embeddings."""
    return len(shape) > 1 and (path.endswith("kernel") or is_table(path))


def flattened(state: dict[str, np.ndarray | Quantized]) -> State:
    """Arrays alone, as a file holds them: of what is quantized, int8 under its own name and f32 under NAME_scale."""
    found: State = {}
    for name, one in state.items():
        if isinstance(one, Quantized):
            found[name], found[name + SCALE] = one.values, one.scale
        else:
            found[name] = one
    return found


def restored(state: State) -> State:
    """The way back: int8 arrays that have a scale beside them become f32; all others are left as they are."""
    found = dict(state)
    for name, array in state.items():
        if array.dtype == np.int8 and name + SCALE in state:
            found[name] = array.astype(np.float32) * found.pop(name + SCALE)
    return found
