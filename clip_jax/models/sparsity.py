"""How small a masked model is expected to be, and the Lagrangian that makes it so. TinyCLIP, Wu et al. 2023, section 3.3;
Louizos et al. 2018; Wang et al. 2020, "Structured Pruning of Large Language Models", section 3.2.
"""

from typing import Any

import jax
import jax.numpy as jnp

from clip_jax import tree
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.models.masks import Masks, open_probability

# tower -> f32[2], the factors on the shortfall and on its square
Multipliers = dict[str, jax.Array]


def init_multipliers(masks: Masks) -> Multipliers:
    """Zeros for each masked tower."""
    return {name: jnp.zeros((2,), jnp.float32) for name in masks}


def expected_parameters(masks: Masks, config: CLIPConfig) -> dict[str, jax.Array]:
    """Of each masked tower, the parameters that are left in expectation, f32[]: masks are drawn independently."""
    return parameters_of(open_probability(masks), config)


def parameters_of(shares: Masks, config: CLIPConfig) -> dict[str, jax.Array]:
    """Of each tower, the parameters of its rest, f32[], where `shares` says how much of each part is left, in [0, 1]."""
    abstract = abstract_params(config)
    return {name: _parameters(abstract[name], parts) for name, parts in shares.items()}


def _parameters(tower: dict[str, Any], shares: dict[str, jax.Array]) -> jax.Array:
    """With d channels, and a head size of K, h heads and m units in a layer, a block has d (4 hK + 2 m + 6) + 3 hK + m."""
    attention = tower["blocks"]["attn"]["out"]["kernel"].shape[1]
    heads = shares["heads"].sum(1) * (attention // shares["heads"].shape[1])
    units, channels = shares["units"].sum(1), shares["channels"].sum()
    blocks = channels * (4 * heads + 2 * units + 6) + 3 * heads + units
    outside = tree.leaves_by_path({name: part for name, part in tower.items() if name != "blocks"})
    sizes = {path: tree.count(leaf) for path, leaf in outside.items()}
    fixed = sizes.pop("proj/bias", 0)
    return blocks.sum() + channels * (sum(sizes.values()) / shares["channels"].size) + fixed


def sparsity(masks: Masks, config: CLIPConfig) -> dict[str, jax.Array]:
    """Of each masked tower, the share of its parameters that is gone in expectation, f32[]."""
    abstract = abstract_params(config)
    return {name: 1 - left / tree.count(abstract[name]) for name, left in expected_parameters(masks, config).items()}


def penalty(masks: Masks, multipliers: Multipliers, target: jax.Array, config: CLIPConfig) -> jax.Array:
    """Sum over towers of l1 s + l2 s^2 with the shortfall s = max(0, target - sparsity): f32[].

    The masks descend it, the multipliers ascend it.
    """
    total = jnp.zeros((), jnp.float32)
    for name, reached in sparsity(masks, config).items():
        short = jnp.maximum(target - reached, 0)
        total += multipliers[name][0] * short + multipliers[name][1] * jnp.square(short)
    return total


def target_at(stages: tuple[float, ...], step: jax.Array, steps: int) -> jax.Array:
    """The sparsity to have reached at `step` of `steps`, f32[]: the run is cut into equal parts, one a stage; in each, the
    target rises from the stage before over the first half and stays over the second."""
    part = steps / len(stages)
    place = step.astype(jnp.float32) / jnp.float32(part)
    marks, values = [0.0], [0.0]
    for number, stage in enumerate(stages):
        marks += [number + 0.5, number + 1.0]
        values += [stage, stage]
    return jnp.interp(place, jnp.asarray(marks, jnp.float32), jnp.asarray(values, jnp.float32))
