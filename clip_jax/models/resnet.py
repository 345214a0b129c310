"""The image tower of CLIP's RN models: a ResNet that pools by attention. Radford et al. 2021, section 2.4.

Against He et al. 2016: a stem of three convolutions (He et al. 2019, "ResNet-D"), strides that average before they leave
pixels out (Zhang 2019), and attention instead of the last average.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from clip_jax.models.layers import Linear, Running, check_sizes, linear
from clip_jax.sharding import keep_batch_cut

STAGES = ("layer1", "layer2", "layer3", "layer4")
REDUCTION = 32  # pixels along a side for one position of the last feature map
_EXPANSION = 4  # a bottleneck's output over its inner width
_EPS, _MOMENTUM = 1e-5, 0.1  # of batch norms; PyTorch's meaning: the share of the newest batch

# Nested dicts of new running statistics, keyed as the modules are.
Statistics = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """open_clip's vision_cfg where its layers are a list: same names, same meanings.

    layers: bottlenecks in each of the four stages. width: channels after the stem; the attention pool's is 32 times that.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    head_width: int = 64
    image_size: int = 224

    @property
    def grid(self) -> int:
        """Positions along a side of the last feature map."""
        return self.image_size // REDUCTION

    @property
    def features(self) -> int:
        """Channels of the last feature map, the width of the attention pool."""
        return 8 * _EXPANSION * self.width


class ModifiedResNet(nnx.Module):
    """Images to one embedding each, unnormalised.

    Of `running` only remat matters, bottleneck by bottleneck ("dots" keeps the convolutions' results too); bottlenecks of
    a stage differ in shape, so nothing is scanned. quick: of activations; here they are ReLU.
    """

    def __init__(self, config: ResNetConfig, embed_dim: int, *, quick: bool, running: Running, rngs: nnx.Rngs):
        del quick
        _check(config)
        self.running = running
        width = config.width
        self.conv1 = Conv(3, 3, width // 2, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(width // 2)
        self.conv2 = Conv(3, width // 2, width // 2, rngs=rngs)
        self.bn2 = BatchNorm(width // 2)
        self.conv3 = Conv(3, width // 2, width, rngs=rngs)
        self.bn3 = BatchNorm(width)
        entering = width
        for number, (name, depth) in enumerate(zip(STAGES, config.layers, strict=True)):
            inner = width * 2**number
            setattr(self, name, _stage(entering, inner, depth, halves=number > 0, rngs=rngs))
            entering = inner * _EXPANSION
        self.attnpool = AttentionPool(config, embed_dim, rngs=rngs)

    def __call__(self, images: jax.Array, noise: jax.Array | None = None) -> jax.Array:
        """[B, S, S, 3], normalised -> [B, E]. S: image_size.

        noise: of a training step, whatever its values; batch norms then use the batch's statistics, over all devices that
        hold a part of it, and the running ones in this module move on.
        """
        new: Statistics = {}
        x = images
        for number in "123":
            norm: BatchNorm = getattr(self, f"bn{number}")
            x, new[f"bn{number}"] = norm(getattr(self, f"conv{number}")(x), train=noise is not None)
            x = jax.nn.relu(x)
        x = halved(x)
        run = _runner(self.running, train=noise is not None)
        for name in STAGES:
            new[name] = {}
            stage = getattr(self, name)
            for index in sorted(stage, key=int):  # as text, "10" would come before "2"
                x, new[name][index] = run(stage[index], x)
        if noise is not None:
            nnx.update(self, new)
        return self.attnpool(x)

    def penultimate(self, images: jax.Array) -> jax.Array:
        """What a linear probe is trained on: the output, whose last layer pools as well as projects. [B, E]."""
        return self(images)


class Bottleneck(nnx.Module):
    """relu(x + f(x)), f: 1x1, 3x3 and 1x1 convolutions, each with its batch norm. The last norm's scale starts at 0."""

    def __init__(self, entering: int, inner: int, *, halves: bool, rngs: nnx.Rngs):
        leaving = inner * _EXPANSION
        self.halves = halves
        self.conv1 = Conv(1, entering, inner, rngs=rngs)
        self.bn1 = BatchNorm(inner)
        self.conv2 = Conv(3, inner, inner, rngs=rngs)
        self.bn2 = BatchNorm(inner)
        self.conv3 = Conv(1, inner, leaving, rngs=rngs)
        self.bn3 = BatchNorm(leaving, scale=0.0)
        self.downsample = Downsample(entering, leaving, rngs=rngs) if halves or entering != leaving else None

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Statistics]:
        """[B, H, W, C] -> [B, H/2, W/2, 4 inner] where it halves, else [B, H, W, 4 inner]; and the new statistics."""
        new: Statistics = {}
        y, new["bn1"] = self.bn1(self.conv1(x), train=train)
        y, new["bn2"] = self.bn2(self.conv2(jax.nn.relu(y)), train=train)
        y = jax.nn.relu(y)
        if self.halves:
            x, y = halved(x), halved(y)
        y, new["bn3"] = self.bn3(self.conv3(y), train=train)
        if self.downsample is not None:
            x, new["downsample"] = self.downsample(x, train=train)
        return jax.nn.relu(x + y), new


class Downsample(nnx.Module):
    """The skip connection where channels change: a 1x1 convolution and a batch norm."""

    def __init__(self, entering: int, leaving: int, *, rngs: nnx.Rngs):
        self.conv = Conv(1, entering, leaving, rngs=rngs)
        self.bn = BatchNorm(leaving)

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Statistics]:
        """[B, H, W, C] -> [B, H, W, leaving], and the new statistics."""
        y, new = self.bn(self.conv(x), train=train)
        return y, {"bn": new}


class Conv(nnx.Module):
    """Convolution without bias, zeros around the picture. kernel: f32[k, k, in, out], uniform within fan_in ** -0.5."""

    def __init__(self, size: int, entering: int, leaving: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.stride = stride
        shape, bound = (size, size, entering, leaving), (size * size * entering) ** -0.5
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, in] -> [B, H/stride, W/stride, out] in x's dtype."""
        kernel = self.kernel[...]
        if kernel.shape[0] == 1:
            return linear(x, kernel[0, 0], None)
        edge = kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            keep_batch_cut(x),
            kernel.astype(x.dtype),
            window_strides=(self.stride, self.stride),
            padding=((edge, edge), (edge, edge)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return keep_batch_cut(y)


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last dimension, computed in f32. Ioffe & Szegedy 2015.

    mean, var: running statistics, f32[C] each, moved by a tenth towards each training batch's (its unbiased variance).
    held: they stay, and training normalises by them as evaluation does.
    """

    def __init__(self, size: int, *, scale: float = 1.0):
        self.held = False
        self.scale = nnx.Param(jnp.full((size,), scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((size,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((size,), jnp.float32))

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Statistics]:
        """[B, H, W, C] -> [B, H, W, C] in x's dtype, and the new running statistics.

        Under jit B is the global batch, however it is cut over devices: these statistics are synchronised ones.
        """
        x32 = x.astype(jnp.float32)
        mean, var = (jax.lax.stop_gradient(running[...]) for running in (self.mean, self.var))
        new = {"mean": mean, "var": var}
        if train and not self.held:
            mean = x32.mean((0, 1, 2))
            var = jnp.square(x32 - mean[None, None, None]).mean((0, 1, 2))
            count = math.prod(x.shape[:3])
            seen = {"mean": mean, "var": var * (count / max(count - 1, 1))}
            new = {name: old + _MOMENTUM * (jax.lax.stop_gradient(seen[name]) - old) for name, old in new.items()}
        factor = jax.lax.rsqrt(var + _EPS) * self.scale[...]
        y = (x32 - mean[None, None, None]) * factor[None, None, None] + self.bias[...][None, None, None]
        return y.astype(x.dtype), new


class AttentionPool(nnx.Module):
    """One query, the mean of all positions, attends to itself and to them; multi-head, with learned positions."""

    def __init__(self, config: ResNetConfig, embed_dim: int, *, rngs: nnx.Rngs):
        width = config.features
        std = width**-0.5
        self.heads = width // config.head_width
        shape = (1 + config.grid**2, width)
        self.positional_embedding = nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))
        self.q = Linear(width, width, std=std, rngs=rngs)
        self.k = Linear(width, width, std=std, rngs=rngs)
        self.v = Linear(width, width, std=std, rngs=rngs)
        self.out = Linear(width, embed_dim, std=std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, G, G, D] -> [B, E]."""
        batch, width = x.shape[0], x.shape[-1]
        x = x.reshape(batch, -1, width)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        x = x + self.positional_embedding[...].astype(x.dtype)[None]
        q, k, v = (
            part(tokens).reshape(batch, -1, self.heads, width // self.heads)
            for part, tokens in ((self.q, x[:, :1]), (self.k, x), (self.v, x))
        )
        return self.out(jax.nn.dot_product_attention(q, k, v).reshape(batch, width))


def halved(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H/2, W/2, C]: the mean of each 2 x 2."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width, channels).mean(
        2
    )  # one after the other: Core ML has no more than 5 dimensions
    return x.reshape(batch, height // 2, width // 2, 2, channels).mean(3)


def _stage(entering: int, inner: int, depth: int, *, halves: bool, rngs: nnx.Rngs) -> nnx.Dict:
    """Bottlenecks by their number. All but the first are equal and drawn together: each draw takes half a second to compile,
    and RN50x64 has two hundred kernels."""
    blocks = [Bottleneck(entering, inner, halves=halves, rngs=rngs)]
    if depth > 1:
        leaving = inner * _EXPANSION
        rest = jax.vmap(lambda rngs: Bottleneck(leaving, inner, halves=False, rngs=rngs))(rngs.split(depth - 1))
        blocks += [jax.tree.map(lambda leaf, i=i: leaf[i], rest) for i in range(depth - 1)]
    return nnx.Dict({str(index): block for index, block in enumerate(blocks)})


def _runner(running: Running, *, train: bool) -> Callable[[Bottleneck, jax.Array], tuple[jax.Array, Statistics]]:
    def run(block: Bottleneck, x: jax.Array) -> tuple[jax.Array, Statistics]:
        return block(x, train=train)

    if running.remat == "none":
        return run
    return jax.checkpoint(run, policy=_is_product if running.remat == "dots" else None)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


def _check(config: ResNetConfig) -> None:
    if len(config.layers) != len(STAGES) or min(config.layers) < 1:
        raise ValueError(f"vision_cfg.layers is {config.layers}; a ResNet has {len(STAGES)} stages of at least 1 each")
    check_sizes("vision_cfg", config, ("width", "head_width", "image_size"))
    if config.width % 2:
        raise ValueError(f"vision_cfg.width is {config.width}; a ResNet's must be even")
    if config.features % config.head_width:
        raise ValueError(
            f"the attention pool's width {config.features}, {config.features // config.width} times vision_cfg.width, is "
            f"not a multiple of head_width {config.head_width}"
        )
    if config.image_size % REDUCTION:
        raise ValueError(f"image_size {config.image_size} is not a multiple of {REDUCTION}, which a ResNet needs")


def with_norms_folded(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tower by path, but its batch norms' running statistics and scales are in the kernels before them: only biases are
    left to the norms. Of a trained model, for evaluation alone."""
    found = dict(leaves)
    for path, var in leaves.items():
        norm, _, last = path.rpartition("/")
        if last == "var":
            kernel = f"{'conv'.join(norm.rsplit('bn', 1))}/kernel"  # layer1/0/bn2 is that of layer1/0/conv2
            factor = leaves[f"{norm}/scale"] / np.sqrt(var + np.float32(_EPS))
            found[kernel] = leaves[kernel] * factor
            found[f"{norm}/bias"] = leaves[f"{norm}/bias"] - leaves[f"{norm}/mean"] * factor
            found[f"{norm}/mean"], found[f"{norm}/scale"] = np.zeros_like(var), np.ones_like(var)
            found[path] = np.full_like(var, 1 - _EPS)
    return found
