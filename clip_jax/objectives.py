"""Objectives: weighted sums of pure losses over one global batch, the student's alone and those against its teachers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.losses.collect import Form, GlobalBatch
from clip_jax.models.clip import unit
from clip_jax.projections import Sizes, project
from clip_jax.sharding import BATCH
from clip_jax.teachers import Offer, Targets, TeacherConfig
from clip_jax.terms import TERMS, Lesson, Student, Term, TermOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
    """A weight that moves linearly from `start`, up to step `first`, to `end`, from step `last` on."""

    start: float
    end: float
    first: int = 0
    last: int

    def __post_init__(self):
        if not 0 <= self.first < self.last:
            raise ValueError(f"{self}: give steps 0 <= first < last")

    def __format__(self, spec: str) -> str:
        """As a number is written: "(2 to -0.8)"."""
        return f"({self.start:{spec}} to {self.end:{spec}})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """weights: name of a term (the keys of clip_jax.terms.TERMS) -> its weight in the sum, a number or a Ramp over steps.
    A term against several teachers is summed over them by the teachers' weights. options: of single terms. form: how terms
    over all pairs of the batch come by it, see clip_jax.losses.collect.GlobalBatch; "ring" for the largest batches. chunk:
    columns of logits a device holds at a time, in the forms "chunked" and "ring"."""

    weights: Mapping[str, float | Ramp] = dataclasses.field(default_factory=lambda: {"info_nce": 1.0})
    options: TermOptions = TermOptions()
    form: Form = "gathered"
    chunk: int = 1024

    @property
    def used(self) -> dict[str, Term]:
        """The known terms whose weight is not 0 throughout."""
        return {name: TERMS[name] for name, weight in self.weights.items() if weight != 0 and name in TERMS}

    def needs(self, what: str) -> bool:
        """Whether a used term needs it: see Term.needs."""
        return any(what in term.needs for term in self.used.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """The student's embeddings of a batch before their norm, [B@(replica, data, fsdp), E]; see terms.Student for the rest."""

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array
    synthetic: jax.Array | None = None
    masked: jax.Array | None = None
    label: jax.Array | None = None


def serving(loss: str, teachers: Mapping[str, TeacherConfig]) -> list[str]:
    """The teachers that a term is computed against."""
    return [name for name, one in teachers.items() if one.weight > 0 and (not one.losses or loss in one.losses)]


def heads_of(
    config: ObjectiveConfig, teacher: str, teachers: Mapping[str, TeacherConfig], offer: Offer, embed_dim: int
) -> tuple[set[str], Sizes]:
    """Names of what the objective learns for one teacher, and its sizes."""
    served = {
        name: term for name, term in config.used.items() if term.of != "student" and teacher in serving(name, teachers)
    }
    heads = {head for term in served.values() for head in term.heads}
    differ = offer.embed_dim != embed_dim
    projected = {name for name, term in served.items() if "projection" in term.needs}
    if "centroid" in served and config.options.centroid_side == "student":
        heads -= {"centroid_projection"}
        projected.add("centroid")
    if differ and projected:
        heads.add("image_projection")
        if any("text" in served[name].needs for name in projected):
            heads.add("text_projection")
    size = offer.embed_dim if differ and "image_projection" in heads else embed_dim
    return heads, Sizes(student=embed_dim, teacher=offer.embed_dim, projected=size, classes=offer.classes)


def objective(
    config: ObjectiveConfig,
    mesh: Mesh,
    student: Features,
    *,
    teachers: Mapping[str, TeacherConfig],
    targets: Mapping[str, Targets],
    heads: Mapping[str, Any],
    step: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum at `step`, f32[], and each term's raw value; where that is a sum by teachers' weights, each
    `term/teacher` too.

    targets, heads: by the teacher's name. Gradients flow into the student and the heads only.
    """
    rows, whole = PartitionSpec(BATCH), PartitionSpec()
    own = {name: _unit_or_none(getattr(student, name)) for name in ("image", "text", "synthetic", "masked")}
    own["label"] = student.label
    lessons = {name: _rows_of(student, own, targets[name], heads.get(name, {})) for name in teachers}
    scalars = {name: (one.scale, one.bias, one.centroids) for name, one in targets.items()}
    factors = {"scale": student.scale, "bias": student.bias}
    batch = GlobalBatch(axes=BATCH, form=config.form, chunk=config.chunk)

    def terms(own: Any, lessons: Any, factors: Any, scalars: Any, heads: Any) -> dict[str, jax.Array]:
        pupil = Student(**own, **factors)
        taught = {
            name: Lesson(
                student=pupil,
                **seen["student"],
                teacher=Targets(
                    **seen["teacher"], **dict(zip(("scale", "bias", "centroids"), scalars[name], strict=True))
                ),
                weight=teachers[name].weight,
                heads=heads.get(name, {}),
                options=config.options,
                batch=batch,
            )
            for name, seen in lessons.items()
        }
        return _values(config, pupil, taught, teachers, batch)

    mapped = jax.shard_map(terms, mesh=mesh, in_specs=(rows, rows, whole, whole, whole), out_specs=whole)
    raw = mapped(own, lessons, factors, scalars, dict(heads))
    zero = jnp.zeros((), jnp.float32)
    weighted = (weight_at(config.weights[name], step) * raw[name] for name in config.used)
    return sum(weighted, zero), raw


def weight_at(weight: float | Ramp, step: jax.Array) -> jax.Array:
    """f32[] at a step i32[]."""
    if not isinstance(weight, Ramp):
        return jnp.asarray(weight, jnp.float32)
    done = (step.astype(jnp.float32) - weight.first) / (weight.last - weight.first)
    return weight.start + (weight.end - weight.start) * jnp.clip(done, 0, 1)


def _values(
    config: ObjectiveConfig,
    student: Student,
    lessons: Mapping[str, Lesson],
    teachers: Mapping[str, TeacherConfig],
    batch: GlobalBatch,
) -> dict[str, jax.Array]:
    raw: dict[str, jax.Array] = {}
    for name, term in config.used.items():
        if term.of == "student":
            raw[name] = term.value(student, batch)
            continue
        served = [lessons[teacher] for teacher in serving(name, teachers)]
        if term.of == "teachers":
            raw[name] = term.value(served)
            continue
        each = {teacher: term.value(lessons[teacher]) for teacher in serving(name, teachers)}
        raw[name] = sum((teachers[t].weight * value for t, value in each.items()), jnp.zeros((), jnp.float32))
        if len(each) > 1 or any(teachers[teacher].weight != 1 for teacher in each):
            raw |= {f"{name}/{teacher}": value for teacher, value in each.items()}
    return raw


def _unit_or_none(features: jax.Array | None) -> jax.Array | None:
    return None if features is None else unit(features)


def _rows_of(student: Features, own: Mapping[str, Any], targets: Targets, heads: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of one Lesson: the student's, projected where there is a head for it, and the teacher's, unit-norm."""
    image, text = heads.get("image_projection"), heads.get("text_projection")
    seen = {
        "image": project(student.image, image) if image else own["image"],
        "text": project(student.text, text) if text else own["text"],
        "masked": project(student.masked, image) if image and student.masked is not None else own["masked"],
    }
    teacher = {name: _unit_or_none(getattr(targets, name)) for name in ("image", "text", "synthetic")}
    return {"student": seen, "teacher": teacher}
