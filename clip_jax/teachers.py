"""Teachers as a config names them, and what each puts into a batch: the targets that distillation terms compare with."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreTeacher:
    """Embeddings that `clip-jax embed` wrote once; no teacher runs in training.

    path: the store's folder. weight: of this teacher among several. scale: instead of the teacher's own factor on cosines
    (its temperature is 1 / scale); 0 for its own. losses: the distillation terms it serves, all of the objective's when
    empty. verify: read all bytes at the start and compare checksums. any_view: for a store without views, use the embedding
    of the plain image for augmented ones too. A store with views always replays them, and none but them: where training's
    augmentation differs, any_view accepts that the store's takes its place.
    """

    path: str
    weight: float = 1.0
    scale: float = 0.0
    losses: tuple[str, ...] = ()
    verify: bool = True
    any_view: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveTeacher:
    """A model that runs on each batch, cut over the mesh as the student is, with its own resolution and tokenizer.

    model: as clip_jax.load takes it. dtype: of its activations and its weights. weight, scale, losses: as in StoreTeacher.
    """

    model: str
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    weight: float = 1.0
    scale: float = 0.0
    losses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageTeacher:
    """The student's own average (optim.ema_decay): self-distillation. weight, scale, losses: as in StoreTeacher."""

    weight: float = 1.0
    scale: float = 0.0
    losses: tuple[str, ...] = ()


TeacherConfig = StoreTeacher | LiveTeacher | AverageTeacher

# kind, as configs write it -> its dataclass
KINDS: dict[str, type] = {"store": StoreTeacher, "live": LiveTeacher, "average": AverageTeacher}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """What must be known of a teacher before anything is computed.

    embed_dim: D. text, synthetic: whether it gives embeddings of captions, of generated ones too. has_bias: whether its
    logits have one. classes: rows of its class centroids, 0 for none.
    """

    embed_dim: int
    text: bool = True
    synthetic: bool = False
    has_bias: bool = False
    classes: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What one teacher says of a batch. image: unit-norm f32[B@(replica, data, fsdp), D]; text, synthetic: the same of
    captions, or None. scale, bias: of its logits, f32[]. centroids: unit-norm f32[C, D] of the classes, or None."""

    image: jax.Array
    scale: jax.Array
    bias: jax.Array
    text: Any = None
    synthetic: Any = None
    centroids: Any = None


def abstract_targets(offer: Offer, batch: int, rows: jax.sharding.Sharding, whole: jax.sharding.Sharding) -> Targets:
    """Shapes and placement of a teacher's targets for batches of `batch`."""

    def array(shape: tuple[int, ...], at: jax.sharding.Sharding) -> Any:
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=at)

    each = array((batch, offer.embed_dim), rows)
    return Targets(
        image=each,
        text=each if offer.text else None,
        synthetic=each if offer.synthetic else None,
        scale=array((), whole),
        bias=array((), whole),
        centroids=array((offer.classes, offer.embed_dim), whole) if offer.classes else None,
    )


def check_teachers(teachers: Mapping[str, TeacherConfig]) -> None:
    """Raises ValueError for weights and scales with which nothing can be learned, and for names that paths cannot hold."""
    for name, teacher in teachers.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"teachers: the name {name!r} is part of parameters' paths; use letters, digits, _ and -")
        if not 0 <= teacher.weight < jnp.inf or not 0 <= teacher.scale < jnp.inf:
            raise ValueError(f"teachers.{name}: weight {teacher.weight} and scale {teacher.scale} must be 0 or more")
    if teachers and not sum(teacher.weight for teacher in teachers.values()) > 0:
        raise ValueError(f"the weights of teachers {sorted(teachers)} sum to zero; nothing would be distilled")
