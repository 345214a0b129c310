"""CLIP: two towers that meet in one space, and the temperature between them. Radford et al. 2021."""

import dataclasses
import functools
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax import tree
from clip_jax.models.layers import Running
from clip_jax.models.resnet import BatchNorm, ModifiedResNet, ResNetConfig
from clip_jax.models.text import TextConfig, TextTransformer
from clip_jax.models.vit import VisionConfig, VisionTransformer, resize_positions

MAX_LOGIT_SCALE = math.log(100)

# Image towers, by the class of their configuration; and what a config file calls that.
TOWERS: dict[type, type[VisionTransformer] | type[ModifiedResNet]] = {
    VisionConfig: VisionTransformer,
    ResNetConfig: ModifiedResNet,
}
KINDS: dict[str, type] = {"vit": VisionConfig, "resnet": ResNetConfig}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """open_clip's preprocess_cfg: what the image tower expects of its input. mean, std: of channels in [0, 1].

    Raises ValueError for a mean or a std that is not three finite numbers, or for a std that is not above 0.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = 0

    def __post_init__(self):
        for name, low, what in (("mean", -math.inf, "finite numbers"), ("std", 0, "finite numbers above 0")):
            given: Any = getattr(self, name)
            if not (isinstance(given, tuple) and len(given) == 3 and all(_between(low, x) for x in given)):
                raise ValueError(f"preprocess_cfg.{name} is {given!r}; give a tuple of three {what}")


def _between(low: float, given: Any) -> bool:
    """Whether it is a number above `low` and below infinity."""
    return isinstance(given, numbers.Real) and not isinstance(given, bool) and low < float(given) < math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """open_clip's model configuration, and below it how to compute.

    init_logit_scale, init_logit_bias: of logits, scale * cosine + bias; SigLIP's are ln 10 and -10, and a model without
    logit_bias has None. dtype: of activations and products; weights are f32 always.
    """

    embed_dim: int = 512
    vision_cfg: VisionConfig | ResNetConfig = VisionConfig()
    text_cfg: TextConfig = TextConfig()
    preprocess_cfg: PreprocessConfig = PreprocessConfig()
    quick_gelu: bool = False
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None

    dtype: Literal["float32", "bfloat16"] = "float32"
    running: Running = Running()


class CLIP(nnx.Module):
    """The dual encoder. logit_scale: the log of the factor on cosines, f32[]; logit_bias: f32[] or None."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        if config.embed_dim < 1:
            raise ValueError(f"embed_dim is {config.embed_dim}; it must be at least 1")
        self.config = config
        shared: dict[str, Any] = {"quick": config.quick_gelu, "running": config.running, "rngs": rngs}
        tower: Any = TOWERS[type(config.vision_cfg)]
        self.visual = tower(config.vision_cfg, config.embed_dim, **shared)
        self.text = TextTransformer(config.text_cfg, config.embed_dim, **shared)
        self.logit_scale = nnx.Param(jnp.asarray(config.init_logit_scale, jnp.float32))
        bias = config.init_logit_bias
        self.logit_bias = None if bias is None else nnx.Param(jnp.asarray(bias, jnp.float32))

    def encode_image(self, images: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """u8[B, S, S, 3] as decoded, or f32[B, S, S, 3] normalised by preprocess_cfg -> unit-norm f32[B, E].

        noise: of this training step, for what the tower does at random and for batch norms, see `noise_for`; None outside
        training.
        """
        return unit(self.image_features(images, noise))

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """i32[B, L] -> unit-norm f32[B, E]."""
        return unit(self.text_features(tokens))

    def image_features(self, images: jax.Array, noise: jax.Array | None = None, **options: Any) -> jax.Array:
        """As encode_image, before the norm: [B, E] in the compute dtype. options: of the tower (patch_dropout of a ViT)."""
        return self.visual(self._pixels(images), noise, **options)

    def penultimate_features(self, images: jax.Array) -> jax.Array:
        """What a linear probe is trained on: of a ViT the class token before the projection, [B, width], of other image
        towers as image_features. Radford et al. 2021, appendix A.3."""
        return self.visual.penultimate(self._pixels(images))

    def text_features(self, tokens: jax.Array) -> jax.Array:
        """As encode_text, before the norm: [B, E] in the compute dtype."""
        return self.text(tokens, jnp.dtype(self.config.dtype))

    def _pixels(self, images: jax.Array) -> jax.Array:
        if images.dtype == jnp.uint8:
            images = normalize_pixels(images, self.config.preprocess_cfg)
        return images.astype(self.config.dtype)

    def scale(self) -> jax.Array:
        """exp(logit_scale), the factor on cosines: f32[]."""
        return jnp.exp(self.logit_scale[...])

    def bias(self) -> jax.Array:
        """What is added to scaled cosines: f32[], 0 for a model without logit_bias."""
        return jnp.zeros((), jnp.float32) if self.logit_bias is None else self.logit_bias[...]

    def hold_statistics(self, patterns: Sequence[str]) -> None:
        """Batch norms of whose running statistics one of the regexes matches the paths keep and use them in training."""
        for keys, node in nnx.iter_graph(self):
            paths = ["/".join(map(str, (*keys, name))) for name in ("mean", "var")]
            if isinstance(node, BatchNorm):
                node.held = any(re.fullmatch(pattern, path) for pattern in patterns for path in paths)

    def statistics(self) -> dict[str, Any]:
        """Running statistics by the parameters' paths, after encode_image of a training step its new ones; {} without batch
        norms."""
        return nnx.to_pure_dict(nnx.state(self, nnx.BatchStat))


def normalize_pixels(images: jax.Array, config: PreprocessConfig) -> jax.Array:
    """u8[..., 3] -> f32[..., 3]: (x / 255 - mean) / std."""
    mean, std = (
        jnp.broadcast_to(jnp.asarray(channels, jnp.float32), images.shape) for channels in (config.mean, config.std)
    )
    return (images.astype(jnp.float32) / jnp.float32(255) - mean) / std


def noise_for(config: CLIPConfig, batch_size: int, key: jax.Array) -> jax.Array:
    """Uniform f32[B, N] of a training step, a number for each patch of each image: its rows can be cut as the batch is."""
    return jax.random.uniform(key, (batch_size, config.vision_cfg.grid**2), jnp.float32)


def unit(x: jax.Array) -> jax.Array:
    """[..., E] -> unit-norm f32[..., E]."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + jnp.float32(1e-12))


def init_params(config: CLIPConfig, key: jax.Array) -> dict[str, Any]:
    """Freshly initialised parameters, a plain nested dict of f32 arrays. Traceable, so that jit can place each shard.

    Running statistics of batch norms are among them (`.../bn1/mean`, `.../bn1/var`).
    """
    return nnx.to_pure_dict(nnx.state(CLIP(config, rngs=nnx.Rngs(params=key))))


def towers_of(params: dict[str, Any]) -> dict[str, Any]:
    """The model's own of all that a run trains: no heads of distillation terms, no masks."""
    return {name: params[name] for name in ("visual", "text", "logit_scale", "logit_bias") if name in params}


def abstract_params(config: CLIPConfig) -> dict[str, Any]:
    """The same tree as ShapeDtypeStructs; costs no memory."""
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def count_parameters(config: CLIPConfig) -> int:
    """Numbers that are learned: running statistics left out."""
    return tree.count(nnx.state(nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0))), nnx.Param))


def bind(config: CLIPConfig, params: dict[str, Any]) -> CLIP:
    """The module around given parameters; use it inside a jitted function."""
    return nnx.merge(_definition(config), params)


@functools.cache
def _definition(config: CLIPConfig) -> Any:
    return nnx.split(nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0))))[0]


def adapt_positions(params: dict[str, Any], config: CLIPConfig) -> dict[str, Any]:
    """Parameters trained at another image size, with position embeddings resampled to this config's grid."""
    vision, visual = config.vision_cfg, params["visual"]
    if isinstance(vision, ResNetConfig):
        pool = visual["attnpool"]
        positions = resize_positions(pool["positional_embedding"], vision.grid)
        return params | {"visual": visual | {"attnpool": pool | {"positional_embedding": positions}}}
    positions = resize_positions(visual["positional_embedding"], vision.grid, token=vision.pool_type == "tok")
    return params | {"visual": visual | {"positional_embedding": positions}}
