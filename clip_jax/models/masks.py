"""Masks that learn which channels, heads and units of a large model a small one should inherit.

Hard-concrete masks: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"; as TinyCLIP (Wu et al.
2023, section 3.3) uses them. A tower has one mask over the channels of its residual stream, shared by all blocks, and one a
layer over heads and over the MLP's units. Masks are log-alphas; a draw or its expectation, z in [0, 1], is
multiplied into the weights, so that the masked model is the model itself with other parameters.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from clip_jax.models.clip import CLIPConfig
from clip_jax.models.cut import Size, size_of
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig

STRETCH = (-0.1, 1.1)  # the interval that sigmoids are stretched to, before they are clipped to [0, 1]
TEMPERATURE = 2 / 3
START = 10.0  # of log-alphas, before the bounds
BOUNDS = (math.log(0.01), math.log(100))  # of log-alphas

# tower -> {"channels": f32[D], "heads": f32[L, H], "units": f32[L, hidden]}
Masks = dict[str, dict[str, jax.Array]]


def init_masks(config: CLIPConfig, *, image: bool, text: bool) -> Masks:
    """Log-alphas of the chosen towers, "visual" and "text", all open.

    Raises ValueError where none is chosen, and for towers without a projection: their channels are the
    embedding's elements, which the other tower has too.
    """
    vision, text_cfg = config.vision_cfg, config.text_cfg
    towers: dict[str, VisionConfig | TextConfig] = {}
    if image:
        if not isinstance(vision, VisionConfig) or vision.pool_type != "tok":
            raise ValueError(
                "masks.image is on, but the image tower is no vision transformer with a projection (pool_type 'tok'), and "
                "only such can be masked; set masks.image=False, which leaves the tower as it is"
            )
        towers["visual"] = vision
    if text:
        if text_cfg.proj_type != "linear":
            raise ValueError(
                f"masks.text is on, but text_cfg.proj_type is {text_cfg.proj_type!r}, and only a text tower with a projection "
                "('linear') can be masked; set masks.text=False, which leaves the tower as it is"
            )
        towers["text"] = text_cfg
    if not towers:
        raise ValueError("masks.image and masks.text are both off; nothing would be inherited, turn one on")
    return {name: _open(size_of(tower)) for name, tower in towers.items()}


def _open(size: Size) -> dict[str, jax.Array]:
    shapes = {"channels": (size.width,), "heads": (size.layers, size.heads), "units": (size.layers, size.hidden)}
    return {part: jnp.full(shape, min(START, BOUNDS[1]), jnp.float32) for part, shape in shapes.items()}


def bounded(masks: Masks) -> Masks:
    """Log-alphas within BOUNDS, to be kept there after every update."""
    return jax.tree.map(lambda log_alpha: jnp.clip(log_alpha, *BOUNDS), masks)


def sample(masks: Masks, key: jax.Array) -> Masks:
    """z of one draw, f32 in [0, 1]. Louizos et al. 2018, equation 10."""
    leaves, structure = jax.tree.flatten(masks)
    drawn = []
    for number, log_alpha in enumerate(leaves):
        u = jax.random.uniform(jax.random.fold_in(key, number), log_alpha.shape, jnp.float32, 1e-6, 1 - 1e-6)
        drawn.append(_stretched((jnp.log(u) - jnp.log1p(-u) + log_alpha) / TEMPERATURE))
    return jax.tree.unflatten(structure, drawn)


def expectation(masks: Masks) -> Masks:
    """z without noise, for evaluation and for the student. Louizos et al. 2018, equation 13."""
    return jax.tree.map(_stretched, masks)


def open_probability(masks: Masks) -> Masks:
    """P(z > 0). Louizos et al. 2018, equation 12."""
    low, high = STRETCH
    shift = TEMPERATURE * math.log(-low / high)
    return jax.tree.map(lambda log_alpha: jax.nn.sigmoid(log_alpha - jnp.float32(shift)), masks)


def _stretched(logit: jax.Array) -> jax.Array:
    low, high = STRETCH
    return jnp.clip(jax.nn.sigmoid(logit) * (high - low) + low, 0, 1)


def masked(params: dict[str, Any], z: Masks) -> dict[str, Any]:
    """Parameters of the model with z multiplied in; `bind` takes them as any others.

    A head's z stands on the rows of attn/out that read it, a unit's on its row of mlp/proj, a channel's on all that
    writes it to the residual stream, and beside the scale of every norm, which then counts only the channels that are left.
    """
    return params | {name: _masked_tower(params[name], parts) for name, parts in z.items()}


def _masked_tower(tower: dict[str, Any], z: dict[str, jax.Array]) -> dict[str, Any]:
    def inner(name: str, part: Any) -> Any:
        match name:
            case "blocks":
                return _masked_blocks(part, z)
            case "proj":  # it reads norms, in which lost channels are zero
                return part
            case _ if name.startswith("ln_"):
                return _masked_norm(part, z["channels"])
            case _:
                return jax.tree.map(lambda leaf: leaf * _along(z["channels"], leaf), part)

    return {name: inner(name, part) for name, part in tower.items()}


def _masked_blocks(blocks: dict[str, Any], z: dict[str, jax.Array]) -> dict[str, Any]:
    attention, mlp, channels = blocks["attn"], blocks["mlp"], z["channels"]
    size = attention["out"]["kernel"].shape[1] // z["heads"].shape[1]
    rows = {"attn": jnp.repeat(z["heads"], size, axis=1), "mlp": z["units"]}

    def writer(part: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
        kernel = part["kernel"] * jnp.broadcast_to(rows[:, :, None], part["kernel"].shape)
        return {"kernel": kernel * _along(channels, kernel), "bias": part["bias"] * _along(channels, part["bias"])}

    return {
        "ln_1": _masked_norm(blocks["ln_1"], channels),
        "ln_2": _masked_norm(blocks["ln_2"], channels),
        "attn": attention | {"out": writer(attention["out"], rows["attn"])},
        "mlp": mlp | {"proj": writer(mlp["proj"], rows["mlp"])},
    }


def _masked_norm(norm: dict[str, jax.Array], channels: jax.Array) -> dict[str, jax.Array]:
    scale = norm["scale"]
    return {"scale": jnp.stack([scale, _along(channels, scale)], axis=-2), "bias": norm["bias"]}


def _along(channels: jax.Array, leaf: jax.Array) -> jax.Array:
    return jnp.broadcast_to(channels, leaf.shape)
