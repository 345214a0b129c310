"""The image tower of CLIP: a vision transformer with class token, ln_pre, ln_post and a projection. Radford et al. 2021."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.models.layers import LayerNorm, Linear, Running, run_blocks, stacked_blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """open_clip's vision_cfg: same names, same meanings, same defaults."""

    layers: int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 16
    image_size: int = 224
    patch_dropout: float = 0.0  # share of patches left out of each training image


class VisionTransformer(nnx.Module):
    """Images to one embedding each, unnormalised."""

    def __init__(self, config: VisionConfig, embed_dim: int, *, quick: bool, running: Running, rngs: nnx.Rngs):
        _check(config)
        self.config, self.running = config, running
        width, scale = config.width, config.width**-0.5
        grid = config.image_size // config.patch_size
        pixels = 3 * config.patch_size**2
        self.patch_embedding = Linear(pixels, width, std=pixels**-0.5, bias=False, rngs=rngs)
        self.class_embedding = nnx.Param(scale * jax.random.normal(rngs.params(), (width,), jnp.float32))
        self.positional_embedding = nnx.Param(
            scale * jax.random.normal(rngs.params(), (grid**2 + 1, width), jnp.float32)
        )
        self.ln_pre = LayerNorm(width)
        self.blocks = stacked_blocks(
            config.layers, width, width // config.head_width, config.mlp_ratio, causal=False, quick=quick, rngs=rngs
        )
        self.ln_post = LayerNorm(width)
        self.proj = Linear(width, embed_dim, std=scale, bias=False, rngs=rngs)

    def __call__(self, images: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """[B, S, S, 3], normalised -> [B, E]. S: image_size. dropout_key: turns patch dropout on (training)."""
        x = self.patch_embedding(patchify(images, self.config.patch_size))
        positions = self.positional_embedding[...].astype(x.dtype)
        x = x + positions[None, 1:]
        if dropout_key is not None and self.config.patch_dropout > 0:
            x = drop_patches(x, self.config.patch_dropout, dropout_key)
        token = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype) + positions[0], (x.shape[0], 1, x.shape[2]))
        x = run_blocks(self.blocks, self.ln_pre(jnp.concatenate([token, x], axis=1)), self.running)
        return self.proj(self.ln_post(x[:, 0]))


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """[B, S, S, 3] -> [B, (S/P)^2, P*P*3]; patches row by row, each as (row, column, channel)."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def drop_patches(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """[B, N, D] -> [B, max(1, int(N (1 - rate))), D]: a random subset of each sample's patches. FLIP, Li et al. 2023."""
    keep = max(1, int(x.shape[1] * (1 - rate)))
    order = jax.random.uniform(key, x.shape[:2], jnp.float32)
    kept = jax.lax.top_k(order, keep)[1]
    return jnp.take_along_axis(x, kept[:, :, None], axis=1)


def resize_positions(positions: jax.Array, grid: int) -> jax.Array:
    """f32[1 + g*g, D] -> f32[1 + grid*grid, D]: bicubic, antialiased, the class token's row kept. As open_clip does."""
    old = round((positions.shape[0] - 1) ** 0.5)
    if old == grid:
        return positions
    token, rest = positions[:1], positions[1:].reshape(old, old, -1)
    rest = jax.image.resize(rest, (grid, grid, rest.shape[-1]), method="cubic", antialias=True)
    return jnp.concatenate([token, rest.reshape(grid * grid, -1)])


def _check(config: VisionConfig) -> None:
    for name in ("layers", "width", "head_width", "patch_size", "image_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"vision_cfg.{name} is {getattr(config, name)}; it must be at least 1")
    if not 1 <= config.width * config.mlp_ratio < math.inf:
        raise ValueError(f"vision_cfg.mlp_ratio is {config.mlp_ratio}; it must be above 0, with width * mlp_ratio >= 1")
    if config.image_size % config.patch_size:
        raise ValueError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}")
    if config.width % config.head_width:
        raise ValueError(f"vision width {config.width} is not a multiple of head_width {config.head_width}")
    if not 0 <= config.patch_dropout < 1:
        raise ValueError(f"patch_dropout {config.patch_dropout} is not in [0, 1)")
