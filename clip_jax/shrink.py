"""The student that masks have chosen, cut out of the model that learned them.

A stack of blocks has one number of heads and of units, and heads of one size fill the width; learned masks need not agree with
that. So each layer keeps the same number of heads and of units, those whose masks are widest open, and the width is
heads times head size.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from clip_jax import tree
from clip_jax.inherit import InheritConfig, TowerChoice, inherit
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.models.cut import size_of
from clip_jax.models.masks import Masks, expectation, masked
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.sparsity import parameters_of
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig

# Masked towers, as parameters call them: what people call them.
SAID = {"visual": "image", "text": "text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerSize:
    """Of a student's tower. hidden: units of each MLP."""

    width: int
    hidden: int


def sizes_of(masks: Masks, config: CLIPConfig) -> dict[str, TowerSize]:
    """Of each masked tower the size that keeps about as many parameters as its masks do.

    hidden is the open units' mean over layers; the width is the multiple of the head size with which the tower's
    parameters come nearest to those under the masks. Open means the sum of z, without noise.
    """
    z = expectation(masks)
    kept, sizes = jax.device_get(parameters_of(z, config)), {}
    for name, parts in jax.device_get(z).items():
        head, hidden = size_of(_tower(name, config)).head, max(1, round(float(parts["units"].sum(1).mean())))
        sizes[name] = min(
            (TowerSize(width=heads * head, hidden=hidden) for heads in range(1, parts["heads"].shape[1] + 1)),
            key=lambda size, name=name, head=head: abs(_parameters(config, name, size, head) - kept[name]),
        )
    return sizes


def _parameters(config: CLIPConfig, name: str, size: TowerSize, head: int) -> int:
    return tree.count(abstract_params(_resized(config, name, size, head))[name])


def choice_of(masks: Masks, config: CLIPConfig, sizes: dict[str, TowerSize]) -> tuple[CLIPConfig, InheritConfig]:
    """The student's configuration, and what it inherits: channels of each masked tower, heads and units of each of its
    layers, the same number in all; of the other tower everything.

    sizes: of each masked tower. Raises ValueError for a width that is no multiple of the head size, and for a size that is
    not from 1 to the model's own.
    """
    student, towers = config, {}
    for name, parts in jax.device_get(masks).items():
        size, head, said = sizes[name], size_of(_tower(name, config)).head, SAID[name]
        for what, given, most in (
            ("width", size.width, parts["channels"].size),
            ("hidden", size.hidden, parts["units"].shape[1]),
        ):
            if not 1 <= given <= most:
                raise ValueError(f"{said} {what} {given} is not from 1 to the model's {most}; give one of these")
        if size.width % head:
            near = max(head, size.width // head * head)
            raise ValueError(f"{said} width {size.width} is not a multiple of the head size {head}; give {near}, say")
        student = _resized(student, name, size, head)
        towers[name] = TowerChoice(
            channels=_widest(parts["channels"], size.width),
            heads=tuple(_widest(row, size.width // head) for row in parts["heads"]),
            units=tuple(_widest(row, size.hidden) for row in parts["units"]),
        )
    whole = TowerChoice()
    return student, InheritConfig(image=towers.get("visual", whole), text=towers.get("text", whole))


def shrunk(
    params: dict[str, Any], masks: Masks, config: CLIPConfig, sizes: dict[str, TowerSize] | None = None
) -> tuple[CLIPConfig, dict[str, Any]]:
    """The student and its parameters, host arrays f32; z without noise is multiplied into its weights.

    params: the towers', without masks. sizes: by default sizes_of. Where every z is 0 or 1 and the masks agree
    with the sizes, the student gives what the masked model gives.
    """
    student, choice = choice_of(masks, config, sizes or sizes_of(masks, config))
    folded = _folded(jax.device_get(masked(params, expectation(masks))))
    return student, inherit(abstract_params(student), student, folded, config, choice)


def _folded(params: Any) -> Any:
    """Norms again without their shares; what is wholly gone, yet chosen to fill up the width, is zero in them too."""
    if not isinstance(params, dict):
        return params
    if {"scale", "bias"} == params.keys() and params["scale"].ndim > params["bias"].ndim:
        scale, share = params["scale"][..., 0, :], params["scale"][..., 1, :]
        return {"scale": np.where(share > 0, scale, 0), "bias": params["bias"] * share}
    return {name: _folded(part) for name, part in params.items()}


def _widest(log_alphas: np.ndarray, count: int) -> tuple[int, ...]:
    """The indices of the largest, in their own order; of equal ones the first."""
    return tuple(sorted(map(int, np.argsort(-log_alphas, kind="stable")[:count])))


def _tower(name: str, config: CLIPConfig) -> VisionConfig | TextConfig:
    tower = config.text_cfg if name == "text" else config.vision_cfg
    assert not isinstance(tower, ResNetConfig)
    return tower


def _resized(config: CLIPConfig, name: str, size: TowerSize, head: int) -> CLIPConfig:
    field, heads = ("text_cfg", {"heads": size.width // head}) if name == "text" else ("vision_cfg", {})
    ratio = _ratio(size.width, size.hidden)
    tower = dataclasses.replace(_tower(name, config), width=size.width, mlp_ratio=ratio, **heads)
    return dataclasses.replace(config, **{field: tower})


def _ratio(width: int, hidden: int) -> float:
    """The mlp_ratio with int(width * mlp_ratio) = hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
