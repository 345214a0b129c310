"""A smaller transformer tower cut out of a larger one, by indices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from clip_jax.models.heads import narrowed
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Of a transformer tower. hidden: units of its MLPs."""

    layers: int
    width: int
    heads: int
    hidden: int

    @property
    def head(self) -> int:
        """K, a head's size."""
        return self.width // self.heads


def size_of(config: VisionConfig | TextConfig) -> Size:
    """Of the tower with this configuration."""
    heads = config.heads if isinstance(config, TextConfig) else config.width // config.head_width
    return Size(layers=config.layers, width=config.width, heads=heads, hidden=int(config.width * config.mlp_ratio))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """What a student's tower takes, as indices i64 in the teacher's: layers [L], channels [D], heads [L, H], units [L, hidden],
    and outputs [E] of the projection."""

    layers: np.ndarray
    channels: np.ndarray
    heads: np.ndarray
    units: np.ndarray
    outputs: np.ndarray
    teacher: Size
    student: Size


def cut_tower(teacher: dict[str, Any], cut: Cut) -> dict[str, Any]:
    """The student's parameters, host arrays as the teacher's, of a vision or text transformer; positions are not resized.

    What is not named here lies along channels: embeddings, positions, norms.
    """
    done: dict[str, Any] = {}
    for name, part in teacher.items():
        match name:
            case "blocks":
                layers = [_block(_layer(part, int(layer)), cut, row) for row, layer in enumerate(cut.layers)]
                done[name] = _stacked(layers)
            case "proj":
                done[name] = _linear(part, cut.channels, cut.outputs)
            case "patch_embedding":
                done[name] = _linear(part, slice(None), cut.channels)
            case "head":
                along = _along({key: part[key] for key in ("probe", "ln")}, cut)
                done[name] = along | _attention(part, cut, -1) | {"mlp": _mlp(part["mlp"], cut, -1)}
            case _:
                done[name] = _along(part, cut)
    return done


def _block(part: Any, cut: Cut, row: int) -> dict[str, Any]:
    norms = {name: _along(part[name], cut) for name in ("ln_1", "ln_2")}
    return norms | {"attn": _attention(part["attn"], cut, row), "mlp": _mlp(part["mlp"], cut, row)}


def _attention(part: Any, cut: Cut, row: int) -> dict[str, Any]:
    """qkv: [D, 3, H, K]; out: [H, K, D]."""
    heads, size, channels = cut.heads[row], cut.teacher.head, cut.channels
    kernel = part["qkv"]["kernel"].reshape(cut.teacher.width, 3, -1, size)[channels][:, :, heads]
    bias = part["qkv"]["bias"].reshape(3, -1, size)[:, heads]
    out = part["out"]["kernel"].reshape(-1, size, cut.teacher.width)[heads][:, :, channels]
    if cut.student.head < size:
        turns = [list(heads[:i]).count(head) for i, head in enumerate(heads)]  # how often it was taken before
        kernel, bias, out = narrowed(kernel, bias, out, cut.student.head, turns)
    width = cut.student.width
    return {
        "qkv": {"kernel": kernel.reshape(width, 3 * width), "bias": bias.reshape(3 * width)},
        "out": {"kernel": out.reshape(width, width), "bias": part["out"]["bias"][channels]},
    }


def _mlp(part: Any, cut: Cut, row: int) -> dict[str, Any]:
    units = cut.units[row]
    return {"fc": _linear(part["fc"], cut.channels, units), "proj": _linear(part["proj"], units, cut.channels)}


def _linear(part: Any, inputs: Any, outputs: Any) -> dict[str, Any]:
    bias = {"bias": part["bias"][outputs]} if "bias" in part else {}
    return {"kernel": part["kernel"][inputs][:, outputs]} | bias


def _along(part: Any, cut: Cut) -> Any:
    return jax.tree.map(lambda leaf: leaf[..., cut.channels], part)


def _layer(part: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], part)


def _stacked(layers: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
