"""The image tower of CLIP and SigLIP: a vision transformer. Radford et al. 2021; Zhai et al. 2023."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.models.layers import (
    MLP,
    BlockConfig,
    LayerNorm,
    Linear,
    Running,
    activation_of,
    check_mlp_ratio,
    check_sizes,
    linear_to_heads,
    run_blocks,
    stacked_blocks,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """open_clip's vision_cfg: same names, same meanings, same defaults.

    pool_type: "tok", CLIP's: a class token, ln_pre, and a projection; "map", SigLIP's: neither of these, but a bias on the
    patches and attention pooling, so that embed_dim is width; pixels past the last whole patch, right and below, are
    not seen (patches of 14 in an image of 384). norm_eps and gelu_approximate stand for open_clip's norm_kwargs and
    act_kwargs. patch_dropout: share of patches left out of each training image.
    """

    layers: int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 16
    image_size: int = 224
    patch_dropout: float = 0.0
    pool_type: Literal["tok", "map"] = "tok"
    norm_eps: float = 1e-5
    gelu_approximate: Literal["none", "tanh"] = "none"

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


class VisionTransformer(nnx.Module):
    """Images to one embedding each, unnormalised."""

    def __init__(self, config: VisionConfig, embed_dim: int, *, quick: bool, running: Running, rngs: nnx.Rngs):
        _check(config, embed_dim)
        self.config, self.running = config, running
        width, scale = config.width, config.width**-0.5
        token = config.pool_type == "tok"
        pixels = 3 * config.patch_size**2
        block = BlockConfig(
            width=width,
            heads=width // config.head_width,
            hidden=int(width * config.mlp_ratio),
            activation=activation_of(quick, config.gelu_approximate),
            norm_eps=config.norm_eps,
        )

        def embedding(*shape: int) -> nnx.Param:
            return nnx.Param(scale * jax.random.normal(rngs.params(), shape, jnp.float32))

        self.patch_embedding = Linear(pixels, width, std=pixels**-0.5, bias=not token, rngs=rngs)
        self.class_embedding = embedding(width) if token else None
        self.positional_embedding = embedding(config.grid**2 + token, width)
        self.ln_pre = LayerNorm(width, config.norm_eps) if token else None
        self.blocks = stacked_blocks(block, config.layers, rngs=rngs)
        self.ln_post = LayerNorm(width, config.norm_eps)
        self.proj = Linear(width, embed_dim, std=scale, bias=False, rngs=rngs) if token else None
        self.head = None if token else AttentionPool(block, rngs=rngs)

    def __call__(
        self, images: jax.Array, noise: jax.Array | None = None, *, patch_dropout: float | None = None
    ) -> jax.Array:
        """[B, S, S, 3], normalised -> [B, E]. S: image_size. patch_dropout: instead of the configuration's.

        noise: of a training step, uniform f32[B, N], a number for each patch; turns patch dropout on.
        """
        x = self.penultimate(images, noise, patch_dropout=patch_dropout)
        return x if self.proj is None else self.proj(x)

    def penultimate(
        self, images: jax.Array, noise: jax.Array | None = None, *, patch_dropout: float | None = None
    ) -> jax.Array:
        """As __call__, before the projection: [B, width]. SigLIP's towers have none: their output."""
        dropout = self.config.patch_dropout if patch_dropout is None else patch_dropout
        x = self.patch_embedding(patchify(images, self.config.patch_size))
        positions = self.positional_embedding[...].astype(x.dtype)
        x = x + positions[None, -x.shape[1] :]
        if noise is not None and dropout > 0:
            x = drop_patches(x, dropout, noise)
        if self.class_embedding is not None:
            token = self.class_embedding[...].astype(x.dtype) + positions[0]
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[2])), x], axis=1)
        x = run_blocks(self.blocks, x if self.ln_pre is None else self.ln_pre(x), self.running)
        return self.ln_post(x[:, 0]) if self.head is None else self.head(self.ln_post(x))


class AttentionPool(nnx.Module):
    """SigLIP's MAP head: one learned probe attends to all patches, then an MLP. Lee et al. 2019, section 3.2.

    qkv is fused as in a block's attention: its first third makes the query, of the probe.
    """

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.heads = config.heads
        self.probe = nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (width,), jnp.float32))
        self.qkv = Linear(width, 3 * width, std=width**-0.5, rngs=rngs)
        self.out = Linear(width, width, std=width**-0.5, cut="in", rngs=rngs)
        self.ln = LayerNorm(width, config.norm_eps)
        self.mlp = MLP(width, config.hidden, activation=config.activation, out_std=width**-0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, D]."""
        batch, _, width = x.shape
        head = width // self.heads
        assert self.qkv.bias is not None
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        query = self.probe[...] @ kernel[:, :width] + bias[:width]
        q = jnp.broadcast_to(query.astype(x.dtype).reshape(1, 1, self.heads, head), (batch, 1, self.heads, head))
        kv = linear_to_heads(x, kernel[:, width:], bias[width:], self.heads)
        y = self.out(jax.nn.dot_product_attention(q, kv[:, :, 0], kv[:, :, 1]).reshape(batch, width))
        return y + self.mlp(self.ln(y))


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """[B, S, S, 3] -> [B, (S//P)^2, P*P*3]; patches row by row, each as (row, column, channel)."""
    batch, rows, columns, channels = (
        images.shape[0],
        images.shape[1] // patch,
        images.shape[2] // patch,
        images.shape[3],
    )
    x = images[:, : rows * patch, : columns * patch].reshape(batch, rows, patch, columns, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def drop_patches(x: jax.Array, rate: float, noise: jax.Array) -> jax.Array:
    """[B, N, D], uniform f32[B, N] -> [B, max(1, int(N (1 - rate))), D]: a random subset of each sample's patches, those whose
    noise is highest. FLIP, Li et al. 2023."""
    keep = max(1, int(x.shape[1] * (1 - rate)))
    kept = jax.lax.top_k(noise, keep)[1]
    return jnp.take_along_axis(x, kept[:, :, None], axis=1)


def resize_positions(positions: jax.Array, grid: int, *, token: bool = True) -> jax.Array:
    """f32[1 + g*g, D] -> f32[1 + grid*grid, D]: bicubic, antialiased, the class token's row kept. As open_clip does.

    token: whether there is such a row, the first; without it f32[g*g, D] -> f32[grid*grid, D].
    """
    old = math.isqrt(positions.shape[0] - token)
    if old == grid:
        return positions
    first, rest = positions[:token], positions[token:].reshape(old, old, -1)
    rest = jax.image.resize(rest, (grid, grid, rest.shape[-1]), method="cubic", antialias=True)
    return jnp.concatenate([first, rest.reshape(grid * grid, -1)])


def _check(config: VisionConfig, embed_dim: int) -> None:
    check_sizes("vision_cfg", config, ("layers", "width", "head_width", "patch_size", "image_size"))
    check_mlp_ratio("vision_cfg", config.width, config.mlp_ratio)
    if config.image_size % config.patch_size and config.pool_type == "tok":
        raise ValueError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}")
    if config.image_size < config.patch_size:
        raise ValueError(f"image_size {config.image_size} has no room for a patch of {config.patch_size}")
    if config.width % config.head_width:
        raise ValueError(f"vision width {config.width} is not a multiple of head_width {config.head_width}")
    if not 0 <= config.patch_dropout < 1:
        raise ValueError(f"patch_dropout {config.patch_dropout} is not in [0, 1)")
    if config.pool_type == "map" and config.width != embed_dim:
        raise ValueError(
            f"embed_dim {embed_dim} is not vision width {config.width}; with pool_type 'map' they are equal"
        )
