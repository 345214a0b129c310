"""How parameters move: schedules, optimizers, decay masks, layer-wise rates, freezing, and the moving average."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from clip_jax import tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """CLIP's settings by default (Radford et al. 2021, table 19), with open_clip's eps.

    name: adamw; lion (Chen et al. 2023: use a 3-10 times smaller lr and larger weight_decay, b2 0.99); adafactor
    (Shazeer & Stern 2018, without the parameter scale, so that lr keeps its meaning); muon (Jordan et al. 2024: hidden
    matrices, scaled to AdamW's step size after Liu et al. 2025; AdamW for the rest).
    lr: the peak, reached after warmup_steps. schedule: cosine and linear fall to lr * final_share as the run ends; rsqrt
    falls as sqrt(warmup_steps / step); constant stays; the last two fall linearly to 0 over the last cooldown_steps.
    clip_norm: bound of the gradient's global norm, 0 for none. layer_decay: factor on lr a layer, counted from the
    output; 1 for none. freeze: regexes of parameter paths that stay as they are (LiT: `visual/.*`); batch norms whose
    running statistics are among them normalise by these, in training as in evaluation (`.*/mean` for these alone).
    ema_decay: of the averaged weights, 0 for none; early on (1 + step) / (10 + step) where that is smaller.
    """

    name: Literal["adamw", "lion", "adafactor", "muon"] = "adamw"
    lr: float = 5e-4
    schedule: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup_steps: int = 2000
    cooldown_steps: int = 0
    final_share: float = 0.0
    weight_decay: float = 0.2
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()
    ema_decay: float = 0.0


# range -> (whether a number lies in it, the fields that must)
_RANGES: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "above 0": (lambda x: 0 < x < math.inf, ("lr", "eps")),
    "at least 0": (
        lambda x: 0 <= x < math.inf,
        ("weight_decay", "clip_norm", "warmup_steps", "cooldown_steps"),
    ),
    "in [0, 1)": (lambda x: 0 <= x < 1, ("b1", "b2", "ema_decay")),
    "in (0, 1]": (lambda x: 0 < x <= 1, ("layer_decay",)),
    "in [0, 1]": (lambda x: 0 <= x <= 1, ("final_share",)),
}


def check_optim(config: OptimConfig) -> None:
    """Raises ValueError for a number with which no run can work, and says what is allowed."""
    for allowed, (holds, names) in _RANGES.items():
        for name in names:
            if not holds(getattr(config, name)):
                raise ValueError(f"optim.{name} is {getattr(config, name)}; it must be {allowed}")


def learning_rate(config: OptimConfig, steps: int) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """The schedule over `steps` steps: i32[] -> f32[]. The first step's rate is lr / warmup_steps, not 0.

    Raises ValueError where warm-up and cool-down do not fit into the run.
    """
    if config.warmup_steps + config.cooldown_steps > steps:
        raise ValueError(
            f"optim.warmup_steps {config.warmup_steps} + cooldown_steps {config.cooldown_steps} exceed the {steps} steps "
            "of the run; shorten them or train longer"
        )
    warmup = max(config.warmup_steps, 1)

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(step, jnp.float32) + 1
        rest = jnp.clip((done - 1 - warmup) / max(steps - warmup, 1), 0, 1)
        floor = config.final_share
        shape = {
            "cosine": floor + (1 - floor) * (1 + jnp.cos(jnp.pi * rest)) / 2,
            "linear": floor + (1 - floor) * (1 - rest),
            "rsqrt": jnp.sqrt(warmup / jnp.maximum(done, warmup)),
            "constant": jnp.ones_like(done),
        }[config.schedule]
        if config.schedule in ("rsqrt", "constant") and config.cooldown_steps:
            shape *= jnp.clip((steps - done + 1) / config.cooldown_steps, 0, 1)
        return config.lr * jnp.minimum(done / warmup, 1) * shape

    return rate


def decay_mask(params: Any) -> Any:
    """True for what weight decay pulls on: matrices and token embeddings; no norms, biases, positions, logit scale."""
    return tree.map_with_path(lambda path, _: path.endswith(("kernel", "token_embedding")), params)


def statistics_mask(params: Any) -> Any:
    """True for running statistics of batch norms, which no optimizer moves."""
    return tree.map_with_path(lambda path, _: path.endswith(("/mean", "/var")), params)


def trained_mask(config: OptimConfig, params: Any) -> Any:
    """False for frozen parameters and running statistics.

    Raises ValueError for a freeze pattern that matches none, or if all are frozen.
    """
    frozen = tree.mask(params, config.freeze, what="optim.freeze")
    trained = jax.tree.map(lambda is_frozen, moves: not (is_frozen or moves), frozen, statistics_mask(params))
    if not any(jax.tree.leaves(trained)):
        raise ValueError(f"optim.freeze {config.freeze} freezes every parameter; nothing would be learned")
    return trained


def layer_rates(config: OptimConfig, params: Any) -> Any:
    """Factors on the learning rate: layer_decay ** (layers between a parameter and its tower's output). Bao et al. 2021.

    Blocks are stacked, so their factors are f32[layers, 1, ...]; all others f32[]. logit_scale has factor 1. A ResNet's
    layers are its bottlenecks: its stem is below them, its attention pool is at the output. What is no tower's has factor 1.
    """

    def rate(path: str, leaf: Any) -> jax.Array:
        name, _, inner = path.partition("/")
        tower = params[name]
        if name not in ("visual", "text") or re.match(r"(ln_post|ln_final|proj|head|attnpool)/", inner):
            return jnp.ones((), jnp.float32)
        if inner.startswith("blocks/"):
            layers = leaf.shape[0]
            exponents = layers - jnp.arange(layers, dtype=jnp.float32)
            return config.layer_decay ** exponents.reshape(-1, *[1] * (len(leaf.shape) - 1))
        below = _layers(tower)
        if stage := re.match(r"(layer\d)/(\d+)/", inner):
            below -= 1 + _bottlenecks(tower).index((stage[1], int(stage[2])))
        return jnp.asarray(config.layer_decay ** (below + 1), jnp.float32)

    return tree.map_with_path(rate, params)


def _layers(tower: Any) -> int:
    return jax.tree.leaves(tower["blocks"])[0].shape[0] if "blocks" in tower else len(_bottlenecks(tower))


def _bottlenecks(tower: Any) -> list[tuple[str, int]]:
    """(stage, number in it), from the first to the last; no other kind of tower has any."""
    return sorted((name, int(number)) for name in tower if re.fullmatch(r"layer\d", name) for number in tower[name])


def make_optimizer(config: OptimConfig, steps: int, params: Any) -> optax.GradientTransformation:
    """The whole chain for (abstract) params: clip, direction, decay, layer rates, schedule; frozen parameters hold no state.

    Raises ValueError for settings that cannot work.
    """
    check_optim(config)
    trained = trained_mask(config, params)
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    chain += [_direction(config), optax.add_decayed_weights(config.weight_decay, mask=decay_mask)]
    if config.layer_decay != 1:
        chain.append(optax.stateless(lambda updates, _: _multiply(updates, layer_rates(config, params))))
    chain.append(optax.scale_by_learning_rate(learning_rate(config, steps)))
    labels = jax.tree.map(lambda is_trained: "trained" if is_trained else "frozen", trained)
    if all(jax.tree.leaves(trained)):
        return optax.chain(*chain)
    return optax.partition({"trained": optax.chain(*chain), "frozen": optax.set_to_zero()}, labels)


def _multiply(updates: Any, factors: Any) -> Any:
    masked = jax.tree.map(lambda u: isinstance(u, optax.MaskedNode), updates, is_leaf=_is_masked)
    return jax.tree.map(lambda u, f, m: u if m else u * f, updates, factors, masked, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _direction(config: OptimConfig) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    match config.name:
        case "adamw":
            return adam
        case "lion":
            return optax.scale_by_lion(b1=config.b1, b2=config.b2)
        case "adafactor":
            return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
        case "muon":
            return optax.partition({"muon": _muon(), "adam": adam}, _muon_labels)


def _muon_labels(params: Any) -> Any:
    return tree.map_with_path(
        lambda path, _: "muon" if "/blocks/" in path and path.endswith("kernel") else "adam", params
    )


def _muon() -> optax.GradientTransformation:
    matrix = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)  # the stacked layers are a batch

    def dimensions(updates: Any) -> Any:
        return jax.tree.map(lambda u: u if _is_masked(u) else matrix, updates, is_leaf=_is_masked)

    def like_adam(update: jax.Array) -> jax.Array:
        return 0.2 * max(update.shape[-2:]) ** 0.5 * update  # Adam's usual root mean square; Liu et al. 2025, eq. 4

    orthogonal = contrib.scale_by_muon(weight_dimension_numbers=dimensions)
    return optax.chain(orthogonal, optax.stateless(lambda updates, _: jax.tree.map(like_adam, updates)))


def update_ema(config: OptimConfig, ema: Any, params: Any, step: jax.Array) -> Any:
    """The next average: d ema + (1 - d) params, d = min(ema_decay, (1 + step) / (10 + step))."""
    step = step.astype(jnp.float32)
    decay = jnp.minimum(jnp.float32(config.ema_decay), (1 + step) / (10 + step))
    return jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), ema, params)
