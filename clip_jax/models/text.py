"""The text tower of CLIP: a causal transformer whose output at the end-of-text token is projected. Radford et al. 2021."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.models.layers import LayerNorm, Linear, Running, run_blocks, stacked_blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """open_clip's text_cfg: same names, same meanings, same defaults."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0


class TextTransformer(nnx.Module):
    """Token ids to one embedding each, unnormalised."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick: bool, running: Running, rngs: nnx.Rngs):
        _check(config)
        self.running = running
        width = config.width
        self.token_embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (config.vocab_size, width), jnp.float32)
        )
        self.positional_embedding = nnx.Param(
            0.01 * jax.random.normal(rngs.params(), (config.context_length, width), jnp.float32)
        )
        self.blocks = stacked_blocks(
            config.layers, width, config.heads, config.mlp_ratio, causal=True, quick=quick, rngs=rngs
        )
        self.ln_final = LayerNorm(width)
        self.proj = Linear(width, embed_dim, std=width**-0.5, bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """i32[B, L] -> [B, E] in `dtype`; pooled at the highest token id, which is the end-of-text token."""
        x = self.token_embedding[...][tokens].astype(dtype)
        x = x + self.positional_embedding[None, : tokens.shape[1]].astype(dtype)
        x = run_blocks(self.blocks, x, self.running)
        end = tokens.argmax(axis=-1)[:, None, None]
        x = jnp.take_along_axis(x, end, axis=1)[:, 0]
        return self.proj(self.ln_final(x))


def _check(config: TextConfig) -> None:
    for name in ("context_length", "vocab_size", "width", "heads", "layers"):
        if getattr(config, name) < 1:
            raise ValueError(f"text_cfg.{name} is {getattr(config, name)}; it must be at least 1")
    if not 1 <= config.width * config.mlp_ratio < math.inf:
        raise ValueError(f"text_cfg.mlp_ratio is {config.mlp_ratio}; it must be above 0, with width * mlp_ratio >= 1")
    if config.width % config.heads:
        raise ValueError(f"text width {config.width} is not a multiple of heads {config.heads}")
