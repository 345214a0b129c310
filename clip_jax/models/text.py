"""The text tower of CLIP and SigLIP: a transformer whose output at one token is projected. Radford et al. 2021."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.models.layers import (
    BlockConfig,
    LayerNorm,
    Linear,
    Running,
    activation_of,
    check_mlp_ratio,
    check_sizes,
    run_blocks,
    stacked_blocks,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """open_clip's text_cfg: same names, same meanings, same defaults.

    pool_type: the token that is projected: "argmax", the highest id, which is CLIP's end of text; "eos", the first that
    equals eos_id; "last" (SigLIP) or "first". proj_type: "none" for a tower whose width is embed_dim and that ends in its
    norm. pad_id: fills what a text leaves empty. norm_eps and gelu_approximate stand for open_clip's norm_kwargs and
    act_kwargs. tokenizer: a tokenizer.json in Hugging Face's format, "" for CLIP's byte pairs; tokenizer_clean: what is
    done to a text before a tokenizer.json sees it ("canonicalize": lower case and no punctuation, as SigLIP).
    """

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    no_causal_mask: bool = False
    pool_type: Literal["argmax", "eos", "last", "first"] = "argmax"
    eos_id: int = 49407
    pad_id: int = 0
    proj_type: Literal["linear", "none"] = "linear"
    proj_bias: bool = False
    norm_eps: float = 1e-5
    gelu_approximate: Literal["none", "tanh"] = "none"
    tokenizer: str = ""
    tokenizer_clean: Literal["none", "whitespace", "lower", "canonicalize"] = "none"


class TextTransformer(nnx.Module):
    """Token ids to one embedding each, unnormalised."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick: bool, running: Running, rngs: nnx.Rngs):
        _check(config, embed_dim)
        self.config, self.running = config, running
        width = config.width
        block = BlockConfig(
            width=width,
            heads=config.heads,
            hidden=int(width * config.mlp_ratio),
            causal=not config.no_causal_mask,
            activation=activation_of(quick, config.gelu_approximate),
            norm_eps=config.norm_eps,
        )
        self.token_embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (config.vocab_size, width), jnp.float32)
        )
        self.positional_embedding = nnx.Param(
            0.01 * jax.random.normal(rngs.params(), (config.context_length, width), jnp.float32)
        )
        self.blocks = stacked_blocks(block, config.layers, rngs=rngs)
        self.ln_final = LayerNorm(width, config.norm_eps)
        linear = config.proj_type == "linear"
        self.proj = Linear(width, embed_dim, std=width**-0.5, bias=config.proj_bias, rngs=rngs) if linear else None

    def __call__(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """i32[B, L] -> [B, E] in `dtype`, pooled at the token that pool_type names."""
        x = self.token_embedding[...][tokens].astype(dtype)
        x = x + self.positional_embedding[None, : tokens.shape[1]].astype(dtype)
        x = run_blocks(self.blocks, x, self.running)
        x = self.ln_final(self._read(x, tokens))
        return x if self.proj is None else self.proj(x)

    def _read(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """The output at which each text is read: [B, L, D], i32[B, L] -> [B, D]."""
        match self.config.pool_type:
            case "first":
                return x[:, 0]
            case "last":
                return x[:, -1]
            case "argmax":
                at = tokens.argmax(axis=-1)
            case "eos":
                at = (tokens == self.config.eos_id).argmax(axis=-1)
        return jnp.take_along_axis(x, at.astype(jnp.int32)[:, None, None], axis=1)[:, 0]


def _check(config: TextConfig, embed_dim: int) -> None:
    check_sizes("text_cfg", config, ("context_length", "vocab_size", "width", "heads", "layers"))
    check_mlp_ratio("text_cfg", config.width, config.mlp_ratio)
    if config.width % config.heads:
        raise ValueError(f"text width {config.width} is not a multiple of heads {config.heads}")
    if config.proj_type == "none" and config.width != embed_dim:
        raise ValueError(
            f"embed_dim {embed_dim} is not text width {config.width}; with proj_type 'none' they are equal"
        )
    for name in ("eos_id", "pad_id"):
        if not 0 <= getattr(config, name) < config.vocab_size and (name == "pad_id" or config.pool_type == "eos"):
            raise ValueError(f"text_cfg.{name} is {getattr(config, name)}; ids run from 0 to {config.vocab_size - 1}")
