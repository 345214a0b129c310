"""One training step, as one compiled function of (state, batch)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clip_jax import tree
from clip_jax.accumulate import by_parts
from clip_jax.masking import MaskConfig, bounded, drawn, shortfall
from clip_jax.models.clip import CLIP, MAX_LOGIT_SCALE, CLIPConfig, bind, noise_for, towers_of
from clip_jax.objectives import Features, ObjectiveConfig, objective
from clip_jax.optim import OptimConfig, learning_rate, trained_mask, update_ema
from clip_jax.projections import DISTILL, SCALE
from clip_jax.recovery import JUDGED, RecoveryConfig, remember, spikes
from clip_jax.sharding import batch_sharding
from clip_jax.state import TrainState
from clip_jax.teachers import TeacherConfig

Batch = dict[str, Any]


def make_step(
    model: CLIPConfig,
    goal: ObjectiveConfig,
    optim: OptimConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    teachers: Mapping[str, TeacherConfig],
    masks: MaskConfig,
    recovery: RecoveryConfig,
    *,
    shardings: Any,
    seed: int,
    steps: int,
    accumulate: int = 1,
) -> Any:
    """jit of (state, batch) -> (state, metrics); the state's buffers are given up to the result.

    shardings: where each leaf of the state lies, before and after. accumulate: parts in which the batch is embedded, for the
    gradient of the whole; the model must have no batch norms whose statistics move.
    batch, cut over (replica, data, fsdp): image u8[B, S, S, 3], text i32[B, L], replaced i32[B]; where a term needs them,
    synthetic (text, too) and label i32[B]; targets, a Targets for each teacher by its name.
    metrics: f32[] each: loss, the raw value of each term, grad_norm, logit_scale (the factor, not its log), lr,
    skipped, skipped_in_row, replaced; logit_bias where the model has one; loss_spike and grad_norm_spike, 0 or 1, where
    recovery looks for them. A step that has a spike, or whose loss, gradient or statistics are not finite, leaves all but the
    counters as they were. Running statistics of batch norms become those of the global batch; where optim.freeze matches them
    they stay.
    """
    rate, rows_at = learning_rate(optim, steps), batch_sharding(mesh)

    def embed(params: Any, inputs: Batch, key: jax.Array) -> tuple[dict[str, jax.Array], Any]:
        """What the objective needs of the student's embeddings, and batch norms' new statistics."""
        clip = bind(model, towers_of(drawn(params, key)))
        clip.hold_statistics(optim.freeze)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return _rows(clip, goal, inputs), clip.statistics()

    def loss_of(params: Any, rows: dict[str, jax.Array], batch: Batch, step: jax.Array) -> tuple[jax.Array, Any]:
        clip = bind(model, towers_of(params))
        student = Features(**rows, scale=clip.scale(), bias=clip.bias(), label=batch.get("label"))
        given = {"teachers": teachers, "targets": batch.get("targets", {}), "heads": params.get(DISTILL, {})}
        total, raw = objective(goal, mesh, student, **given, step=step)
        missing, sparsity = shortfall(masks, model, params, step, steps)
        total += missing
        return total, {"loss": total, "logit_scale": student.scale} | raw | sparsity

    def gradient(params: Any, batch: Batch, key: jax.Array, step: jax.Array) -> Any:
        """((loss, (values, statistics)), gradient)."""
        inputs = {name: batch[name] for name in ("image", "text", "synthetic") if name in batch}
        for name, source in (("noise", key), ("mask_noise", jax.random.fold_in(key, 1))):
            inputs[name] = jax.lax.with_sharding_constraint(noise_for(model, len(batch["image"]), source), rows_at)
        own = jax.random.fold_in(key, 2)

        def whole(params: Any) -> tuple[jax.Array, Any]:
            rows, statistics = embed(params, inputs, own)
            total, values = loss_of(params, rows, batch, step)
            return total, (values, statistics)

        if accumulate == 1:
            return jax.value_and_grad(whole, has_aux=True)(params)
        in_parts = by_parts(
            lambda params, piece: embed(params, piece, own)[0],
            lambda params, rows: loss_of(params, rows, batch, step),
            accumulate,
            mesh,
            shardings.params,
        )
        (loss, values), grads = in_parts(params, inputs)
        return (loss, (values, bind(model, towers_of(drawn(params, own))).statistics())), grads

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, (values, statistics)), grads = gradient(state.params, batch, key, state.step)
        norm = _norm_of_trained(optim, grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        for moved in jax.tree.leaves(statistics):
            good &= jnp.isfinite(moved).all()
        judged = jnp.stack([loss, norm])
        spiked = good & spikes(recovery, state.recent, judged)
        good &= ~spiked.any()

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        params = tree.nested(tree.leaves_by_path(params) | tree.leaves_by_path(statistics))
        if model.init_logit_bias is None:  # SigLIP's scale is free, and its published weights lie above the bound
            params = params | {"logit_scale": jnp.clip(params["logit_scale"], 0, MAX_LOGIT_SCALE)}
        if DISTILL in params:
            params = params | {DISTILL: tree.map_with_path(_clamped, params[DISTILL])}
        params = bounded(params)
        ema = None if state.ema is None else update_ema(optim, state.ema, params, state.step)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(functools.partial(jnp.where, good), new, old)

        recent = remember(state.recent, judged, state.step - state.skipped, good)
        after = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            skipped=state.skipped + ~good,
            skipped_in_row=jnp.where(good, 0, state.skipped_in_row + 1),
            replaced=state.replaced + batch["replaced"].sum(),
            recent=recent,
        )
        counters = {name: getattr(after, name) for name in ("skipped", "skipped_in_row", "replaced")}
        values |= {"grad_norm": norm, "lr": rate(state.step - state.skipped)} | counters
        if recent is not None:
            values |= {f"{name}_spike": spiked[row] for row, name in enumerate(JUDGED)}
        if model.init_logit_bias is not None:
            values["logit_bias"] = state.params["logit_bias"]
        return after, {name: value.astype(jnp.float32) for name, value in values.items()}

    return step


def _rows(clip: CLIP, goal: ObjectiveConfig, inputs: Batch) -> dict[str, jax.Array]:
    """The embeddings of Features, and no more than the objective needs."""
    rows = {
        "image": clip.image_features(inputs["image"], inputs["noise"]),
        "text": clip.text_features(inputs["text"]),
    }
    if goal.needs("synthetic"):
        rows["synthetic"] = clip.text_features(inputs["synthetic"])
    if goal.needs("masked"):
        ratio = goal.options.mask_ratio
        rows["masked"] = clip.image_features(inputs["image"], inputs["mask_noise"], patch_dropout=ratio)
    return rows


def _clamped(path: str, leaf: jax.Array) -> jax.Array:
    """A learned factor's log within the bounds of logit_scale; other heads as they are."""
    return jnp.clip(leaf, 0, MAX_LOGIT_SCALE) if path.endswith(SCALE) else leaf


def _norm_of_trained(optim: OptimConfig, grads: Any) -> jax.Array:
    trained = trained_mask(optim, grads)
    return optax.tree.norm([g for g, t in zip(jax.tree.leaves(grads), jax.tree.leaves(trained), strict=True) if t])
