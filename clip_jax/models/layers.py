"""The parts of a transformer tower: linear, layer norm, attention, MLP, pre-LN block, and stacked blocks under one scan.

Weights are f32; products run in the compute dtype of their input; norms and softmax in f32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.sharding import cuts_along_model, keep_batch_cut

_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "block": None}


Cut = Literal[
    "", "in", "out"
]  # which features of a linear lie along the mesh axis `model`: none, its input's, its output's


class Linear(nnx.Module):
    """y = x W + b. kernel: f32[in, out], normal with standard deviation `std`; bias: f32[out], zeros. cut: see linear."""

    def __init__(self, in_size: int, out_size: int, *, std: float, bias: bool = True, cut: Cut = "", rngs: nnx.Rngs):
        self.cut: Cut = cut
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (in_size, out_size), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_size,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out] in x's dtype."""
        return linear(x, self.kernel[...], None if self.bias is None else self.bias[...], cut=self.cut)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, cut: Cut = "") -> jax.Array:
    """x W + b: [..., in], f32[in, out], f32[out] -> [..., out] in x's dtype.

    cut "out": [B, in] -> [B, out@model]; "in": [B, in@model] -> [B, out], summed over the devices along model.
    Leading dimensions are flattened before the product: the bf16 weight gradient of a product over several leading
    dimensions is an order of magnitude slower on CPU, and nowhere faster.
    """
    y = keep_batch_cut(x.reshape(-1, x.shape[-1]), 1 if cut == "in" else None) @ kernel.astype(x.dtype)
    if bias is not None:
        y = y + bias.astype(x.dtype)[None]
    return keep_batch_cut(y, 1 if cut == "out" else None).reshape(*x.shape[:-1], kernel.shape[-1])


def linear_to_heads(x: jax.Array, kernel: jax.Array, bias: jax.Array, heads: int) -> jax.Array:
    """x W + b by heads: [B, L, D], f32[D, P*H*K], f32[P*H*K] -> [B, L, P, H@model, K] in x's dtype.

    Where heads divide along model, each device multiplies by its heads' columns only: those of q, of k and of v lie apart, so
    the kernel itself is not cut there.
    """
    batch, length, width = x.shape
    shape = (-1, heads, width // heads)
    if not cuts_along_model(heads):
        return linear(x, kernel, bias).reshape(batch, length, *shape)
    kernel, bias = kernel.astype(x.dtype).reshape(width, *shape), bias.astype(x.dtype).reshape(1, *shape)
    y = jnp.einsum("nd,dphk->nphk", keep_batch_cut(x.reshape(-1, width)), kernel) + bias
    return keep_batch_cut(y, 2).reshape(batch, length, *y.shape[1:])


class LayerNorm(nnx.Module):
    """Layer normalisation over the last dimension, computed in f32. Ba et al. 2016.

    scale: f32[D]; or, under masks (models/masks.py), f32[2, D]: beside it how much of each channel is there, in [0, 1].
    """

    def __init__(self, size: int, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] in x's dtype."""
        x32 = x.astype(jnp.float32)
        if self.scale.ndim == 2:
            return _norm_of_rest(x32, self.scale[...], self.bias[...], self.eps).astype(x.dtype)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        scale, bias = (jnp.broadcast_to(vector[...], x.shape) for vector in (self.scale, self.bias))
        return (centred * jax.lax.rsqrt(variance + self.eps) * scale + bias).astype(x.dtype)


def _norm_of_rest(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """The norm over the channels that are left, each counted by its share: f32[..., D] -> f32[..., D], zero where the share
    is. x is zero there already, so its mean is sum(x) / sum(share)."""
    gain, share, bias = (jnp.broadcast_to(vector, x.shape) for vector in (scale[0], scale[1], bias))
    count = jnp.maximum(scale[1].sum(), 1)
    centred = x - share * (x.sum(-1, keepdims=True) / count)
    variance = jnp.square(centred).sum(-1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + eps) * gain + share * bias


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


# quick_gelu: of OpenAI's weights; gelu: x Phi(x), PyTorch's default; gelu_tanh: its approximation, of SigLIP's weights.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def activation_of(quick: bool, gelu_approximate: str) -> str:
    """The key of ACTIVATIONS that a model's quick_gelu and a tower's gelu_approximate name."""
    return "quick_gelu" if quick else {"none": "gelu", "tanh": "gelu_tanh"}[gelu_approximate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What all blocks of a stack have in common. hidden: the MLP's inner width. activation: a key of ACTIVATIONS."""

    width: int
    heads: int
    hidden: int
    causal: bool = False
    activation: str = "gelu"
    norm_eps: float = 1e-5


class Attention(nnx.Module):
    """Multi-head self-attention with one fused input projection; qkv's output is ordered (q, k, v) x H x K, as PyTorch's."""

    def __init__(self, width: int, heads: int, *, causal: bool, out_std: float, rngs: nnx.Rngs):
        self.heads, self.causal = heads, causal
        self.qkv = Linear(width, 3 * width, std=width**-0.5, rngs=rngs)
        self.out = Linear(width, width, std=out_std, cut="in", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, L, D]."""
        assert self.qkv.bias is not None
        qkv = linear_to_heads(x, self.qkv.kernel[...], self.qkv.bias[...], self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.reshape(x.shape))


class MLP(nnx.Module):
    """Two linears with an activation between them."""

    def __init__(self, width: int, hidden: int, *, activation: str, out_std: float, rngs: nnx.Rngs):
        self.activation = activation
        self.fc = Linear(width, hidden, std=(2 * width) ** -0.5, cut="out", rngs=rngs)
        self.proj = Linear(hidden, width, std=out_std, cut="in", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, L, D]."""
        return self.proj(ACTIVATIONS[self.activation](self.fc(x)))


class Block(nnx.Module):
    """Pre-LN residual block: x + attn(ln_1(x)), then x + mlp(ln_2(x))."""

    def __init__(self, config: BlockConfig, depth: int, *, rngs: nnx.Rngs):
        width = config.width
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.ln_1 = LayerNorm(width, config.norm_eps)
        self.attn = Attention(width, config.heads, causal=config.causal, out_std=out_std, rngs=rngs)
        self.ln_2 = LayerNorm(width, config.norm_eps)
        self.mlp = MLP(width, config.hidden, activation=config.activation, out_std=out_std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


def stacked_blocks(config: BlockConfig, layers: int, *, rngs: nnx.Rngs) -> Block:
    """`layers` equal blocks as one Block whose parameters have a leading dimension [layers, ...]."""
    return jax.vmap(lambda rngs: Block(config, layers, rngs=rngs))(rngs.split(layers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """How a stack of blocks runs; it changes speed and memory, never the result.

    scan: one compiled block run in a loop; else the loop is unrolled at compile time (larger program, some speed).
    remat: "none" keeps all activations for the gradient, "dots" only the results of matrix products, "block" only each
    block's input.
    """

    scan: bool = True
    remat: Literal["none", "dots", "block"] = "none"


def run_blocks(blocks: Block, x: jax.Array, running: Running) -> jax.Array:
    """[B, L, D] -> [B, L, D] through all stacked blocks."""

    def body(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return block(x), None

    if running.remat != "none":
        body = jax.checkpoint(body, policy=_POLICIES[running.remat], prevent_cse=not running.scan)
    if running.scan:
        return jax.lax.scan(body, x, blocks)[0]
    for i in range(len(jax.tree.leaves(blocks)[0])):
        x, _ = body(x, jax.tree.map(lambda leaf, i=i: leaf[i], blocks))
    return x


def check_sizes(where: str, config: object, names: Sequence[str]) -> None:
    """Raises ValueError for the first of these fields of a tower's config that is below 1. where: as a message calls it."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{where}.{name} is {getattr(config, name)}; it must be at least 1")


def check_mlp_ratio(where: str, width: int, mlp_ratio: float) -> None:
    """Raises ValueError where an MLP would have no inner width, or an endless one. where: as for check_sizes."""
    if not 1 <= width * mlp_ratio < math.inf:
        raise ValueError(f"{where}.mlp_ratio is {mlp_ratio}; it must be above 0, with width * mlp_ratio >= 1")
