"""Training under masks: automatic inheritance, the run in which a large model learns what a small one should keep of it.

TinyCLIP, Wu et al. 2023, section 3.3. Masks and multipliers are parameters beside the towers, `masks/...` and
`multipliers/...`: checkpointed with the rest, moved by an Adam of their own, and left behind by `clip-jax shrink`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from clip_jax.models import masks as hard_concrete
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.sparsity import init_multipliers, penalty, sparsity, target_at

MASKS, MULTIPLIERS = "masks", "multipliers"
OWN = (MASKS, MULTIPLIERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """image, text: whether that tower is masked; both off for a training without masks. stages: shares of a tower's
    parameters to lose, each over an equal part of the run. lr: of masks and of multipliers."""

    image: bool = False
    text: bool = False
    stages: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    lr: float = 0.02

    @property
    def on(self) -> bool:
        """Whether any tower is masked."""
        return self.image or self.text


def check_masking(config: MaskConfig) -> None:
    """Raises ValueError for stages that fall, or are no shares, and for a rate that is not above 0."""
    rising = all(low <= high for low, high in zip(config.stages, config.stages[1:], strict=False))
    if not config.stages or not rising or not all(0 <= stage < 1 for stage in config.stages):
        raise ValueError(
            f"masks.stages is {config.stages}; give rising shares in [0, 1), such as (0.0, 0.25, 0.5, 0.75)"
        )
    if not 0 < config.lr < float("inf"):
        raise ValueError(f"masks.lr is {config.lr}; it must be above 0")


def init_masking(config: MaskConfig, model: CLIPConfig) -> dict[str, Any]:
    """What joins the towers' parameters: {"masks": ..., "multipliers": ...}; {} where no tower is masked."""
    if not config.on:
        return {}
    masks = hard_concrete.init_masks(model, image=config.image, text=config.text)
    return {MASKS: masks, MULTIPLIERS: init_multipliers(masks)}


def without_masks(params: dict[str, Any]) -> dict[str, Any]:
    """All other parameters."""
    return {name: leaf for name, leaf in params.items() if name not in OWN}


def drawn(params: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """All other parameters, under one draw of the masks, for a training step; as they are where there are no masks."""
    return _under(params, lambda masks: hard_concrete.sample(masks, key))


def settled(params: dict[str, Any]) -> dict[str, Any]:
    """The same under the masks without noise, for evaluation."""
    return _under(params, hard_concrete.expectation)


def _under(params: dict[str, Any], z_of: Callable[[hard_concrete.Masks], hard_concrete.Masks]) -> dict[str, Any]:
    rest = without_masks(params)
    return hard_concrete.masked(rest, z_of(params[MASKS])) if MASKS in params else rest


def shortfall(
    config: MaskConfig, model: CLIPConfig, params: dict[str, Any], step: jax.Array, steps: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What joins the loss, f32[], and for the log the target and each tower's sparsity, f32[]; 0 and {} without masks."""
    if MASKS not in params:
        return jnp.zeros((), jnp.float32), {}
    target = target_at(config.stages, step, steps)
    reached = {f"sparsity_{name}": value for name, value in sparsity(params[MASKS], model).items()}
    term = penalty(params[MASKS], params[MULTIPLIERS], target, model)
    return term, {"mask_penalty": term, "sparsity_target": target} | reached


def bounded(params: dict[str, Any]) -> dict[str, Any]:
    """After an update: log-alphas within their bounds."""
    return params | {MASKS: hard_concrete.bounded(params[MASKS])} if MASKS in params else params


def with_masks(tx: optax.GradientTransformation, config: MaskConfig) -> optax.GradientTransformation:
    """`tx` for all other parameters, made for these alone; Adam for masks, downwards, and for multipliers, upwards."""
    if not config.on:
        return tx
    adam = optax.adam(config.lr)

    def own(params: Any) -> dict[str, Any]:
        return {name: params[name] for name in OWN}

    def init(params: Any) -> Any:
        return {"rest": tx.init(without_masks(params)), "own": adam.init(own(params))}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        assert params is not None
        rest, rest_state = tx.update(without_masks(updates), state["rest"], without_masks(params))
        upwards = jax.tree.map(jnp.negative, updates[MULTIPLIERS])
        moved, own_state = adam.update(own(updates) | {MULTIPLIERS: upwards}, state["own"], own(params))
        both = cast(dict[str, Any], rest) | cast(dict[str, Any], moved)
        return both, {"rest": rest_state, "own": own_state}

    return optax.GradientTransformation(init, update)
