"""What distillation terms learn beside the towers: projections between sizes, fusions, temperatures, a classifier.

They are parameters under `distill/TEACHER/...`: trained, averaged and checkpointed with the rest, copied to all devices,
and left behind when the model is loaded or exported.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from clip_jax.models.clip import unit

DISTILL = "distill"  # the parameters' folder
SCALE = "_scale"  # ends the names of learned factors, kept as their logs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """student, teacher: embedding sizes. projected: of the student as the teacher's losses see it. classes: labels."""

    student: int
    teacher: int
    projected: int
    classes: int


def _linear(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    kernel = inputs**-0.5 * jax.random.normal(key, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((outputs,), jnp.float32)}


def _fusion(key: jax.Array, sizes: Sizes) -> dict[str, jax.Array]:
    return {"kernel": _linear(key, sizes.projected + sizes.teacher, sizes.student)["kernel"]}


# Every head but the learned factors, by name.
_INIT: dict[str, Callable[[jax.Array, Sizes], dict[str, jax.Array]]] = {
    "image_projection": lambda key, sizes: _linear(key, sizes.student, sizes.teacher),
    "text_projection": lambda key, sizes: _linear(key, sizes.student, sizes.teacher),
    "centroid_projection": lambda key, sizes: _linear(key, sizes.teacher, sizes.student),
    "classifier": lambda key, sizes: _linear(key, sizes.student, sizes.classes),
    "image_fusion": _fusion,
    "text_fusion": _fusion,
}


def init_heads(names: Iterable[str], sizes: Sizes, key: jax.Array) -> dict[str, Any]:
    """Fresh heads of one teacher: projections f32[D_s, D_t] with a bias, fusions f32[D + D_t, D_s], factors as f32[] logs
    that begin at 1 / 0.07."""
    return {
        name: jnp.asarray(math.log(1 / 0.07), jnp.float32)
        if name.endswith(SCALE)
        else _INIT[name](jax.random.fold_in(key, number), sizes)
        for number, name in enumerate(sorted(names))
    }


def project(features: jax.Array, head: dict[str, jax.Array]) -> jax.Array:
    """unit(features W + b): f32[B, D_t] of the student's features before their norm, [B, D_s]."""
    return unit(affine(features, head))


def affine(features: jax.Array, head: dict[str, jax.Array]) -> jax.Array:
    """features W + b in f32, outside `jax.shard_map` or inside: f32[B, D_t] for [B, D_s]."""
    return jnp.matmul(features.astype(jnp.float32), head["kernel"], precision="highest") + head["bias"][None]
