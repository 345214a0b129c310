"""A whole experiment: its configuration, and everything of it but the arrays, built and checked before time is spent."""

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax import sharding, tree
from clip_jax.checkpoint import CheckpointConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.pipeline import ReadConfig
from clip_jax.data.sources import SourceConfig
from clip_jax.evals.suite import EvalConfig, figure_names
from clip_jax.inherit import InheritConfig
from clip_jax.masking import MaskConfig, check_masking, init_masking, with_masks, without_masks
from clip_jax.models.clip import CLIPConfig, abstract_params, init_params
from clip_jax.models.vit import VisionConfig
from clip_jax.objective_check import check_objective
from clip_jax.objectives import ObjectiveConfig, heads_of
from clip_jax.optim import OptimConfig, make_optimizer
from clip_jax.profiling import check_profile
from clip_jax.projections import DISTILL, init_heads
from clip_jax.recovery import RecoveryConfig, check_recovery, new_recent
from clip_jax.run_folder import CHECKPOINTS
from clip_jax.sharding import MeshConfig
from clip_jax.state import TrainState, new_state
from clip_jax.step import make_step
from clip_jax.teachers import AverageTeacher, Offer, TeacherConfig, abstract_targets, check_teachers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """steps: updates. batch_size: pairs a step, over all devices. accumulate: parts in which a step embeds its batch, for less
    memory; the gradient is the whole batch's, all its negatives included. log_every, eval_every: steps; the last step is always
    logged and evaluated, and with eval_every 0 only that is evaluated. teachers: by the names that the log gives
    them; see clip_jax.teachers. init_from: weights that training starts from, as clip_jax.load takes them; position
    embeddings follow another image size. inherit: a larger model that first weights are cut out of. masks: learn what a
    smaller model should keep of this one. max_skipped: so many steps in a row that were left out end the run. recovery:
    from spikes of loss or gradient. profile: (first, number) of steps whose trace is written to the folder's profile/;
    (0, 0) for none. wandb: a project's name, "" for none. origin: the config file (and its argument) this was read from, for
    reports; the command line sets it.
    """

    seed: int = 0
    steps: int = 10_000
    batch_size: int = 1024
    accumulate: int = 1
    model: CLIPConfig = CLIPConfig()
    source: SourceConfig = GlyphsConfig()
    read: ReadConfig = ReadConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    teachers: Mapping[str, TeacherConfig] = dataclasses.field(default_factory=dict)
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evals: Mapping[str, EvalConfig] = dataclasses.field(default_factory=dict)
    eval_every: int = 0
    log_every: int = 10
    init_from: str = ""
    inherit: InheritConfig = InheritConfig()
    masks: MaskConfig = MaskConfig()
    max_skipped: int = 10
    recovery: RecoveryConfig = RecoveryConfig()
    profile: tuple[int, int] = (0, 0)
    wandb: str = ""
    origin: str = ""


class Plan:
    """Mesh, optimizer, placement and the compiled step of an experiment; holds no arrays.

    offers: what is known of each of config.teachers; clip_jax.teaching.open_teachers finds it. devices: of the mesh, by
    default all there are; those of a pod that is only described will do to compile for it. Raises ValueError for whatever
    in the config cannot work.
    """

    def __init__(
        self, config: TrainConfig, offers: Mapping[str, Offer] | None = None, devices: Sequence[Any] | None = None
    ):
        self.offers = dict(offers or {})
        _check(config, self.offers)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh, devices)
        sharding.split_batch(config.batch_size, self.mesh)
        _check_parts(config, self.mesh)
        params = jax.eval_shape(self.init_params, jax.random.key(0))
        self.tx = with_masks(make_optimizer(config.optim, config.steps, without_masks(params)), config.masks)
        placed = sharding.parameter_shardings(params, self.mesh, config.mesh)
        shapes = jax.eval_shape(self._new_state, jax.random.key(0))
        self.shardings = sharding.shardings_like(shapes, params, placed)
        self.state: TrainState = jax.tree.map(
            lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, self.shardings
        )
        self.step = make_step(
            config.model,
            config.objective,
            config.optim,
            self.tx,
            self.mesh,
            config.teachers,
            config.masks,
            config.recovery,
            shardings=self.shardings,
            seed=config.seed,
            steps=config.steps,
            accumulate=config.accumulate,
        )

    def batch(self) -> dict[str, Any]:
        """Shapes and placement of what the step takes."""
        model, size = self.config.model, self.config.batch_size
        side, at = model.vision_cfg.image_size, sharding.batch_sharding(self.mesh)

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=at)

        batch: dict[str, Any] = {
            "image": array(np.uint8, side, side, 3),
            "text": array(np.int32, model.text_cfg.context_length),
            "replaced": array(np.int32),
        }
        if self.config.objective.needs("synthetic"):
            batch["synthetic"] = batch["text"]
        if self.config.objective.needs("label"):
            batch["label"] = array(np.int32)
        if self.offers:
            whole = sharding.replicated(self.mesh)
            batch["targets"] = {name: abstract_targets(offer, size, at, whole) for name, offer in self.offers.items()}
        return batch

    def initial_state(self) -> TrainState:
        """Freshly initialised, each shard made where it lies."""
        return jax.jit(self._new_state, out_shardings=self.shardings)(jax.random.key(self.config.seed))

    def check_space(self, workdir: Path) -> None:
        """Raises ValueError where the disk cannot hold the checkpoints that are kept, and one being written."""
        kept = self.config.checkpoint.keep + 1 + bool(self.config.checkpoint.best)
        number = max(1, kept - len(list((workdir / CHECKPOINTS).glob("[0-9]*"))))
        needed, free = number * tree.bytes_of(self.state), shutil.disk_usage(workdir).free
        if needed > free:
            raise ValueError(
                f"{workdir} has {free / 1e9:.1f} GB free; {number} checkpoints of {needed / number / 1e9:.1f} GB need "
                f"{needed / 1e9:.1f} GB. Free some, choose another workdir, or lower checkpoint.keep "
                f"{self.config.checkpoint.keep}"
            )

    def _new_state(self, key: jax.Array) -> TrainState:
        params = self.init_params(key)
        state = new_state(params, self.tx, ema=self.config.optim.ema_decay > 0)
        return dataclasses.replace(state, recent=new_recent(self.config.recovery))

    def init_params(self, key: jax.Array) -> dict[str, Any]:
        """The towers', and under `distill` what the objective learns for each teacher."""
        params, config, heads = init_params(self.config.model, key), self.config, {}
        for number, (name, offer) in enumerate(sorted(self.offers.items())):
            needed, sizes = heads_of(config.objective, name, config.teachers, offer, config.model.embed_dim)
            if needed:
                heads[name] = init_heads(needed, sizes, jax.random.fold_in(key, number))
        return params | ({DISTILL: heads} if heads else {}) | init_masking(config.masks, config.model)


def _check_parts(config: TrainConfig, mesh: Mesh) -> None:
    """Raises ValueError where the batch cannot be embedded in config.accumulate parts."""
    parts = config.accumulate
    rows = config.batch_size // sharding.batch_shards(mesh)
    if parts < 1 or rows % parts:
        allowed = [number for number in range(1, rows + 1) if rows % number == 0]
        raise ValueError(
            f"accumulate is {parts}; a device has {rows} pairs of batch {config.batch_size}, which split into {allowed} parts"
        )
    statistics = [path for path in tree.paths(abstract_params(config.model)) if path.endswith(("/mean", "/var"))]
    held = [path for path in statistics if any(re.fullmatch(pattern, path) for pattern in config.optim.freeze)]
    if parts > 1 and len(held) < len(statistics):
        raise ValueError(
            f"accumulate={parts} would give batch norms the statistics of a part, and another gradient than the whole batch's; "
            "use accumulate=1, a ViT, or hold them by optim.freeze=('visual/.*/(mean|var)',)"
        )


def _check(config: TrainConfig, offers: Mapping[str, Offer]) -> None:
    check_masking(config.masks)
    check_recovery(config.recovery)
    if config.init_from and config.inherit.model:
        raise ValueError("init_from and inherit.model both name first weights; give one")
    check_teachers(config.teachers)
    if set(config.teachers) != set(offers):
        raise ValueError(
            f"teachers {sorted(config.teachers)} are named, {sorted(offers)} are opened; open each, and no other"
        )
    if config.optim.ema_decay == 0 and any(isinstance(one, AverageTeacher) for one in config.teachers.values()):
        raise ValueError("a student that teaches itself needs its average: set optim.ema_decay, such as 0.999")
    check_objective(
        config.objective,
        has_bias=config.model.init_logit_bias is not None,
        teachers=config.teachers,
        offers=offers,
        embed_dim=config.model.embed_dim,
        can_mask=isinstance(config.model.vision_cfg, VisionConfig),
        steps=config.steps,
    )
    check_profile(config.profile, config.steps)
    for name in ("steps", "log_every", "max_skipped"):
        if getattr(config, name) < 1:
            raise ValueError(f"config.{name} is {getattr(config, name)}; it must be at least 1")
    if config.checkpoint.every < 1 or config.checkpoint.keep < 1:
        raise ValueError(f"config.checkpoint {config.checkpoint}: every and keep must be at least 1")
    figures = [f"{name}/{figure}" for name, one in config.evals.items() for figure in figure_names(one)]
    if config.checkpoint.best and config.checkpoint.best not in figures:
        raise ValueError(
            f"checkpoint.best {config.checkpoint.best!r} names no figure of an evaluation; there are "
            f"{', '.join(figures) or 'none'}"
        )
    if config.eval_every < 0:
        raise ValueError(f"config.eval_every is {config.eval_every}; it must be at least 0")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"config.seed {config.seed} is not in [0, 2^32)")
