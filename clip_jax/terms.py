"""The table of an objective's terms: which loss each is, and what it needs of the student and its teachers."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from clip_jax.losses.anchors import cross_kd, icl
from clip_jax.losses.centroids import centroid, classification, full_teacher
from clip_jax.losses.collect import GlobalBatch
from clip_jax.losses.confidence import csd_features, csd_relations
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.dark import dark_match, dark_rest
from clip_jax.losses.features import fd, fd_cosine, image_cosine, image_l1, image_mse
from clip_jax.losses.fusion import afd
from clip_jax.losses.gradients import gd
from clip_jax.losses.pairs import Pairs
from clip_jax.losses.relational import vrd, vrd_ce, xrd
from clip_jax.losses.robust import drrho
from clip_jax.losses.sigmoid import sigmoid_pairs
from clip_jax.losses.similarities import affinity, crd, reinforcement, sigmoid_distillation
from clip_jax.projections import affine, project
from clip_jax.teachers import Targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class TermOptions:
    """Settings of single terms.

    projection: "linear" puts a trained projection between student and teacher of different sizes; "none" forbids it.
    learned_factor: learned temperatures are kept as logs ("exp"); "raw" uses the parameter itself as the factor, as the
    official code of CLIP-KD and CLIP-RD does. affinity_scale: of student and teacher in `affinity`, 0 for each one's own.
    mask_ratio: share of patches hidden from the student in `mfd`. huber_delta: of `csd_features`. drrho_temperature: of
    `drrho`. dark_temperature: that softens the teacher in `dark_match` and `dark_rest`. centroid_side: where `centroid`
    projects: the centroids ("teacher", as published, which lets the student choose its own targets), or the student.
    """

    projection: Literal["linear", "none"] = "linear"
    learned_factor: Literal["exp", "raw"] = "exp"
    affinity_scale: float = 50.0
    mask_ratio: float = 0.75
    huber_delta: float = 1.0
    drrho_temperature: float = 0.01
    dark_temperature: float = 5.0
    centroid_side: Literal["teacher", "student"] = "teacher"

    def __post_init__(self):
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"objective.options.mask_ratio is {self.mask_ratio}; it must be in [0, 1)")
        if not 0 <= self.affinity_scale < math.inf:
            raise ValueError(f"objective.options.affinity_scale is {self.affinity_scale}; it must be at least 0")
        for name in ("huber_delta", "drrho_temperature", "dark_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"objective.options.{name} is {getattr(self, name)}; it must be above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """This device's rows of the student's unit-norm embeddings, f32[B@(replica, data, fsdp), E], and its factor and bias, f32[].

    synthetic: of generated captions. masked: of images most of whose patches were hidden. label: i32[B@(replica, data, fsdp)], -1
    for none. Those that no term needs are None.
    """

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array
    synthetic: Any = None
    masked: Any = None
    label: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """One teacher's targets beside the student; image, text, masked: the student's, projected to the teacher's size."""

    student: Student
    image: jax.Array
    text: jax.Array
    masked: Any
    teacher: Targets
    weight: float
    heads: Mapping[str, Any]
    options: TermOptions
    batch: GlobalBatch

    def factor(self, name: str) -> jax.Array:
        """A learned factor on cosines."""
        value = self.heads[name]
        return jnp.exp(value) if self.options.learned_factor == "exp" else value

    def under(self, factor: str) -> Pairs:
        """The student's at the teacher's size, under a learned factor."""
        return Pairs(self.image, self.text, self.factor(factor))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """of: what `value` takes: "student" (Student, GlobalBatch), "teacher" (Lesson) or "teachers" (all Lessons at once).

    needs: of "text" (the teacher's), "projection" (equal sizes), "synthetic", "masked", "label", "centroids", "bias" (the
    student's), "clamp" (a bounded logit scale), "gathered" (that form of the objective). heads: what it learns.
    """

    value: Callable[..., jax.Array]
    of: Literal["student", "teacher", "teachers"] = "teacher"
    needs: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


Captions = Literal["text", "synthetic"]


def _pairs(of: Student | Targets, captions: Captions = "text") -> Pairs:
    return Pairs(of.image, getattr(of, captions), of.scale, of.bias)


def _alone(loss: Callable[..., jax.Array], captions: Captions = "text") -> Callable[[Student, GlobalBatch], jax.Array]:
    """Of a loss of the student's pairs."""
    return lambda x, batch: loss(_pairs(x, captions), batch=batch)


def _features(loss: Callable[..., jax.Array]) -> Callable[[Lesson], jax.Array]:
    """Of a loss of projected embeddings and their targets, in both modalities."""
    return lambda x: loss((x.image, x.text), _pairs(x.teacher).embeddings, batch=x.batch)


def _image(loss: Callable[..., jax.Array]) -> Callable[[Lesson], jax.Array]:
    """The same of images alone."""
    return lambda x: loss(x.image, x.teacher.image, batch=x.batch)


def _relations(loss: Callable[..., jax.Array]) -> Callable[[Lesson], jax.Array]:
    """Of a loss between the student's N x N logits and the teacher's, whose sizes may differ."""
    return lambda x: loss(_pairs(x.student), _pairs(x.teacher), batch=x.batch)


def _anchored(loss: Callable[..., jax.Array], head: str) -> Callable[[Lesson], jax.Array]:
    """Of a loss of projected embeddings and their targets under a learned factor."""
    return lambda x: loss(x.under(head), _pairs(x.teacher).embeddings, batch=x.batch)


def _vertical(loss: Callable[..., jax.Array]) -> Callable[[Lesson], jax.Array]:
    """The same under two."""
    image, text = _VERTICAL
    return lambda x: loss(
        (x.image, x.text), _pairs(x.teacher).embeddings, (x.factor(image), x.factor(text)), batch=x.batch
    )


def _reinforced(captions: Captions = "text") -> Callable[[Sequence[Lesson]], jax.Array]:
    def value(lessons: Sequence[Lesson]) -> jax.Array:
        teachers = [(_pairs(x.teacher, captions), x.weight) for x in lessons]
        return reinforcement(_pairs(lessons[0].student, captions), teachers, batch=lessons[0].batch)

    return value


def _dark(loss: Callable[..., jax.Array]) -> Callable[[Lesson], jax.Array]:
    return lambda x: loss(_pairs(x.student), _pairs(x.teacher), temperature=x.options.dark_temperature, batch=x.batch)


def _masked(x: Lesson) -> jax.Array:
    return fd((x.masked, x.text), _pairs(x.teacher).embeddings, batch=x.batch)


def _gradients(x: Lesson) -> jax.Array:
    return gd(Pairs(x.image, x.text, x.student.scale), _pairs(x.teacher), batch=x.batch)


def _cross(x: Lesson) -> jax.Array:
    return cross_kd(x.under("cross_scale"), _pairs(x.teacher), batch=x.batch)


def _fused(x: Lesson) -> jax.Array:
    kernels = x.heads["image_fusion"]["kernel"], x.heads["text_fusion"]["kernel"]
    return afd(x.under("fusion_scale"), _pairs(x.teacher).embeddings, *kernels, batch=x.batch)


def _affinity(x: Lesson) -> jax.Array:
    pinned = {"scale": jnp.float32(x.options.affinity_scale)} if x.options.affinity_scale else {}
    return affinity(_pairs(x.student)._replace(**pinned), _pairs(x.teacher)._replace(**pinned), batch=x.batch)


def _csd_features(x: Lesson) -> jax.Array:
    return csd_features((x.image, x.text), _pairs(x.teacher), delta=x.options.huber_delta, batch=x.batch)


def _drrho(x: Lesson) -> jax.Array:
    both = _pairs(x.student).embeddings, _pairs(x.teacher).embeddings
    return drrho(*both, temperature=x.options.drrho_temperature, batch=x.batch)


def _full_teacher(x: Lesson) -> jax.Array:
    return full_teacher(x.image, x.teacher.image, x.factor("full_teacher_scale"), batch=x.batch)


def _centroid(x: Lesson) -> jax.Array:
    image, centroids = x.image, x.teacher.centroids
    if x.options.centroid_side == "teacher":
        image, centroids = x.student.image, project(centroids, x.heads["centroid_projection"])
    return centroid(image, x.student.label, centroids, x.factor("centroid_scale"), batch=x.batch)


def _classification(x: Lesson) -> jax.Array:
    return classification(affine(x.student.image, x.heads["classifier"]), x.student.label, batch=x.batch)


_BOTH = ("text", "projection")
_VERTICAL = ("vertical_image_scale", "vertical_text_scale")

# What config.objective.weights can name.
TERMS: dict[str, Term] = {
    "info_nce": Term(value=_alone(info_nce), of="student"),
    "info_nce_synthetic": Term(value=_alone(info_nce, "synthetic"), of="student", needs=("synthetic",)),
    "sigmoid": Term(value=_alone(sigmoid_pairs), of="student", needs=("bias",)),
    # CLIP-KD. Yang et al. 2024
    "crd": Term(value=_relations(crd), needs=("text",)),
    "fd": Term(value=_features(fd), needs=_BOTH),
    "fd_cosine": Term(value=_features(fd_cosine), needs=_BOTH),
    "mfd": Term(value=_masked, needs=(*_BOTH, "masked")),
    "gd": Term(value=_gradients, needs=(*_BOTH, "gathered")),
    "icl": Term(value=_anchored(icl, "icl_scale"), needs=_BOTH, heads=("icl_scale",)),
    "afd": Term(value=_fused, needs=_BOTH, heads=("image_fusion", "text_fusion", "fusion_scale")),
    "cross_kd": Term(value=_cross, needs=_BOTH, heads=("cross_scale",)),
    # CLIP-Embed-KD. Nair 2024
    "centroid": Term(value=_centroid, needs=("label", "centroids"), heads=("centroid_projection", "centroid_scale")),
    "classification": Term(value=_classification, needs=("label", "centroids"), heads=("classifier",)),
    "full_teacher": Term(value=_full_teacher, needs=("projection",), heads=("full_teacher_scale",)),
    # TinyCLIP, Wu et al. 2023; MobileCLIP and MobileCLIP2, Vasu et al. 2024, Faghri et al. 2025
    "affinity": Term(value=_affinity, needs=("text",)),
    "reinforcement": Term(value=_reinforced(), of="teachers", needs=("text",)),
    "reinforcement_synthetic": Term(value=_reinforced("synthetic"), of="teachers", needs=("synthetic",)),
    # of models with a sigmoid loss
    "sigmoid_distillation": Term(value=_relations(sigmoid_distillation), needs=("text", "bias")),
    # the image tower alone
    "image_l1": Term(value=_image(image_l1), needs=("projection",)),
    "image_mse": Term(value=_image(image_mse), needs=("projection",)),
    "image_cosine": Term(value=_image(image_cosine), needs=("projection",)),
    # confidence-weighted self-distillation
    "csd_features": Term(value=_csd_features, needs=_BOTH),
    "csd_relations": Term(value=_relations(csd_relations), needs=("text",)),
    # DRRho-CLIP, Wei et al. 2025
    "drrho": Term(value=_drrho, needs=("text",)),
    # CLIP-RD, 2026
    "vrd": Term(value=_vertical(vrd), needs=_BOTH, heads=_VERTICAL),
    "vrd_ce": Term(value=_vertical(vrd_ce), needs=_BOTH, heads=_VERTICAL),
    "xrd": Term(value=_anchored(xrd, "cross_relation_scale"), needs=_BOTH, heads=("cross_relation_scale",)),
    # DARK, 2026: the match, and the rest under a weight that falls below zero
    "dark_match": Term(value=_dark(dark_match), needs=("text",)),
    "dark_rest": Term(value=_dark(dark_rest), needs=("text", "clamp")),
}
